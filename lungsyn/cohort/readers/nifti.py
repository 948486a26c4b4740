"""Any cohort in NIfTI files: images/ and labels/, Medical Segmentation Decathlon, nnU-Net raw. See ``cohort.pairs``."""

import os
from pathlib import Path

from lungsyn.seams import RawCase, Reader
from lungsyn.settings.cohort import Cohort, Listing, Preparation

IMAGES, HOSTS = ("images", "imagesTr"), "hosts"


class Family(Reader):
    """An image and a label for each case, and, where ``cohort.labels`` names some, its other labels."""

    uses_most = True

    def expected_cases(self, settings: Cohort) -> int:
        folders = [settings.root / name for name in (*IMAGES, HOSTS) if (settings.root / name).is_dir()]
        return sum(len(os.listdir(folder)) for folder in folders) if folders else super().expected_cases(settings)

    def watched(self, root: Path, settings: Listing) -> list[Path]:
        folders = [f"labels{tr}{further}" for tr in ("", "Tr") for further in ("", *(f"_{n}" for n in settings.labels))]
        return [Path(root, name) for name in ("cases.tsv", "dataset.json", *IMAGES, HOSTS, *folders)]

    def index(self, root: Path, settings: Listing, workers: int) -> list[dict]:
        from lungsyn.cohort import nifti

        return nifti.index(root, settings, workers)

    def read(self, root: Path, row: dict, settings: Preparation) -> RawCase:
        from lungsyn.cohort import nifti

        return nifti.read_case(Path(root), row["source"], row["annotation"], settings)
