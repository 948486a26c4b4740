"""`lungsyn <stage> <verb>`: parse, load, call, save. No arithmetic here.

A module per stage, each verb one rule of the workflow. Sections of the config arrive as JSON (``--generator '{...}'``).
What a verb computes with is imported by that verb: preparing a case must not wait for torch.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

from lungsyn.cli import audit, cohort, evaluation, generation, segmentation, sets, study, viewer  # noqa: F401  register verbs
from lungsyn.cli.arguments import VERBS
from lungsyn.codedigest import of_verb
from lungsyn.costs import spent
from lungsyn.errors import InputError
from lungsyn.memory import peak_host_mb
from lungsyn.provenance import versions
from lungsyn.recipes import OF_VERBS
from lungsyn.volume.files import TOO_MANY_FILES, system_error, write_json

OPEN_FILES = 10_240  # 2,500 cases
STAGES = {
    "cohort": "Find, split and prepare cases; simulate them; write them as DICOM or nnU-Net data.",
    "generation": "Train a generator, decide which masks to fill, make volumes and check them.",
    "segmentation": "Train segmenters and predict.",
    "audit": "How real is a synthetic set, and does it give patients away?",
    "evaluation": "Scores, comparison of the arms, pictures and the report.",
    "viewer": "The study's volumes in a browser.",
    "config": "The schema of config.yaml.",
}


def main(argv: list[str] | None = None) -> int:
    """The command line. User errors are one message and exit code 2, without a traceback."""
    # OpenMP threads that spin while they wait starve whatever else runs here, such as another job of the same run.
    # It has to be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.umask(os.umask(0o077) | 0o007)  # what is made from patients is not for everybody on this machine
    allow_open_files()
    args = make_parser().parse_args(argv)
    name = f"lungsyn {' '.join(args.rule)}".replace("study ", "")
    started = time.monotonic()
    if args.rule in OF_VERBS:
        print(
            f"{name}: code {of_verb(*args.rule)}, " + ", ".join(f"{k} {v}" for k, v in versions().items()), flush=True
        )
    try:
        known = args.run(args) or {}
        if getattr(args, "cost", None) and os.environ.get("RANK", "0") == "0":  # the first of several processes
            write_json(args.cost, job_of(args) | spent(time.monotonic() - started, known))
    except (InputError, FloatingPointError) as error:  # the second: a training or a network that ended in no number
        detail = f" ({error.detail})" if getattr(error, "detail", "") else ""
        print(f"{name}: {error}{detail}", file=sys.stderr)
        return 2
    except Exception as error:
        if system_error(error) not in TOO_MANY_FILES:
            raise
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        print(
            f"{name}: the system opens no more than {soft} files at a time, and each case of a training is four: raise "
            f"the limit (ulimit -n; now at most {hard}), or take fewer cases",
            file=sys.stderr,
        )
        return 2
    if args.rule in OF_VERBS:
        print(f"{name}: done in {time.monotonic() - started:.1f} s, {peak_host_mb():,} MB of memory", flush=True)
    return 0


def job_of(args) -> dict:
    """Which job this is, as its cost says it."""
    told = {key: getattr(args, key) for key in ("case", "batch") if hasattr(args, key)}
    return dict(zip(("stage", "verb"), args.rule, strict=True)) | told | getattr(args, "of", {})


def allow_open_files() -> None:
    """Ask for as many open files as the system grants: each case of a training is four memory maps, and the usual 1,024
    (macOS: 256) end at 254 cases (60)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def make_parser() -> argparse.ArgumentParser:
    """One subcommand per stage, one below it per verb."""
    parser = argparse.ArgumentParser(
        prog="lungsyn", description="One step of a study, as Snakemake runs it; `lungsyn STAGE --help` lists its verbs."
    )
    stages = parser.add_subparsers(required=True, metavar="stage")
    groups = {"study": stages}
    for (stage, name), (run, arguments) in VERBS.items():
        if stage not in groups:
            parser_of_stage = stages.add_parser(stage, help=STAGES[stage], description=STAGES[stage])
            groups[stage] = parser_of_stage.add_subparsers(required=True, metavar="verb")
        summary = run.__doc__.splitlines()[0]
        child = groups[stage].add_parser(name, help=summary, description=summary)
        arguments(child)
        if (stage, name) in OF_VERBS:
            child.add_argument("--cost", type=Path, help="where to write what the job took: seconds, memory, device")
        child.set_defaults(run=run, rule=(stage, name))
    return parser
