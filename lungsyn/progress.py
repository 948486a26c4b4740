"""Progress of long work: a live line on a terminal, one line a minute in a log."""

import re
import sys
import time


class Progress:
    """Says done / total, rate, time left and a few values. ``update`` may be called as often as one likes."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0):
        self.what, self.total, self.unit = what, total, unit
        self.first, self.start, self.last_said = done, time.monotonic(), 0.0
        self.live = sys.stderr.isatty()

    def update(self, done: int, **values: float) -> None:
        now = time.monotonic()
        if now - self.last_said < (0.5 if self.live else 60) and done < self.total:
            return
        self.last_said = now
        rate = (done - self.first) / max(now - self.start, 1e-9)
        left = (self.total - done) / rate if rate > 0 else float("inf")
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        line = f"{self.what}: {done}/{self.total} {self.unit}  {rate:.3g}/s  {clock(left)} left  {shown}"
        print(f"\r{line:<100}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)
        if self.live and done >= self.total:
            print(file=sys.stderr)


def share_done(line: str) -> str:
    """How far the work is that ``update`` told of in ``line``, as ' 42%'; empty for another line."""
    told = re.match(r".+?: (\d+)/(\d+) \S+  \S+/s  ", line)
    return f" {100 * int(told[1]) // int(told[2])}%" if told else ""


def clock(seconds: float) -> str:
    """Seconds as 1:02:03, or 2:03."""
    if seconds == float("inf"):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
