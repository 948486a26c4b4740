"""Coarse to fine, the kind ``cascade_ddpm``: a diffusion model of whole chests, and one of patches that it leads."""

from typing import Literal

from pydantic import Field, model_validator

from lungsyn.generators.core.family import DiffusionFamily
from lungsyn.generators.core.settings import DiffusionSettings, PatchSettings, SourceSettings, check_levels
from lungsyn.settings.section import Count, Section, part


class Whole(Section):
    """The model of whole chests: how coarse, which network, how it is trained and sampled. What is not here is that of
    the model of patches."""

    factor: int = Field(
        default=4, ge=2, le=16, multiple_of=2,
        description="Edge of a coarse voxel in voxels of the case; 6 to 8 mm are enough to tell spine from airway",
    )  # fmt: skip
    channels: list[Count] = Field(
        default=[48, 96, 128], min_length=1, max_length=5, description="Channels per level, first at half spacing"
    )
    blocks: int = Field(default=1, ge=1, le=8, description="Residual blocks per level")
    images: Count = Field(default=2400, description="Training length in chests seen")
    batch_patches: Count = Field(default=2, description="Chests per optimiser step")
    learning_rate: float = Field(default=0.0015, gt=0, le=1, description="Of AdamW; Muon's steps are as long")
    warmup_images: int = Field(default=200, ge=0, description="Chests over which the learning rate rises from zero")
    ema_images: Count = Field(default=300, description="Half-life of the averaged weights, in chests")
    steps: int = Field(default=30, ge=1, le=4000, description="Sampling steps (dpmpp_2m)")
    noise_sd: float = Field(
        default=0.02, ge=0, le=0.15,
        description="Noise on the whole chest before patches are led by it, window_hu being -1 to 1",
    )  # fmt: skip


class WholeChest(PatchSettings):
    """How the model of whole chests is trained."""

    factor: int
    steps: int
    noise_sd: float
    schedule: Literal["cosine", "linear", "straight"]
    timesteps: int
    timestep_density: Literal["uniform", "logit_normal"]
    prediction: Literal["v", "velocity"]
    nodule_dropout: float
    activation_checkpointing: bool

    def learning(self):
        from lungsyn.generators.networks.cascade import LearningWhole

        return LearningWhole(self)


class Settings(DiffusionSettings, SourceSettings):
    """The model of patches, and the section of that of whole chests."""

    kind: Literal["cascade_ddpm"] = Field(default="cascade_ddpm", description="Family of the generator")
    activation_checkpointing: bool = Field(default=False, description="Trade time for memory in training")
    whole: Whole = Whole()

    def learning(self):
        from lungsyn.generators.networks.cascade import LearningDetail

        return LearningDetail(self)

    @property
    def whole_training(self) -> WholeChest:
        """The settings of the model of whole chests."""
        keys = ("timesteps", "timestep_density", "nodule_dropout", "activation_checkpointing")
        led = {key: getattr(self, key) for key in keys}
        led |= {"schedule": self.path, "prediction": self.target if self.objective == "flow" else "v"}
        return WholeChest(**part(self, PatchSettings).model_dump() | led | self.whole.model_dump())

    @model_validator(mode="after")
    def _levels_fit(self):
        check_levels(self.patch_voxels, self.channels)
        return self


class Family(DiffusionFamily):
    """Coarse to fine."""

    Settings = Settings
    recipe = 2
