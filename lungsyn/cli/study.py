"""Verbs about a study as a whole and its config; none of them is a rule."""

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from lungsyn.cli.arguments import add, verb
from lungsyn.cohort.split import folds_of
from lungsyn.errors import InputError
from lungsyn.settings.checking import check, read, schema_yaml
from lungsyn.volume.files import write_text


def _why_arguments(parser):
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")


@verb("study", "why", _why_arguments)
def study_why(args) -> None:
    """Print what made a file: rule, settings, seed, inputs with their digests, code, versions, device, cost."""
    from lungsyn.why import explain

    print("\n\n".join(explain(path) for path in args.files))


def _init_arguments(parser):
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the raw data; they are only read")
    parser.add_argument("--out", type=Path, help="the overlay to write; otherwise NAME.yaml in this folder")
    parser.add_argument("--name", help="the study's title; otherwise the folder's name")
    parser.add_argument("--device", choices=["cpu", "gpu"], help="what the study will run on; otherwise what is here")
    parser.add_argument("--force", action="store_true", help="replace the overlay if it is there")


@verb("study", "init", _init_arguments)
def study_init(args) -> None:
    """Look at a folder of data, say what it holds, write a study's overlay, name the next command."""
    from lungsyn.machine import has_nvidia
    from lungsyn.study.starting import begin

    gpu = args.device == "gpu" if args.device else has_nvidia()
    begin(args.folder, args.out, args.name, gpu, args.force, partial(print, flush=True))


def _run_arguments(parser):
    parser.prefix_chars = "\0"  # no option is one of this command's
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="what snakemake takes, and nothing else"
    )


@verb("study", "run", _run_arguments)
def study_run(args) -> None:
    """Run the study: Snakemake with the default profile and one line of progress."""
    from lungsyn.study.running import run

    sys.exit(run(args.arguments))


def _plan_arguments(parser):
    parser.add_argument(
        "--configfile", type=Path, nargs="+", action="extend", default=[], help="overlays of config.yaml"
    )
    parser.add_argument("--cases", type=int, help="number of cases, where the data are not here")
    parser.add_argument(
        "--directory", type=Path, default=Path(), help="the folder that will get results/, as snakemake's"
    )


@verb("study", "plan", _plan_arguments)
def study_plan(args) -> None:
    """Print what a study will cost: jobs, hours and memory per rule, disk. Run it in the repository's folder."""
    from lungsyn.evaluation.groups import check_worst
    from lungsyn.study import planning

    files = [Path("config.yaml"), *args.configfile]
    study = check(read(files))
    n_cases = args.cases or study.cohort.reader.expected_cases(study.cohort)
    if n_cases < 3:
        raise InputError(f"{n_cases} cases below cohort.root {study.cohort.root}: say how many with --cases N")
    for fold in folds_of(study.cohort.split):
        check_worst(study.benchmark.worst_cases, Counter(planning.splits(study, n_cases, fold))["validation"])
    print(planning.plan(study, planning.jobs_of(files, study, n_cases), n_cases, args.directory))


def _share_arguments(parser):
    parser.add_argument("name", metavar="NAME", help="the synthetic set; with --model the generator")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--model", action="store_true", help="share a generator's model and not a set")
    parser.add_argument("--license", required=True, metavar="SPDX", help="for example CC-BY-4.0; spdx.org/licenses")
    for option, words in (
        ("creator", "who answers for it, as 'Family, Given'"),
        ("source", "what the real cases are: title, citation, licence, DOI. Names of LIDC-IDRI say it themselves"),
    ):
        parser.add_argument(f"--{option}", action="append", default=[], help=f"{words}; may be repeated")
    parser.add_argument("--notes", type=Path, help="a Markdown file: ethics approval, consent, funding, contact")
    parser.add_argument("--size", type=int, help="percent of the train patients; default: the largest")
    parser.add_argument("--directory", type=Path, default=Path(), help="the study's folder, as snakemake's")


@verb("study", "share", _share_arguments)
def study_share(args) -> None:
    """Make a folder for a repository: a synthetic set that passed its audit, or a model that withstood the attack."""
    from lungsyn.sharing.study import open_study
    from lungsyn.sharing.terms import terms

    if args.model:
        from lungsyn.sharing.models import share_model as share
    else:
        from lungsyn.sharing.sets import share_set as share
    study = open_study(args.directory)
    agreed = terms(args.license, args.creator, args.source, args.notes, study.cohort)
    told = share(study, args.name, study.size(args.size), agreed, args.out)
    print(f"{args.out}: {told['title']}\nRead its README.md, which goes with it, before you hand it on.")


def _schema_arguments(parser):
    add(parser, "out")


@verb("config", "schema", _schema_arguments)
def config_schema(args) -> None:
    """Write the JSON schema of config.yaml, made from the models."""
    write_text(args.out, schema_yaml())
