"""The segmenters' networks, all MONAI's: one channel of CT in, one logit per voxel out."""

from monai.networks.nets import DynUNet, SwinUNETR, UNet
from torch import nn

from lungsyn.config import Segmenter


def build(settings: Segmenter) -> nn.Module:
    """The network that the settings name. Raises ValueError when the patch does not fit its levels."""
    channels = settings.channels
    deepest = 32 if settings.network == "swin_unetr" else 2 ** (len(channels) - 1)
    if settings.patch_voxels % deepest:
        raise ValueError(f"patch_voxels {settings.patch_voxels} must be a multiple of {deepest} for {settings.network}")
    if settings.network == "swin_unetr":
        return SwinUNETR(in_channels=1, out_channels=1, feature_size=channels[0])
    strides = [1] + [2] * (len(channels) - 1)
    if settings.network == "dynunet":
        return DynUNet(
            spatial_dims=3, in_channels=1, out_channels=1, filters=channels, kernel_size=[3] * len(channels),
            strides=strides, upsample_kernel_size=strides[1:], res_block=True,
        )  # fmt: skip
    return UNet(spatial_dims=3, in_channels=1, out_channels=1, channels=channels, strides=strides[1:], num_res_units=2)
