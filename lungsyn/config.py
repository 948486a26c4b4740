"""The study's configuration: frozen, checked models of ``config.yaml``. Nothing here needs torch.

Every key has a unit, a range and a description; an unknown key, a wrong type or a value out of range ends the run
before any job, with the key, the value, the rule and the way out. ``workflow/schemas/config.schema.yaml`` is generated
from these models (``lungsyn config schema``), so an editor can check a config while it is written.
"""

import difflib
import json
import os
import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from lungsyn.errors import InputError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Millimetres = Annotated[float, Field(gt=0.0, le=1000.0)]
Count = Annotated[int, Field(ge=1)]
Percent = Annotated[int, Field(ge=1, le=100)]


LARGEST_PATCH_MM = 250.0
NUMBERED_CASE = r"case-\d+"  # where names are not public


def _check_name(name: str) -> str:
    if not name or not all(c.isalnum() or c in "+-_" for c in name):
        raise ValueError(f"name {name!r} becomes a folder: use letters, digits, '+', '-' and '_' only")
    return name


def _check_rising(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] < ends[1]:
        raise ValueError(f"{list(ends)} must rise: low HU, then high HU")
    return ends


def _at_home(path: Path) -> Path:
    return Path(os.path.expanduser(path))  # Path's own raises where there is no such user


