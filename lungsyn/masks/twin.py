"""Train cases as they are: CT and masks are kept, only their own nodules are made anew, in their place; the kind
``twin``."""

from typing import Literal

import numpy as np
from pydantic import Field

from lungsyn.masks.core.arranged import Arranged, abouts
from lungsyn.masks.core.placing import MOST_NODULES, region_to_make
from lungsyn.masks.core.rows import untargeted
from lungsyn.seams import Scene
from lungsyn.settings.section import Section
from lungsyn.volume.labels import ALWAYS, LabelMap
from lungsyn.volume.pasting import in_place
from lungsyn.volume.source import source_of


class Settings(Section):
    """Nothing to choose."""

    kind: Literal["twin"] = Field(default="twin", description="Source of the masks")


class Family(Arranged):
    """Each train case with a nodule has a twin before any has two."""

    Settings = Settings
    recipe = 1
    gives_known = True
    gives_twins = True

    def rows(self, cases, volumes, seed, settings, worst=()):
        marked = [folder.name for folder, about in zip(cases, abouts(cases), strict=True) if about["nodules"]]
        rows = untargeted(marked, volumes, seed, why=settings.kind)
        return [row | {"nodule_case": row["body_case"]} for row in rows]

    def scene(self, row, open_case):
        """Nodules get other numbers: that says that they are not the case's own any more."""
        body = open_case(row["body_case"])
        own = np.asarray(body.nodules)
        nodules = np.where(own > 0, own % MOST_NODULES + 1, 0).astype(np.uint8)
        labels = LabelMap({name: np.asarray(body.labels[name]) for name in ALWAYS}).replaced(nodules=nodules)
        placed = tuple(in_place(body, fact) for fact in body.about["nodules"])
        return Scene(labels, body.affine, body, region_to_make(nodules, body), placed, source_of(body))
