# Does synthetic data help my nodule segmenter, and by how much?
#   snakemake --cores all --workflow-profile workflow/profiles/default
# What is studied: config.yaml and the overlays in workflow/experiments. Where it runs: workflow/profiles.

from snakemake.utils import min_version

from lungsyn.settings import checking

min_version("9.0")


HERE = workflow.current_basedir  # of this file, also where another workflow uses it as a module


configfile: f"{HERE}/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/operation.smk"


STUDY = checked(checking.check, config)


include: "workflow/rules/common.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/generation.smk"
include: "workflow/rules/segmentation.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/evaluation.smk"


rule all:
    """The answer: the report, which holds every figure and table."""
    input:
        "results/report.html",