Name = Annotated[str, AfterValidator(_check_name)]
Window = Annotated[tuple[float, float], AfterValidator(_check_rising)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


SectionType = TypeVar("SectionType", bound=Section)


class Study(Section):
    name: str = Field(description="Title on every picture and table")
    seed: int = Field(ge=0, description="Every random draw of the study derives from it")


class Phantom(Section):
    patients: int = Field(ge=6, le=400, description="Number of simulated patients")
    matrix: Literal[128, 256, 512] = Field(description="In-plane voxels; LIDC-IDRI has 512")
    slice_thickness_mm: tuple[Millimetres, Millimetres] = Field(description="Range of slice thickness of the scans")
    max_slices: Count = Field(description="Scans with more slices are not chosen")
    noise_hu: float = Field(ge=0, le=200, description="Standard deviation of the image noise, HU")


class Nodules(Section):
    consensus_level: Fraction = Field(description="A voxel is nodule when this fraction of the readers marked it")
    min_readers: int = Field(ge=1, le=4, description="Nodules marked by fewer readers are left out")
    min_diameter_mm: float = Field(ge=0, le=100, description="Smaller nodules (mean of the readers) are left out")


class Split(Section):
    train: Fraction = Field(description="Fraction of the patients")
    validation: Fraction = Field(description="Fraction of the patients")
    test: Fraction = Field(description="Fraction of the patients")

    @model_validator(mode="after")
    def _sums_to_one(self):
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train + validation + test is {total:g}; the three fractions must sum to 1")
        return self


class Preprocess(Section):
    spacing_mm: Millimetres = Field(description="Isotropic voxel spacing of the prepared cases")
    margin_mm: float = Field(ge=0, le=200, description="Kept around the lungs when cropping")
    field_of_view: Literal["chest", "part"] = Field(
        description="chest: the skin is in the image, so body and air are told apart and the crop follows the lungs; "
        "part: a cut-out around a nodule, kept whole"
    )


class Reading(Section):
    """The part of ``cohort`` that reading a case from the raw data needs."""

    dataset: Literal["phantom", "lidc", "nifti"] = Field(description="Where cases come from")
    lesion_labels: list[int] = Field(default=[1], min_length=1, description="Label values that are nodule (nifti)")
    nodules: Nodules


class Listing(Reading):
    """The part of ``cohort`` that listing and splitting the cases needs."""

    exclude: dict[str, str] = Field(default={}, description="Cases to leave out: {case: reason}")
    public_names: bool = Field(
        default=False,
        description="Whether the files' and patients' names may be seen by everybody (nifti); false: cases and "
        "patients get numbers, and results/private/names.tsv says which is which",
    )
    max_slice_thickness_mm: Millimetres = Field(description="Thicker series are left out (lidc)")
    split: Split

    @property
    def readable(self) -> bool:
        """Whether names stay as they are: those of LIDC-IDRI's patients and of the phantoms are public."""
        return self.public_names or self.dataset != "nifti"

    @model_validator(mode="after")
    def _excluded_by_number(self):
        named = [case for case in self.exclude if not self.readable and not re.fullmatch(NUMBERED_CASE, case)]
        if named:
            raise ValueError(
                f"exclude names {named[0]!r}, but cases of data whose names are not public are excluded by their "
                "number, as 'case-0012': results/private/names.tsv has it. Set public_names to true if nobody's "
                "name is in a file's"
            )
        return self


class Preparation(Reading):
    """The part of ``cohort`` that preparing one case needs."""

    preprocess: Preprocess


class Cohort(Listing, Preparation):
    root: Annotated[Path, AfterValidator(_at_home)] | None = Field(
        default=None, description="Folder of the raw data (lidc, nifti)"
    )
    phantom: Phantom

    @model_validator(mode="after")
    def _has_root(self):
        if self.dataset != "phantom" and self.root is None:
            raise ValueError(f"dataset {self.dataset!r} reads files: set cohort.root to their folder")
        if self.dataset == "phantom" and self.root is not None:
            raise ValueError(
                "dataset 'phantom' reads no files: set cohort.dataset to lidc or nifti, or remove cohort.root"
            )
        return self


class Benchmark(Section):
    arm: Name = Field(description="Arm that all others are compared with; it finds the worst validation cases")
    segmenter: Name = Field(description="Segmenter that finds the worst validation cases")
    worst_cases: Count = Field(description="How many validation cases count as the worst")


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


class Synthesis(Section):
    sampler: Literal["ddpm", "ddim", "dpmpp_2m"] = Field(description="Sampler")
    steps: int = Field(ge=1, le=4000, description="Sampling steps")
    eta: Fraction = Field(description="Noise of ddim: 0 deterministic, 1 ancestral")
    mode: Literal["fused", "shifted", "stitched"] = Field(description="How patches become a volume")
    overlap: float = Field(ge=0, le=0.75, description="Overlap of neighbouring patches, fraction of the patch")
    fused_steps: int = Field(ge=0, description="Last steps of mode shifted that are fused with overlap")
    guidance_scale: float = Field(ge=1, le=20, description="Classifier-free guidance; 1: none")
    volumes_per_job: Count = Field(description="Volumes made by one job")


class Grid(Section):
    """The parts of a generator and of ``synthesis`` that say where the patches of the last steps meet."""

    patch_voxels: Count
    multiple: Count
    overlap: float = Field(ge=0, le=0.75)


def grid_of(generator: Generator, synthesis: Synthesis) -> Grid:
    return Grid(patch_voxels=generator.patch_voxels, multiple=generator.grid_multiple, overlap=synthesis.overlap)


class Quality(Section):
    tries: int = Field(ge=0, le=100, description="How often a rejected synthetic case is made again; 0: never")
    false_rejections: float = Field(
        gt=0, lt=0.5, description="Share of real cases that the ranges of the measures may reject; it sets their width"
    )


class SyntheticSet(Section):
    generator: Name = Field(description="Which of generators makes it")
    conditions: Literal["untargeted", "targeted", "inpainted"] = Field(
        description="untargeted: masks from train cases; targeted: from the benchmark's worst validation cases; "
        "inpainted: train cases keep their CT, only nodules are made (or pasted: generator kind copy_paste)"
    )
    volumes: Count = Field(description="Number of synthetic cases")


class Segmenter(Section):
    """The part of a segmenter that training needs; it travels with the weights."""

    network: Literal["unet", "dynunet", "swin_unetr"] = Field(description="Network (MONAI)")
    channels: list[Count] = Field(
        min_length=1, max_length=6, description="Channels per level; swin_unetr: those of the first, a multiple of 12"
    )
    window_hu: Window = Field(description="HU mapped to [-1, 1]; values outside are clipped")
    patch_voxels: int = Field(ge=16, le=192, multiple_of=8, description="Edge of the training patch, voxels")
    nodule_patches: Fraction = Field(description="Fraction of training patches centred near a nodule")
    steps: Count = Field(description="Optimiser steps, the same in every arm")
    batch_patches: Count = Field(description="Patches per optimiser step")
    learning_rate: float = Field(gt=0, le=1, description="Of AdamW; Muon's steps are as long")

    @model_validator(mode="after")
    def _network_fits(self):
        swin = self.network == "swin_unetr"
        if swin and (len(self.channels) > 1 or self.channels[0] % 12):
            raise ValueError(f"channels is {self.channels}; swin_unetr needs one number, a multiple of 12: [12]")
        levels = {"unet": 2, "dynunet": 3}.get(self.network, 1)
        if len(self.channels) < levels:
            raise ValueError(f"channels is {self.channels}; {self.network} needs {levels} levels or more: add one")
        multiple = 32 if swin else 2 ** (len(self.channels) - 1)
        if self.patch_voxels % multiple:
            raise ValueError(
                f"patch_voxels is {self.patch_voxels}; {self.network} with these channels needs a multiple of "
                f"{multiple}: change patch_voxels or channels"
            )
        if not swin and self.patch_voxels == multiple:  # one voxel at the deepest level: nothing to normalise over
            raise ValueError(
                f"patch_voxels is {self.patch_voxels}; {self.network} with {len(self.channels)} levels needs at least "
                f"{2 * multiple}: change patch_voxels or remove a level from channels"
            )
        return self


class Inference(Section):
    """The part of a segmenter that only prediction needs: changing it trains nothing again, except what aims at it."""

    overlap: float = Field(ge=0, le=0.75, description="Overlap of the sliding window in prediction")
    mirrored: bool = Field(
        default=False,
        description="Average over all mirrored forms of a patch: fewer false positives, eight times the cost",
    )
    keep_lungs: bool = Field(default=True, description="Predictions far from aerated lung are removed")


class Trial(Segmenter, Inference):
    """A segmenter in the study: its settings, and what it takes part in."""

    arms: list[Name] | None = Field(default=None, min_length=1, description="Arms that it is trained in; null: all")
    training_percent: list[Percent] | None = Field(
        default=None, min_length=1, description="Training-set sizes that it is trained at; null: all"
    )


class Arm(Section):
    real: bool = Field(description="Whether the real train cases are in the training set")
    synthetic: Name | None = Field(default=None, description="Synthetic set in the training set")
    synthetic_share: Fraction | None = Field(
        default=None, description="Share of the training patches that are synthetic; null: by the number of cases"
    )
    reseeded: bool = Field(default=False, description="A control: the data of an arm that is not, other random draws")

    @model_validator(mode="after")
    def _has_data(self):
        if not self.real and self.synthetic is None:
            raise ValueError("an arm needs real data, a synthetic set, or both")
        if self.synthetic_share is not None and not (self.real and self.synthetic):
            raise ValueError(
                f"synthetic_share {self.synthetic_share:g} divides the patches between real and synthetic cases, but "
                "the arm has only one kind: remove it"
            )
        return self


class Evaluation(Section):
    bootstrap: int = Field(ge=100, le=1_000_000, description="Bootstrap samples over patients, for the FROC")
    confidence: float = Field(gt=0.5, lt=1.0, description="Level of the intervals")


class Probing(Section):
    """The part of ``audit`` that looking for nearest neighbours needs."""

    patch_mm: Millimetres = Field(default=30.0, description="Edge of the cube around a nodule that is compared")
    max_shift_voxels: int = Field(default=1, ge=0, le=4, description="Cubes are compared at all shifts up to this")
    window_hu: Window = Field(default=(-1000, 400), description="HU are clipped to it before comparison")


class Thresholds(Probing):
    """The part of ``audit`` that the verdict needs: what a synthetic set may give away."""

    alpha: float = Field(default=0.01, gt=0, le=0.1, description="False alarms of a whole verdict, at most")
    largest_fraction_beyond: Fraction = Field(
        default=0.05, description="Allowed fraction closer to a train case than 99 % of held-out cases are"
    )
    largest_membership_auc: float = Field(
        default=0.6, ge=0.5, le=1, description="Allowed success of telling learned from unseen cases by the loss"
    )


class Fidelity(Section):
    """How real is a synthetic set?"""

    slices_per_case: int = Field(default=8, ge=1, le=200, description="Slices of each case in each plane")
    weights: Annotated[Path, AfterValidator(_at_home)] | None = Field(
        default=None,
        description="TorchScript file of another feature extractor (a program that runs: one you trust); default: the "
        "built-in scattering",
    )


class Audit(Thresholds):
    """Can a synthetic set be shared, and how real is it?"""

    fidelity: Fidelity = Fidelity()


class Figures(Section):
    dpi: int = Field(ge=50, le=600, description="Resolution of the pictures")
    window_hu: Window = Field(description="Grey scale of CT pictures: black, white")
    contact_cases: Count = Field(description="Synthetic and real cases on the contact sheet")
    case_arms: tuple[Name, Name] = Field(description="The two arms whose contours are drawn on one case")


class Compute(Section):
    """Where and how it runs; changing it reruns nothing."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="auto: bfloat16 where the device has it; on a CPU, where it is measured to be faster",
    )
    gpus: Count = Field(default=1, description="GPUs that train one generator together, a process for each")
    generator_threads: Count = Field(default=2, description="CPU threads of generator training and synthesis")
    segmenter_threads: Count = Field(default=1, description="CPU threads of one segmenter's training")
    loader_processes: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="Processes that make patches; 0: the training one; auto: 0 without a CUDA GPU"
    )
    patches_per_batch: Count | Literal["auto"] = Field(
        default="auto", description="Patches the generator sees at once in synthesis; auto: as many as fill a GPU"
    )
    checkpoint_seconds: Count = Field(default=60, description="Time between two checkpoints of a training")
    compile: bool = Field(default=False, description="torch.compile the networks (CUDA)")

    @model_validator(mode="after")
    def _gpus_exist(self):
        if self.gpus > 1 and self.device in ("cpu", "mps"):
            raise ValueError(f"gpus is {self.gpus}, but device is {self.device!r}: set gpus to 1, or device to cuda")
        return self


class Config(Section):
    """The whole study."""

    study: Study
    cohort: Cohort
    benchmark: Benchmark
    generators: dict[Name, AnyGenerator] = Field(min_length=1)
    synthesis: Synthesis
    quality: Quality
    sets: dict[Name, SyntheticSet]
    segmenters: dict[Name, Trial] = Field(min_length=1)
    training_percent: list[Percent] = Field(
        default=[100], min_length=1, description="Training-set sizes, percent of the train patients"
    )
    replicates: int = Field(ge=1, le=100, description="Trainings per arm, with different seeds")
    arms: dict[Name, Arm] = Field(min_length=1)
    evaluation: Evaluation
    audit: Audit = Audit()
    figures: Figures
    compute: Compute = Compute()

    @property
    def title(self) -> Study:
        """The study as pictures name it: those of a phantom say that they are of no patient, whatever its name."""
        if self.cohort.dataset != "phantom" or "phantom" in self.study.name.lower():
            return self.study
        return self.study.model_copy(update={"name": f"{self.study.name} (phantom)"})

    @model_validator(mode="after")
    def _is_called_what_it_is(self):
        if self.cohort.dataset != "phantom" and "phantom" in self.study.name.lower():
            raise ValueError(
                f"study.name is {self.study.name!r}, but cohort.dataset is {self.cohort.dataset!r}: pictures of "
                "patients would be titled as a phantom's, which anybody may have; give the study a name of its own"
            )
        return self

    @model_validator(mode="after")
    def _names_exist(self):
        for name, synthetic in self.sets.items():
            _known(f"sets.{name}.generator", synthetic.generator, self.generators)
            pasted = self.generators[synthetic.generator].kind == "copy_paste"
            if pasted and synthetic.conditions != "inpainted":
                raise ValueError(
                    f"sets.{name}.conditions is {synthetic.conditions!r}: copy-paste puts nodules into the CT of train "
                    "cases, so it must be inpainted"
                )
        for name, arm in self.arms.items():
            if arm.synthetic is not None:
                _known(f"arms.{name}.synthetic", arm.synthetic, self.sets)
        _known("benchmark.arm", self.benchmark.arm, self.arms)
        _known("benchmark.segmenter", self.benchmark.segmenter, self.segmenters)
        for name, generator in self.generators.items():
            if generator.kind == "copy_paste":
                continue
            edge_mm = generator.patch_voxels * self.cohort.preprocess.spacing_mm
            if self.cohort.preprocess.field_of_view == "chest" and edge_mm > LARGEST_PATCH_MM:
                raise ValueError(
                    f"generators.{name}.patch_voxels is {generator.patch_voxels}: at "
                    f"{self.cohort.preprocess.spacing_mm:g} mm that is {edge_mm:g} mm, more than a chest is deep "
                    f"({LARGEST_PATCH_MM:g} mm): lower it"
                )
            if generator.kind == "patch_gan":
                if self.compute.gpus > 1:
                    raise ValueError(
                        f"compute.gpus is {self.compute.gpus}, but generators.{name} is a patch_gan, which one GPU "
                        "trains: set gpus to 1"
                    )
                continue
            if self.synthesis.steps > generator.timesteps:
                raise ValueError(
                    f"synthesis.steps is {self.synthesis.steps}, more than the {generator.timesteps} of "
                    f"generators.{name}.timesteps: lower it"
                )
            if self.synthesis.guidance_scale > 1 and not generator.nodule_dropout:
                raise ValueError(
                    f"synthesis.guidance_scale is {self.synthesis.guidance_scale:g}, but generators.{name} never "
                    "learns without masks: give it a nodule_dropout, such as 0.1, or set guidance_scale to 1"
                )
        if not all(self.cohort.split.model_dump().values()):
            raise ValueError(
                "cohort.split leaves no patient for train, validation or test: the worst cases are of validation, and "
                "claims rest on test; give each more than 0"
            )
        for name in self.figures.case_arms:
            _known("figures.case_arms", name, self.arms)
        benchmark = self.arms[self.benchmark.arm]
        if benchmark.synthetic is not None and self.sets[benchmark.synthetic].conditions == "targeted":
            raise ValueError(
                f"benchmark.arm {self.benchmark.arm!r} trains on a targeted set, which itself needs the benchmark's "
                "scores: choose an arm without it, such as 'real'"
            )
        return self

    @model_validator(mode="after")
    def _trials_can_be_compared(self):
        wanted = set()
        if len(set(self.training_percent)) < len(self.training_percent):
            raise ValueError(f"training_percent is {self.training_percent}: name each size once")
        for name, trial in self.segmenters.items():
            for arm in trial.arms or ():
                _known(f"segmenters.{name}.arms", arm, self.arms)
            for percent in trial.training_percent or ():
                _known(f"segmenters.{name}.training_percent", percent, self.training_percent)
            if self.benchmark.arm not in self.arms_of(name):
                raise ValueError(
                    f"segmenters.{name}.arms lacks {self.benchmark.arm!r} (benchmark.arm), which all arms are compared "
                    "with: add it"
                )
            wanted |= set(self.sizes_of(name))
        missing = wanted - set(self.sizes_of(self.benchmark.segmenter))
        if missing:
            raise ValueError(
                f"segmenters.{self.benchmark.segmenter}.training_percent lacks {sorted(missing)}: the benchmark's "
                "segmenter finds the worst cases at every size, so it needs every size that another one has"
            )
        return self

    def arms_of(self, segmenter: str) -> list[str]:
        """The arms that a segmenter is trained in, in the config's order."""
        chosen = self.segmenters[segmenter].arms
        return [arm for arm in self.arms if chosen is None or arm in chosen]

    def sizes_of(self, segmenter: str) -> list[int]:
        """The training-set sizes that a segmenter is trained at, percent of the train patients, ascending."""
        return sorted(self.segmenters[segmenter].training_percent or self.training_percent)


def null_arms(arms: dict[str, dict], benchmark: str) -> list[str]:
    """The arms (as in the config) that differ from the benchmark by their random draws alone."""

    def data(name: str) -> tuple:
        return tuple(arms[name].get(key) for key in ("real", "synthetic", "synthetic_share"))

    return [name for name in arms if arms[name].get("reseeded") and name != benchmark and data(name) == data(benchmark)]


def _known(key: str, name, known: Iterable) -> None:
    if name not in known:
        choices = ", ".join(sorted(map(str, known)))
        raise ValueError(f"{key} is {name!r}, which does not exist: it must be one of {choices}")


def read(files: Sequence[Path]) -> dict:
    """A config and its overlays as Snakemake merges them: dicts key by key, everything else replaced. Raises InputError
    naming the file."""
    merged: dict = {}
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file; run this in the folder that holds config.yaml and Snakefile")
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: not YAML ({error})") from None
        if not isinstance(content, dict):
            raise InputError(f"{file}: holds no keys; config.yaml shows what a config looks like")
        merged = _merge(merged, content)
    return merged


def _merge(base, overlay):
    if not isinstance(base, dict) or not isinstance(overlay, dict):
        return overlay
    return base | {key: _merge(base.get(key), value) for key, value in overlay.items()}


def check(raw: dict) -> Config:
    """The config as a frozen model. Raises InputError with one line per mistake: key, value, rule, way out."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise InputError("the config is not usable:\n" + "\n".join(f"  {line}" for line in _lines(error))) from None


A_NUMBER, OR_AUTO = "constrained-int", "literal['auto']"  # how pydantic calls the two of "a number, or auto"


def _lines(error: ValidationError) -> list[str]:
    """One for each mistake: a value that is neither a number nor ``auto`` is one mistake."""
    return [_explain(item) for item in error.errors() if item["loc"][-1:] != (OR_AUTO,)]


KINDS = ("patch_ddpm", "latent_ddpm", "patch_gan", "copy_paste")


def _explain(item: dict) -> str:
    # The place of a generator's key names its kind too: after its name, or first where the generator is given alone.
    at = 2 if item["loc"][:1] == ("generators",) else 0
    loc = [part for i, part in enumerate(item["loc"]) if not (i == at and part in KINDS)]
    key = ".".join(str(part) for part in loc if part not in ("[key]", A_NUMBER))
    otherwise = ", or auto" if A_NUMBER in loc else ""
    if item["type"] == "extra_forbidden":
        known = _all_keys()
        if item["loc"][-1] in known:
            return f"{key}: no key of this section; remove it"
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        return f"{key}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "; remove it")
    if item["type"] == "missing":
        return f"{key}: missing; add it (config.yaml and workflow/experiments show every key with its unit)"
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kind, found = ".".join(filter(None, (key, "kind"))), item["ctx"].get("tag")
        said = "missing" if found is None else f"is {found!r}"
        return f"{kind} {said}: it must be one of {', '.join(map(repr, KINDS))}"
    if item["type"] == "string_type" and (kind := _read_by_yaml_as(item["input"])):
        what = f"{'.'.join(map(str, loc[:-2]))} has the name" if loc[-1] == "[key]" else f"{key} is"
        return f"{what} {item['input']}, which YAML takes for {kind}: write it in quotes"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} is {item['input']!r}: {message[0].lower()}{message[1:]}{otherwise}"


def _read_by_yaml_as(value) -> str:
    """What became of a name without quotes, such as 0001 (which is 1), 1.0e5, no, on, 2024-11-30 or ~."""
    kinds = {bool: "yes or no", int: "a number", float: "a number", date: "a date", datetime: "a date"}
    return kinds.get(type(value), "nothing" if value is None else "")


def _all_keys() -> set[str]:
    schema = Config.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    return {key for model in models for key in model.get("properties", {})}


def as_json(section: BaseModel, without: set[str] | None = None) -> str:
    """A section as one line of JSON, the form in which a rule hands it to the command line."""
    return json.dumps(section.model_dump(mode="json", exclude=without), sort_keys=True, separators=(",", ":"))


def part(section: Section, model: type[SectionType]) -> SectionType:
    """The keys of ``section`` that ``model`` has, so that a rule is not rerun for those that it does not read."""
    return model(**{key: getattr(section, key) for key in model.model_fields})


def from_json(model: type[SectionType], text: str) -> SectionType:
    """The inverse of ``as_json``. Raises InputError naming the key."""
    try:
        return TypeAdapter(model).validate_json(text)
    except ValidationError as error:
        raise InputError("\n".join(_lines(error))) from None


def schema_yaml() -> str:
    """The schema of config.yaml, as the text of workflow/schemas/config.schema.yaml."""
    head = "# Made from lungsyn/config.py by `lungsyn config schema`; do not edit.\n"
    return head + yaml.safe_dump(Config.model_json_schema(), sort_keys=False, width=110)
