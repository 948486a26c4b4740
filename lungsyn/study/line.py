"""One line for a whole run, in place of Snakemake's: a logger plugin that `lungsyn run` registers.

On a terminal the line is written over itself. Elsewhere, as in CI, it is a line a minute. What somebody has to know
(warnings, failed jobs, errors) stands above it. All that Snakemake says is in its own log, whose path is told.
"""

import logging
import shutil
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from lungsyn.failures import lines_of
from lungsyn.progress import clock, share_done
from lungsyn.study.forecast import Outlook

ERASE = "\r\033[K"
EVERY_S = {True: 1.0, False: 60.0}  # on a terminal, elsewhere
OF_A_JOB = "CalledProcessError"  # the command of a job did not end well
NAMED = 2  # kinds of jobs
TAIL = 400  # bytes of a job's log, in which its own last line of progress lies
AGAIN = "the rest goes on; at the end the reason is told"


class Start:
    """What `lungsyn run` knows before Snakemake starts: it is set there, and read by the handler."""

    outlook = Outlook({}, {}, 1)
    settled = True  # whether Snakemake's first count is that of all jobs, since the list of cases is there


class LogHandler(LogHandlerBase):
    """Snakemake's events to the line. ``running``: job -> rule, its wildcards, when it began, its log."""

    writes_to_stream, writes_to_file, needs_rulegraph = True, False, False
    has_filter, has_formatter = True, True

    def __post_init__(self) -> None:
        self.outlook, self.settled = Start.outlook, Start.settled
        self.running: dict[int, tuple[str, dict, float, str]] = {}
        self.failed: set[int] = set()
        self.live = sys.stderr.isatty()
        self.began, self.started = time.monotonic(), False
        self.over = threading.Event()
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while not self.over.wait(EVERY_S[self.live]):
            with self.lock:
                self._draw()

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        react = {
            LogEvent.RUN_INFO: self._counted,
            LogEvent.JOB_INFO: self._job_begins,
            LogEvent.JOB_FINISHED: self._job_ends,
            LogEvent.JOB_ERROR: self._job_fails,
        }.get(event)
        if react:
            react(record)
        elif record.levelno >= logging.ERROR and (self.failed or OF_A_JOB in record.getMessage()):
            return  # that a job failed is told with its reason when the run ends
        elif record.levelno >= logging.WARNING:
            self._say(record.getMessage())
        elif record.getMessage().startswith("Nothing to be done"):
            self._say("Nothing to do: every result is there, and made with these settings.")

    def _counted(self, record) -> None:
        """How many jobs there are of each rule: of all, or before the list of cases is known of those besides."""
        stats = {rule: n for rule, n in record.stats.items() if rule not in ("total", "all")}
        self.outlook.expected = Counter(stats if self.settled else self.outlook.expected | stats)
        if not self.started:
            self.started = True
            for line in self._opening():
                self._say(line)
            self._draw_if_live()

    def _opening(self) -> list[str]:
        outlook = self.outlook
        seconds, unknown = outlook.left()
        cpus = f"{outlook.cores} CPU core{'s' * (outlook.cores > 1)}"
        lines = [f"{outlook.total} jobs on {cpus}: {left_in_words(seconds, unknown)}{not_timed(unknown)}"]
        if "train_generator" in outlook.expected:
            lines.append("while the generator learns, results/live/ has a picture of what it makes so far")
        logs = [h.baseFilename for h in logging.getLogger("snakemake.logging").handlers if hasattr(h, "baseFilename")]
        return [*lines, *(f"all that Snakemake says: {Path(log)}" for log in logs)]

    def _job_begins(self, record) -> None:
        log = record.log[0] if record.log else ""
        self.failed.discard(record.jobid)  # it is tried again
        self.running[record.jobid] = (record.rule_name, dict(record.wildcards or {}), time.monotonic(), str(log))
        self._draw_if_live()

    def _job_ends(self, record) -> None:
        rule, wildcards, began, _ = self.running.pop(record.job_id, ("all", {}, 0.0, ""))
        if rule == "all":
            return
        first = rule not in self.outlook.took
        self.outlook.finished(rule, time.monotonic() - began)
        if rule == "cohort":  # how many cases there are is known now
            self.outlook.expected["prepare"] = len(self.outlook.took.get("prepare", ()))
        if rule == "synthesise" and first:
            made = "/".join(wildcards.get(key, "*") for key in ("generator", "set", "size", "batch"))
            self._say(f"the first synthetic volumes can be looked at: results/synthetic/{made}/*/ct.nii")

    def _job_fails(self, record) -> None:
        rule, wildcards, _, _ = self.running.pop(record.jobid, (record.rule_name, {}, 0.0, ""))
        self.failed.add(record.jobid)
        self._say(f"failed: {named(rule, wildcards)}; {AGAIN}")

    def line(self) -> str:
        """The line as it stands."""
        now = time.monotonic()
        seconds, unknown = self.outlook.left([(rule, now - began) for rule, _, began, _ in self.running.values()])
        failed = f", {len(self.failed)} failed" if self.failed else ""
        jobs = [named(rule, w) + share_done(tail(log)) for rule, w, _, log in self.running.values()]
        told = ", ".join(jobs) or "choosing the next job"
        return f"{self.outlook.done} of {self.outlook.total} jobs{failed}  {left_in_words(seconds, unknown)}  {told}"

    def _draw_if_live(self) -> None:
        if self.live:
            self._draw()

    def _draw(self) -> None:
        if not self.started or self.over.is_set():
            return
        if self.live:
            width = shutil.get_terminal_size().columns
            print(f"{ERASE}{self.line()[: width - 1]}\r", end="", file=sys.stderr, flush=True)
        else:
            print(f"{clock(time.monotonic() - self.began)}  {self.line()}", file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        print((ERASE if self.live else "") + text, file=sys.stderr, flush=True)

    def close(self) -> None:
        is_open = not self.over.is_set()
        self.over.set()
        if is_open and self.live:
            print(ERASE, end="", file=sys.stderr, flush=True)
        if is_open and self.outlook.done and not self.failed:
            self._say(f"{self.outlook.done} jobs done in {clock(time.monotonic() - self.began)}")
        super().close()


def named(rule: str, wildcards: dict) -> str:
    """A job in a few words."""
    return " ".join([rule, *(str(value) for value in wildcards.values())])


def left_in_words(seconds: float, unknown: list[str]) -> str:
    """``unknown``: rules of whose jobs nothing is known."""
    if not unknown:
        return f"about {clock(seconds)} left"
    return f"at least {clock(seconds)} left" if seconds >= 1 else "time left unknown"


def not_timed(unknown: list[str]) -> str:
    """Why the time is not known."""
    names = ", ".join(unknown) if len(unknown) <= NAMED else f"{len(unknown)} kinds of jobs"
    return f" ({names}: not timed here yet)" if unknown else ""


def tail(log: str) -> str:
    """The last line of a job's log; empty where there is none yet."""
    try:
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - TAIL, 0))
            lines = lines_of(file.read().decode("utf-8", "replace"))
    except OSError:
        return ""
    return lines[-1] if lines else ""
