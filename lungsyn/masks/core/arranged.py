"""What sources have in common that take body and nodules from real cases."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lungsyn.masks.core.placing import arranged_scene
from lungsyn.masks.core.rows import COLUMNS, smallest_diameter_mm, untargeted, usual_place
from lungsyn.seams import MaskSource
from lungsyn.volume.files import open_case, read_json


def abouts(cases: Sequence[Path]) -> Iterator[dict]:
    """What ``case.json`` says of each case."""
    return (read_json(folder / "case.json") for folder in cases)


class Arranged(MaskSource):
    """Nodules of one case, varied, in the body of another, which may have none."""

    columns = COLUMNS

    def rows(self, cases, volumes, seed, settings, worst=()):
        known = {folder.name: about for folder, about in zip(cases, abouts(cases), strict=True)}
        donors = [name for name, about in known.items() if about["nodules"]]
        smallest_mm, place = smallest_diameter_mm(known.values()), usual_place(open_case(folder) for folder in cases)
        return untargeted(list(known), volumes, seed, smallest_mm, place, settings.kind, donors)

    def uses(self, row):
        return {row["body_case"], row["nodule_case"]}

    def scene(self, row, open_case):
        return arranged_scene(row, open_case, self.gives_known)
