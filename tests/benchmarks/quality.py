"""What the volumes look like: seams, what the context is good for, how many steps are enough.

*Seam ratio*: anatomy has edges of its own, and the same grid of patches would always meet the same ones. So two
volumes are made of the same masks, their grids half a stride apart, and at every plane where patches of one of them
end the mean |difference| of neighbouring voxels is divided by that of the other volume on the same voxels of the body.
The place of the pair of grids is drawn for each case. 1 without seams, more with steps, less where the blend smooths;
planes without borders in both volumes are the control.
"""

import dataclasses
import hashlib
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lungsyn import checkpoint, codedigest
from lungsyn.compute import choose_precision
from lungsyn.generators import patch_ddpm
from lungsyn.generators.core.canvas import How, make_canvas
from lungsyn.generators.core.synthesis import stride_voxels, synthesise
from lungsyn.generators.core.training import train
from lungsyn.provenance import model_facts
from lungsyn.seams import Run
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import Case, open_case, read_json, write_json
from lungsyn.volume.intensity import to_model_range
from lungsyn.volume.patches import axis_starts, padded_shape
from lungsyn.volume.tables import read_table
from tests.benchmarks.claims import Bench, Claim, skipped
from tests.benchmarks.peers import build
from tests.benchmarks.stitched import stitched

MODES = ("shifted", "fused")
NEAR_VOXELS = 2  # planes so close to a border are no reference
FEWEST_VOXELS = 100  # of the body, for a plane to count
DESCRIPTORS = 20_000  # cubes per volume
PROJECTIONS = 128
CUBE_VOXELS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, its settings, and how it makes a volume."""

    network: torch.nn.Module
    settings: patch_ddpm.Settings
    loss: float | None  # lowest held-out loss; None: no case was held out
    origin: str
    make: Callable[..., torch.Tensor] = synthesise

    def __str__(self) -> str:
        return f"{self.origin}, held-out loss {self.loss:.4g}" if self.loss is not None else self.origin


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


def with_length(settings: patch_ddpm.Settings, images: int) -> patch_ddpm.Settings:
    """The same training, ``images`` long; warm-up, averaging and checks shrink with it."""
    return settings.model_copy(
        update={
            "images": images,
            "warmup_images": min(settings.warmup_images, images // 10),
            "ema_images": min(settings.ema_images, max(images // 10, 1)),
            "validation_every_images": max(images // 5, 1),
        }
    )


def trained(bench: Bench, settings: patch_ddpm.Settings) -> Trained:
    """Train for ``bench.images`` patches; in a folder for it a training of the same code goes on from where it was."""
    settings = with_length(settings, bench.images)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = bench.work / code_of(type(settings)) if bench.work else Path(scratch)
        weights, facts, _ = train(train_folders(bench), settings, Run(0, bench.compute, checkpoints))
    network = build(settings)
    network.load_state_dict(weights)
    origin = f"{settings.kind} {settings.channels} trained on {bench.images} patches"
    return Trained(network.to(bench.device).eval(), settings, facts["best_loss"], origin)


def code_of(*used: type | Callable) -> str:
    """The digest of the code behind a training and its volumes: this project's, and that of what else is ``used``."""
    return codedigest.of((patch_ddpm.__name__, "Family"), *((one.__module__, one.__name__) for one in used))


def remembered(bench: Bench, measure: Callable, model: Trained, case: Case, synthesis: Synthesis, seed: int):
    """``measure`` of one case (JSON-able), kept in the bench's folder, where it has one: a long bench that was broken
    off goes on."""
    if bench.work is None:
        return measure(model, case, synthesis, seed, bench)
    weights = hashlib.sha256(
        b"".join(t.cpu().numpy().tobytes() for t in model.network.state_dict().values())
    ).hexdigest()
    code = code_of(type(model.settings), model.make, measure)
    key = checkpoint.digest(measure.__name__, code, weights, case.digest, synthesis.model_dump(mode="json"), seed)
    path = bench.work / f"measured-{key}.json"
    if not path.exists():
        write_json(path, {"found": measure(model, case, synthesis, seed, bench)})
    return read_json(path)["found"]


def the_model(bench: Bench) -> Trained | None:
    """The results' own generator, else one trained now if a length is given."""
    models = sorted(bench.results.glob("generator/**/model.safetensors")) if bench.results else []
    models = [path for path in models if model_facts(path)["generator"]["kind"] == bench.generator.kind]
    if models:
        weights, settings, about = checkpoint.load_model(models[0], "generator", patch_ddpm.Settings)
        network = build(settings)
        network.load_state_dict(weights)
        origin = f"{models[0].parent.name} of the results, {about['images_seen']} patches"
        return Trained(network.to(bench.device).eval(), settings, about["best_loss"], origin)
    return trained(bench, bench.generator) if bench.images and train_folders(bench) else None


