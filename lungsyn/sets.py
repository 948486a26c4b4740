"""Synthetic sets: from a row of masks and a generator to a checked case in the layout of a real one."""

import time
from collections.abc import Iterator

import numpy as np

from lungsyn.errors import InputError
from lungsyn.progress import Progress
from lungsyn.quality.attempts import Attempt, attempt_seed, attempts
from lungsyn.quality.measures import measure
from lungsyn.seams import Generator, Sampled, Scene
from lungsyn.volume.files import Case
from lungsyn.volume.nodules import nodule_facts
from lungsyn.volume.space import Space


def synthetic_case(generator: Generator, scene: Scene, row: dict, steps: int, attempt: int = 0) -> Case:
    """Make the volume of a scene; the caller names it. Another ``attempt`` has the same masks and other noise."""
    started = time.monotonic()
    progress = Progress(f"volume {row['volume']}", steps, "steps")
    sampled = generator.sample(scene, attempt_seed(int(row["seed"]), attempt), progress.update)
    check(sampled, scene)
    cost = {"seconds": round(time.monotonic() - started, 2), **generator.memory_mb()}
    return as_case(sampled, scene, cost)


def check(sampled: Sampled, scene: Scene) -> None:
    """Raises InputError where a generator gave no int16 HU of the scene's shape."""
    hu, shape = sampled.hu, scene.labels.shape
    if (hu.dtype, hu.shape) != (np.int16, shape):
        raise InputError(f"the generator made {hu.dtype} of shape {hu.shape}: it must be int16 HU of {shape}")


def check_kept(hu: np.ndarray, scene: Scene) -> None:
    """Raises InputError where a generator changed what of a known CT was to be kept: ``scene.made`` is 0 there."""
    if scene.known is not None and scene.made is not None:
        kept = scene.made == 0
        if (hu[kept] != np.asarray(scene.known.ct)[kept]).any():
            raise InputError("the generator changed voxels of the known CT that are to be kept (Scene.made is 0 there)")


def as_case(sampled: Sampled, scene: Scene, cost: dict | None = None) -> Case:
    """A made volume as a case, which `write_case` writes. ``known_case`` is whose CT is kept around its new nodules, if
    anybody's; ``cost``: time and memory that it took.

    >>> case = lungsyn.open_case("cases/one")
    >>> scene = lungsyn.Scene(case.labels, case.affine)
    >>> made = lungsyn.as_case(lungsyn.Sampled(np.zeros(scene.labels.shape, np.int16)), scene)
    >>> made.about["dataset"], len(made.about["nodules"])
    ('synthetic', 2)
    """
    labels, known = sampled.labels or scene.labels, scene.known
    nodules, lungs = np.asarray(labels["nodules"]), np.asarray(labels["lungs"])
    about = {
        "patient": known.about["patient"] if known else "synthetic",
        "dataset": "synthetic",
        "known_case": known.about["case"] if known else None,
        "nodules": nodule_facts(nodules, lungs, Space(nodules.shape, scene.affine)),
        "new_nodules": len(scene.placed) if sampled.labels is None else 0,
        "cost": cost or {},
    }
    return Case(sampled.hu, labels, scene.affine, about)


def checked_attempts(
    generator: Generator, scene: Scene, row: dict, steps: int, reference: dict | None, tries: int
) -> Iterator[Attempt]:
    """Make the volume of ``scene`` until it lies in the ranges of ``reference``; the last attempt is kept."""
    started = time.monotonic()

    def make(attempt: int) -> Case:
        case = synthetic_case(generator, scene, row, steps, attempt)
        if reference:
            check_kept(case.ct, scene)
        return case

    def examine(case: Case) -> dict[str, float]:
        return measure(case, generator.grid, None if scene.made is None else scene.made == 1)

    for attempt in attempts(make, examine, reference, tries):
        attempt.case.about["cost"]["seconds"] = round(time.monotonic() - started, 2)  # of all attempts so far
        for fault in attempt.faults:
            print(f"volume {row['volume']}, attempt {attempt.number}, rejected: {fault['reason']}", flush=True)
        yield attempt
