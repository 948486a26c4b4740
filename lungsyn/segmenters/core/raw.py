"""Cases as nnU-Net's raw dataset (Isensee et al. 2021), which is what other people's segmenters read::

    FOLDER/imagesTr/{name}_0000.nii   int16 HU
    FOLDER/labelsTr/{name}.nii        uint8: 1 is nodule
    FOLDER/dataset.json               nnU-Net v2's form
    FOLDER/cases.tsv                  name and case

A name is ``real_0001`` or ``synthetic_0001``, in the order in which the cases are given.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd
from pathlib import Path

import numpy as np

from lungsyn.volume.files import Case, open_case, write_json, write_volume
from lungsyn.volume.space import Volume
from lungsyn.volume.tables import write_table

ENDING = ".nii"


def write_dataset(folder: Path, real: Sequence[Path], synthetic: Sequence[Path]) -> list[str]:
    """Write a training set. Returns the names of its cases."""
    cases = {f"{kind}_{i:04d}": place for kind, places in (("real", real), ("synthetic", synthetic))
             for i, place in enumerate(places, start=1)}  # fmt: skip
    for name, place in cases.items():
        case = open_case(place)
        nodule = (np.asarray(case.nodules) > 0).astype(np.uint8)
        write_image(folder / "imagesTr", name, case)
        write_volume(folder / f"labelsTr/{name}{ENDING}", Volume(nodule, case.affine))
    rows = [{"name": name, "case": place.name} for name, place in cases.items()]
    write_table(folder / "cases.tsv", rows, ["name", "case"])
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "nodule": 1}}
    write_json(folder / "dataset.json", about | {"numTraining": len(cases), "file_ending": ENDING})
    return list(cases)


def write_image(folder: Path, name: str, case: Case) -> None:
    """Write a case's CT as the only channel of an image."""
    write_volume(folder / f"{name}_0000{ENDING}", Volume(case.ct, case.affine))


def drawn_from(names: Sequence[str], share: float | None) -> list[str]:
    """The list to draw cases from at random: names stand in it as often as makes ``share`` of it synthetic.

    >>> drawn_from(["real_0001", "real_0002", "synthetic_0001"], 0.5)
    ['real_0001', 'real_0002', 'synthetic_0001', 'synthetic_0001']
    """
    if share is None:
        return list(names)
    real = [name for name in names if name.startswith("real")]
    synthetic = [name for name in names if name.startswith("synthetic")]
    part = Fraction(share).limit_denominator(100)
    each = (1 - part) * len(synthetic), part * len(real)  # times that a real, a synthetic case is there, up to a factor
    whole = [int(times * part.denominator) for times in each]
    times = [n // (gcd(*whole) or 1) for n in whole]
    return real * times[0] + synthetic * times[1]
