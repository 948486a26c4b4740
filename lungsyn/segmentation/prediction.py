"""Whole-volume prediction by MONAI's sliding window, in float32 sums."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from lungsyn import checkpoint
from lungsyn.compute import choose_device, choose_precision, describe, set_up
from lungsyn.segmentation.networks import build
from lungsyn.settings.compute import Compute
from lungsyn.settings.segmenters import Inference, Segmenter
from lungsyn.volume.files import Case
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.near import near_lungs as near_lungs  # what ``predict`` is given
from lungsyn.volume.patches import MIRRORS


@dataclass(frozen=True, eq=False)
class LoadedSegmenter:
    """A trained segmenter, ready on its device."""

    network: torch.nn.Module
    settings: Segmenter
    device: torch.device
    precision: torch.dtype


def load_segmenter(path: Path, compute: Compute) -> LoadedSegmenter:
    """Load a model file; its own settings travel with it."""
    device = choose_device(compute)
    set_up(compute.segmenter_threads, device)
    weights, settings, about = checkpoint.load_model(path, "segmenter", Segmenter)
    precision = choose_precision(compute, device, about.get("precision"))
    network = build(settings)
    network.load_state_dict(weights)
    print(f"{path} on {describe(device, precision)}", flush=True)
    return LoadedSegmenter(network.to(device).eval(), settings, device, precision)


@torch.no_grad()
def predict(segmenter: LoadedSegmenter, case: Case, inference: Inference, near: np.ndarray | None = None) -> np.ndarray:
    """The probability of nodule in whole percent, rounded down (so 50 says at least one half): uint8 ``[x y z]``.

    0 where not ``near`` (bool ``[x y z]``, of ``near_lungs``; without it everywhere counts). Raises
    FloatingPointError if the network gives no number."""
    settings, device = segmenter.settings, segmenter.device
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
    percent = logits[0, 0].sigmoid_().mul_(100).to(torch.uint8).numpy()
    if near is not None:
        percent[~near] = 0
    return percent
