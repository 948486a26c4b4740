"""What users add, and what is asked of it: generators, segmenters, sources of masks, readers. No torch here.

A family is one module with a class ``Family`` (see ``lungsyn.registry``) that inherits from one of the classes below.
Its ``Settings`` are a section of the config; the keys get their defaults, limits and descriptions there. ``recipe`` is
a number that is raised by hand when the family's results change: jobs whose recipe changed are run again.

``docs/extend.md`` adds one of each.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lungsyn.memory import peak_host_mb
from lungsyn.settings.arms import Use
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import Section
from lungsyn.volume.files import Case, whole_case
from lungsyn.volume.labels import LabelMap
from lungsyn.volume.source import Source
from lungsyn.volume.space import Space, Volume

if TYPE_CHECKING:
    from lungsyn.settings.cohort import Cohort, Listing, Preparation, Simulation
    from lungsyn.settings.study import Config
    from lungsyn.settings.synthesis import Grid, Synthesis

OnStep = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Scene:
    """What a volume is made from: its label map, and what of it is known.

    ``known``: a real case whose CT is kept where ``made`` is 0; ``made`` (float32 ``[x y z]``, 0 to 1) says how much of
    each voxel is made anew. ``placed``: the nodules that the source put in, with HU of their own, for who pastes them.
    ``source``: the kind of scan that is made, for generators that are told.

    >>> case = lungsyn.open_case("cases/one")
    >>> scene = lungsyn.Scene(case.labels.replaced(nodules=np.zeros_like(case.nodules)), case.affine)
    >>> scene.spacing_mm.tolist()
    [2.0, 2.0, 2.0]
    """

    labels: LabelMap
    affine: np.ndarray
    known: Case | None = None
    made: np.ndarray | None = None
    placed: tuple = ()
    source: Source | None = None

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel spacing along x, y and z: ``[3]``."""
        return Space(self.labels.shape, self.affine).spacing_mm


@dataclass(frozen=True, eq=False)
class Sampled:
    """A made volume: int16 HU ``[x y z]``, and its label map where that is not the scene's (None: it is).

    >>> lungsyn.Sampled(np.full((4, 4, 4), -1000, np.int16)).hu.shape
    (4, 4, 4)
    """

    hu: np.ndarray
    labels: LabelMap | None = None


@dataclass(frozen=True)
class Run:
    """What every training gets beside its data and settings.

    ``checkpoints``: a folder that outlives a stopped job. ``watch``: draws a picture of a generator's training."""

    seed: int
    compute: Compute
    checkpoints: Path
    watch: Callable[..., Any] | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """A training's result: tensors by name, facts of it, the records of its curve.

    Its ``cost`` is one of the facts. Where it is not among them it is the time and memory of this process, which is
    too little for a training that went on from a checkpoint.
    """

    tensors: dict[str, Any]
    facts: dict = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)


class Generator(ABC):
    """A generator that is ready to make volumes, on its device."""

    needs: frozenset[str] = frozenset()  # names of the labels that it is led by
    grid: "Grid | None" = None  # where patches meet in what it makes, so that it is seen whether they show
    ran_on: str = "cpu"  # device and precision, for provenance

    @abstractmethod
    def sample(self, scene: Scene, seed: int, on_step: OnStep = lambda step: None) -> Sampled:
        """Make the volume of ``scene``: int16 HU ``[x y z]``. The same seed makes the same volume."""

    def memory_mb(self) -> dict[str, int]:
        """The most memory that this process has taken so far."""
        return {"host_mb": peak_host_mb()}


class Attackable(Generator):
    """A generator whose loss on a case can be asked for: membership is attacked by it."""

    @abstractmethod
    def log_loss(self, folder: Path, seed: int) -> float:
        """Mean logarithm of the training loss on a case in ``folder``; nan where nothing of it counts."""

    @abstractmethod
    def learned_from(self, folders: Sequence[Path], seed: int) -> list[Path]:
        """Those of its train cases that gave it a gradient."""


