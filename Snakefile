# Does synthetic data help my nodule segmenter, and by how much?
#   snakemake --cores all --workflow-profile workflow/profiles/default
# What is studied: config.yaml and the overlays in workflow/experiments. Where it runs: workflow/profiles.

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from lungsyn import config as study_config
from lungsyn import failures, planning
from lungsyn.errors import InputError

min_version("9.0")


configfile: f"{workflow.basedir}/config.yaml"


report: "workflow/report/workflow.rst"


try:
    STUDY = study_config.check(config)
except InputError as error:
    raise WorkflowError(str(error))


include: "workflow/rules/lock.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/generation.smk"
include: "workflow/rules/segmentation.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/evaluation.smk"


# Seconds each: not worth a cluster's queue.
localrules:
    all,
    conditions,
    nodules,
    verdict,
    compare,
    plot_arms,
    plot_set,
    report,


onstart:
    try:
        planning.check_disk(STUDY, Path.cwd())
    except InputError as error:
        raise WorkflowError(str(error))


onerror:
    print(failures.summary(Path(log[0])), file=sys.stderr)


rule all:
    """The answer: the report, which holds every figure and table."""
    input:
        "results/report.html",
