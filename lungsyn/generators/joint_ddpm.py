"""Diffusion of CT and nodule mask together, the kind ``joint_ddpm``: the mask is a second channel (Akbar et al. 2023,
arXiv 2306.02986). It is led by no mask, and makes cut-outs."""

from typing import Literal

from pydantic import Field, model_validator

from lungsyn.generators.core.family import JointFamily, PatchFamily, check_cut_outs, check_steps
from lungsyn.generators.core.settings import DiffusionSettings, check_levels
from lungsyn.volume.labels import ALWAYS


class Settings(DiffusionSettings):
    """The patch U-Net with two images instead of one, and no masks beside them."""

    kind: Literal["joint_ddpm"] = Field(default="joint_ddpm", description="Family of the generator")
    nodule_weight: float = Field(
        default=1,
        ge=1,
        le=1,
        description="1 always: where the mask is what is made, a weight on it makes too much of it",
    )
    position: bool = Field(default=True, description="Give the network each voxel's coordinates in the volume")
    activation_checkpointing: bool = Field(default=False, description="Trade time for memory in training")

    def learning(self):
        from lungsyn.generators.networks.joint import DenoisingBoth

        return DenoisingBoth(self)

    @model_validator(mode="after")
    def _is_led_by_nothing(self):
        check_levels(self.patch_voxels, self.channels)
        if tuple(self.labels) != ALWAYS or self.nodule_dropout:
            key = "nodule_dropout" if self.nodule_dropout else "labels"
            raise ValueError(f"{key} is about masks, and no mask leads a joint_ddpm: remove it")
        return self


class Family(JointFamily, PatchFamily):
    """CT and nodule mask from one diffusion model of patches."""

    Settings = Settings
    recipe = 1

    def check(self, name, settings, study):
        super().check(name, settings, study)
        check_steps(name, settings, study)
        check_cut_outs(name, settings, study)

    def load(self, model, settings, compute, synthesis):
        from lungsyn.generators.networks.joint import load_joint

        return load_joint(model, compute, synthesis, self.Settings)
