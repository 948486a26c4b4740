"""Masks that are nobody's: bodies mixed from several train cases or drawn from textbooks' sizes, made up nodules; the
kind ``made``.

``body: mixed`` sums the shapes of train cases (`core.mixing`), ``body: parametric`` has no patient's shape at all
(`core.parametric`). Nodules are star-shaped bodies. Their number, diameter and distance to the wall, and the volume of
the lungs, are those of a table of the user's, or lie in the ranges of the settings, or are drawn from the train cases.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from lungsyn.anatomy import shapes
from lungsyn.errors import InputError
from lungsyn.hosts import is_host
from lungsyn.masks.core import parametric
from lungsyn.masks.core.lesions import Range, Wanted, in_turn, nodules_of, place_nodules, read_wanted, wanted_of
from lungsyn.masks.core.mixing import VOXELS, Bank, Mixture, chest_of, cut_out_of, fields_of, lost_roughness
from lungsyn.masks.core.rows import ANYWHERE, OWN, usual_place
from lungsyn.random import seed_of, stream
from lungsyn.seams import MaskSource, Scene
from lungsyn.settings.section import Section, at_home
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.labels import LabelMap
from lungsyn.volume.source import source_of


class Settings(Section):
    """What is made; what is not said here is drawn from the train cases."""

    kind: Literal["made"] = Field(default="made", description="Source of the masks")
    body: Literal["mixed", "parametric"] = Field(
        default="mixed", description="mixed: lungs and body are mixed from those of train cases; parametric: of no "
        "patient at all, only the size of whole chests is drawn as theirs are",
    )  # fmt: skip
    patients: int = Field(
        default=8, ge=5, le=32, description="Train cases of which a mixed body is made, of one patient each"
    )
    nodules: tuple[int, int] | None = Field(
        default=None, description="Fewest and most nodules of a volume; null: as in train cases"
    )
    diameter_mm: Range | None = Field(
        default=None, description="Least and largest diameter of nodules, drawn evenly; null: as in train cases"
    )
    wall_mm: Range | None = Field(
        default=None, description="Least and largest distance of a nodule's middle to the lungs' border, drawn evenly; "
        "null: as in train cases",
    )  # fmt: skip
    lungs_l: Range | None = Field(
        default=None, description="Least and largest volume of the lungs of a whole chest, litres, drawn evenly; null: "
        "as in train cases",
    )  # fmt: skip
    table: Annotated[Path, AfterValidator(at_home)] | None = Field(
        default=None, description="A table (TSV) with a line for each volume: what its columns diameters_mm, walls_mm "
        "(a number for each nodule) and lungs_l say goes before the keys above; null: none",
    )  # fmt: skip

    @model_validator(mode="after")
    def _rise(self):
        for name, least, most in (
            ("nodules", 1, 50), ("diameter_mm", 1, 200), ("wall_mm", 0, 200), ("lungs_l", 0.1, 20)
        ):  # fmt: skip
            ends = getattr(self, name)
            if ends and not least <= ends[0] <= ends[1] <= most:
                raise ValueError(f"{name} is {list(ends)}: it must be a low and a high end between {least} and {most}")
        return self


@dataclass(frozen=True)
class Population:
    """What of the train cases decides a row: one case of each patient, the bank that bodies are mixed from (None: they
    are parametric), the lungs' sizes, the roughness of nodules, whether they are cut-outs, where nodules lie."""

    names: list[str]
    bank: Bank | None
    sizes: np.ndarray
    powers: np.ndarray
    cut_out: bool
    place: str

    def drawn(self, wanted: Wanted, patients: int, rng: np.random.Generator) -> tuple[Mixture, np.ndarray | None]:
        """Whose bodies are mixed, or whose spacing a parametric body has, and the size of its lungs."""
        if self.bank is None:
            like = Mixture([str(rng.choice(self.names))], np.ones(1), [0])
            return like, None if self.cut_out else parametric.draw_size_mm(self.sizes, rng)
        return self.bank.draw(patients, wanted.nodules[0][1] if self.place == OWN else None, rng), None


