"""As ``untargeted``, but the body keeps its real CT and its own nodules; the kind ``inpainted``."""

from typing import Literal

from pydantic import Field

from lungsyn.masks.core.arranged import Arranged
from lungsyn.settings.section import Section


class Settings(Section):
    """Nothing to choose."""

    kind: Literal["inpainted"] = Field(default="inpainted", description="Source of the masks")


class Family(Arranged):
    """Only new nodules, and what is near them, are made."""

    Settings = Settings
    recipe = 1
    gives_known = True
