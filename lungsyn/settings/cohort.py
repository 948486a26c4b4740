"""``cohort``: where cases come from, how they are split and prepared."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_serializer, model_validator

from lungsyn.registry import family, kinds
from lungsyn.settings.section import Count, Fraction, Millimetres, Section, at_home
from lungsyn.volume.labels import ALWAYS, check_names

if TYPE_CHECKING:
    from lungsyn.seams import Reader

NUMBERED_CASE = r"case-\d+"  # where names are not public


class Phantom(Section):
    patients: int = Field(ge=6, le=400, description="Number of simulated patients")
    hosts: int = Field(
        default=0, ge=0, le=100, description="Further patients without a nodule, who teach the generator only"
    )
    matrix: Literal[128, 256, 512] = Field(description="In-plane voxels; LIDC-IDRI has 512")
    slice_thickness_mm: tuple[Millimetres, Millimetres] = Field(description="Range of slice thickness of the scans")
    max_slices: Count = Field(description="Scans with more slices are not chosen")
    noise_hu: float = Field(ge=0, le=200, description="Standard deviation of the image noise, HU")


class Nodules(Section):
    consensus_level: Fraction = Field(description="A voxel is nodule when this fraction of the readers marked it")
    min_readers: int = Field(ge=1, le=4, description="Nodules marked by fewer readers are left out")
    min_diameter_mm: float = Field(ge=0, le=100, description="Smaller nodules (mean of the readers) are left out")


class Split(Section):
    """One split by fractions; or folds, and how many are for validation in each."""

    train: Fraction | None = Field(default=None, description="Fraction of the patients (without folds)")
    validation: Fraction = Field(description="Fraction of the patients")
    test: Fraction | None = Field(default=None, description="Fraction of the patients (without folds)")
    folds: Annotated[int, Field(ge=2, le=100)] | None = Field(
        default=None,
        description="Every patient is tested in one of so many folds, by models that saw only the others; null: one "
        "split",
    )

    @model_validator(mode="before")
    @classmethod
    def _folds_leave_the_rest(cls, value):
        """An overlay asks for folds beside the fractions of config.yaml, which then say nothing."""
        asks = isinstance(value, dict) and value.get("folds") is not None
        return {k: v for k, v in value.items() if k not in ("train", "test")} if asks else value

    @model_serializer(mode="wrap")
    def _what_is_said(self, handler):
        return {key: value for key, value in handler(self).items() if value is not None}

    @model_validator(mode="after")
    def _sums_to_one(self):
        if self.folds:
            if self.validation + 1 / self.folds >= 1:
                raise ValueError(
                    f"validation {self.validation:g} and the 1/{self.folds} that is tested in each fold leave no train "
                    "patient: lower validation"
                )
            return self
        if self.train is None or self.test is None:
            raise ValueError("give train, validation and test, or folds and validation")
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train + validation + test is {total:g}; the three fractions must sum to 1")
        return self


class Preprocess(Section):
    spacing_mm: Millimetres = Field(description="Isotropic voxel spacing of the prepared cases")
    margin_mm: float = Field(ge=0, le=200, description="Kept around the lungs when cropping")
    field_of_view: Literal["chest", "part"] = Field(
        description="chest: the skin is in the image, so body and air are told apart and the crop follows the lungs; "
        "part: a cut-out around a nodule, kept whole"
    )


def _check_dataset(dataset: str) -> str:
    known = kinds("readers")
    if dataset not in known:
        raise ValueError(
            f"no reader is called {dataset!r}: it must be one of {', '.join(known)}, or come with its package installed"
        )
    return dataset


def _check_labels(labels: list[str]) -> list[str]:
    if found := sorted(set(labels) & set(ALWAYS)):
        raise ValueError(f"every case has {found[0]!r}, which is found by rules: name only further labels")
    return check_names(labels)


class Dataset(Section):
    """Where cases come from; all else about it is asked of its ``reader``."""

    dataset: Annotated[str, AfterValidator(_check_dataset)] = Field(
        description="Where cases come from: phantom, lidc, nifti, or a reader of another package"
    )

    @property
    def reader(self) -> "Reader":
        return family("readers", self.dataset)


class Simulation(Dataset):
    """The part of ``cohort`` that simulating the raw data needs."""

    nodules: Nodules
    phantom: Phantom


class Reading(Dataset):
    """The part of ``cohort`` that reading a case from the raw data needs."""

    lesion_labels: list[int] = Field(default=[1], min_length=1, description="Label values that are nodule (nifti)")
    labels: Annotated[list[str], AfterValidator(_check_labels)] = Field(
        default=[],
        description="Further labels that every case keeps beside nodules, lungs and body (nifti: 'airway' is read from "
        "labels_airway/, or labelsTr_airway/)",
    )
    nodules: Nodules


class Listing(Reading):
    """The part of ``cohort`` that listing and splitting the cases needs."""

    exclude: dict[str, str] = Field(default={}, description="Cases to leave out: {case: reason}")
    public_names: bool = Field(
        default=False,
        description="Whether the files' and patients' names may be seen by everybody (nifti); false: cases and "
        "patients get numbers, and results/private/names.tsv says which is which",
    )
    unmarked: Literal["excluded", "host"] = Field(
        default="excluded",
        description="What becomes of a case in which no lesion is marked: excluded, or host: it teaches the generator "
        "and lends its body, and is in no arm and no test. What lies in it unmarked is learned as lung",
    )
    max_slice_thickness_mm: Millimetres = Field(description="Thicker series are left out (lidc)")
    split: Split

    @property
    def readable(self) -> bool:
        """Whether names stay as they are: those of LIDC-IDRI's patients and of the phantoms are public."""
        return self.public_names or self.reader.public_names

    @model_validator(mode="after")
    def _excluded_by_number(self):
        named = [case for case in self.exclude if not self.readable and not re.fullmatch(NUMBERED_CASE, case)]
        if named:
            raise ValueError(
                f"exclude names {named[0]!r}, but cases of data whose names are not public are excluded by their "
                "number, as 'case-0012': results/private/names.tsv has it. Set public_names to true if nobody's "
                "name is in a file's"
            )
        return self


class Preparation(Reading):
    """The part of ``cohort`` that preparing one case needs."""

    preprocess: Preprocess


class Cohort(Listing, Preparation, Simulation):
    root: Annotated[Path, AfterValidator(at_home)] | None = Field(
        default=None, description="Folder of the raw data, unless they are simulated"
    )

    @model_validator(mode="after")
    def _has_root(self):
        if not self.reader.simulates and self.root is None:
            raise ValueError(f"dataset {self.dataset!r} reads files: set cohort.root to their folder")
        if self.reader.simulates and self.root is not None:
            raise ValueError(
                f"dataset {self.dataset!r} reads no files: set cohort.dataset to lidc or nifti, or remove cohort.root"
            )
        return self
