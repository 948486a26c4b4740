# How a run starts and ends: what it needs is checked, its folder locked, what failed is told in a few lines.

import fcntl
import getpass
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from snakemake.exceptions import WorkflowError

from lungsyn import failures
from lungsyn.errors import InputError
from lungsyn.recipes import recorded
from lungsyn.study import planning
from lungsyn.why import find_record

# What every job inherits. The package is called by its command: that of the environment which runs this, active or not
# (an environment that Snakemake itself sets up for its jobs comes before it). What is made from patients is not for
# everybody on this machine; for the group it is as the user's umask says. And Snakemake asks who runs it, in a traceback
# where a container's user has no name.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
os.umask(os.umask(0o077) | 0o007)
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = str(os.getuid())


# Seconds each: not worth a cluster's queue.
localrules:
    all,
    cohort,
    conditions,
    nodules,
    verdict,
    compare,
    choose,
    plot_arms,
    plot_set,
    report,


def checked(check, *facts):
    """What ``check`` returns; a user's mistake ends the run with its message alone."""
    try:
        return check(*facts)
    except InputError as error:
        raise WorkflowError(str(error))


onstart:
    if not workflow.touch:  # which writes nothing; `lungsyn plan` does so where the results will not be
        checked(planning.check_disk, STUDY, Path.cwd())


onerror:
    print(failures.over_a_line(failures.summary(Path(log[0]))), file=sys.stderr)


# Snakemake locks the folder by files, which outlive a run that was killed: it then refuses the same command until it
# was run with --unlock. The kernel's lock on one more file ends with the process that holds it, however that ended.
# Every snakemake started here shares it, so who gets it alone is alone, and files that lock are left by the dead.


def check_writable():
    """Say a read-only folder now, in a line, and not after an hour, in a traceback."""
    for folder in (Path.cwd(), Path("results").absolute()):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise WorkflowError(f"{folder} cannot be written: make it writable, or name another place with --directory")


MADE = ("generator", "synthetic", "segmentation", "predictions", "scores")  # below results


def check_records():
    """Results without Snakemake's records of them look finished, whatever was changed since in config, code or data."""
    known = any(
        os.scandir(folder) for folder in (".snakemake/metadata", ".snakemake/incomplete") if Path(folder).is_dir()
    )
    made = [part for part in MADE if Path("results", part).is_dir() and any(os.scandir(f"results/{part}"))]
    if any(path.stat().st_size for path in Path("results/cases").glob("*/ct.nii")):  # empty: left out, or made up
        made.insert(0, "cases")
    if made and not known and not {"--touch", "-t"} & set(sys.argv):
        raise WorkflowError(
            f"{Path('results').absolute()} holds results ({', '.join(made)}), but .snakemake beside it has no record of "
            "what made them, as after a copy without it, so a change would not be noticed: copy .snakemake along, or "
            "accept the results as they are by the same command with --touch, or move them away"
        )


def check_version():
    """Versions before the recipes noted none. Snakemake would delete what they made, and make it again, without a word."""
    for table, verb in (("results/listing.tsv", "index"), ("results/cohort.tsv", "table")):
        record = find_record(Path(table))[0]
        if record and not recorded(record["params"] or [], verb) and not {"--touch", "-t"} & set(sys.argv):
            raise WorkflowError(
                f"{Path('results').absolute()} holds results of an older version of lungsyn, which would all be made "
                "again: move it away together with .snakemake beside it and give the same command again, or accept the "
                "results as if this version had made them by the same command with --touch"
            )


def announce():
    """Share the kernel's lock of this folder while this process lives; remove Snakemake's if nobody else does."""
    Path(".snakemake").mkdir(exist_ok=True)
    with suppress(OSError):  # Snakemake made it, and its log in it, before this was read; somebody else owns it
        os.chmod(".snakemake", os.stat(".snakemake").st_mode & 0o770)
    alive = open(".snakemake/alive", "a")
    with suppress(OSError):  # somebody else is at work, or a file system without such locks: Snakemake's stays
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if any(Path(".snakemake/locks").glob("*.lock")):
            shutil.rmtree(".snakemake/locks")
            logger.info("A run in this folder was killed: its lock is removed, its work goes on.")
    with suppress(OSError):
        fcntl.flock(alive, fcntl.LOCK_SH)
    return alive


if workflow.is_main_process:  # not its jobs on other machines
    check_writable()
    check_records()
    check_version()
    ALIVE = announce()
