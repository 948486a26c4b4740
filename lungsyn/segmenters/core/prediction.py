"""Whole-volume prediction by MONAI's sliding window, in float32 sums."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from lungsyn import checkpoint
from lungsyn.compute import choose_device, choose_precision, describe, set_up
from lungsyn.seams import Segmenter
from lungsyn.segmenters.core.settings import PatchTraining, SlidingWindow
from lungsyn.settings.compute import Compute
from lungsyn.volume.files import Case
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.patches import MIRRORS


@dataclass(frozen=True, eq=False)
class PatchSegmenter(Segmenter):
    """A trained network, ready on its device."""

    network: nn.Module
    settings: PatchTraining
    inference: SlidingWindow
    device: torch.device
    precision: torch.dtype

    def predict(self, case: Case) -> np.ndarray:
        return predict(self, case)


def load(
    path: Path, settings: type[PatchTraining], build: Callable[[PatchTraining], nn.Module], compute: Compute,
    inference: SlidingWindow,
) -> PatchSegmenter:  # fmt: skip
    """The segmenter of a model file, whose own ``settings`` travel with it. Raises InputError naming the file."""
    device = choose_device(compute)
    set_up(compute.segmenter_threads, device)
    weights, own, about = checkpoint.load_model(path, "segmenter", settings)
    precision = choose_precision(compute, device, about.get("precision"))
    network = build(own)
    network.load_state_dict(weights)
    print(f"{path} on {describe(device, precision)}", flush=True)
    return PatchSegmenter(network.to(device).eval(), own, inference, device, precision)


@torch.no_grad()
def predict(segmenter: PatchSegmenter, case: Case) -> np.ndarray:
    """The probability of nodule in whole percent, rounded down (so 50 says at least one half): uint8 ``[x y z]``.

    Raises FloatingPointError if the network gives no number."""
    settings, inference, device = segmenter.settings, segmenter.inference, segmenter.device
    image = torch.from_numpy(to_model_range(case.ct, settings.window_hu))[None, None]
    mirrors = [[2 + axis for axis in axes] for axes in (MIRRORS if inference.mirrored else [()])]

    def forward(patches: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype=segmenter.precision, enabled=segmenter.precision != torch.float32):
            logits = [segmenter.network(patches.flip(axes)).float().flip(axes) for axes in mirrors]
        return sum(logits) / len(mirrors)  # float32: the sliding window sums in its input's dtype

    logits = sliding_window_inference(
        image, settings.patch_voxels, 4, forward, overlap=inference.overlap, mode="gaussian", padding_mode="constant",
        cval=float(to_model_range(AIR_HU, settings.window_hu)), sw_device=device, device="cpu",
    )  # fmt: skip
    if logits.isnan().any():
        raise FloatingPointError("the network's output is no number: it would pass for a case without nodules")
    return logits[0, 0].sigmoid_().mul_(100).to(torch.uint8).numpy()
