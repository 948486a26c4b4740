"""Masks of train cases: the body of one, the nodules of another; the kind ``untargeted``."""

from typing import Literal

from pydantic import Field

from lungsyn.masks.core.arranged import Arranged
from lungsyn.settings.section import Section


class Settings(Section):
    """Nothing to choose."""

    kind: Literal["untargeted"] = Field(default="untargeted", description="Source of the masks")


class Family(Arranged):
    """Bodies and nodules of train cases, about equally often."""

    Settings = Settings
    recipe = 1
