"""The phantom: simulated chests with real nodules, written and read as LIDC-IDRI's DICOM. See ``cohort.phantom``."""

from pathlib import Path

from lungsyn.cohort.readers.lidc import Family as Lidc
from lungsyn.settings.cohort import Cohort, Simulation


class Family(Lidc):
    """Patients of LIDC-IDRI whose chests are simulated around their nodules' contours."""

    simulates = True
    uses_most = True

    def expected_cases(self, settings: Cohort) -> int:
        return settings.phantom.patients

    def simulate(self, settings: Simulation, seed: int, root: Path, workers: int) -> None:
        from lungsyn.cohort.phantom import write_cohort

        write_cohort(settings.phantom, settings.nodules, seed, root, workers)
