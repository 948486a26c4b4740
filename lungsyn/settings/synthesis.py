"""``synthesis``, ``quality`` and ``sets``: how volumes are made, checked, and how many of which masks."""

from typing import Literal

from pydantic import Field

from lungsyn.settings.generators import Generator
from lungsyn.settings.section import Count, Fraction, Name, Section


class Synthesis(Section):
    sampler: Literal["ddpm", "ddim", "dpmpp_2m"] = Field(description="Sampler")
    steps: int = Field(ge=1, le=4000, description="Sampling steps")
    eta: Fraction = Field(description="Noise of ddim: 0 deterministic, 1 ancestral")
    mode: Literal["fused", "shifted", "stitched"] = Field(description="How patches become a volume")
    overlap: float = Field(ge=0, le=0.75, description="Overlap of neighbouring patches, fraction of the patch")
    fused_steps: int = Field(ge=0, description="Last steps of mode shifted that are fused with overlap")
    guidance_scale: float = Field(ge=1, le=20, description="Classifier-free guidance; 1: none")
    volumes_per_job: Count = Field(description="Volumes made by one job")


class Grid(Section):
    """The parts of a generator and of ``synthesis`` that say where the patches of the last steps meet."""

    patch_voxels: Count
    multiple: Count
    overlap: float = Field(ge=0, le=0.75)


def grid_of(generator: Generator, synthesis: Synthesis) -> Grid:
    return Grid(patch_voxels=generator.patch_voxels, multiple=generator.grid_multiple, overlap=synthesis.overlap)


class Quality(Section):
    tries: int = Field(ge=0, le=100, description="How often a rejected synthetic case is made again; 0: never")
    false_rejections: float = Field(
        gt=0, lt=0.5, description="Share of real cases that the ranges of the measures may reject; it sets their width"
    )


class SyntheticSet(Section):
    generator: Name = Field(description="Which of generators makes it")
    conditions: Literal["untargeted", "targeted", "inpainted"] = Field(
        description="untargeted: masks from train cases; targeted: from the benchmark's worst validation cases; "
        "inpainted: train cases keep their CT, only nodules are made (or pasted: generator kind copy_paste)"
    )
    volumes: Count = Field(description="Number of synthetic cases")
