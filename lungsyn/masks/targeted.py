"""Body and nodules of one of the benchmark's worst validation cases; the kind ``targeted``."""

from typing import Literal

from pydantic import Field

from lungsyn.masks.core.arranged import Arranged, abouts
from lungsyn.masks.core.rows import smallest_diameter_mm, targeted
from lungsyn.settings.section import Section


class Settings(Section):
    """Nothing to choose."""

    kind: Literal["targeted"] = Field(default="targeted", description="Source of the masks")


class Family(Arranged):
    """Nodules stay near their own place: that is what was hard."""

    Settings = Settings
    recipe = 1
    split = "validation"
    needs_benchmark = True

    def rows(self, cases, volumes, seed, settings, worst=()):
        return targeted(list(worst), volumes, seed, smallest_diameter_mm(abouts(cases)))
