"""The phantom: simulated chests with real nodules, written and read as LIDC-IDRI's DICOM. See ``cohort.phantom``."""

from pathlib import Path

from lungsyn.seams import RawCase, Reader
from lungsyn.settings.cohort import Cohort, Listing, Preparation, Simulation


class Family(Reader):
    """Patients of LIDC-IDRI whose chests are simulated around their nodules' contours."""

    public_names = True
    listed_once = True
    simulates = True
    uses_most = True

    def expected_cases(self, settings: Cohort) -> int:
        return settings.phantom.patients + settings.phantom.hosts

    def simulate(self, settings: Simulation, seed: int, root: Path, workers: int) -> None:
        from lungsyn.cohort.phantom import write_cohort

        write_cohort(settings.phantom, settings.nodules, seed, root, workers)

    def index(self, root: Path, settings: Listing, workers: int) -> list[dict]:
        from lungsyn.cohort import lidc

        return lidc.index(root, settings.model_copy(update={"unmarked": "host"}), workers)  # none but those asked for

    def read(self, root: Path, row: dict, settings: Preparation) -> RawCase:
        from lungsyn.cohort import lidc

        return lidc.raw_case(root, row, settings.nodules)
