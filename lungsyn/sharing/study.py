"""A finished study in its folder: its config as the report was made with it, and results that belong to that report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.settings.checking import check
from lungsyn.settings.section import as_json
from lungsyn.settings.study import Config
from lungsyn.sharing.terms import Terms, link
from lungsyn.sharing.writing import as_yaml, one_line
from lungsyn.volume.tables import read_table
from lungsyn.why import find_record, from_record

RUN_AGAIN = "give the study's snakemake command again"


@dataclass(frozen=True)
class Study:
    """``results``: the folder of a study that ``finished`` at that time (seconds, when its report was made)."""

    results: Path
    config: Config
    finished: float

    @cached_property
    def settings(self) -> dict:
        """The config as JSON has it."""
        return json.loads(as_json(self.config))

    @cached_property
    def cohort(self) -> list[dict]:
        """Rows of the cases that the study used."""
        rows = read_table(self.result("cohort.tsv"), ["case", "patient", "split", "status"])
        return [row for row in rows if row["status"] == "included"]

    @property
    def name(self) -> str:
        return one_line(self.config.title.name)

    def result(self, name: str, missing: str = "the study is not finished") -> Path:
        """A file of the results. Raises InputError where it is not there (``missing``: what that means), or where it
        was made after the report: it may tell of another state of the study than the others."""
        path = self.results / name
        record = find_record(path)[0]
        if not path.is_file() or record is None:
            raise InputError(f"{missing}: there is no {path} that a run made; {RUN_AGAIN}")
        if record["endtime"] > self.finished:
            raise InputError(
                f"{path} was made after the report, so that they may tell of different states of the study: "
                f"{RUN_AGAIN} (with --forcerun report if it finds nothing to do)"
            )
        return path

    def size(self, wanted: int | None) -> int:
        """The training-set size (percent): the wanted one, or the largest. Raises InputError where there is none."""
        sizes = sorted({size for name in self.config.segmenters for size in self.config.sizes_of(name)})
        if wanted is not None and wanted not in sizes:
            raise InputError(f"--size is {wanted}: the study's training-set sizes are {', '.join(map(str, sizes))}")
        return wanted or sizes[-1]

    def used(self, size: int) -> list[str]:
        """The synthetic sets that an arm of this size uses: others are not made."""
        return [name for name, at in self.config.used_sets if at == size]

    def model(self, generator: str, size: int) -> Path:
        """The file of a trained generator."""
        return self.result(f"generator/{generator}/{size}/model.safetensors", f"{generator} has no model at {size} %")

    def learned(self, facts: Mapping) -> str:
        """How many cases of how many patients a model was trained on, in words; ``facts``: of its file."""
        patient = {row["case"]: row["patient"] for row in self.cohort}
        if not set(facts["cases"]) <= patient.keys():
            raise InputError(
                f"the model was trained on other cases than {self.results / 'cohort.tsv'} has: {RUN_AGAIN}"
            )
        if self.config.cohort.reader.simulates:
            return f"{len(facts['cases'])} simulated CT (phantoms, no patients)"
        return f"{len(facts['cases'])} CT of {len({patient[case] for case in facts['cases']})} patients"

    def patients(self, *splits: str) -> int:
        """How many patients these splits have."""
        return len({row["patient"] for row in self.cohort if row["split"] in splits})

    def about(self, terms: Terms) -> dict:
        """What both cards say of the study."""
        return {
            "terms": terms, "licence_link": link(terms.licence), "study_name": self.name,
            "study_seed": self.config.study.seed, "simulated": self.config.cohort.reader.simulates,
            "confidence": f"{100 * self.config.evaluation.confidence:g}", "test_patients": self.patients("test"),
            "preprocess": as_yaml({"preprocess": self.settings["cohort"]["preprocess"]}),
            "study_spacing_mm": self.config.cohort.preprocess.spacing_mm, 
        }  # fmt: skip


def open_study(directory: Path) -> Study:
    """The study whose ``results`` lie in ``directory``. Its config is that of Snakemake's record of the report, so none
    has to be given. Raises InputError where the report or its record is missing."""
    report = directory / "results" / "report.html"
    record, folder = find_record(report)
    if not report.is_file() or record is None:
        raise InputError(
            f"{directory}: no finished study: there is no {report}, or .snakemake beside it has no record of it. Name "
            "the study's folder with --directory, or finish the study first"
        )
    config = check(from_record(record, folder)["settings"]["config"])
    if config.cohort.split.folds:
        raise InputError(
            f"{directory} is a study with folds: each fold has a set and a model of its own, each with its verdict, "
            "and none stands for the study. Run it with one split in another folder (cohort.split without folds) "
            "and share from there"
        )
    return Study(directory / "results", config, record["endtime"])
