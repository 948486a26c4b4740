# Which cases, sets and settings a rule gets. Every rule sees its own section of the config, as JSON, through params.

import json
import os
import re
import shlex
from functools import cache
from pathlib import Path

import lungsyn.cli  # has the verbs and their recipes
from lungsyn.machine import uses_gpu
from lungsyn.recipes import recipe_of  # a parameter of every rule: it says when new code makes results again
from lungsyn.settings.audit import Probing, Thresholds
from lungsyn.registry import family
from lungsyn.settings.evaluation import Drawing, Viewing
from lungsyn.settings.cohort import Listing, Preparation, Simulation
from lungsyn.settings.section import as_json, part
from lungsyn.settings.segmenters import inference_of, settings_of
from lungsyn.settings.study import null_arms, source_of
from lungsyn.volume.tables import read_table


def one_of(names):
    """Names may hold a plus."""
    return "|".join(map(re.escape, names)) or "none"


wildcard_constraints:
    case=r"[^/]+",
    set=one_of(STUDY.sets),
    generator=one_of(STUDY.generators),
    segmenter=one_of(STUDY.segmenters),
    arm=one_of(STUDY.arms),
    replicate=r"\d+",
    batch=r"\d+",
    size=r"\d+",


SEED = STUDY.study.seed
READER = STUDY.cohort.reader
LISTED_ONCE = READER.listed_once or READER.simulates


def from_here(path):
    """A path of the config, which is one from this folder or, where --directory leads elsewhere, from the workflow's."""
    there = Path(str(HERE), path)
    return path if Path(path).exists() or not there.exists() else os.path.relpath(there)


RAW = from_here(STUDY.cohort.root) if STUDY.cohort.root else "results/phantom/LIDC-IDRI"
COHORT = Path("results/cohort.tsv")
NAMES = "results/private/names.tsv"  # which raw files a case comes from: no input, so that no other case is made again
COHORT_COLUMNS = {"case", "patient", "split", "train_rank", "status", "warnings"}  # that rules and the report ask for

# Here, since whatever an input function raises is told with a traceback.
if STUDY.cohort.root and not Path(RAW).is_dir():
    raise WorkflowError(
        f"cohort.root is {RAW}, and there is no such folder (from {os.getcwd()}): set it to the folder of the raw data"
    )
if LISTED_ONCE and re.search("{|<[a-z][a-z0-9_]*>", str(RAW)):  # it is an input
    raise WorkflowError(
        f"cohort.root is {RAW}: Snakemake takes braces and <...> in the name of a folder for its own; rename it, or set "
        "cohort.root to a link to it"
    )
if READER.listed_once and Path("results/listing.tsv").exists() and not Path(NAMES).exists():
    raise WorkflowError(
        f"{NAMES} is gone, which says where each series lies: put it back, or delete results/listing.tsv and {COHORT} and "
        "give the same command again, which lists the cases again and prepares none that is as it was"
    )
if COHORT.exists():
    missing = COHORT_COLUMNS - set(COHORT.read_text(encoding="utf-8").partition("\n")[0].split("\t"))
    if missing:
        raise WorkflowError(
            f"{COHORT} has no column {', '.join(sorted(missing))}, as when an older version wrote it: delete it and "
            "give the same command again; cases are prepared again"
        )

# What finds the worst validation cases, at each training-set size.
BENCHMARK_PREDICTIONS = f"results/predictions/{STUDY.benchmark.segmenter}/{STUDY.benchmark.arm}/{{size}}"
BENCHMARK_SCORES = f"results/scores/{STUDY.benchmark.segmenter}/{STUDY.benchmark.arm}/{{size}}.tsv"

# Local GPU jobs never meet (the default profile has one gpu); a machine without one has nothing to share.
# On a cluster the profile says gpu=1 by itself, since the submitting machine may have none.
GPU = int(uses_gpu(STUDY.compute.device))

# Several GPUs train one generator as one process each; the job asks for all of them, as far as the profile has them.
GPUS = STUDY.compute.gpus if STUDY.compute.gpus > 1 else GPU
TOGETHER = f"torchrun --standalone --nproc-per-node {GPUS} --no-python " if STUDY.compute.gpus > 1 else ""

# Where and how it runs: not a parameter, so that changing it reruns nothing.
COMPUTE = f"--compute {shlex.quote(as_json(STUDY.compute))}"
# The same of the name on the picture of a training that goes on: another name trains nothing again.
TITLE = shlex.quote(f"--study={STUDY.title.name}")

