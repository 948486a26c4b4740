"""NVIDIA's MAISI, which has learned from thousands of CT elsewhere, LIDC-IDRI among them, the kind ``maisi``.

MAISI-v1: Guo et al. 2024, arXiv 2409.11169; MAISI-v2: Zhao et al. 2025, arXiv 2508.05772. The released weights lie in a
folder that the user has; nothing is downloaded. It makes a CT from a label map, by a ControlNet that can be trained
further on the lab's cases.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lungsyn.errors import InputError
from lungsyn.seams import GeneratorFamily
from lungsyn.settings.section import Name, Section, at_home

# Where NVIDIA's repository NV-Generate-CTMR and its download script put the configuration and the weights. MONAI's
# tutorials have the same configuration under another name.
CONFIGURATIONS = ("configs/config_network_{kind}.json", "configs/config_maisi3d-{kind}.json")
WEIGHTS = ("models/autoencoder_v1.pt", "models/diff_unet_3d_{version}.pt", "models/controlnet_3d_{version}.pt")


def _check_absolute(folder: Path) -> Path:
    if not folder.is_absolute():
        raise ValueError(f"{folder} must be an absolute path: jobs run in the folder of the results")
    return folder


class Settings(Section):
    """Which networks, what their labels are, how they make a volume, and how long they learn from the lab's cases."""

    kind: Literal["maisi"] = Field(default="maisi", description="Family of the generator")
    folder: Annotated[Path, AfterValidator(at_home), AfterValidator(_check_absolute)] = Field(
        description="Folder with configs/ and models/ as NVIDIA's repository NV-Generate-CTMR has them"
    )
    version: Literal["rflow-ct", "ddpm-ct"] = Field(
        default="rflow-ct", description="Rectified flow (MAISI-v2) or diffusion (MAISI-v1)"
    )
    classes: dict[Name, Annotated[int, Field(ge=1, le=255)]] = Field(
        default={},
        description="MAISI's class of each further label of the cases (cohort.labels), such as {airway: 132}; where "
        "they overlap the later one counts",
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=30, description="Sampling steps, in place of synthesis.steps; published: rflow-ct 30, ddpm-ct 1000"
    )
    multiple_voxels: int = Field(
        default=128, ge=8, le=512, multiple_of=8,
        description="Volumes are padded with air to a multiple of this; MAISI was trained on multiples of 128",
    )  # fmt: skip
    window_latents: int = Field(
        default=48, ge=32, le=256, multiple_of=16,
        description="Edge of the windows of the autoencoder, latents (4 voxels each): fewer take less memory",
    )  # fmt: skip
    window_overlap: float = Field(default=0.6666, ge=0, lt=1, description="Of neighbouring windows")
    images: int = Field(
        default=0, ge=0, description="Cases seen while the ControlNet is trained further; 0: it is used as released"
    )
    learning_rate: float = Field(default=1e-5, gt=0, le=1, description="Of AdamW; it falls to zero with its square")
    nodule_weight: float = Field(default=100, ge=1, le=1000, description="Of latents in nodules in the loss")

    def files(self) -> list[Path]:
        """The configuration, then the weights of autoencoder, diffusion model and ControlNet. Raises InputError."""
        names = [name.format(kind=self.version.removesuffix("-ct")) for name in CONFIGURATIONS]
        there = [name for name in names if (self.folder / name).is_file()] or names
        wanted = [there[0], *(name.format(version=self.version) for name in WEIGHTS)]
        if missing := [name for name in wanted if not (self.folder / name).is_file()]:
            raise InputError(
                f"{self.folder} lacks {', '.join(missing)}, which version {self.version} of a maisi needs: put it "
                "there (docs/maisi.md says where it comes from), or name another folder or version"
            )
        return [self.folder / name for name in wanted]


class Family(GeneratorFamily):
    """MAISI."""

    Settings = Settings
    recipe = 1

    def check(self, name, settings, study):
        if unknown := settings.classes.keys() - set(study.cohort.labels):
            raise ValueError(
                f"generators.{name}.classes has {', '.join(sorted(unknown))}, which cohort.labels has not: add it "
                "there, so that cases keep that label, or take it out here"
            )
        if study.synthesis.guidance_scale != 1:
            raise ValueError(
                f"synthesis.guidance_scale is {study.synthesis.guidance_scale:g}, but generators.{name} is a maisi, "
                "which is not guided: set it to 1"
            )
        if study.compute.gpus > 1:
            raise ValueError(
                f"compute.gpus is {study.compute.gpus}, but generators.{name} is a maisi, which one GPU trains: set "
                "gpus to 1"
            )

    def files(self, settings):
        return settings.files()

    def fit(self, cases, settings, run):
        from lungsyn.generators.networks.maisi import fine_tune

        return fine_tune(list(cases), settings, run)

    def load(self, model, settings, compute, synthesis):
        from lungsyn.generators.networks.maisi import load

        return load(model, settings, compute, synthesis)
