"""A GAN of whole volumes, the kind ``ha_gan``: it makes CT and nodule mask together from noise, and needs no masks.

HA-GAN (Sun et al. 2022, IEEE JBHI 26, 3966, arXiv 2008.01910): a step of its training makes a slab of the volume at
full resolution and all of it at a quarter, so that its memory grows with the slab and not with the volume.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lungsyn.generators.core.family import JointFamily
from lungsyn.generators.core.settings import TrainingSettings
from lungsyn.settings.section import Count

COARSE = 4  # voxels along the edge of a voxel of features, and of the volume at low resolution
Edge = Annotated[int, Field(ge=16, le=512, multiple_of=2 * COARSE)]


class Settings(TrainingSettings):
    """Networks and volumes. No key is about masks: it is given none."""

    kind: Literal["ha_gan"] = Field(default="ha_gan", description="Family of the generator")
    field_voxels: tuple[Edge, Edge, Edge] = Field(
        default=(64, 64, 64),
        description="The volume that it makes, voxels along x, y and z: at least that of a scene, which is cut from "
        "its middle. Smaller cases lie in the middle of air, of larger ones a part is learned. Edges that can be "
        "halved often, such as 64, 96 and 128, make small networks",
    )
    slab_voxels: int = Field(
        default=16, ge=2 * COARSE, le=512, multiple_of=2 * COARSE,
        description="Thickness along z of the slab that a step makes at full resolution: time and memory grow with it",
    )  # fmt: skip
    latent: int = Field(default=256, ge=4, le=4096, description="Numbers of noise that a volume is made from")
    channels: int = Field(default=64, ge=8, le=512, multiple_of=4, description="Of the features at a quarter")
    blocks: int = Field(default=2, ge=1, le=8, description="Residual blocks at each size up to a quarter")
    critic_channels: list[Count] = Field(
        default=[32, 64, 96], min_length=1, max_length=5,
        description="Channels of both critics per level, first at half spacing in the slab, at a quarter in the whole",
    )  # fmt: skip
    reconstruction_weight: float = Field(
        default=5, ge=0, description="Weight of the encoders' mean absolute error (CT and mask); the critics' is 1"
    )
    slope_weight: float = Field(
        default=1, ge=0, description="Weight of the critics' squared slope at real and made volumes"
    )
    flips: bool = Field(default=False, description="Mirror volumes at random")
    images: Count = Field(default=4000, description="Training length in volumes seen, of each of which a slab")
    learning_rate: float = Field(default=0.0003, gt=0, le=1, description="Of AdamW, for all networks")
    warmup_images: int = Field(default=100, ge=0, description="Volumes over which the learning rate rises from zero")
    ema_images: Count = Field(default=500, description="Half-life of the averaged weights, in volumes")
    validation_patches: Count = Field(default=8, description="Held-out volumes per check, the same every time")
    validation_every_images: Count = Field(default=500, description="Volumes between two checks")

    def learning(self):
        from lungsyn.generators.networks.fields import Hierarchical

        return Hierarchical(self)

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of the features, and of the volume at low resolution."""
        return tuple(n // COARSE for n in self.field_voxels)

    @property
    def halvings(self) -> int:
        """How often the features can be halved while three voxels are left along each axis."""
        edges, count = self.features, 0
        while all(n % 2 == 0 and n >= 6 for n in edges):
            edges, count = tuple(n // 2 for n in edges), count + 1
        return count

    @model_validator(mode="after")
    def _sizes_fit(self):
        if self.slab_voxels > self.field_voxels[2]:
            raise ValueError(
                f"slab_voxels is {self.slab_voxels}, more than the {self.field_voxels[2]} of field_voxels along z: "
                "lower it"
            )
        smallest = min(*self.features, self.slab_voxels // 2)
        if smallest < 2 ** (len(self.critic_channels) - 1):
            raise ValueError(
                f"critic_channels has {len(self.critic_channels)} levels, but {smallest} voxels along an edge, a "
                "quarter of field_voxels or half of slab_voxels, cannot be halved between all of them: remove one, or "
                "raise the smaller of the two"
            )
        return self


class Family(JointFamily):
    """The hierarchical GAN."""

    Settings = Settings
    attackable = True

    def check(self, name, settings, study):
        if study.compute.gpus > 1:
            raise ValueError(
                f"compute.gpus is {study.compute.gpus}, but generators.{name} is a ha_gan, which one GPU trains: set "
                "gpus to 1"
            )

    def check_cases(self, cases, settings):
        from lungsyn.generators.networks.fields import check_cases

        check_cases(cases, settings.field_voxels)

    def load(self, model, settings, compute, synthesis):
        from lungsyn.generators.networks.fields import load_generator

        return load_generator(model, compute)
