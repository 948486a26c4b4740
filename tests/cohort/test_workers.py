import os
import signal
import subprocess
import sys
import time

from lungsyn.cohort.workers import mapping
from tests.conftest import ROOT

NEVER_ENDING = """
import os, time
from lungsyn.cohort.workers import mapping

def work(_):
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: print may write the line's end by itself
    time.sleep(0.2)

if __name__ == "__main__":
    with mapping(2) as map_over:
        list(map_over(work, range(10_000)))
"""


def test_results_come_in_order():
    for workers in (1, 2):
        with mapping(workers) as map_over:
            assert list(map_over(abs, [-3, 2, -1])) == [3, 2, 1]


def ended(pid: int) -> bool:
    """Gone, or waiting for nothing but to be noticed."""
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout[:1] in ("", "Z")


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "never_ending.py"
    script.write_text(NEVER_ENDING)
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    workers = {int(parent.stdout.readline()) for _ in range(6)}
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 20
    while not all(map(ended, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert workers and all(map(ended, workers))
