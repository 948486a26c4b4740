"""The whole study: its sections together, and what must agree between them."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from lungsyn.registry import families, family
from lungsyn.seams import MaskSource
from lungsyn.settings.arms import Arm
from lungsyn.settings.audit import Audit
from lungsyn.settings.cohort import Cohort
from lungsyn.settings.compute import Compute
from lungsyn.settings.evaluation import Evaluation, Figures
from lungsyn.settings.generators import AnyGenerator
from lungsyn.settings.section import Count, Name, Percent, Section
from lungsyn.settings.segmenters import AnyTrial
from lungsyn.settings.synthesis import Quality, Synthesis, SyntheticSet


class Study(Section):
    name: str = Field(description="Title on every picture and table")
    seed: int = Field(ge=0, description="Every random draw of the study derives from it")


class Benchmark(Section):
    arm: Name = Field(description="Arm that all others are compared with; it finds the worst validation cases")
    segmenter: Name = Field(description="Segmenter that finds the worst validation cases")
    worst_cases: Count = Field(description="How many validation cases count as the worst")


class Config(Section):
    """The whole study."""

    study: Study
    cohort: Cohort
    benchmark: Benchmark
    generators: dict[Name, AnyGenerator] = Field(min_length=1)
    synthesis: Synthesis
    quality: Quality
    sets: dict[Name, SyntheticSet]
    segmenters: dict[Name, AnyTrial] = Field(min_length=1)
    training_percent: list[Percent] = Field(
        default=[100], min_length=1, description="Training-set sizes, percent of the train patients"
    )
    replicates: int = Field(ge=1, le=100, description="Trainings per arm, with different seeds")
    replicates_draw: Literal["segmenter", "set", "generator"] = Field(
        default="segmenter",
        description="What a replicate draws anew: segmenter: its seed alone; set: its synthetic set, too; generator: "
        "the generator's training, too. Claims are about other draws of it",
    )
    arms: dict[Name, Arm] = Field(min_length=1)
    freeze_choice: bool = Field(
        default=False,
        description="Choose segmenter and arm on validation patients and freeze the choice before the test is scored",
    )
    evaluation: Evaluation
    audit: Audit = Audit()
    figures: Figures
    compute: Compute = Compute()

    @property
    def title(self) -> Study:
        """The study as pictures name it: those of a phantom say that they are of no patient, whatever its name."""
        if not self.cohort.reader.simulates or "phantom" in self.study.name.lower():
            return self.study
        return self.study.model_copy(update={"name": f"{self.study.name} (phantom)"})

    @model_validator(mode="after")
    def _is_called_what_it_is(self):
        if not self.cohort.reader.simulates and "phantom" in self.study.name.lower():
            raise ValueError(
                f"study.name is {self.study.name!r}, but cohort.dataset is {self.cohort.dataset!r}: pictures of "
                "patients would be titled as a phantom's, which anybody may have; give the study a name of its own"
            )
        return self

    @model_validator(mode="after")
    def _names_exist(self):
        for name, synthetic in self.sets.items():
            known(f"sets.{name}.generator", synthetic.generator, self.generators)
            _check_pair(name, synthetic, self.generators[synthetic.generator])
        for name, arm in self.arms.items():
            if arm.synthetic is not None:
                known(f"arms.{name}.synthetic", arm.synthetic, self.sets)
            if (
                arm.mixing
                and arm.mixing.of_twins
                and not (arm.synthetic and source_of(self.sets[arm.synthetic]).gives_twins)
            ):
                raise ValueError(
                    f"arms.{name}.mixing is of real cases and their twins: arms.{name}.synthetic must be a set whose "
                    "conditions are twin"
                )
        known("benchmark.arm", self.benchmark.arm, self.arms)
        known("benchmark.segmenter", self.benchmark.segmenter, self.segmenters)
        for name, generator in self.generators.items():
            family("generators", generator.kind).check(name, generator, self)
        if not all(self.cohort.split.model_dump().values()):
            raise ValueError(
                "cohort.split leaves no patient for train, validation or test: the worst cases are of validation, and "
                "claims rest on test; give each more than 0"
            )
        for name in self.figures.case_arms:
            known("figures.case_arms", name, self.arms)
        benchmark = self.arms[self.benchmark.arm]
        if benchmark.synthetic is not None and source_of(self.sets[benchmark.synthetic]).needs_benchmark:
            raise ValueError(
                f"benchmark.arm {self.benchmark.arm!r} trains on a targeted set, which itself needs the benchmark's "
                "scores: choose an arm without it, such as 'real'"
            )
        if benchmark.found is not None:
            raise ValueError(
                f"arms.{self.benchmark.arm}.found asks what the benchmark finds, and this arm is the benchmark: remove "
                "it"
            )
        return self

    @model_validator(mode="after")
    def _trials_can_be_compared(self):
        wanted = set()
        if len(set(self.training_percent)) < len(self.training_percent):
            raise ValueError(f"training_percent is {self.training_percent}: name each size once")
        for name, trial in self.segmenters.items():
            for arm in trial.arms or ():
                known(f"segmenters.{name}.arms", arm, self.arms)
            for percent in trial.training_percent or ():
                known(f"segmenters.{name}.training_percent", percent, self.training_percent)
            if self.benchmark.arm not in self.arms_of(name):
                raise ValueError(
                    f"segmenters.{name}.arms lacks {self.benchmark.arm!r} (benchmark.arm), which all arms are compared "
                    "with: add it"
                )
            wanted |= set(self.sizes_of(name))
            own = family("segmenters", trial.kind)
            for arm in self.arms_of(name):
                if cannot := self.arms[arm].ways - own.ways:
                    raise ValueError(
                        f"segmenters.{name} is of the kind {trial.kind!r}, which cannot do arms.{arm}."
                        f"{min(cannot)}: leave the arm out of segmenters.{name}.arms, or remove the key"
                    )
            own.check(name, trial, self)
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

    def can_be_chosen(self, arm: str) -> bool:
        """Whether validation patients can say how good an arm is: it is no control, and has no masks of theirs."""
        synthetic = self.arms[arm].synthetic
        of_validation = synthetic is not None and source_of(self.sets[synthetic]).split == "validation"
        return not self.arms[arm].reseeded and not of_validation

    def draw_of(self, arm: str, replicate: int) -> int | None:
        """Which draw of its set a replicate of an arm learns from; None: the first one, or the only one."""
        if self.replicates_draw == "segmenter":
            return None
        return replicate + self.replicates * self.arms[arm].reseeded or None

    def sizes_of(self, segmenter: str) -> list[int]:
        """The training-set sizes that a segmenter is trained at, percent of the train patients, ascending."""
        return sorted(self.segmenters[segmenter].training_percent or self.training_percent)

    @property
    def drawn_sets(self) -> list[tuple[str, int, int | None]]:
        """(set, size, draw) of every draw of a synthetic set that a replicate is trained with, in the config's order.
        Others are not made."""
        return self._drawn(self.arms)

    @property
    def sought_sets(self) -> list[tuple[str, int, int | None]]:
        """Those that the benchmark's segmenter looks at, since an arm asks what it finds."""
        return self._drawn([name for name, arm in self.arms.items() if arm.found])

    def _drawn(self, arms: Collection[str]) -> list[tuple[str, int, int | None]]:
        uses = (
            (self.arms[arm].synthetic, size, self.draw_of(arm, replicate))
            for segmenter in self.segmenters
            for size in self.sizes_of(segmenter)
            for arm in self.arms_of(segmenter)
            for replicate in range(self.replicates)
            if arm in arms
        )
        return list(dict.fromkeys((name, size, draw) for name, size, draw in uses if name))

    @property
    def used_sets(self) -> list[tuple[str, int]]:
        """(set, size) of every synthetic set that a segmenter is trained with, in the config's order."""
        return list(dict.fromkeys((name, size) for name, size, _ in self.drawn_sets))

    @property
    def tables(self) -> dict[str, Path]:
        """The user's table of what the volumes of a set are to be, of each set whose source of masks reads one."""
        found = {name: getattr(made.conditions, "table", None) for name, made in self.sets.items()}
        return {name: table for name, table in found.items() if table}

    def batches_of(self, name: str) -> int:
        """In how many jobs the volumes of a set are made."""
        return -(-self.sets[name].volumes // self.synthesis.volumes_per_job)


def null_arms(arms: dict[str, dict], benchmark: str) -> list[str]:
    """The arms (as in the config) that differ from the benchmark by their random draws alone."""

    def data(name: str) -> dict:
        return {key: value for key, value in arms[name].items() if key != "reseeded" and value is not None}

    return [name for name in arms if arms[name].get("reseeded") and name != benchmark and data(name) == data(benchmark)]


def known(key: str, name, known: Iterable) -> None:
    if name not in known:
        choices = ", ".join(sorted(map(str, known)))
        raise ValueError(f"{key} is {name!r}, which does not exist: it must be one of {choices}")


def source_of(synthetic: SyntheticSet) -> MaskSource:
    """The source of a set's masks."""
    return family("masks", synthetic.conditions.kind)


def _check_pair(name: str, synthetic: SyntheticSet, generator: Section) -> None:
    """Masks come from train or validation cases, the worst ones from the latter; a generator that only changes a CT
    needs a source that gives one. Raises ValueError."""
    source, kind = source_of(synthetic), synthetic.conditions.kind
    if source.split not in ("train", "validation", None) or (source.needs_benchmark and source.split != "validation"):
        allowed = "validation, whose worst cases it asks for" if source.needs_benchmark else "train, validation or None"
        raise ValueError(f"sets.{name}.conditions is {kind!r}, whose split is {source.split!r}: it must be {allowed}")
    if synthetic.source is not None and not getattr(generator, "source_conditions", False):
        raise ValueError(
            f"sets.{name}.source asks for a kind of scan, but generators.{synthetic.generator} is not told of any: set "
            "its source_conditions to true (patch_ddpm, cascade_ddpm, latent_ddpm), or remove the key"
        )
    made_by = family("generators", generator.kind)
    if made_by.makes_masks == source.gives_masks:
        fitting = [k for k, other in families("masks").items() if other.gives_masks != made_by.makes_masks]
        told = "makes the masks itself" if made_by.makes_masks else "is led by masks, of which it gives none"
        raise ValueError(
            f"sets.{name}.conditions is {kind!r}, but generators.{synthetic.generator} ({generator.kind}) {told}: it "
            f"must be {' or '.join(fitting)}"
        )
    if made_by.needs_known and not source.gives_known:
        fitting = [kind for kind, other in families("masks").items() if other.gives_known]
        raise ValueError(
            f"sets.{name}.conditions is {synthetic.conditions.kind!r}, but {generator.kind} only changes the CT of "
            f"train cases, so it must be {' or '.join(fitting)}"
        )
