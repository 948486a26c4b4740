"""A denoising diffusion model of patches (Ho et al. 2020), this project's own: the kind ``patch_ddpm``."""

from typing import Literal

from pydantic import Field

from lungsyn.generators.core.family import DiffusionFamily
from lungsyn.generators.core.settings import ContextSettings
from lungsyn.settings.section import Fraction


class Diffusion(ContextSettings):
    """What a diffusion model has in common with no other generator."""

    schedule: Literal["cosine", "linear"] = Field(default="cosine", description="Noise schedule")
    timesteps: int = Field(default=1000, ge=10, le=4000, description="Noise levels of the schedule")
    prediction: Literal["epsilon", "v", "sample"] = Field(default="v", description="What the network predicts")
    nodule_dropout: Fraction = Field(
        default=0.0, description="Fraction of patches that lose the nodule mask (for guidance)"
    )
    early_stop_checks: int = Field(
        default=0, ge=0, description="Stop after so many checks without improvement; 0: never"
    )


class Settings(Diffusion):
    """The patch U-Net as a denoiser."""

    kind: Literal["patch_ddpm"] = Field(default="patch_ddpm", description="Family of the generator")

    def learning(self):
        from lungsyn.generators.networks.patch_unet import Denoising

        return Denoising(self)


class Family(DiffusionFamily):
    """The patch diffusion model."""

    Settings = Settings
    recipe = 2
