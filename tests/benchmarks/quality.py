"""What the volumes look like: seams, what the context is good for, how many steps are enough.

*Seam ratio*: the mean |difference| of neighbouring voxels across a plane where patches end, divided by the same on the
two planes about half a patch before and behind it, on the same voxels of the body; the geometric mean over all planes.
It is 1 without seams, and since anatomy also has a say, that of the real CT of the same masks stands beside it.
"""

import dataclasses
import math
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from lungsyn import checkpoint
from lungsyn.compute import choose_precision
from lungsyn.config import Generator, Synthesis
from lungsyn.generation.network import build
from lungsyn.generation.patches import grid_multiple
from lungsyn.generation.synthesis import make_canvas, stride_voxels, synthesise
from lungsyn.generation.training import train
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.intensity import to_model_range
from lungsyn.volume.patches import axis_starts, padded_shape
from lungsyn.volume.tables import read_table
from tests.benchmarks.claims import Bench, Claim, skipped

MODES = ("shifted", "fused", "stitched")
NEAR_VOXELS = 2  # planes so close to a border are no reference
FEWEST_VOXELS = 100  # of the body, for a plane to count
DESCRIPTORS = 20_000  # cubes per volume
PROJECTIONS = 128
CUBE_VOXELS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network and its settings."""

    network: torch.nn.Module
    settings: Generator
    loss: float  # lowest held-out loss
    origin: str


def folders_of(bench: Bench, *splits: str) -> list[Path]:
    """Prepared cases of these splits in the results folder; empty when there are none yet."""
    if bench.results is None or not (bench.results / "cohort.tsv").exists():
        return []
    rows = [r for r in read_table(bench.results / "cohort.tsv") if r["split"] in splits]
    folders = [bench.results / "cases" / row["case"] for row in rows]
    return [folder for folder in folders if (folder / "case.json").exists()]


def train_folders(bench: Bench) -> list[Path]:
    return folders_of(bench, "train")


def unseen_cases(bench: Bench) -> list[Case]:
    """Real cases that no generator was trained on."""
    return [open_case(folder) for folder in folders_of(bench, "validation", "test")[: bench.cases]]


def with_length(settings: Generator, images: int) -> Generator:
    """The same training, ``images`` long; warm-up, averaging and checks shrink with it."""
    return settings.model_copy(
        update={
            "images": images,
            "warmup_images": min(settings.warmup_images, images // 10),
            "ema_images": min(settings.ema_images, max(images // 10, 1)),
            "validation_every_images": max(images // 5, 1),
        }
    )


def trained(bench: Bench, settings: Generator) -> Trained:
    """Train for ``bench.images`` patches, keeping nothing on disk."""
    settings = with_length(settings, bench.images)
    with tempfile.TemporaryDirectory() as scratch:
        weights, facts, _ = train(train_folders(bench), settings, bench.compute, 0, Path(scratch))
    network = build(settings)
    network.load_state_dict(weights)
    return Trained(network.eval(), settings, facts["best_loss"], f"trained on {bench.images} patches")


def the_model(bench: Bench) -> Trained | None:
    """The results' own generator, else one trained now if a length is given."""
    models = sorted(bench.results.glob("generator/*/model.safetensors")) if bench.results else []
    if models:
        weights, about = checkpoint.load(models[0])
        settings = Generator.model_validate(about["generator"])
        network = build(settings)
        network.load_state_dict(weights)
        origin = f"{models[0].parent.name} of the results, {about['images_seen']} patches"
        return Trained(network.eval(), settings, about["best_loss"], origin)
    return trained(bench, bench.generator) if bench.images and train_folders(bench) else None


def make_volume(model: Trained, case: Case, synthesis: Synthesis, seed: int, bench: Bench) -> np.ndarray:
    """A synthetic volume from a real case's own masks, model range."""
    masks = np.stack([case.nodules, case.lungs, case.body])
    canvas = make_canvas(masks, float(case.space.spacing_mm.mean()), model.settings, bench.device)
    precision, batch = choose_precision(bench.compute, bench.device), bench.compute.patches_per_batch
    return synthesise(model.network, canvas, model.settings, synthesis, seed, batch, precision).numpy()


def seam(bench: Bench) -> list[Claim]:
    """The seam ratio in each mode; the real volumes at the same planes as the peer."""
    model, cases = the_model(bench), unseen_cases(bench)
    if not (model and cases):
        return [skipped("seam", "give --results (prepared cases and a generator, or --images to train one)")]
    return [seam_claim(f"seam {mode}", model, cases, mode, bench) for mode in MODES]


def seam_claim(name: str, model: Trained, cases: list[Case], mode: str, bench: Bench) -> Claim:
    """Seam ratios of synthetic and real volumes over the planes of all cases."""
    synthesis = bench.synthesis.model_copy(update={"mode": mode})
    synthetic, real = [], []
    for seed, case in enumerate(cases):
        body = np.asarray(case.body) > 0
        synthetic += seam_logs(make_volume(model, case, synthesis, seed, bench), body, model.settings, synthesis)
        real += seam_logs(to_model_range(case.ct, model.settings.window_hu), body, model.settings, synthesis)
    ours, peer = (math.exp(statistics.mean(logs)) for logs in (synthetic, real))
    error = statistics.stdev(synthetic) / len(synthetic) ** 0.5
    measured = (
        f"gradient across patch borders / half a patch away, standard error {error:.3f} over {len(synthetic)} planes"
        f" of {len(cases)} cases; peer: the real CT at the same planes; {model.origin}, held-out loss {model.loss:.4g}"
    )
    bar, met = ("1.00 +- 0.02", abs(ours - 1) <= 0.02) if mode == bench.synthesis.mode else ("", None)
    return Claim(name, ours, peer, ours / peer, measured, bar, met)


