"""A GAN of patches, the kind ``patch_gan``: the patch U-Net sees pure noise and says x_0, and a critic judges it.

So it is a diffusion model of one step: it has the same conditions and makes volumes in the same way.
"""

from typing import Literal

from pydantic import Field, model_validator

from lungsyn.generators.core.family import PatchFamily
from lungsyn.generators.core.settings import ContextSettings, check_levels
from lungsyn.settings.section import Count


class Settings(ContextSettings):
    """The generator's network and its critic."""

    kind: Literal["patch_gan"] = Field(default="patch_gan", description="Family of the generator")
    learning_rate: float = Field(default=0.0005, gt=0, le=1, description="Of AdamW, for both networks")
    critic_channels: list[Count] = Field(
        default=[32, 64], min_length=1, max_length=4,
        description="Channels of the critic per level, first at half spacing",
    )  # fmt: skip
    reconstruction_weight: float = Field(
        default=10, ge=0,
        description="Weight of the squared error to the real patch of the same masks; the critic's is 1",
    )  # fmt: skip
    slope_weight: float = Field(
        default=1, ge=0, description="Weight of the critic's squared slope at real and made patches"
    )

    def learning(self):
        from lungsyn.generators.networks.critic import Judged

        return Judged(self)

    @model_validator(mode="after")
    def _critic_fits(self):
        check_levels(self.patch_voxels, self.critic_channels, "critic_channels", " of the critic")
        return self


class Family(PatchFamily):
    """The patch GAN."""

    Settings = Settings
    recipe = 1

    def check(self, name, settings, study):
        super().check(name, settings, study)
        if study.compute.gpus > 1:
            raise ValueError(
                f"compute.gpus is {study.compute.gpus}, but generators.{name} is a patch_gan, which one GPU trains: "
                "set gpus to 1"
            )