def make_volume(
    model: Trained, case: Case, synthesis: Synthesis, seed: int, bench: Bench, offset: tuple[int, int, int] = (0, 0, 0)
) -> np.ndarray:
    """A synthetic volume from a real case's own masks, model range. The grid of patches begins ``offset`` voxels before
    the case, which is padded there for that."""
    masks = np.stack([case.nodules, case.lungs, case.body])
    masks = np.pad(masks, [(0, 0), *((o, 0) for o in offset)])
    canvas = make_canvas(masks, float(case.space.spacing_mm.mean()), model.settings, bench.device)
    network = AtOffset(model, case.ct.shape, offset).to(bench.device).eval() if any(offset) else model.network
    precision, batch = choose_precision(bench.compute, bench.device), bench.patches_at_once
    volume = model.make(network, canvas, model.settings, synthesis, seed, How(batch, precision)).cpu().numpy()
    return volume[tuple(slice(o, None) for o in offset)]


class AtOffset(torch.nn.Module):
    """A network that is told each voxel's place in the case, not in the padded one: coordinates are linear in both."""

    def __init__(self, model: Trained, shape, offset):
        super().__init__()
        self.network, self.place = model.network, model.settings.position
        last, before = torch.tensor(shape) - 1.0, torch.tensor(offset, dtype=torch.float32)
        scale = ((last + before) / last)[:, None, None, None]  # [3 1 1 1]
        self.register_buffer("scale", scale)
        self.register_buffer("shift", scale - 1 - (2 * before / last)[:, None, None, None])

    def forward(self, x, masks, coarse, t, spacing_mm):
        if self.place:
            coarse = torch.cat([coarse[:, :3] * self.scale + self.shift, coarse[:, 3:]], dim=1)
        return self.network(x, masks, coarse, t, spacing_mm)


def seam(bench: Bench) -> list[Claim]:
    """The seam ratio in each mode and of stitched patches, and the same at planes that are no borders."""
    model, cases = the_model(bench), unseen_cases(bench)
    if not (model and cases):
        return [skipped("seam", "give --results (prepared cases and a generator, or --images to train one)")]
    plans = {mode: bench.synthesis.model_copy(update={"mode": mode}) for mode in MODES}
    claims = [seam_claim(f"seam {mode}", model, cases, plan, bench) for mode, plan in plans.items()]
    apart = dataclasses.replace(model, make=stitched)
    return [*claims, seam_claim("seam stitched", apart, cases, bench.synthesis, bench)]


def seam_claim(name: str, model: Trained, cases: list[Case], synthesis: Synthesis, bench: Bench) -> Claim:
    """The seam ratio over all cases with its standard error; too uncertain a ratio meets no bar and fails none. The bar
    is for volumes as the study makes them."""
    found = [remembered(bench, seam_logs, model, case, synthesis, seed) for seed, case in enumerate(cases)]
    (ours, error), (control, control_error) = (ratio([logs[kind] for logs in found]) for kind in ("border", "control"))
    planes = sum(len(logs) for case in found for logs in case["border"])
    measured = (
        f"gradient across patch borders / the same planes of a volume without borders there: +- {error:.4f} (standard "
        f"error), {planes} planes of {len(cases)} cases; peer: planes without borders in both, +- {control_error:.4f}; "
        f"{model}"
    )
    if synthesis != bench.synthesis or model.make is not synthesise:
        return Claim(name, ours, control, ours / control, measured)
    distance, tells = abs(ours - 1), 2 * error
    met = True if distance + tells <= 0.02 else False if distance - tells > 0.02 else None
    bar = "1.00 +- 0.02" + (", within the error not decided: give more --cases" if met is None else "")
    return Claim(name, ours, control, ours / control, measured, bar, met)