def seam_logs(volume: np.ndarray, body: np.ndarray, settings: Generator, synthesis: Synthesis) -> list[float]:
    """The logarithm of the seam ratio of each border plane. Shifted: of the last, fused steps' patches."""
    patch, logs = settings.patch_voxels, []
    padded = padded_shape(volume.shape, patch, grid_multiple(settings))
    for axis in range(3):
        starts = axis_starts(padded[axis], patch, stride_voxels(settings, synthesis))
        steps, inside = gradients(volume, body, axis)
        for plane, before, behind in border_planes(starts, patch, volume.shape[axis]):
            where = inside[plane] & inside[before] & inside[behind]
            if where.sum() >= FEWEST_VOXELS:
                border, *far = (float(steps[k][where].mean()) for k in (plane, before, behind))
                logs.append(math.log(border / statistics.mean(far)))
    return logs


def border_planes(starts: list[int], patch: int, length: int) -> list[tuple[int, int, int]]:
    """Planes p (between voxels p - 1 and p) where a patch begins or ends, each with two planes p - d and p + d that are
    not near any border, d as close to half a patch as can be."""
    border = sorted({p for start in starts for p in (start, start + patch) if 0 < p < length})
    clear = {p for p in range(1, length) if all(abs(p - b) > NEAR_VOXELS for b in border)}
    found = []
    for p in border:
        distances = [d for d in range(1, patch) if p - d in clear and p + d in clear]
        if distances:
            d = min(distances, key=lambda d: abs(d - patch / 2))
            found.append((p, p - d, p + d))
    return found


def gradients(volume: np.ndarray, body: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Item p: |difference| of the voxels p - 1 and p along ``axis``, and whether both are inside the body."""
    values, inside = np.moveaxis(volume, axis, 0), np.moveaxis(body, axis, 0)
    return np.abs(values - np.roll(values, 1, axis=0)), inside & np.roll(inside, 1, axis=0)


def context(bench: Bench) -> list[Claim]:
    """Ablation: the same training with coordinates, with the coarse view, with neither; seam ratio and loss."""
    cases = unseen_cases(bench)
    if not (bench.images and train_folders(bench) and cases):
        return [skipped("context", "give --results (prepared cases) and --images (four trainings of this length)")]
    claims = []
    for name, change in (
        ("both", {}), ("no coordinates", {"position": False}), ("no coarse view", {"context_factor": 0}),
        ("neither", {"position": False, "context_factor": 0}),
    ):  # fmt: skip
        model = trained(bench, bench.generator.model_copy(update=change))
        claims.append(dataclasses.replace(
            seam_claim(f"context {name}", model, cases, bench.synthesis.mode, bench), bar="", met=None
        ))  # fmt: skip
    return claims


def steps(bench: Bench) -> list[Claim]:
    """Distance to the real volumes of the same masks at several numbers of steps; the floor is other real volumes."""
    model, cases = the_model(bench), unseen_cases(bench)
    if not (model and len(cases) > 1):
        return [skipped("steps", "give --results (two prepared cases and a generator, or --images to train one)")]
    reals = [descriptors(to_model_range(case.ct, model.settings.window_hu), case.body) for case in cases]
    floor = statistics.mean(sliced_wasserstein(a, b) for a, b in zip(reals, reals[1:] + reals[:1], strict=True))
    claims = []
    for count in (n for n in bench.step_counts if n <= model.settings.timesteps):
        synthesis = bench.synthesis.model_copy(update={"steps": count})
        distances = [
            sliced_wasserstein(descriptors(make_volume(model, case, synthesis, seed, bench), case.body), real)
            for seed, (case, real) in enumerate(zip(cases, reals, strict=True))
        ]
        measured = (
            f"sliced Wasserstein distance of {CUBE_VOXELS}^3 cubes to the real CT of the same masks, "
            f"{len(cases)} cases ({', '.join(f'{d:.4f}' for d in distances)}); peer: between real CTs; {model.origin}"
        )
        ours = statistics.mean(distances)
        default = " (default)" if count == bench.synthesis.steps else ""
        claims.append(Claim(f"steps {count}{default}", ours, floor, ours / floor, measured))
    return claims


def descriptors(volume: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Cubes around random voxels of the body, always the same ones for a shape: float32 ``[n, 125]``."""
    margin = CUBE_VOXELS // 2
    inner = np.zeros(body.shape, bool)
    inner[(slice(margin, -margin),) * 3] = True
    centres = np.argwhere((np.asarray(body) > 0) & inner)
    chosen = centres[np.random.default_rng(0).integers(len(centres), size=DESCRIPTORS)]
    windows = np.lib.stride_tricks.sliding_window_view(volume, (CUBE_VOXELS,) * 3)
    return windows[tuple((chosen - margin).T)].reshape(len(chosen), -1)


def sliced_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over random directions of the distance between sorted projections (Karras et al. 2018)."""
    directions = np.random.default_rng(1).standard_normal((a.shape[1], PROJECTIONS)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    return float(np.abs(np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)).mean())
