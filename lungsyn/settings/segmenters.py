"""``segmenters``: what finds nodules, how it predicts, what it takes part in."""

from typing import Literal

from pydantic import Field, model_validator

from lungsyn.settings.section import Count, Fraction, Name, Percent, Section, Window


class Segmenter(Section):
    """The part of a segmenter that training needs; it travels with the weights."""

    network: Literal["unet", "dynunet", "swin_unetr"] = Field(description="Network (MONAI)")
    channels: list[Count] = Field(
        min_length=1, max_length=6, description="Channels per level; swin_unetr: those of the first, a multiple of 12"
    )
    window_hu: Window = Field(description="HU mapped to [-1, 1]; values outside are clipped")
    patch_voxels: int = Field(ge=16, le=192, multiple_of=8, description="Edge of the training patch, voxels")
    nodule_patches: Fraction = Field(description="Fraction of training patches centred near a nodule")
    steps: Count = Field(description="Optimiser steps, the same in every arm")
    batch_patches: Count = Field(description="Patches per optimiser step")
    learning_rate: float = Field(gt=0, le=1, description="Of AdamW; Muon's steps are as long")

    @model_validator(mode="after")
    def _network_fits(self):
        swin = self.network == "swin_unetr"
        if swin and (len(self.channels) > 1 or self.channels[0] % 12):
            raise ValueError(f"channels is {self.channels}; swin_unetr needs one number, a multiple of 12: [12]")
        levels = {"unet": 2, "dynunet": 3}.get(self.network, 1)
        if len(self.channels) < levels:
            raise ValueError(f"channels is {self.channels}; {self.network} needs {levels} levels or more: add one")
        multiple = 32 if swin else 2 ** (len(self.channels) - 1)
        if self.patch_voxels % multiple:
            raise ValueError(
                f"patch_voxels is {self.patch_voxels}; {self.network} with these channels needs a multiple of "
                f"{multiple}: change patch_voxels or channels"
            )
        if not swin and self.patch_voxels == multiple:  # one voxel at the deepest level: nothing to normalise over
            raise ValueError(
                f"patch_voxels is {self.patch_voxels}; {self.network} with {len(self.channels)} levels needs at least "
                f"{2 * multiple}: change patch_voxels or remove a level from channels"
            )
        return self


class Inference(Section):
    """The part of a segmenter that only prediction needs: changing it trains nothing again, except what aims at it."""

    overlap: float = Field(ge=0, le=0.75, description="Overlap of the sliding window in prediction")
    mirrored: bool = Field(
        default=False,
        description="Average over all mirrored forms of a patch: fewer false positives, eight times the cost",
    )
    keep_lungs: bool = Field(default=True, description="Predictions far from aerated lung are removed")


class Trial(Segmenter, Inference):
    """A segmenter in the study: its settings, and what it takes part in."""

    arms: list[Name] | None = Field(default=None, min_length=1, description="Arms that it is trained in; null: all")
    training_percent: list[Percent] | None = Field(
        default=None, min_length=1, description="Training-set sizes that it is trained at; null: all"
    )