def seam_logs(model: Trained, case: Case, synthesis: Synthesis, seed: int, bench: Bench) -> dict:
    """Two volumes of the same masks, their grids of patches at a random place and half a stride beside it: the
    logarithms of ``plane_logs``."""
    multiple, stride = model.settings.grid_multiple, stride_voxels(model.settings, synthesis)
    first = np.random.default_rng(seed).integers(stride // multiple, size=3) * multiple
    half = round(stride / 2 / multiple) * multiple
    offsets = [tuple(int(o) for o in offset) for offset in (first, (first + half) % stride)]
    volumes = [make_volume(model, case, synthesis, seed, bench, offset) for offset in offsets]
    grids = [border_planes(case.ct.shape, offset, model.settings, synthesis) for offset in offsets]
    return plane_logs(volumes, grids, np.asarray(case.body) > 0)


def border_planes(shape, offset, settings: patch_ddpm.Settings, synthesis: Synthesis) -> list[set[int]]:
    """Per axis the planes p (between voxels p - 1 and p of the case) where a fused patch begins or ends."""
    patch, stride = settings.patch_voxels, stride_voxels(settings, synthesis)
    padded = padded_shape([n + o for n, o in zip(shape, offset, strict=True)], patch, settings.grid_multiple)
    return [
        {p - o for start in axis_starts(total, patch, stride) for p in (start, start + patch) if 0 < p - o < length}
        for total, length, o in zip(padded, shape, offset, strict=True)
    ]


def plane_logs(volumes: list[np.ndarray], grids: list[list[set[int]]], body: np.ndarray) -> dict:
    """log(mean |gradient| across a plane in one volume / in the other one) on the plane's body voxels, for the planes
    that are borders in the first alone, then for those in the second alone: ``[2][planes]``. The control is the same
    for planes that are borders in neither, dealt out in turn."""
    logs = {"border": ([], []), "control": ([], [])}
    for axis in range(3):
        steps, inside = zip(*(gradients(volume, body, axis) for volume in volumes), strict=True)
        near = [{p + d for p in grid[axis] for d in range(-NEAR_VOXELS, NEAR_VOXELS + 1)} for grid in grids]
        clear = sorted(set(range(1, body.shape[axis])) - near[0] - near[1])
        for kind, own in (("border", [grids[0][axis] - near[1], grids[1][axis] - near[0]]),
                          ("control", [clear[::2], clear[1::2]])):  # fmt: skip
            for i, planes in enumerate(own):
                for p in sorted(planes):
                    if (where := inside[0][p]).sum() >= FEWEST_VOXELS:
                        mine, other = (float(steps[k][p][where].mean()) + 1e-9 for k in (i, 1 - i))
                        logs[kind][i].append(math.log(mine / other))
    return logs


def ratio(cases: list[tuple[list[float], list[float]]]) -> tuple[float, float]:
    """exp of the mean log ratio, and its standard error. Either half of a case's planes has one volume on top, so that
    one volume being smoother as a whole cancels. Cases count alike; too few planes give not-a-number."""
    means, variances = [], []
    for halves in cases:
        if min(len(half) for half in halves) < 2:
            continue
        means.append(statistics.mean(statistics.mean(half) for half in halves))
        variances.append(sum(statistics.variance(half) / len(half) for half in halves) / 4)
    if not means:
        return math.nan, math.nan
    value = math.exp(statistics.mean(means))
    return value, value * math.sqrt(sum(variances)) / len(means)


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
            seam_claim(f"context {name}", model, cases, bench.synthesis, bench), bar="", met=None
        ))  # fmt: skip
    return claims


def steps(bench: Bench) -> list[Claim]:
    """Distance to the real volumes of the same masks at several numbers of steps; the floor is other real volumes."""
    model, cases = the_model(bench), unseen_cases(bench)
    if not (model and len(cases) > 1):
        return [skipped("steps", "give --results (two prepared cases and a generator, or --images to train one)")]
    reals = [descriptors(to_model_range(case.ct, model.settings.window_hu), case.body) for case in cases]
    floor = statistics.mean(sliced_wasserstein(a, b) for a, b in zip(reals, reals[1:] + reals[:1], strict=True))
    counts = sorted(n for n in bench.step_counts if n <= model.settings.timesteps)
    distances = {}  # of each case, at each number of steps
    for count in counts:
        synthesis = bench.synthesis.model_copy(update={"steps": count})
        pairs = zip(cases, range(len(cases)), strict=True)
        distances[count] = [remembered(bench, distance, model, case, synthesis, seed) for case, seed in pairs]
    return [steps_claim(count, distances, floor, model, bench) for count in counts]


def steps_claim(count: int, distances: dict[int, list[float]], floor: float, model: Trained, bench: Bench) -> Claim:
    """One number of steps beside the most that were measured, paired by case."""
    most = max(distances)
    worse = [a - b for a, b in zip(distances[count], distances[most], strict=True)]
    error = statistics.stdev(worse) / len(worse) ** 0.5
    measured = (
        f"sliced Wasserstein distance of {CUBE_VOXELS}^3 cubes to the real CT of the same masks, {len(worse)} cases; "
        f"worse than {most} steps by {statistics.mean(worse):.4f} +- {error:.4f} (standard error, paired); "
        f"peer: between real CTs; {model}"
    )
    ours = statistics.mean(distances[count])
    default = " (default)" if count == bench.synthesis.steps else ""
    return Claim(f"steps {count}{default}", ours, floor, ours / floor, measured)


def distance(model: Trained, case: Case, synthesis: Synthesis, seed: int, bench: Bench) -> float:
    """Of one synthetic volume to the real one of the same masks."""
    real = descriptors(to_model_range(case.ct, model.settings.window_hu), case.body)
    return sliced_wasserstein(descriptors(make_volume(model, case, synthesis, seed, bench), case.body), real)


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
