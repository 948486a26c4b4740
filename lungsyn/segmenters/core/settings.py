"""Settings of a segmenter that learns from patches. No torch."""

from pydantic import Field

from lungsyn.settings.section import Count, Fraction, Section, Window


class PatchTraining(Section):
    """What the training loop asks for, whatever the network."""

    window_hu: Window = Field(default=(-1000.0, 400.0), description="HU mapped to [-1, 1]; values outside are clipped")
    patch_voxels: int = Field(
        default=24, ge=16, le=192, multiple_of=8, description="Edge of the training patch, voxels"
    )
    nodule_patches: Fraction = Field(default=0.7, description="Fraction of training patches centred near a nodule")
    steps: Count = Field(default=500, description="Optimiser steps, the same in every arm")
    batch_patches: Count = Field(default=6, description="Patches per optimiser step")
    learning_rate: float = Field(default=0.004, gt=0, le=1, description="Of AdamW; Muon's steps are as long")


class SlidingWindow(Section):
    """How a whole volume is predicted patch by patch."""

    overlap: float = Field(default=0.25, ge=0, le=0.75, description="Overlap of the sliding window in prediction")
    mirrored: bool = Field(
        default=False,
        description="Average over all mirrored forms of a patch: fewer false positives, eight times the cost",
    )
