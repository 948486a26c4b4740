"""Latent diffusion, the kind ``latent_ddpm``: an autoencoder, and a denoiser of its latents with a ControlNet."""

from typing import Literal

from pydantic import Field, model_validator

from lungsyn.generators.core.family import DiffusionFamily
from lungsyn.generators.core.settings import DiffusionSettings, PatchSettings, SourceSettings
from lungsyn.settings.section import Count, Fraction, Section, part

FEWEST_JUDGED = 3  # voxels along an edge that a critic's last two convolutions need


class Reconstruction(Section):
    """What the autoencoder is trained by."""

    loss: Literal["likelihood", "l1"] = Field(
        default="likelihood",
        description="likelihood: the decoder says how wide the grain of a patch is, and grain is drawn; l1: it says "
        "voxels, by their mean absolute error in the model range",
    )
    kl_weight: float = Field(
        default=0, ge=0, le=1000,
        description="Weight of the latents' KL to a standard normal, nats for each voxel; latents are then drawn in "
        "training. 0: none. 1 with loss likelihood is a variational autoencoder's bound",
    )  # fmt: skip
    critic_weight: float = Field(
        default=0, ge=0, le=1000, description="Weight of a patch critic (least squares) that learns with it; 0: none"
    )
    critic_channels: Count = Field(default=32, description="Channels of the critic's first level")
    critic_levels: int = Field(default=3, ge=1, le=4, description="How often the critic halves a patch")
    feature_weight: float = Field(
        default=0, ge=0, le=1000, description="Weight of the difference of scattering features of slices; 0: none"
    )

    @property
    def is_judged(self) -> bool:
        """Whether more is asked of a patch than that its voxels be right."""
        return self.critic_weight > 0 or self.feature_weight > 0


class Compression(Reconstruction):
    """The autoencoder: how patches become latents, and how that is learned. What is not here, such as the patches
    themselves, is that of the diffusion model."""

    channels: list[Count] = Field(
        default=[32, 64], min_length=1, max_length=3,
        description="Channels per level, first at half spacing; the last is the latents'",
    )  # fmt: skip
    blocks: int = Field(default=1, ge=1, le=8, description="Residual blocks per level")
    latent_channels: int = Field(
        default=8, ge=8, le=64, description="Numbers for each cube of 2^levels voxels along an edge"
    )
    images: Count = Field(default=3000, description="Training length in patches seen")
    learning_rate: float = Field(default=0.0015, gt=0, le=1, description="Of AdamW; Muon's steps are as long")


class Autoencoder(PatchSettings, Reconstruction):
    """How the autoencoder is trained: with the patches of the diffusion model."""

    latent_channels: int

    def learning(self):
        from lungsyn.generators.networks.autoencoder import Compressing

        return Compressing(self)


class Settings(DiffusionSettings, SourceSettings):
    """A diffusion model of latents, led by the masks through a ControlNet. The networks are MONAI's."""

    kind: Literal["latent_ddpm"] = Field(default="latent_ddpm", description="Family of the generator")
    channels: list[Count] = Field(
        default=[64, 128], min_length=1, max_length=5,
        description="Channels per level, first at the spacing of the latents",
    )  # fmt: skip
    learning_rate: float = Field(default=0.001, gt=0, le=1, description="Of AdamW; Muon's steps are as long")
    nodule_dropout: Fraction = Field(
        default=0.1, description="Fraction of patches that lose the nodule mask (for guidance)"
    )
    unconditional_images: int = Field(
        default=0, ge=0,
        description="Patches that the diffusion model sees without masks before the ControlNet learns, and it no more; "
        "0: both learn together",
    )  # fmt: skip
    contrastive_weight: float = Field(
        default=0, ge=0, le=1000,
        description="Weight of the loss by which a nodule's mask changes the nodule's place and nothing else; 0: none",
    )  # fmt: skip
    autoencoder: Compression = Compression()

    def learning(self):
        from lungsyn.generators.networks.latent import DenoisingLatents

        return DenoisingLatents(self)

    @property
    def factor(self) -> int:
        """Voxels along an edge of the cube that has latents of its own."""
        return 2 ** len(self.autoencoder.channels)

    @property
    def grid_multiple(self) -> int:
        return self.factor

    @property
    def autoencoder_training(self) -> Autoencoder:
        return Autoencoder(**part(self, PatchSettings).model_dump() | self.autoencoder.model_dump())

    @property
    def unconditional_training(self) -> "Unconditional":
        """The settings of the diffusion model by itself; nothing that is about masks changes it."""
        about_masks = {"unconditional_images": 0, "contrastive_weight": 0, "nodule_weight": 1, "nodule_dropout": 0}
        own = {"images": self.unconditional_images, "source_conditions": False}
        return Unconditional(**self.model_dump() | about_masks | own)

    @model_validator(mode="after")
    def _latents_fit(self):
        deepest = self.factor * 2 ** (len(self.channels) - 1)
        if self.patch_voxels % deepest:
            raise ValueError(
                f"patch_voxels {self.patch_voxels} must be a multiple of {deepest} for {len(self.autoencoder.channels)}"
                f" levels of the autoencoder and {len(self.channels)} of the diffusion model: change one of them"
            )
        halved = self.patch_voxels // 2**self.autoencoder.critic_levels
        if self.autoencoder.critic_weight and halved < FEWEST_JUDGED:
            raise ValueError(
                f"patch_voxels {self.patch_voxels} is too small for a critic with autoencoder.critic_levels "
                f"{self.autoencoder.critic_levels}: less than {FEWEST_JUDGED} voxels are left. Lower critic_levels"
            )
        if self.autoencoder.latent_channels > self.factor**3:
            raise ValueError(
                f"autoencoder.latent_channels is {self.autoencoder.latent_channels}, more than the {self.factor**3} "
                "voxels that they stand for: lower it"
            )
        return self


class Unconditional(Settings):
    """How the diffusion model learns without masks."""

    with_masks: Literal[False] = False

    def learning(self):
        from lungsyn.generators.networks.latent import DenoisingUnled

        return DenoisingUnled(self)


class Family(DiffusionFamily):
    """The latent diffusion model."""

    Settings = Settings
    recipe = 1

    def check(self, name, settings, study):
        super().check(name, settings, study)
        weights = {
            "contrastive_weight": settings.contrastive_weight,
            "autoencoder.critic_weight": settings.autoencoder.critic_weight,
            "autoencoder.feature_weight": settings.autoencoder.feature_weight,
        }
        for key, weight in weights.items():
            if weight and study.compute.gpus > 1:
                raise ValueError(
                    f"compute.gpus is {study.compute.gpus}, but generators.{name}.{key} is {weight:g}, with which one "
                    "GPU trains it: set gpus to 1, or the weight to 0"
                )
