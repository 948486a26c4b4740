"""No masks: a grid like the train cases', for generators that make CT and masks together; the kind ``blank``."""

from typing import Literal

import numpy as np
from pydantic import Field

from lungsyn.errors import InputError
from lungsyn.hosts import is_host
from lungsyn.random import seed_of
from lungsyn.seams import MaskSource, Scene
from lungsyn.settings.section import Section
from lungsyn.volume.files import open_case
from lungsyn.volume.labels import ALWAYS, LabelMap


class Settings(Section):
    """Nothing to choose."""

    kind: Literal["blank"] = Field(default="blank", description="Source of the masks")


class Family(MaskSource):
    """Every volume has the median length of the train cases along each axis, and their median spacing: a grid that is
    nobody's, unless it is everybody's."""

    Settings = Settings
    recipe = 1
    columns = ("volume", "shape", "spacing_mm", "seed")
    gives_masks = False

    def rows(self, cases, volumes, seed, settings, worst=()):
        opened = [
            case for case in map(open_case, cases) if not is_host(case.about)
        ]  # from whom nothing is learned here
        if not opened:
            raise InputError("no train case to take a grid from: the cohort's train split is empty, or has hosts only")
        shape = np.rint(np.median([case.ct.shape for case in opened], axis=0)).astype(int)
        spacing_mm = np.median([case.space.spacing_mm for case in opened], axis=0)
        grid = {
            "shape": " ".join(map(str, shape)),
            "spacing_mm": " ".join(f"{spacing:.6f}" for spacing in spacing_mm),
        }
        return [grid | {"volume": f"{i:04d}", "seed": seed_of(seed, "volume", "blank", i)} for i in range(volumes)]

    def uses(self, row):
        return set()

    def scene(self, row, open_case):
        shape = tuple(int(n) for n in row["shape"].split())
        labels = LabelMap({name: np.zeros(shape, np.uint8) for name in ALWAYS})
        return Scene(labels, np.diag([*map(float, row["spacing_mm"].split()), 1.0]))
