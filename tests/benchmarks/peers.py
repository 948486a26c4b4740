"""What we compare with: patch diffusion put together from MONAI's parts, as a careful user would."""

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor, nn

from lungsyn.generators import patch_ddpm
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.settings import PatchSettings
from lungsyn.generators.networks.patch_unet import Denoising, coarse_channels

NAIVE_STEPS = 1000
NAIVE_OVERLAP = 0.5
BEST_OVERLAP = 0.25


class Settings(patch_ddpm.Settings):
    """This project's diffusion model with MONAI's network in place of its own."""

    kind: Literal["monai"] = "monai"  # checkpoints and measurements are kept by it

    def learning(self) -> "MonaiDenoising":
        return MonaiDenoising(self)


class MonaiDenoising(Denoising):
    """MONAI's network as a denoiser: it is trained and samples as ours."""

    def build(self) -> nn.Module:
        return MonaiUNet(self).to(memory_format=torch.channels_last_3d)


class MonaiUNet(nn.Module):
    """MONAI's DiffusionModelUNet behind the call of ours: all conditions at full resolution."""

    def __init__(self, learning: MonaiDenoising):
        super().__init__()
        channels = learning.settings.channels
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=input_channels(learning.settings),
            out_channels=1,
            channels=channels,
            num_res_blocks=learning.settings.blocks,
            attention_levels=[False] * len(channels),
            norm_num_groups=math.gcd(*channels, 32),
        )

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor) -> Tensor:
        """As ``PatchUNet.forward``; neither the spacing nor the halo is used."""
        x, masks = inner(x), inner(masks)
        inputs = [x, masks.to(x.dtype)]
        if coarse.shape[1]:
            inputs.append(F.interpolate(coarse.to(x.dtype), scale_factor=2, mode="trilinear"))
        return self.unet(torch.cat(inputs, dim=1), timesteps=t)


def build(settings: PatchSettings) -> nn.Module:
    """A fresh network of these settings, ours or MONAI's."""
    return settings.learning().build()


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def equal_settings(settings: patch_ddpm.Settings) -> Settings:
    """The same generator with MONAI's U-Net, its widths chosen so that it has as many parameters as ours.

    Widths are multiples of 8 (its middle block has attention heads of 8 channels) near ours in proportion.
    """
    wanted, first = parameters(build(settings)), settings.channels[0]
    chosen, candidates = settings.model_dump(exclude={"kind"}), []
    for base in range(8, first + 1, 8):
        near = [round(c * base / first / 8) * 8 for c in settings.channels[1:]]
        for widths in itertools.product([base], *([n - 8, n, n + 8] for n in near)):
            if min(widths) >= 8 and list(widths) == sorted(widths):
                candidates.append(Settings(**chosen | {"channels": list(widths)}))
    return min(candidates, key=lambda candidate: abs(parameters(build(candidate)) - wanted))


def input_channels(settings: PatchSettings) -> int:
    """Channels that MONAI's U-Net reads: the patch, the masks, and what ours reads at half resolution."""
    return 1 + len(settings.labels) + coarse_channels(settings.learning())


def patch_count(voxels: int, patch: int, overlap: float) -> int:
    """Patches that cover a cube of ``voxels`` along each axis."""
    stride = max(int(patch * (1 - overlap)), 1)
    return (math.ceil(max(voxels - patch, 0) / stride) + 1) ** 3


def naive_steps(unet: nn.Module, settings: Settings, patches: int, steps: int) -> Callable[[], Tensor]:
    """Some ancestral steps of ``patches`` patches by themselves, float32, MONAI's scheduler."""
    edge = settings.patch_voxels
    scheduler = DDPMScheduler(num_train_timesteps=NAIVE_STEPS, prediction_type="v_prediction")
    device = next(unet.parameters()).device
    conditions = torch.randn(patches, input_channels(settings) - 1, edge, edge, edge, device=device)

    @torch.no_grad()
    def run() -> Tensor:
        x = torch.randn(patches, 1, edge, edge, edge, device=device)
        for t in range(NAIVE_STEPS - 1, NAIVE_STEPS - 1 - steps, -1):
            output = unet(torch.cat([x, conditions], dim=1), timesteps=torch.full((patches,), t, device=device))
            x, _ = scheduler.step(output, t, x)
        return x

    return run


def fused_step(
    unet: nn.Module, settings: Settings, voxels: int, batch: int, precision: torch.dtype
) -> Callable[[], Tensor]:
    """One step of a whole volume: ``sliding_window_inference`` with Gaussian weights, then a linear update."""
    device = next(unet.parameters()).device
    x = torch.randn(1, 1, voxels, voxels, voxels, device=device)
    conditions = torch.randn(1, input_channels(settings) - 1, voxels, voxels, voxels, device=device)

    def predict(window: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            window = window.contiguous(memory_format=torch.channels_last_3d)
            return unet(window, timesteps=torch.full((len(window),), 500, device=device)).float()

    @torch.no_grad()
    def run() -> Tensor:
        inputs, roi = torch.cat([x, conditions], dim=1), (settings.patch_voxels,) * 3
        v = sliding_window_inference(inputs, roi, batch, predict, overlap=BEST_OVERLAP, mode="gaussian")
        return 0.9 * x - 0.1 * v + 0.1 * torch.randn_like(x)

    return run
