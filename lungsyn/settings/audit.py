"""``audit``: what a synthetic set may give away, and how real it is."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from lungsyn.settings.section import Fraction, Millimetres, Section, Window, at_home


class Probing(Section):
    """The part of ``audit`` that looking for nearest neighbours needs."""

    patch_mm: Millimetres = Field(default=30.0, description="Edge of the cube around a nodule that is compared")
    max_shift_voxels: int = Field(default=1, ge=0, le=4, description="Cubes are compared at all shifts up to this")
    window_hu: Window = Field(default=(-1000, 400), description="HU are clipped to it before comparison")


class Thresholds(Probing):
    """The part of ``audit`` that the verdict needs: what a synthetic set may give away."""

    alpha: float = Field(default=0.01, gt=0, le=0.1, description="False alarms of a whole verdict, at most")
    largest_fraction_beyond: Fraction = Field(
        default=0.05, description="Allowed fraction closer to a train case than 99 % of held-out cases are"
    )
    largest_membership_auc: float = Field(
        default=0.6, ge=0.5, le=1, description="Allowed success of telling learned from unseen cases by the loss"
    )


class Fidelity(Section):
    """How real is a synthetic set?"""

    slices_per_case: int = Field(default=8, ge=1, le=200, description="Slices of each case in each plane")
    weights: Annotated[Path, AfterValidator(at_home)] | None = Field(
        default=None,
        description="TorchScript file of another feature extractor (a program that runs: one you trust); default: the "
        "built-in scattering",
    )


class Audit(Thresholds):
    """Can a synthetic set be shared, and how real is it?"""

    fidelity: Fidelity = Fidelity()
