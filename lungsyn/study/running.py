"""`lungsyn run`: Snakemake in this process, with one line for the whole study (``lungsyn.study.line``).

What is given is Snakemake's own: ``lungsyn run --configfile my.yaml --directory my`` is `snakemake` with the default
profile. The study is planned first, in a process of its own, so that the line counts the jobs that Snakemake itself
knows of only once the cases are listed.
"""

import io
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, suppress
from pathlib import Path

from lungsyn.machine import cpus, uses_gpu
from lungsyn.settings.checking import check, merge, read
from lungsyn.study import forecast, planning

PROFILE = "workflow/profiles/default"
# What Snakemake does instead of running jobs, which is told as ever.
NO_RUN = ("dryrun", "touch", "lint", "unlock", "list_rules", "list_target_rules", "summary", "detailed_summary", "dag",
          "rulegraph", "filegraph", "d3dag", "report", "archive", "delete_all_output", "delete_temp_output",
          "cleanup_metadata", "list_input_changes", "list_params_changes", "conda_create_envs_only")  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """Snakemake's exit status, 0 or 1."""
    from snakemake.cli import args_to_api
    from snakemake.exceptions import print_exception

    parser, args = parsed(arguments)
    if not any(getattr(args, name, None) for name in NO_RUN):
        args.logger = [*args.logger, "lungsyn"]
        prepare(args)
    try:
        return 0 if args_to_api(args, parser) else 1
    except Exception as error:  # as Snakemake's own command does
        print_exception(error)
        return 1


def parsed(arguments: Sequence[str]):
    """Snakemake's parser and what it makes of the arguments, the line's plugin being known."""
    from snakemake.cli import parse_args
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    from lungsyn.study import line

    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_lungsyn", line)
    has_profile = any(word.startswith(("--workflow-profile", "--profile")) for word in arguments)
    given = [*([] if has_profile else ["--workflow-profile", PROFILE]), *arguments]
    said = io.StringIO()
    try:
        with redirect_stderr(said):  # it tells of the profile, every time
            return parse_args(given)
    except SystemExit:
        print(said.getvalue(), file=sys.stderr, end="")
        raise


def prepare(args) -> None:
    """What the line has to know of the study before it starts."""
    from lungsyn.study.line import Start

    folder, cores = (args.directory or Path()).absolute(), args.cores or cpus()
    Start.settled = bool(args.targets) or (folder / "results/cohort.tsv").exists()
    Start.outlook = forecast.Outlook({}, {}, cores)
    with suppress(Exception):  # whatever is wrong, Snakemake says it, as ever: a forecast must not end a run
        Start.outlook = outlook(args, folder, cores)


def outlook(args, folder: Path, cores: int) -> forecast.Outlook:
    """Every job of the study, and how long it takes."""
    from snakemake.cli import parse_config

    files = [Path("config.yaml"), *args.configfile]
    extra = parse_config(args.config)
    raw = merge(read(files), extra)
    study = check(raw)
    n_cases = planning.listed_cases(folder) or study.cohort.reader.expected_cases(study.cohort)
    with ProcessPoolExecutor(1) as apart:  # Snakemake leaves traces in the process that it planned in
        jobs = apart.submit(_jobs, files, raw, max(n_cases, 3), extra).result()
    gpus = int(args.resources.get("gpu", 1)) if uses_gpu(study.compute.device) else 0
    seconds = forecast.seconds_of(study, jobs, folder)
    return forecast.Outlook(Counter(rule for rule, _ in jobs), seconds, cores, gpus)


def _jobs(files: list[Path], raw: dict, n_cases: int, extra: dict) -> list[tuple[str, dict]]:
    return planning.jobs_of(files, check(raw), n_cases, extra)
