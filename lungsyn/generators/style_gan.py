"""A GAN from noise that makes CT and nodule mask together, the kind ``style_gan``: whole cut-outs at once.

The families of Akbar et al. 2023 (arXiv 2306.02986) are its options: progressive growing (Karras et al. 2018, arXiv
1710.10196), StyleGAN (2019, arXiv 1812.04948), StyleGAN2 (2020, arXiv 1912.04958), and filtered non-linearities as in
StyleGAN3 (2021, arXiv 2106.12423). Adaptive augmentation (2020, arXiv 2006.06676) is for all of them.
"""

from typing import Literal

from pydantic import Field, model_validator

from lungsyn.generators.core.family import JointFamily, check_cut_outs
from lungsyn.generators.core.settings import TrainingSettings
from lungsyn.settings.section import Count

SMALLEST = 4  # blocks of two voxels along an edge, where both networks begin and end


class Settings(TrainingSettings):
    """Both networks, what they are trained by, and how what they see is augmented."""

    kind: Literal["style_gan"] = Field(default="style_gan", description="Family of the generator")
    field_voxels: Literal[8, 16, 32, 64, 128] = Field(
        default=64, description="Edge of the cube that is made, voxels; what the volume is smaller by is cut away"
    )
    channels: list[Count] = Field(
        default=[128, 96, 64, 32], min_length=1, max_length=5,
        description="Channels of both networks per level: where they make 8 voxels along an edge, 16 and so on",
    )  # fmt: skip
    latent: int = Field(default=128, ge=1, le=1024, description="Random numbers of which a volume is made")
    mapping_layers: int = Field(default=4, ge=1, le=8, description="Layers of the mapping network (not of plain)")
    style: Literal["plain", "adain", "modulated"] = Field(
        default="modulated",
        description="How the random numbers enter: once, at the start, with pixel norms (progressive GAN); by adaptive "
        "instance norms (StyleGAN); by modulated convolutions (StyleGAN2)",
    )
    growing: bool = Field(default=False, description="Begin with few voxels, and double them until all are made")
    growing_images: Count = Field(
        default=600, description="Volumes seen per doubling: half of them while the new level fades in"
    )
    filtered: bool = Field(
        default=False, description="Non-linearities of the generator at twice the spacing, between low-pass filters"
    )
    loss: Literal["relativistic", "non_saturating"] = Field(default="relativistic", description="Loss of both networks")
    slope_weight: float = Field(
        default=1, ge=0,
        description="Weight of the critic's squared slope at real volumes, with the relativistic loss at made ones too",
    )  # fmt: skip
    flips: bool = Field(default=False, description="Mirror volumes at random, as if there were more patients")
    augment_target: float = Field(
        default=0.6, ge=0, lt=1,
        description="Volumes are augmented more while the critic is surer of real ones than this; 0: never",
    )  # fmt: skip
    augment_images: Count = Field(
        default=4000, description="Volumes seen in which the probability of augmentation can go from 0 to 1"
    )
    images: Count = Field(default=8000, description="Training length in volumes seen")
    learning_rate: float = Field(default=0.0005, gt=0, le=1, description="Of AdamW, for both networks")
    held_out: float = Field(default=0.0, ge=0, le=0, description="Nobody is kept back: a GAN has no loss to watch")

    def learning(self):
        from lungsyn.generators.networks.playing import Playing

        return Playing(self)

    @model_validator(mode="after")
    def _levels_fit(self):
        fitting = self.field_voxels.bit_length() - SMALLEST.bit_length()
        if len(self.channels) != fitting:
            raise ValueError(
                f"channels has {len(self.channels)} levels, but from {2 * SMALLEST} to {self.field_voxels} voxels "
                f"(field_voxels) there are {fitting}: give as many numbers"
            )
        if self.growing and self.images < self.growing_images * (fitting - 1):
            raise ValueError(
                f"images {self.images} is too short to grow {fitting - 1} times by growing_images "
                f"{self.growing_images}: what is made would stay small; change one of them"
            )
        if self.batch_patches < 2:
            raise ValueError("batch_patches is 1, but the critic compares the volumes of a batch: raise it")
        return self


class Family(JointFamily):
    """The GAN from noise."""

    Settings = Settings
    recipe = 1

    def check(self, name, settings, study):
        check_cut_outs(name, settings, study)
        if study.compute.gpus > 1:
            raise ValueError(
                f"compute.gpus is {study.compute.gpus}, but generators.{name} is a style_gan, which one GPU trains: "
                "set gpus to 1"
            )

    def load(self, model, settings, compute, synthesis):
        from lungsyn.generators.core.generator import load_network
        from lungsyn.generators.networks.playing import StyleGenerator

        network, settings, device, precision, about = load_network(model, compute, self.Settings)
        return StyleGenerator(network, settings, device, precision, about["real"])
