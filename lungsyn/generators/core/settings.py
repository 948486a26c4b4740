"""What families have in common in the config that learn from patches. No torch: a config is checked without it."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from lungsyn.settings.section import Count, Fraction, Name, Section, Window
from lungsyn.settings.synthesis import Grid, Synthesis
from lungsyn.volume.labels import ALWAYS

if TYPE_CHECKING:
    from lungsyn.generators.core.learning import Learning


class TrainingSettings(Section):
    """A generator that is trained: on which grey values, for how long, at which pace. What is seen is a patch, or a
    whole field of view."""

    window_hu: Window = Field(default=(-1000, 400), description="HU mapped to [-1, 1]; values outside are clipped")
    images: Count = Field(default=8000, description="Training length in patches seen")
    batch_patches: Count = Field(default=4, description="Patches per optimiser step")
    learning_rate: float = Field(default=0.0015, gt=0, le=1, description="Of AdamW; Muon's steps are as long")
    warmup_images: int = Field(default=400, ge=0, description="Patches over which the learning rate rises from zero")
    ema_images: Count = Field(default=1000, description="Half-life of the averaged weights, in patches")
    gradient_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm")
    held_out: float = Field(
        default=0.1, ge=0, lt=1, description="Fraction of the train cases kept back to watch the training"
    )
    validation_patches: Count = Field(default=64, description="Held-out patches per check, the same every time")
    validation_every_images: Count = Field(default=1000, description="Patches between two checks")

    def learning(self) -> "Learning":
        """What is learned, and how: all that core asks of a family."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _sees_all_of_the_window(self):
        if self.window_hu[0] > -1000:
            raise ValueError(f"window_hu {list(self.window_hu)} must start at -1000 HU (air) or below")
        return self


class PatchSettings(TrainingSettings):
    """A generator that is trained on patches: which ones."""

    labels: list[Name] = Field(
        default=list(ALWAYS),
        description="Names of the labels that lead it: nodules, lungs and body, then others that the cases have",
    )
    patch_voxels: int = Field(
        default=32, ge=16, le=192, multiple_of=8, description="Edge of the cubic training patch, voxels"
    )
    channels: list[Count] = Field(
        default=[32, 64, 96], min_length=1, max_length=5, description="Channels per level, first at half spacing"
    )
    blocks: int = Field(default=1, ge=1, le=8, description="Residual blocks per level")
    nodule_weight: float = Field(
        default=4, ge=1, le=1000, description="Weight of nodule voxels in the loss; others have 1"
    )
    nodule_patches: Fraction = Field(default=0.5, description="Fraction of training patches centred near a nodule")
    flips: bool = Field(
        default=False, description="Mirror patches with all their conditions (coordinates too) at random"
    )

    @property
    def grid_multiple(self) -> int:
        """Starts of patches and padded shapes are multiples of this, so that patches share one coarse grid."""
        return 2

    @model_validator(mode="after")
    def _knows_what_a_voxel_is(self):
        if tuple(self.labels[: len(ALWAYS)]) != ALWAYS:
            raise ValueError(f"labels is {self.labels}: it must begin with {', '.join(ALWAYS)}")
        return self


class ContextSettings(PatchSettings):
    """The patch U-Net: a patch with its coordinates and a coarse view of its surroundings."""

    context_factor: Literal[0, 2, 4] = Field(
        default=2, description="Edge of the coarse view of the noisy surroundings in patches; 0: none"
    )
    position: bool = Field(default=True, description="Give the network each voxel's coordinates in the volume")
    activation_checkpointing: bool = Field(default=False, description="Trade time for memory in training")

    @property
    def grid_multiple(self) -> int:
        return max(2 * self.context_factor, 2)

    @model_validator(mode="after")
    def _levels_fit(self):
        check_levels(self.patch_voxels, self.channels)
        if self.context_factor and self.patch_voxels % (4 * self.context_factor):
            raise ValueError(
                f"patch_voxels {self.patch_voxels} must be a multiple of {4 * self.context_factor} for context_factor "
                f"{self.context_factor}, so that the surroundings begin on the coarse grid: change one of them"
            )
        return self


class DiffusionSettings(PatchSettings):
    """What a diffusion model or a flow has in common with no other generator."""

    objective: Literal["diffusion", "flow"] = Field(
        default="diffusion",
        description="What is learned: to denoise (diffusion), or the velocity on a straight path from noise to data "
        "(flow: rectified flow, in place of schedule and prediction)",
    )
    schedule: Literal["cosine", "linear"] = Field(default="cosine", description="Noise schedule of a diffusion model")
    timesteps: int = Field(default=1000, ge=10, le=4000, description="Noise levels of the schedule or the path")
    timestep_density: Literal["uniform", "logit_normal"] = Field(
        default="uniform", description="Which noise levels training draws: all alike, or more from the middle"
    )
    prediction: Literal["epsilon", "v", "sample"] = Field(
        default="v", description="What the network of a diffusion model predicts"
    )
    nodule_dropout: Fraction = Field(
        default=0.0, description="Fraction of patches that lose the nodule mask (for guidance)"
    )
    early_stop_checks: int = Field(
        default=0, ge=0, description="Stop after so many checks without improvement; 0: never"
    )

    @property
    def path(self) -> str:
        """How x_0 becomes noise: one of `schedule.SCHEDULES`."""
        return "straight" if self.objective == "flow" else self.schedule

    @property
    def target(self) -> str:
        """What the network says: a kind of `prediction.training_target`."""
        return "velocity" if self.objective == "flow" else self.prediction

    @model_validator(mode="after")
    def _a_flow_is_one_thing(self):
        usual = {key: type(self).model_fields[key].default for key in ("schedule", "prediction")}
        other = [key for key, value in usual.items() if getattr(self, key) != value]
        if self.objective == "flow" and other:
            raise ValueError(
                f"{other[0]} is {getattr(self, other[0])}, but objective: flow has a straight path and learns the "
                f"velocity: remove {other[0]}, or set objective to diffusion"
            )
        return self


class SourceSettings(PatchSettings):
    """A generator that may be told what kind of scan it makes."""

    source_conditions: bool = Field(
        default=False,
        description="Tell the network how far apart the slices of a case's scan were and how noisy it is, so that "
        "scans of one kind do not teach their blur or noise to others; a set may ask for a kind (sets.*.source)",
    )


def check_levels(patch_voxels: int, channels: list[int], key: str = "channels", of: str = "") -> None:
    """Raises ValueError unless a patch can be halved once for each level."""
    deepest = 2 ** len(channels)
    if patch_voxels % deepest:
        raise ValueError(
            f"patch_voxels {patch_voxels} must be a multiple of {deepest} for {len(channels)} levels{of}: "
            f"change patch_voxels or remove a level from {key}"
        )


def grid_of(settings: PatchSettings, synthesis: Synthesis) -> Grid:
    """Where patches meet in a volume."""
    return Grid(patch_voxels=settings.patch_voxels, multiple=settings.grid_multiple, overlap=synthesis.overlap)
