"""Rows of sources that take body and nodules from real cases: all that decides a volume's masks. They are made again
from it, not stored."""

from collections.abc import Iterable

import numpy as np

from lungsyn.errors import InputError
from lungsyn.random import seed_of, stream
from lungsyn.volume.files import Case
from lungsyn.volume.nodules import diameter_mm

COLUMNS = ("volume", "body_case", "nodule_case", "seed", "smallest_mm", "place", "why")
OWN, ANYWHERE = "own", "anywhere"
CUT_OUT_SPREAD = 0.05  # of a nodule's place in the field of view: 0.02 in cut-outs around nodules, 0.2 in chests


def smallest_diameter_mm(abouts: Iterable[dict]) -> float:
    """The least diameter (of the sphere of equal volume) of the nodules of these cases; 0 if they have none."""
    return min((diameter_mm(fact["volume_mm3"]) for about in abouts for fact in about["nodules"]), default=0.0)


def usual_place(cases: Iterable[Case]) -> str:
    """``OWN`` where the cases' nodules are all at about the same place of the field of view, else ``ANYWHERE``."""
    places = [np.mean(fact["box"], axis=1) / case.ct.shape for case in cases for fact in case.about["nodules"]]
    return OWN if places and np.std(places, axis=0).max() < CUT_OUT_SPREAD else ANYWHERE


def untargeted(
    train_cases: list[str], volumes: int, seed: int, smallest_mm: float = 0.0, place: str = ANYWHERE,
    why: str = "untargeted", donors: list[str] | None = None,
) -> list[dict]:  # fmt: skip
    """``volumes`` rows (``why``: untargeted, inpainted); train cases give bodies, and those of them that are ``donors``
    (None: all) nodules, each about equally often. No nodule is made smaller than ``smallest_mm``; ``place``:
    `usual_place`."""
    if not train_cases:
        raise InputError("no train case to take masks from: the cohort's train split is empty")
    if donors is not None and not donors:
        raise InputError("no train case to take nodules from: none of them has one")
    bodies = _in_turn(train_cases, volumes, stream(seed, "bodies", why))
    donors = _in_turn(donors or train_cases, volumes, stream(seed, "donors", why))
    return _rows(zip(bodies, donors, strict=True), seed, smallest_mm, place, why)


def targeted(worst_cases: list[str], volumes: int, seed: int, smallest_mm: float = 0.0) -> list[dict]:
    """``volumes`` rows that go through the worst cases in turn; no nodule is made smaller than ``smallest_mm``."""
    if not worst_cases:
        raise InputError("no validation case to target: the cohort's validation split is empty")
    sources = _in_turn(worst_cases, volumes, stream(seed, "bodies", "targeted"))
    return _rows(zip(sources, sources, strict=True), seed, smallest_mm, OWN, "targeted")


def _in_turn(cases: list[str], count: int, rng: np.random.Generator) -> list[str]:
    rounds = [rng.permutation(sorted(cases)) for _ in range(-(-count // len(cases)))]
    return [str(case) for case in np.concatenate(rounds)[:count]]


def _rows(pairs: Iterable[tuple[str, str]], seed: int, smallest_mm: float, place: str, why: str) -> list[dict]:
    """A row for each pair of a body's and a nodule's case."""
    shared = {"smallest_mm": f"{smallest_mm:.2f}", "place": place, "why": why}
    return [
        {"volume": f"{i:04d}", "body_case": body, "nodule_case": donor, "seed": seed_of(seed, "volume", why, i)}
        | shared
        for i, (body, donor) in enumerate(pairs)
    ]
