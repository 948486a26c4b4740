"""The kind ``monai``, which is the default one: MONAI's networks, trained on patches by this project's own loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from lungsyn.seams import Run, Segmenter, SegmenterFamily, Trained
from lungsyn.segmenters.core.settings import PatchTraining, SlidingWindow
from lungsyn.settings.arms import Use
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import Count


class Settings(PatchTraining):
    """What training needs; it travels with the weights."""

    network: Literal["unet", "dynunet", "swin_unetr"] = Field(default="unet", description="Network (MONAI)")
    channels: list[Count] = Field(
        default=[16, 32, 64], min_length=1, max_length=6,
        description="Channels per level; swin_unetr: those of the first, a multiple of 12",
    )  # fmt: skip

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


class Family(SegmenterFamily):
    """MONAI's U-Net, DynUNet and Swin UNETR."""

    recipe = 2
    Settings = Settings
    Inference = SlidingWindow
    length = "steps"
    ways = frozenset({"pretrain", "mixing", "match_noise"})

    def fit(self, real: Sequence[Path], synthetic: Sequence[Path], use: Use, settings: Settings, run: Run) -> Trained:
        from lungsyn.segmenters.core.training import train
        from lungsyn.segmenters.networks.monai import build

        return train(lambda: build(settings), real, synthetic, use, settings, run)

    def load(self, model: Path, compute: Compute, inference: SlidingWindow) -> Segmenter:
        from lungsyn.segmenters.core.prediction import load
        from lungsyn.segmenters.networks.monai import build

        return load(model, Settings, build, compute, inference)