# Snakemake looks names in shell commands up in the workflow that runs: another one, where it has this as a module.
RUNNING = workflow.modifier_stack[0].globals
for name, value in {"COMPUTE": COMPUTE, "NAMES": NAMES, "TITLE": TITLE, "TOGETHER": TOGETHER}.items():
    if RUNNING.setdefault(name, value) != value:
        raise WorkflowError(f"the workflow that uses lungsyn as a module has a {name} of its own: rename it there")


def fixed(value):
    """A parameter that is ``value`` as it stands. In a string Snakemake would look for wildcards, such as the {x} of a
    study that is called "grant {x}"; what a function returns it leaves alone."""
    return lambda wildcards: value


def settings(section, model=None):
    """A parameter: a section of the config, or the part of it that ``model`` has, as JSON, as the command line takes
    it."""
    return fixed(as_json(part(section, model) if model else section))


def cohort_rows():
    """Rows of the cohort's included cases; known once the checkpoint has run."""
    table = Path(checkpoints.cohort.get().output.table)
    return included_rows(table, table.stat().st_mtime_ns)


@cache
def included_rows(table, written_ns):
    """Every job of a case asks; the table is read once each time it is written. Before anything is trained it is seen
    whether there are as many validation cases as are to be the worst."""
    from lungsyn.evaluation.groups import check_worst

    rows = [row for row in read_table(table) if row["status"] == "included"]
    check_worst(STUDY.benchmark.worst_cases, sum(row["split"] == "validation" for row in rows))
    return rows


def cases(*splits, marked=True, hosts=False):
    """An input function: case.json of every included case of these splits. It is written last and stands for the case.

    Of the train split, those that belong to the training set of the wildcard {size} (percent of the patients) if any.
    ``hosts``: also cases without marked lesions, which are never labelled data; ``marked`` False: only these.
    """
    from lungsyn.cohort.split import training_set
    from lungsyn.hosts import is_host

    def paths(wildcards):
        rows = cohort_rows()
        joins = training_set(rows, int(getattr(wildcards, "size", 100)))
        chosen = [row for row in rows if row["split"] in splits and (hosts if is_host(row) else marked)]
        return [f"results/cases/{row['case']}/case.json" for row in chosen if row["split"] != "train" or joins(row)]

    return paths


# What a generator learns from, and what only its hosts are.
LEARNED = cases("train", hosts=True)
HOSTS = cases("train", hosts=True, marked=False)


def batches(name, size):
    """The folders of a synthetic set for one training-set size, each made by one job."""
    cohort_rows()  # whoever asks is asked again once the list is made, and found to have nothing to do if it is the same
    generator = STUDY.sets[name].generator
    return [f"results/synthetic/{generator}/{name}/{size}/{i}" for i in range(STUDY.batches_of(name))]


def kind_of(wildcards):
    """The kind of the wildcard {generator}: its family's recipe is part of a job's."""
    return STUDY.generators[wildcards.generator].kind


def made_by(generator):
    """The family of a generator of the config."""
    return family("generators", STUDY.generators[generator].kind)


def trained(generator):
    """Whether there is something to train, and a model file."""
    return made_by(generator).trains


def is_checked(generator):
    """Whether what it makes is new, and held against the ranges of real CT."""
    return made_by(generator).checked


RANGES = "results/quality/{generator}/{size}/reference.json"  # in which a synthetic case's measures must lie


def of_generator(place, has=trained):
    """An input function: a file of the generator, or of the one that makes the set; none where it ``has`` none."""

    def path(wildcards):
        name = getattr(wildcards, "generator", None) or STUDY.sets[wildcards.set].generator
        return place.format(generator=name, size=wildcards.size) if has(name) else []

    return path


# (segmenter, size) of every comparison; (set, size) and (generator, size) of what they use.
COMPARED = [(segmenter, size) for segmenter in STUDY.segmenters for size in STUDY.sizes_of(segmenter)]
USED_SETS = sorted(STUDY.used_sets)
if workflow.is_main_process:
    for name in sorted(STUDY.sets.keys() - {name for name, _ in USED_SETS}):
        logger.warning(f"sets.{name} is in no arm, so it is not made.")
# Sets whose volumes are checked; generators that are trained.
CHECKED_SETS = [(name, size) for name, size in USED_SETS if is_checked(STUDY.sets[name].generator)]
USED_GENERATORS = sorted(
    {(STUDY.sets[name].generator, size) for name, size in USED_SETS if trained(STUDY.sets[name].generator)}
)