class Family(MaskSource):
    """Shapes of no patient; the row says which cases are mixed, and how."""

    Settings = Settings
    recipe = 3
    columns = ("volume", "body", "cases", "weights", "turns", "cut_out", "lungs_mm", "lungs_l", "nodules", "powers",
               "place", "seed")  # fmt: skip

    def rows(self, cases, volumes, seed, settings, worst=()):
        opened = {folder.name: open_case(folder) for folder in cases}
        known = [nodule for case in opened.values() for nodule in nodules_of(case)]
        if not known:
            raise InputError("no nodule in the train cases: their sizes are what made nodules are drawn from")
        train = _population(opened, known, settings)
        counts = [len(case.about["nodules"]) for case in opened.values() if not is_host(case.about)]
        given = read_wanted(settings.table) if settings.table else [{}]
        if train.cut_out and (settings.lungs_l or any("lungs_l" in line for line in given)):
            raise InputError(
                "lungs_l asks for a volume of the lungs, but the train cases are cut-outs, which have parts of lungs: "
                "remove it"
            )
        likes, numbers = in_turn(known, seed, "made nodules"), in_turn(counts, seed, "made numbers")
        least_mm = min(nodule["diameter_mm"] for nodule in known)

        def wanted(i: int, likes: Iterator[dict]) -> Wanted:
            rng = stream(seed, "wanted", i)
            return wanted_of(likes, least_mm, next(numbers), settings, given[i % len(given)], rng)

        return [_row(i, seed, wanted(i, likes), train, settings) for i in range(volumes)]

    def uses(self, row):
        return set(row["cases"].split())

    def asked(self, row):
        nodules = _nodules(row)
        lungs = {"lungs_l": float(row["lungs_l"])} if row["lungs_l"] else {}
        return {"diameter_mm": [diameter for diameter, _ in nodules], "wall_mm": [wall for _, wall in nodules]} | lungs

    def scene(self, row: dict, open_case: Callable[[str], Case]) -> Scene:
        rng = stream(int(row["seed"]), "masks")
        cases = [open_case(name) for name in row["cases"].split()]
        weights = np.array(row["weights"].split(), dtype=float)
        layers = (_parametric if row["body"] == "parametric" else _mixed)(row, cases, weights, rng)
        affine = np.diag([*cases[0].space.spacing_mm, 1.0])  # where a patient lay is his
        powers = np.array(row["powers"].split(), dtype=float)
        nodules = place_nodules(layers["lungs"], _nodules(row), powers, affine, row["place"], rng)
        layers["lungs"] = np.where((nodules > 0) & (layers["lungs"] == 0), 1, layers["lungs"]).astype(np.uint8)
        layers["body"] = np.maximum(layers["body"], nodules > 0).astype(np.uint8)
        most = cases[int(np.argmax(weights))]
        return Scene(LabelMap({"nodules": nodules, **layers}), affine, source=source_of(most))


def _population(opened: dict[str, Case], known: list[dict], settings: Settings) -> Population:
    """Raises InputError where there are fewer patients than are to be mixed."""
    cut_out = shapes.are_cut_outs(opened.values())
    of_patient: dict[str, str] = {}
    for name, case in opened.items():
        of_patient.setdefault(case.about["patient"], name)
    names = sorted(of_patient.values())
    bank, sizes = None, np.empty((0, 3))
    if settings.body == "mixed":
        if len(names) < settings.patients:
            raise InputError(
                f"{len(names)} train patients, but conditions.patients asks for {settings.patients} to be mixed: "
                "lower it, take more patients, or set body to parametric"
            )
        fields = {name: fields_of(opened[name], cut_out)["lungs"] for name in names}
        bank = Bank(fields, cut_out, shapes.frame(opened[names[0]], cut_out, VOXELS)[1] / VOXELS)
    elif not cut_out:
        sizes = parametric.sizes_of([opened[name] for name in names])
    powers = np.mean([nodule["powers"] for nodule in known if nodule["powers"] is not None] or [[0.02] * 3], axis=0)
    place = usual_place(opened.values()) if cut_out else ANYWHERE
    return Population(names, bank, sizes, powers, cut_out, place)


def _row(i: int, seed: int, wanted: Wanted, train: Population, settings: Settings) -> dict:
    """Row ``i``: which cases are mixed and how, or how large a parametric chest is, and which nodules lie in it."""
    own = seed_of(seed, "volume", "made", i)
    chosen, size_mm = train.drawn(wanted, settings.patients, stream(own, "made"))
    return {
        "volume": f"{i:04d}",
        "body": settings.body,
        "cases": " ".join(chosen.cases),
        "weights": " ".join(f"{weight:.4f}" for weight in chosen.weights),
        "turns": " ".join(map(str, chosen.turns)),
        "cut_out": int(train.cut_out),
        "lungs_mm": "" if size_mm is None else " ".join(f"{length:.1f}" for length in size_mm),
        "lungs_l": "" if wanted.lungs_l is None else f"{wanted.lungs_l:.4f}",
        "nodules": " ".join(f"{diameter:.2f}:{wall:.2f}" for diameter, wall in wanted.nodules),
        "powers": " ".join(f"{power:.5f}" for power in train.powers),
        "place": train.place,
        "seed": own,
    }


def _nodules(row: dict) -> list[tuple[float, float]]:
    """Diameter and distance to the wall of each nodule of a row, mm."""
    pairs = (nodule.split(":") for nodule in row["nodules"].split())
    return [(float(diameter), float(wall)) for diameter, wall in pairs]


def _litres(row: dict) -> float | None:
    return float(row["lungs_l"]) if row["lungs_l"] else None


def _mixed(row: dict, cases: list[Case], weights: np.ndarray, rng) -> dict[str, np.ndarray]:
    if row["cut_out"] == "1":
        return cut_out_of(cases, weights, [int(turn) for turn in row["turns"].split()])
    return chest_of(cases, weights, _litres(row), rng)


def _parametric(row: dict, cases: list[Case], weights: np.ndarray, rng) -> dict[str, np.ndarray]:
    """The case gives the spacing, the roughness of a chest's lungs, and the shape of a cut-out."""
    like = cases[0]
    if row["cut_out"] == "1":
        return parametric.cut_out(_nodules(row)[0][1], like.ct.shape, like.space.spacing_mm, rng)
    size_mm = np.array(row["lungs_mm"].split(), dtype=float) if row["lungs_mm"] else None
    rough = lost_roughness(like, shapes.frame(like, False, VOXELS)[1])
    return parametric.chest(size_mm, _litres(row), like.space.spacing_mm, rough, rng)
