"""A denoising diffusion model of patches (Ho et al. 2020), this project's own: the kind ``patch_ddpm``."""

from typing import Literal

from pydantic import Field

from lungsyn.generators.core.family import DiffusionFamily
from lungsyn.generators.core.settings import ContextSettings, DiffusionSettings, SourceSettings


class Settings(ContextSettings, DiffusionSettings, SourceSettings):
    """The patch U-Net as a denoiser."""

    kind: Literal["patch_ddpm"] = Field(default="patch_ddpm", description="Family of the generator")

    def learning(self):
        from lungsyn.generators.networks.patch_unet import Denoising

        return Denoising(self)


class Family(DiffusionFamily):
    """The patch diffusion model."""

    Settings = Settings
    recipe = 2
