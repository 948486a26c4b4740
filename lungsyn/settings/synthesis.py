"""``synthesis``, ``quality`` and ``sets``: how volumes are made, checked, and how many of which masks."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lungsyn.registry import family
from lungsyn.settings.kinds import OfKind
from lungsyn.settings.section import Count, Fraction, Millimetres, Name, Section


class Synthesis(Section):
    """How a volume is made of patches."""

    sampler: Literal["ddpm", "ddim", "dpmpp_2m", "euler"] = Field(
        default="dpmpp_2m",
        description="Sampler, of diffusion models and flows alike; euler: a flow's own, for both ddim with eta 0",
    )
    steps: int = Field(default=20, ge=1, le=4000, description="Sampling steps")
    eta: Fraction = Field(default=0.0, description="Noise of ddim: 0 deterministic, 1 ancestral")
    mode: Literal["fused", "shifted"] = Field(default="shifted", description="How patches become a volume")
    overlap: float = Field(
        default=0.25, ge=0, le=0.75, description="Overlap of neighbouring patches, fraction of the patch"
    )
    fused_steps: int = Field(default=2, ge=0, description="Last steps of mode shifted that are fused with overlap")
    guidance_scale: float = Field(default=1.0, ge=1, le=20, description="Classifier-free guidance; 1: none")
    volumes_per_job: Count = Field(default=10, description="Volumes made by one job")


class Grid(Section):
    """Where the patches of the last steps meet: their edge, what their starts are multiples of, their overlap."""

    patch_voxels: Count
    multiple: Count
    overlap: float = Field(ge=0, le=0.75)


class Quality(Section):
    """When a synthetic case is rejected, and how often it is made again."""

    tries: int = Field(
        default=3, ge=0, le=100, description="How often a rejected synthetic case is made again; 0: never"
    )
    false_rejections: float = Field(
        default=0.05, gt=0, lt=0.5,
        description="Share of real cases that the ranges of the measures may reject; it sets their width",
    )  # fmt: skip


def _as_section(value: Any) -> Any:
    """``untargeted`` is short for ``{kind: untargeted}``."""
    return {"kind": value} if isinstance(value, str) else value


AnyMasks = Annotated[
    Section, OfKind("masks", lambda kind: family("masks", kind).Settings), BeforeValidator(_as_section)
]  # fmt: skip


class KindOfScan(Section):
    """Which kind of scan a set is to look like: that of a train case, or these numbers."""

    like: Name | None = Field(default=None, description="A train case, by its name in results/cohort.tsv")
    slice_mm: Millimetres | None = Field(default=None, description="Distance of the slices, mm")
    noise_hu: float | None = Field(
        default=None, gt=0, le=1000, description="Noise of soft tissue, HU, as in the column of results/cohort.tsv"
    )

    @model_validator(mode="after")
    def _is_one_or_the_other(self):
        numbers = [number for number in (self.slice_mm, self.noise_hu) if number is not None]
        if len(numbers) != (0 if self.like else 2):
            raise ValueError("a kind of scan is either like a case, or has both slice_mm and noise_hu")
        return self


class SyntheticSet(Section):
    """A synthetic set: who makes it, from which masks, how many."""

    generator: Name = Field(description="Which of generators makes it")
    conditions: AnyMasks = Field(
        description="Where its masks come from: a kind, or a section with the kind's own keys. untargeted: masks from "
        "train cases; targeted: from the benchmark's worst validation cases; made: nobody's, mixed from train "
        "cases; inpainted: train cases keep their CT, only nodules are made (or pasted: generator kind copy_paste); "
        "blank: none, for generators that make the masks as well; "
        "twin: train cases keep CT and masks, their own nodules are made anew"
    )
    volumes: Count = Field(description="Number of synthetic cases")
    source: KindOfScan | None = Field(
        default=None, description="Kind of scan of its volumes, for a generator with source_conditions; null: that of "
        "the case whose body each has",
    )  # fmt: skip