class GeneratorFamily(ABC):
    """A kind of generator."""

    Settings: ClassVar[type[Section]]
    recipe: ClassVar[int] = 1
    trains: ClassVar[bool] = True  # False: there is nothing to fit and no model file
    checked: ClassVar[bool] = True  # False: what it makes is real CT, which is not held against the ranges of real CT
    attackable: ClassVar[bool] = False  # True: its generators are `Attackable`
    needs_known: ClassVar[bool] = False  # True: it only changes a CT that is known, as an inpainting source gives one
    makes_masks: ClassVar[bool] = False  # True: it gets a grid alone, and makes a label map of its own

    def check(self, name: str, settings: Any, study: "Config") -> None:
        """The family's own checks against the rest of the study. Raises ValueError that names the key."""
        return

    def files(self, settings: Any) -> list[Path]:
        """Files from elsewhere that it reads, such as released weights: if one changes, it is trained again. Raises
        InputError where one is missing."""
        return []

    def fit(self, cases: Sequence[Path], settings: Any, run: Run) -> Trained | None:
        """Train on the cases in these folders. A stopped training goes on from ``run.checkpoints``. None in a process
        that only helps another one to train."""
        raise NotImplementedError

    @abstractmethod
    def load(self, model: Path | None, settings: Any, compute: Compute, synthesis: "Synthesis") -> Generator:
        """The generator of a model file, with whose settings it travels; where nothing is trained, of ``settings``."""

    def patch_grid(self, settings: Any, synthesis: "Synthesis") -> "Grid | None":
        """Where patches meet in a volume. None: there are no patches."""
        return None


class Segmenter(ABC):
    """A trained segmenter, ready on its device."""

    @abstractmethod
    def predict(self, case: Case) -> np.ndarray:
        """The probability of nodule in whole percent, rounded down: uint8 ``[x y z]``."""

    def predict_each(self, folders: Sequence[Path]) -> Iterator[np.ndarray]:
        """The same for each of the cases in these folders. For who does many at once for the price of one."""
        return (self.predict(whole_case(folder)) for folder in folders)


class SegmenterFamily(ABC):
    """A kind of segmenter. ``Inference`` are the settings that only prediction reads: another value trains nothing."""

    Settings: ClassVar[type[Section]]
    Inference: ClassVar[type[Section]]
    recipe: ClassVar[int] = 1
    length: ClassVar[str] = ""  # which of the settings says how long a training is, by which its time grows
    ways: ClassVar[frozenset[str]] = frozenset()  # keys of `Use` that it can do, beside the share

    def check(self, name: str, settings: Any, study: "Config") -> None:
        """The family's own checks against the rest of the study. Raises ValueError that names the key."""
        return

    @abstractmethod
    def fit(self, real: Sequence[Path], synthetic: Sequence[Path], use: Use, settings: Any, run: Run) -> Trained:
        """Train on real and synthetic cases, used as ``use`` says: ``use.synthetic_share`` of the patches (None: of the
        cases alike) are synthetic. A folder that is named twice counts twice. Each arm is trained for the same time. A
        stopped training goes on from ``run.checkpoints``."""

    @abstractmethod
    def load(self, model: Path, compute: Compute, inference: Any) -> Segmenter:
        """The segmenter of a model file, whose settings travel with it."""


