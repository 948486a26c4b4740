"""What a failed run ends with: per failed job its rule, the reason, and the file to read."""

import re
import signal
import sys
from pathlib import Path

SHOWN = 10  # jobs; a mistake in the config can fail a thousand
BLOCK = re.compile(r"^Error in (?:group )?(?:rule )?(\S+?):\n((?:[ \t]+.*\n?)*)", re.MULTILINE)
STATUS = re.compile(r"> (\S+) 2>&1' returned non-zero exit status (\d+)")  # of a job's command and its log
KILLED = 128 + signal.SIGKILL  # as a shell says it
WORDLESS = "it ended without a word, as when memory or time runs out"
# What a last line has that says why a job ended, whoever wrote it: a shell, a library, this package at a signal.
WHY = re.compile(r"(?i)error|exception|fault|abort|fail|kill|cannot|could not|not found|denied|no space|^stopped by ")
LOG = re.compile(r"^\s+log: (\S+)", re.MULTILINE)


def summary(snakemake_log: Path) -> str:
    """A few lines per job that failed, each job once however often it was tried."""
    text = snakemake_log.read_text(encoding="utf-8", errors="replace") if snakemake_log.is_file() else ""
    status_of = {log: int(status) for log, status in STATUS.findall(text)}
    failed = {}
    for rule, block in BLOCK.findall(text):
        log = LOG.search(block)
        failed[log[1] if log else rule] = (rule, Path(log[1]) if log else None)
    if not failed:
        return f"The run ended with an error before or between jobs: {snakemake_log}"
    shown = [f"  {rule}: {reason(log, status_of.get(str(log)))}" for rule, log in list(failed.values())[:SHOWN]]
    more = [f"  and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
    head = f"{len(failed)} job{'s' * (len(failed) > 1)} failed. What is done is kept; the same command goes on."
    return "\n".join([head, *shown, *more])


def over_a_line(text: str) -> str:
    """``text`` as it is to be printed where a line of progress may stand on the terminal."""
    return f"\033[K{text}" if sys.stderr.isatty() else text


def reason(log: Path | None, status: int | None = None) -> str:
    """The message with which a job ended, and where to read more; ``status`` is what its shell returned, if known."""
    if log is None:
        return "it has no log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    if not text.strip():
        return f"{WORDLESS}\n    read: {log} (empty or missing)"
    said = message(text) if status != KILLED else f"it was killed, as when memory or time runs out{last(text)}"
    return f"{said}\n    read: {log}"


def message(text: str) -> str:
    """The last user error (`lungsyn stage verb: ...`, which may have several lines), else the end of a traceback or a
    last line that says why; every job first prints its versions, then how far it is, and that is no reason."""
    lines = lines_of(text)
    starts = [i for i, line in enumerate(lines) if re.match(r"lungsyn \w+ [\w-]+: (?!code |done in )", line)]
    if starts:
        return "\n    ".join(lines[starts[-1] :][:6])
    if lines and (WHY.search(lines[-1]) or any(line.startswith("Traceback (most recent") for line in lines)):
        return lines[-1]
    return WORDLESS + last(text)


def last(text: str) -> str:
    """The last line that a job printed, as a half-sentence."""
    lines = lines_of(text)
    return f"; the last it printed: {lines[-1]}" if lines else ""


def lines_of(text: str) -> list[str]:
    """Lines with something on them; a progress line is written again and again over itself."""
    return [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
