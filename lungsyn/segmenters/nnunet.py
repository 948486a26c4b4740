"""The kind ``nnunet``: nnU-Net v2 (Isensee et al. 2021), planned and trained by its own code on each arm."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lungsyn.seams import Run, Segmenter, SegmenterFamily, Trained
from lungsyn.settings.arms import Use
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import Count, Section

if TYPE_CHECKING:
    from lungsyn.settings.study import Config


class Settings(Section):
    """Length and plan; all else is nnU-Net's own."""

    epochs: Count = Field(default=1000, description="nnU-Net's epochs, the same in every arm")
    epoch_steps: Count = Field(default=250, description="Optimiser steps of an epoch")
    planner: Literal["ExperimentPlanner", "nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL"] = (
        Field(default="ExperimentPlanner", description="nnU-Net's planner: the last three make larger networks")
    )
    plan_for_gb: float | None = Field(
        default=None, gt=0, description="GPU memory that nnU-Net plans patch and batch for; null: its planner's own"
    )


class Inference(Section):
    """nnU-Net's sliding window."""

    overlap: float = Field(default=0.5, ge=0, le=0.75, description="Overlap of the sliding window in prediction")
    mirrored: bool = Field(default=True, description="Average over all mirrored forms, at eight times the cost")


class Family(SegmenterFamily):
    """nnU-Net's ``3d_fullres``, one training on all cases of the arm."""

    Settings = Settings
    Inference = Inference
    length = "epochs"

    def check(self, name: str, settings: Any, study: "Config") -> None:
        if find_spec("nnunetv2") is None:
            raise ValueError(
                f"segmenters.{name}.kind is 'nnunet', but nnU-Net is not installed: pip install -e '.[nnunet]'"
            )

    def fit(self, real: Sequence[Path], synthetic: Sequence[Path], use: Use, settings: Settings, run: Run) -> Trained:
        from lungsyn.segmenters.networks.nnunet import train

        return train(real, synthetic, use.synthetic_share, settings, run)

    def load(self, model: Path, compute: Compute, inference: Inference) -> Segmenter:
        from lungsyn.segmenters.networks.nnunet import load

        return load(model, compute, inference)