class MaskSource(ABC):
    """Where the masks of synthetic volumes come from. A row of its table holds all that decides a volume's masks.

    A source that takes masks from patients' cases says whose in the columns ``body_case`` and ``nodule_case``, which
    the audit asks for. Numbers are written with six digits.
    """

    Settings: ClassVar[type[Section]]  # a file of the user's is its key ``table``, which may be None
    recipe: ClassVar[int] = 1
    columns: ClassVar[Sequence[str]]  # of its rows; two of them are ``volume``, a number as text, and ``seed``
    split: ClassVar[str | None] = "train"  # whose cases it takes masks, or statistics of masks, from; None: no case
    needs_benchmark: ClassVar[bool] = False  # whether it asks which cases the benchmark finds worst
    gives_known: ClassVar[bool] = False  # whether its scenes keep a real CT
    gives_masks: ClassVar[bool] = True  # False: its scenes are a grid, for generators that make the masks as well
    gives_twins: ClassVar[bool] = False  # whether they keep its masks as well: the nodules are made anew in their place

    @abstractmethod
    def rows(
        self, cases: Sequence[Path], volumes: int, seed: int, settings: Any, worst: Sequence[str] = ()
    ) -> list[dict]:
        """``volumes`` rows of ``columns``. ``worst``: names of the ``cases`` that the benchmark finds worst, if it is
        asked."""

    @abstractmethod
    def uses(self, row: dict) -> set[str]:
        """Names of the cases that the scene of a row opens."""

    def asked(self, row: dict) -> dict:
        """What a row asks for, so that the volume can be measured against it: ``diameter_mm`` and ``wall_mm`` (mm, a
        list: a number for each nodule, by index) and ``lungs_l`` (litres); nothing where it asks for nothing."""
        return {}

    @abstractmethod
    def scene(self, row: dict, open_case: Callable[[str], Case]) -> Scene:
        """The scene of a row as it was read from the table (all values are text)."""


@dataclass(frozen=True, eq=False)
class RawCase:
    """A case as the raw data have it. ``ct``: HU ``[x y z]`` in any orientation and spacing.

    ``nodules``: a mask for each nodule, ``labels``: one for each further label (``cohort.labels``); each is bool, on a
    grid of its own, and a local box is enough. ``facts``: what is known of each nodule (``diameter_mm``, ``readers``,
    ``ratings``), in the order of ``nodules``; empty where nothing is."""

    ct: Volume
    nodules: Sequence[Volume]
    facts: Sequence[dict] = ()
    labels: Mapping[str, Volume] = field(default_factory=dict)


class Reader(ABC):
    """A dataset: how its cases are found and read. ``settings`` are the part of ``cohort`` that a step needs
    (``lungsyn.settings.cohort``)."""

    recipe: ClassVar[int] = 1
    public_names: ClassVar[bool] = False  # whether everybody may see the names of its files and patients
    simulates: ClassVar[bool] = False  # True: it writes its raw data itself, by ``simulate``, and shows no patient
    # True: files that are added to the raw data wait until the listing is asked for, and a case is read again when a
    # file below its ``source`` has another size or time. False: see ``watched``, and ``raw`` in ``index``.
    listed_once: ClassVar[bool] = False
    uses_most: ClassVar[bool] = False  # whether nearly all of ``expected_cases`` are used: then the disk must hold them

    def simulate(self, settings: "Simulation", seed: int, root: Path, workers: int) -> None:
        """Write the raw data below ``root``."""
        raise NotImplementedError

    def expected_cases(self, settings: "Cohort") -> int:
        """How many cases there can be at most, without reading one."""
        return len(os.listdir(settings.root)) if settings.root and settings.root.is_dir() else 0

    def watched(self, root: Path, settings: "Listing") -> list[Path]:
        """Files and folders that make the listing again when any file at or below them is new, gone or another one."""
        return [Path(root)]

    @abstractmethod
    def index(self, root: Path, settings: "Listing", workers: int) -> list[dict]:
        """A row for each case that the raw data hold, usable or not; raises InputError where they hold none.

        Each row has ``case`` (a name of letters, digits, '+', '-' and '_', unless names are not public), ``patient``,
        ``source`` (where the case lies, below ``root``), ``status`` (included or excluded), ``reason`` (why it is
        excluded), ``n_nodules`` and ``spacing_mm`` (as text). It may have ``annotation`` (text that ``read`` needs),
        ``split`` (train, validation or test; else it is drawn), ``role`` (host: its lesions are not marked, it only
        teaches; where ``settings.unmarked`` is host so is every case without a nodule), ``warnings`` (a list of
        sentences) and ``detail`` (names of files: nobody else sees them). Unless cases are ``listed_once`` an included
        one has ``raw``, a digest of the bytes of its files (``lungsyn.cohort.raw.digest``)."""

    @abstractmethod
    def read(self, root: Path, row: dict, settings: "Preparation") -> RawCase:
        """The case of a row, of which ``source`` and ``annotation`` are as ``index`` gave them. Raises InputError with
        the reason why it cannot be used."""
