"""``generators``: the families that make CT from masks."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lungsyn.settings.section import Count, Fraction, Section, Window


class Generator(Section):
    """What all generators share that are trained on patches."""

    window_hu: Window = Field(description="HU mapped to [-1, 1]; values outside are clipped")
    patch_voxels: int = Field(ge=16, le=192, multiple_of=8, description="Edge of the cubic training patch, voxels")
    context_factor: Literal[0, 2, 4] = Field(
        description="Edge of the coarse view of the noisy surroundings in patches; 0: none"
    )
    position: bool = Field(default=True, description="Give the network each voxel's coordinates in the volume")
    channels: list[Count] = Field(min_length=1, max_length=5, description="Channels per level, first at half spacing")
    blocks: int = Field(ge=1, le=8, description="Residual blocks per level")
    activation_checkpointing: bool = Field(default=False, description="Trade time for memory in training")
    nodule_weight: float = Field(ge=1, le=1000, description="Weight of nodule voxels in the loss; others have 1")
    nodule_patches: Fraction = Field(description="Fraction of training patches centred near a nodule")
    flips: bool = Field(description="Mirror patches with all their conditions (coordinates too) at random")
    images: Count = Field(description="Training length in patches seen")
    batch_patches: Count = Field(description="Patches per optimiser step")
    learning_rate: float = Field(gt=0, le=1, description="Of AdamW; Muon's steps are as long")
    warmup_images: int = Field(ge=0, description="Patches over which the learning rate rises from zero")
    ema_images: Count = Field(description="Half-life of the averaged weights, in patches")
    gradient_norm: float = Field(gt=0, description="Gradients are clipped to this norm")
    held_out: float = Field(ge=0, lt=1, description="Fraction of the train cases kept back to watch the training")
    validation_patches: Count = Field(description="Held-out patches per check, the same every time")
    validation_every_images: Count = Field(description="Patches between two checks")

    @property
    def grid_multiple(self) -> int:
        """Starts of patches and padded shapes are multiples of this, so that patches share one coarse grid."""
        return max(2 * self.context_factor, 2)

    @model_validator(mode="after")
    def _consistent(self):
        if self.window_hu[0] > -1000:
            raise ValueError(f"window_hu {list(self.window_hu)} must start at -1000 HU (air) or below")
        deepest = 2 ** len(self.channels)
        if self.patch_voxels % deepest:
            raise ValueError(
                f"patch_voxels {self.patch_voxels} must be a multiple of {deepest} for {len(self.channels)} levels: "
                "change patch_voxels or remove a level from channels"
            )
        if self.context_factor and self.patch_voxels % (4 * self.context_factor):
            raise ValueError(
                f"patch_voxels {self.patch_voxels} must be a multiple of {4 * self.context_factor} for context_factor "
                f"{self.context_factor}, so that the surroundings begin on the coarse grid: change one of them"
            )
        return self


class Diffusion(Generator):
    """A denoising diffusion model of patches."""

    kind: Literal["patch_ddpm"] = Field(description="Family of the generator")
    network: Literal["patch_unet", "monai"] = Field(
        default="patch_unet", description="patch_unet: this project's; monai: DiffusionModelUNet, for comparison"
    )
    schedule: Literal["cosine", "linear"] = Field(description="Noise schedule")
    timesteps: int = Field(ge=10, le=4000, description="Noise levels of the schedule")
    prediction: Literal["epsilon", "v", "sample"] = Field(description="What the network predicts")
    nodule_dropout: Fraction = Field(description="Fraction of patches that lose the nodule mask (for guidance)")
    early_stop_checks: int = Field(ge=0, description="Stop after so many checks without improvement; 0: never")


class Adversarial(Generator):
    """A GAN of patches, as a diffusion model of one step: the network sees pure noise and says x_0, and what it learns
    is to be taken for real by a critic. So it has the same conditions, and makes volumes, in the same way."""

    kind: Literal["patch_gan"] = Field(description="Family of the generator")
    network: Literal["patch_unet"] = Field(default="patch_unet", description="Fixed, as are the next five")
    schedule: Literal["pure_noise"] = Field(default="pure_noise", description="Fixed: nothing of x_0 is seen")
    timesteps: Literal[1] = Field(default=1, description="Fixed: one step")
    prediction: Literal["sample"] = Field(default="sample", description="Fixed: x_0")
    nodule_dropout: Literal[0] = Field(default=0, description="Fixed: no guidance")
    early_stop_checks: Literal[0] = Field(default=0, description="Fixed: no loss says which weights are best")
    critic_channels: list[Count] = Field(
        min_length=1, max_length=4, description="Channels of the critic per level, first at half spacing"
    )
    reconstruction_weight: float = Field(
        ge=0, description="Weight of the squared error to the real patch of the same masks; the critic's is 1"
    )
    slope_weight: float = Field(ge=0, description="Weight of the critic's squared slope at real and made patches")

    @model_validator(mode="after")
    def _critic_fits(self):
        deepest = 2 ** len(self.critic_channels)
        if self.patch_voxels % deepest:
            raise ValueError(
                f"patch_voxels {self.patch_voxels} must be a multiple of {deepest} for {len(self.critic_channels)} "
                "levels of the critic: change patch_voxels or remove a level from critic_channels"
            )
        return self


class Compression(Section):
    """The autoencoder of a latent diffusion model: how patches become latents, and how that is learned. What is not
    here, such as the patches themselves, is that of the diffusion model."""

    channels: list[Count] = Field(
        min_length=1, max_length=3, description="Channels per level, first at half spacing; the last is the latents'"
    )
    blocks: int = Field(ge=1, le=8, description="Residual blocks per level")
    latent_channels: int = Field(ge=8, le=64, description="Numbers for each cube of 2^levels voxels along an edge")
    images: Count = Field(description="Training length in patches seen")
    learning_rate: float = Field(gt=0, le=1, description="Of AdamW; Muon's steps are as long")


class Autoencoder(Generator):
    """How the autoencoder of a latent diffusion model is trained: what all generators share, and what it has not."""

    kind: Literal["autoencoder"] = "autoencoder"
    network: Literal["autoencoder"] = "autoencoder"
    schedule: Literal["pure_noise"] = "pure_noise"
    timesteps: Literal[1] = 1
    prediction: Literal["sample"] = "sample"
    nodule_dropout: Literal[0] = 0
    early_stop_checks: Literal[0] = 0
    latent_channels: int


class LatentDiffusion(Diffusion):
    """A diffusion model of latents, led by the masks through a ControlNet."""

    kind: Literal["latent_ddpm"] = Field(description="Family of the generator")
    network: Literal["monai"] = Field(default="monai", description="Fixed, as are the next three: MONAI's networks")
    context_factor: Literal[0] = Field(default=0, description="Fixed: none")
    position: Literal[False] = Field(default=False, description="Fixed: not given")
    activation_checkpointing: Literal[False] = Field(default=False, description="Fixed: not done")
    channels: list[Count] = Field(
        min_length=1, max_length=5, description="Channels per level, first at the spacing of the latents"
    )
    autoencoder: Compression

    @property
    def factor(self) -> int:
        """Voxels along an edge of the cube that has latents of its own."""
        return 2 ** len(self.autoencoder.channels)

    @property
    def grid_multiple(self) -> int:
        return self.factor

    @property
    def autoencoder_training(self) -> Autoencoder:
        shared = {key: getattr(self, key) for key in Generator.model_fields}
        return Autoencoder(**shared | self.autoencoder.model_dump())

    @model_validator(mode="after")
    def _latents_fit(self):
        deepest = self.factor * 2 ** (len(self.channels) - 1)
        if self.patch_voxels % deepest:
            raise ValueError(
                f"patch_voxels {self.patch_voxels} must be a multiple of {deepest} for {len(self.autoencoder.channels)}"
                f" levels of the autoencoder and {len(self.channels)} of the diffusion model: change one of them"
            )
        if self.autoencoder.latent_channels > self.factor**3:
            raise ValueError(
                f"autoencoder.latent_channels is {self.autoencoder.latent_channels}, more than the {self.factor**3} "
                "voxels that they stand for: lower it"
            )
        return self


class CopyPaste(Section):
    """The cheap baseline that a generator has to beat: real nodules, varied, pasted into real train cases."""

    kind: Literal["copy_paste"] = Field(description="Family of the generator")


TrainedGenerator = Annotated[Diffusion | LatentDiffusion | Adversarial, Field(discriminator="kind")]


AnyGenerator = Annotated[Diffusion | LatentDiffusion | Adversarial | CopyPaste, Field(discriminator="kind")]
