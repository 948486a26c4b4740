# Which cases, sets and settings a rule gets. Every rule sees its own section of the config, as JSON, through params.

import json
import os
import re
from functools import cache
from glob import glob
from pathlib import Path


wildcard_constraints:
    case=r"[^/]+",
    set="|".join(STUDY.sets) or "none",
    generator="|".join(STUDY.generators),
    segmenter="|".join(STUDY.segmenters),
    arm="|".join(re.escape(arm) for arm in STUDY.arms),
    replicate=r"\d+",
    batch=r"\d+",


SEED = STUDY.study.seed
RAW = STUDY.cohort.root or "results/phantom/LIDC-IDRI"

BENCHMARK_SCORES = f"results/scores/{STUDY.benchmark.segmenter}/{STUDY.benchmark.arm}.tsv"

# Local GPU jobs never meet (the default profile has one gpu); a machine without one has nothing to share.
# On a cluster the profile says gpu=1 by itself, since the submitting machine may have none.
GPU = int(
    STUDY.compute.device in ("cuda", "mps") or (STUDY.compute.device == "auto" and bool(glob("/dev/nvidia[0-9]*")))
)

# Where and how it runs: not a parameter, so that changing it reruns nothing.
COMPUTE = f"--compute '{study_config.as_json(STUDY.compute)}'"


def settings(section, model=None):
    """A section of the config, or the part of it that ``model`` has, as JSON: the form the command line takes."""
    return study_config.as_json(study_config.part(section, model) if model else section)


def cohort_rows():
    """Rows of the cohort's included cases; known once the checkpoint has run."""
    table = Path(checkpoints.cohort.get().output.table)
    return included_rows(table, table.stat().st_mtime_ns)


@cache
def included_rows(table, written_ns):
    """Every job of a case asks; the table is read once each time it is written."""
    from lungsyn.volume.tables import read_table

    return [row for row in read_table(table) if row["status"] == "included"]


def cases(*splits):
    """An input function: case.json of every included case of these splits. It is written last and stands for the case."""
    return lambda wildcards: [
        f"results/cases/{row['case']}/case.json" for row in cohort_rows() if row["split"] in splits
    ]


def batches(name):
    """The folders of a synthetic set, each made by one job."""
    synthetic = STUDY.sets[name]
    count = -(-synthetic.volumes // STUDY.synthesis.volumes_per_job)
    return [f"results/synthetic/{synthetic.generator}/{name}/{i}" for i in range(count)]
