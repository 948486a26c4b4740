# Which cases, sets and settings a rule gets. Every rule sees its own section of the config, as JSON, through params.

import json
import os
import re
import shlex
from functools import cache
from pathlib import Path

import lungsyn.cli  # has the verbs and their recipes
from lungsyn.cohort.split import chosen, folds_of
from lungsyn.folds import TRAINING_SET, columns_of, folds_in, in_fold, of_training_set, training_set
from lungsyn.hosts import is_host
from lungsyn.machine import uses_gpu
from lungsyn.random import seed_of
from lungsyn.recipes import recipe_of  # a parameter of every rule: it says when new code makes results again
from lungsyn.settings.arms import Use
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
    size=TRAINING_SET,  # percent of the train patients, and of which fold, if there are any: 50 or 50-fold2


SEED = STUDY.study.seed
FOLDS = folds_of(STUDY.cohort.split)
READER = STUDY.cohort.reader
LISTED_ONCE = READER.listed_once or READER.simulates


def from_here(path):
    """A path of the config, which is one from this folder or, where --directory leads elsewhere, from the workflow's."""
    there = Path(str(HERE), path)
    return path if Path(path).exists() or not there.exists() else os.path.relpath(there)


RAW = from_here(STUDY.cohort.root) if STUDY.cohort.root else "results/phantom/LIDC-IDRI"
COHORT = Path("results/cohort.tsv")
NAMES = "results/private/names.tsv"  # which raw files a case comes from: no input, so that no other case is made again
COHORT_COLUMNS = {"case", "patient", "status", "warnings"}  # that rules and the report ask for

# Here, since whatever an input function raises is told with a traceback.
if STUDY.cohort.root and not Path(RAW).is_dir():
    raise WorkflowError(
        f"cohort.root is {RAW}, and there is no such folder (from {os.getcwd()}): set it to the folder of the raw data"
    )
for name, table in STUDY.tables.items():
    if not Path(from_here(table)).is_file():
        raise WorkflowError(
            f"sets.{name}.conditions.table is {table}, and there is no such file (from {os.getcwd()}): name the table"
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
    there = dict.fromkeys(COHORT.read_text(encoding="utf-8").partition("\n")[0].split("\t"))
    missing = {*COHORT_COLUMNS, *columns_of(folds_in([there]))} - set(there)
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
    if rows and not set(columns_of(FOLDS)) <= set(rows[0]):
        return []  # of folds, and the config asks for one split, or the other way round: it is about to be made again
    for fold in FOLDS:
        check_worst(STUDY.benchmark.worst_cases, sum(row["split"] == "validation" for row in in_fold(rows, fold)))
    return rows


def cases(*splits, marked=True, hosts=False):
    """An input function: case.json of every included case of these splits. It is written last and stands for the case.

    Of the train split, those that belong to the training set of the wildcard {size} if any. Splits are those of its
    fold; without it, cases are those of any fold. ``hosts``: also cases without marked lesions, which are never
    labelled data; ``marked`` False: only these.
    """

    def paths(wildcards):
        return case_files(getattr(wildcards, "size", "100"), splits, marked, hosts)

    return paths


def case_files(of, splits, marked=True, hosts=False):
    """As `cases`, of the training set ``of``."""
    of = of_training_set(of)
    rows = cohort_rows()
    found = [
        row["case"]
        for fold in ([of["fold"]] if "fold" in of else FOLDS)
        for row in chosen(in_fold(rows, fold), splits, of["size"])
        if (hosts if is_host(row) else marked)
    ]
    return [f"results/cases/{case}/case.json" for case in dict.fromkeys(found)]


# What a generator learns from, and what only its hosts are.
LEARNED = cases("train", hosts=True)
HOSTS = cases("train", hosts=True, marked=False)


def seed_of_fold(wildcards):
    """The seed of what is drawn for a training set: each fold and each draw of a set has its own, so that chance is not
    the same in all."""
    seed = SEED
    for name, number in of_training_set(wildcards.size).items():
        seed = seed if name == "size" else seed_of(seed, name, number)
    return seed


def undrawn(size):
    """The training set without the draw: what all draws have in common."""
    of = of_training_set(size)
    return training_set(of["size"], of.get("fold"))


def of_model(size):
    """The training set that a set's generator is of: a draw of its own, or one for all."""
    return size if STUDY.replicates_draw == "generator" else undrawn(size)


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


# Released weights and the like, which a generator reads beside the cases; looked for before anything runs.
FILES = {name: list(map(str, checked(made_by(name).files, own))) for name, own in STUDY.generators.items()}


def trained(generator):
    """Whether there is something to train, and a model file."""
    return made_by(generator).trains


def is_checked(generator):
    """Whether what it makes is new, and held against the ranges of real CT."""
    return made_by(generator).checked


RANGES = "results/quality/{generator}/{size}/reference.json"  # in which a synthetic case's measures must lie


def of_generator(place, has=trained, of=undrawn):
    """An input function: a file of the generator, or of the one that makes the set; none where it ``has`` none. ``of``:
    which training set's, where the wildcard says a draw."""

    def path(wildcards):
        name = getattr(wildcards, "generator", None) or STUDY.sets[wildcards.set].generator
        return place.format(generator=name, size=of(wildcards.size)) if has(name) else []

    return path


def folds(size):
    """The training sets of a size: one, or one in each fold."""
    return [training_set(size, fold) for fold in FOLDS]


def drawn(arm, size, replicate):
    """The training set, and the draw of it, of the synthetic set that a replicate of an arm learns from."""
    of = of_training_set(size)
    return training_set(of["size"], of.get("fold"), STUDY.draw_of(arm, replicate))


def generators_of(pairs, of=undrawn, has=trained):
    """(generator, training set) of what makes these sets, as far as it ``has`` one. ``of``: as in `of_generator`."""
    made = [(STUDY.sets[name].generator, of(size)) for name, size in pairs]
    return list(dict.fromkeys(pair for pair in made if has(pair[0])))


# (segmenter, size) of every comparison; of what it compares (segmenter, training set); (set, training set) and
# (generator, training set) of what these use.
COMPARED = [(segmenter, size) for segmenter in STUDY.segmenters for size in STUDY.sizes_of(segmenter)]
TRAINED = [(segmenter, of) for segmenter, size in COMPARED for of in folds(size)]
USED_SETS = [(name, of) for name, size in sorted(STUDY.used_sets) for of in folds(size)]


def in_folds(sets):
    """(set, training set) of draws of sets, in every fold."""
    drawn = sorted(sets, key=lambda of: (*of[:2], of[2] or 0))
    return [(name, training_set(size, fold, draw)) for name, size, draw in drawn for fold in FOLDS]


# Each draw of them that a replicate learns from. The first is the one that is audited, drawn and shared.
DRAWN_SETS = in_folds(STUDY.drawn_sets)
# Of those of several folds the first one's are drawn; all are audited, and the report has their numbers.
PICTURED_SETS = [(name, of) for name, of in USED_SETS if of_training_set(of).get("fold", 1) == 1]
if workflow.is_main_process:
    for name in sorted(STUDY.sets.keys() - {name for name, _ in USED_SETS}):
        logger.warning(f"sets.{name} is in no arm, so it is not made.")
# Sets whose volumes are checked; generators that are trained.
CHECKED_SETS = [(name, size) for name, size in USED_SETS if is_checked(STUDY.sets[name].generator)]
USED_GENERATORS = generators_of(USED_SETS)
DRAWN_GENERATORS = generators_of(DRAWN_SETS, of_model)
