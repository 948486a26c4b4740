"""The networks of the kind ``monai``: one channel of CT in, one logit per voxel out."""

import torch
from monai.networks.nets import DynUNet, SwinUNETR, UNet
from torch import nn

from lungsyn.segmenters.monai import Settings

PRIOR_LOGIT = -4.0  # every voxel starts as 2 % nodule: see start_from_prior
PUBLISHED_WINDOW, SMALL_WINDOW = 7, 4  # tokens of 2^3 voxels along an edge of swin_unetr's attention


def build(settings: Settings) -> nn.Module:
    """The network that the settings name."""
    channels = settings.channels
    if settings.network == "swin_unetr":
        network = swin_unetr(channels[0], settings.patch_voxels)
    elif settings.network == "dynunet":
        strides = [1] + [2] * (len(channels) - 1)
        network = DynUNet(
            spatial_dims=3, in_channels=1, out_channels=1, filters=channels, kernel_size=[3] * len(channels),
            strides=strides, upsample_kernel_size=strides[1:], res_block=True,
        )  # fmt: skip
    else:
        strides = [2] * (len(channels) - 1)
        network = UNet(
            spatial_dims=3, in_channels=1, out_channels=1, channels=channels, strides=strides, num_res_units=2
        )
    start_from_prior(network)
    return network


def swin_unetr(features: int, patch_voxels: int) -> SwinUNETR:
    """Swin UNETR (Hatamizadeh et al. 2022) that can also learn from patches of 32^3.

    From 64^3 on it is the published one. Below, its deepest level is a single voxel, which instance normalisation
    cannot normalise: there channels are normalised in as many groups as the first level has channels. And its first
    level is 16^3 tokens, which windows of seven would fill up to 21^3; smaller windows fit, and a training step takes a
    fifth of the time.
    """
    norm, window = "instance", PUBLISHED_WINDOW
    if patch_voxels < 64:
        norm, window = ("group", {"num_groups": features}), SMALL_WINDOW
    return SwinUNETR(in_channels=1, out_channels=1, feature_size=features, window_size=window, norm_name=norm)


@torch.no_grad()
def start_from_prior(network: nn.Module) -> None:
    """Set the output's bias so that the untrained network says what is true of most voxels (Lin et al. 2017, Sec. 3.3).

    Nodules are a thousandth of a patch. From a bias of zero the first hundreds of steps only push every voxel down,
    and a short training never gets past that.
    """
    outputs = [m for m in network.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d) and m.out_channels == 1]
    outputs[-1].bias.fill_(PRIOR_LOGIT)
