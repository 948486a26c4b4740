"""What tests.benchmarks.segmenter runs in fresh processes: ``python -m tests.benchmarks.segmenting JSON``.

Both contestants train the same network with the same optimiser and loss on the same cases, with the same kinds of
augmentation at the same rates, and then predict one whole case. *ours* is this package; *plain* is what MONAI's
tutorials lead to: a dictionary of transforms over cached cases, a ``DataLoader``, a loop, a sliding window. Prints one
line of JSON: seconds per optimiser step, seconds per predicted case, peak memory.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lungsyn.compute import choose_device, loader_processes, set_up
from lungsyn.memory import peak_host_mb
from lungsyn.registry import family
from lungsyn.seams import Run
from lungsyn.segmenters.core.settings import SlidingWindow
from lungsyn.segmenters.monai import Settings
from lungsyn.settings.arms import Use
from lungsyn.settings.compute import Compute
from tests.benchmarks.claims import CLOCKS

WARM_UP_STEPS = 3
MONAI = family("segmenters", "monai")


def ours(
    folders: list[Path], settings: Settings, inference: SlidingWindow, compute: Compute, clock: Callable[[], float]
) -> tuple:
    from lungsyn import checkpoint
    from lungsyn.volume.files import open_case

    with tempfile.TemporaryDirectory() as work:
        model = Path(work, "model.safetensors")

        def train(steps: int) -> dict:
            few = settings.model_copy(update={"steps": steps})
            return MONAI.fit(folders, [], Use(), few, Run(steps, compute, Path(work))).tensors

        train(WARM_UP_STEPS)
        started = clock()
        weights = train(settings.steps)
        trained = clock()
        checkpoint.save(model, weights, {"segmenter": settings.model_dump(mode="json")})
        segmenter = MONAI.load(model, compute, inference)
        segmenter.predict(open_case(folders[0]))
        warm = clock()
        segmenter.predict(open_case(folders[0]))
        return trained - started, clock() - warm


def plain(
    folders: list[Path], settings: Settings, inference: SlidingWindow, compute: Compute, clock: Callable[[], float]
) -> tuple:
    from monai.data import CacheDataset, DataLoader, Dataset, list_data_collate
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss

    from lungsyn.segmenters.networks.monai import build

    cases = [{"image": str(f / "ct.nii"), "label": str(f / "nodules.nii.gz")} for f in folders]
    device = choose_device(compute)
    network = build(settings).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    loss_of = DiceCELoss(sigmoid=True, batch=True)
    dataset = CacheDataset(cases, plain_transforms(settings, train=True), progress=False)

    def step(batch: dict) -> None:
        optimizer.zero_grad()
        loss = loss_of(network(batch["image"].to(device)), batch["label"].to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()

    steps = WARM_UP_STEPS + settings.steps
    rounds = [i % len(cases) for i in range(steps * settings.batch_patches)]  # the cases, over and over
    batches = iter(
        DataLoader(dataset, collate_fn=list_data_collate, batch_size=settings.batch_patches, sampler=rounds,
                   num_workers=loader_processes(compute, device), pin_memory=device.type == "cuda")
    )  # fmt: skip
    for _ in range(WARM_UP_STEPS):
        step(next(batches))
    started = clock()
    for batch in batches:
        step(batch)
    trained = clock()
    loaded = Dataset(cases[:1], plain_transforms(settings, train=False))
    network.eval()

    @torch.no_grad()
    def predict() -> np.ndarray:
        image = loaded[0]["image"][None].to(device)
        logits = sliding_window_inference(image, settings.patch_voxels, 4, network, inference.overlap, mode="gaussian")
        return (logits.sigmoid() >= 0.5).cpu().numpy()

    predict()
    warm = clock()
    predict()
    return trained - started, clock() - warm


def plain_transforms(settings: Settings, train: bool):
    """MONAI's dictionary transforms for what `lungsyn.segmenters.core.patches` does to a patch."""
    from monai import transforms as t

    low, high = settings.window_hu
    load = [
        t.LoadImaged(["image", "label"]), t.EnsureChannelFirstd(["image", "label"]),
        t.ScaleIntensityRanged("image", low, high, -1, 1, clip=True),
        t.Lambdad("label", lambda label: (label > 0).float()),
    ]  # fmt: skip
    if not train:
        return t.Compose(load)
    both = ["image", "label"]
    patch = (settings.patch_voxels,) * 3
    near = settings.nodule_patches
    return t.Compose([
        *load,
        t.SpatialPadd(both, patch),
        t.RandCropByPosNegLabeld(both, label_key="label", spatial_size=patch, pos=near, neg=1 - near, num_samples=1),
        *[t.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)],
        t.RandAffined(both, prob=0.3, rotate_range=[np.pi / 6] * 3, scale_range=[0.2] * 3, mode=("bilinear", "nearest"),
                      padding_mode="border"),
        t.RandScaleIntensityd("image", 0.1, prob=1.0), t.RandShiftIntensityd("image", 0.1, prob=1.0),
        t.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        t.RandGaussianSmoothd("image", (0.5, 1), (0.5, 1), (0.5, 1), prob=0.2),
        t.RandGaussianSharpend("image", prob=0.2),
        t.RandSimulateLowResolutiond("image", prob=0.25, zoom_range=(0.5, 1.0)),
        t.RandGaussianNoised("image", prob=0.15, std=0.15),
    ])  # fmt: skip


def main(told: dict) -> dict:
    compute = Compute.model_validate(told["compute"])
    device, threads = choose_device(compute), compute.segmenter_threads
    clock = CLOCKS["gpu" if device.type == "cuda" else told["clock"]]
    settings, inference = Settings.model_validate(told["segmenter"]), SlidingWindow.model_validate(told["inference"])
    set_up(threads, device, one_shape=True) if told["contestant"] == "ours" else torch.set_num_threads(threads)
    folders = [Path(folder) for folder in told["cases"]]
    training, predicting = {"ours": ours, "plain": plain}[told["contestant"]](
        folders, settings, inference, compute, clock
    )
    return {"step_s": training / settings.steps, "case_s": predicting, "peak_mb": peak_host_mb()}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
