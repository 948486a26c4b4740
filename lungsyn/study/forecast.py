"""How long a run takes: seconds of a job of each rule, from this folder's earlier jobs, else from the phantom study's.

Trainings and volumes are known by their settings, whatever their length (``planning.measured``); other jobs by their
rule, from Snakemake's records. ``workflow/phantom_seconds.json`` has the same of the study of config.yaml on two slow
cores, so that a first run can say something: a run scales it by what its own first jobs took.
"""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lungsyn.settings.study import Config
from lungsyn.study import planning

PHANTOM = Path("workflow/phantom_seconds.json")
ON_A_GPU = ("train_generator", "synthesise", "train_segmenter", "find", "predict", "memorisation", "membership")
BY_SETTINGS = ("train_generator", "train_segmenter", "synthesise")


def seconds_of(study: Config, jobs: Iterable[tuple[str, dict]], folder: Path) -> dict[str, float]:
    """Seconds of a job of each rule of ``jobs`` (rule and wildcards), as far as they are known."""
    reference = read_reference() if study.cohort.reader.simulates else {}
    by_rule = {rule: seconds for (rule, of), seconds in reference.items() if not of} | recorded(folder)
    rates = {of: (seconds, "") for of, seconds in reference.items()} | planning.measured(folder / "results")
    found = defaultdict(list)
    for rule, wildcards in jobs:
        known = planning.job_seconds(rule, wildcards, study, rates)
        seconds = known[0] if known else None if rule in BY_SETTINGS else by_rule.get(rule)
        if seconds is not None:
            found[rule].append(seconds)
    return {rule: statistics.mean(values) for rule, values in found.items()}


def recorded(folder: Path) -> dict[str, float]:
    """Median seconds of the jobs of each rule that were run in ``folder``, as Snakemake notes them; of rules whose jobs
    differ by their settings only where nothing better is known."""
    spans = defaultdict(set)
    for path in (folder / ".snakemake/metadata").rglob("*"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            spans[record["rule"]].add((record["starttime"], record["endtime"]))
        except (OSError, ValueError, KeyError, TypeError):  # folders, and records of other versions
            continue
    return {rule: statistics.median(end - start for start, end in found if end) for rule, found in spans.items()}


def read_reference(path: Path = PHANTOM) -> dict[tuple[str, str], float]:
    """Seconds of the phantom study's jobs by rule and settings (empty: of a whole job); none where the file is not."""
    if not path.is_file():
        return {}
    return {(row["rule"], row["of"]): row["seconds"] for row in json.loads(path.read_text(encoding="utf-8"))}


def reference_of(folder: Path) -> list[dict]:
    """The rows of ``read_reference`` from a study that was run in ``folder``."""
    whole = {(rule, ""): seconds for rule, seconds in recorded(folder).items() if rule not in BY_SETTINGS}
    by_settings = {of: seconds for of, (seconds, _) in planning.measured(folder / "results").items()}
    return [
        {"rule": rule, "of": of, "seconds": float(f"{seconds:.3g}")}
        for (rule, of), seconds in sorted((whole | by_settings).items())
    ]


class Outlook:
    """What is left of a run: jobs of each rule, and seconds with ``cores`` of them at a time, of those that need a GPU
    with ``gpus`` (0: they need none).

    ``expected``: jobs of each rule. ``seconds``: of one job of a rule, as far as known. Rules that finish here are
    known from then on, and say how fast this machine is beside what was expected of it."""

    def __init__(self, expected: Mapping[str, int], seconds: Mapping[str, float], cores: int, gpus: int = 0):
        self.expected, self.seconds = Counter(expected), dict(seconds)
        self.cores, self.gpus = max(cores, 1), gpus
        self.took: dict[str, list[float]] = defaultdict(list)

    def finished(self, rule: str, seconds: float) -> None:
        self.took[rule].append(seconds)

    @property
    def done(self) -> int:
        return sum(map(len, self.took.values()))

    @property
    def total(self) -> int:
        return (self.expected | Counter({rule: len(took) for rule, took in self.took.items()})).total()

    def slowness(self) -> float:
        """How many times as long jobs take here as was expected of them."""
        both = [rule for rule in self.took if rule in self.seconds]
        expected = sum(self.seconds[rule] * len(self.took[rule]) for rule in both)
        return sum(sum(self.took[rule]) for rule in both) / expected if expected else 1.0

    def of_job(self, rule: str) -> float | None:
        """Seconds of one job of a rule; None where nothing is known of it."""
        if self.took.get(rule):
            return statistics.median(self.took[rule])
        return self.seconds[rule] * self.slowness() if rule in self.seconds else None

    def left(self, running: Sequence[tuple[str, float]] = ()) -> tuple[float, list[str]]:
        """Seconds until the end, at least, and the rules of which nothing is known. ``running``: rule and seconds so
        far of each job that runs."""
        waiting = self.expected - Counter({rule: len(took) for rule, took in self.took.items()})
        waiting -= Counter(rule for rule, _ in running)
        known = {rule: self.of_job(rule) for rule in {*waiting, *(rule for rule, _ in running)}}
        jobs = [(rule, known[rule] or 0.0) for rule in waiting.elements()]
        jobs += [(rule, max((known[rule] or 0.0) - so_far, 0.0)) for rule, so_far in running]
        work, on_gpu = sum(s for _, s in jobs), sum(s for rule, s in jobs if rule in ON_A_GPU)
        longest = max((seconds for _, seconds in jobs), default=0.0)
        at_least = max(work / self.cores, longest, on_gpu / self.gpus if self.gpus else 0.0)
        return at_least, sorted(rule for rule, seconds in known.items() if seconds is None)
