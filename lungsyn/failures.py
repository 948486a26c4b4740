"""What a failed run ends with: per failed job its rule, the reason, and the file to read."""

import re
from pathlib import Path

SHOWN = 10  # jobs; a mistake in the config can fail a thousand
BLOCK = re.compile(r"^Error in (?:group )?(?:rule )?(\S+?):\n((?:[ \t]+.*\n?)*)", re.MULTILINE)
LOG = re.compile(r"^\s+log: (\S+)", re.MULTILINE)


def summary(snakemake_log: Path) -> str:
    """A few lines per job that failed, each job once however often it was tried."""
    text = snakemake_log.read_text(encoding="utf-8", errors="replace") if snakemake_log.is_file() else ""
    failed = {}
    for rule, block in BLOCK.findall(text):
        log = LOG.search(block)
        failed[log[1] if log else rule] = (rule, Path(log[1]) if log else None)
    if not failed:
        return f"The run ended with an error before or between jobs: {snakemake_log}"
    shown = [f"  {rule}: {reason(log)}" for rule, log in list(failed.values())[:SHOWN]]
    more = [f"  and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
    head = f"{len(failed)} job{'s' * (len(failed) > 1)} failed. What is done is kept; the same command goes on."
    return "\n".join([head, *shown, *more])


def reason(log: Path | None) -> str:
    """The message with which a job ended, and where to read more."""
    if log is None:
        return "it has no log"
    if not log.is_file() or not log.stat().st_size:
        return f"it ended without a word, as when memory or time runs out\n    read: {log} (empty or missing)"
    return f"{message(log.read_text(encoding='utf-8', errors='replace'))}\n    read: {log}"


def message(text: str) -> str:
    """The last user error (`lungsyn stage verb: ...`, which may have several lines), else the last line."""
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    if not lines:
        return "it ended without a word"
    start = next((i for i in reversed(range(len(lines))) if re.match(r"lungsyn \w+ [\w-]+: (?!code )", lines[i])), None)
    return "\n    ".join(lines[start:][:6]) if start is not None else lines[-1]
