"""What jobs cost: seconds, memory, and what they ran on. A job writes it beside its result, the report adds it up.

A cost says itself which job it is of: its stage and verb, and the generator, set, segmenter, arm, size, ... that it
was called with.
"""

import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lungsyn.memory import peak_host_mb
from lungsyn.volume.files import read_json

ABOUT = ["generator", "set", "segmenter", "arm", "size", "replicate", "batch", "case"]  # what a job may be of, and:
MAYBE = ["fold", "draw", "weights"]  # only in studies that have any; weights: of a generator that was trained
COLUMNS = ["stage", "verb", *ABOUT, "seconds", "host_mb", "device_mb", "ran_on"]


def spent(seconds: float, known: Mapping) -> dict:
    """What a job took: ``seconds``, highest memory of the host and of a CUDA device (MB), what it ran on.

    ``seconds``: of this process. ``known``: what its verb knows better, such as the seconds of a training that went on.
    """
    torch = sys.modules.get("torch")
    cost = {"seconds": round(seconds, 2), "host_mb": peak_host_mb(), "ran_on": f"cpu ({platform.machine()})"}
    if torch and torch.cuda.is_initialized():
        device_mb = torch.cuda.max_memory_allocated() // 1024**2
        cost |= {"device_mb": device_mb, "ran_on": f"cuda ({torch.cuda.get_device_name()})"}
    return cost | known | {"seconds": max(cost["seconds"], known.get("seconds", 0))}


def read_costs(paths: Iterable[Path]) -> list[dict]:
    """Rows of ``COLUMNS``, one per job; what a job is not of is None. They have those of ``MAYBE`` that any job has.
    Raises InputError naming the file."""
    found = [read_json(path) for path in paths]
    columns = [*COLUMNS, *(key for key in MAYBE if any(key in row for row in found))]
    return [dict.fromkeys(columns) | row for row in found]


def totals(rows: Sequence[Mapping]) -> list[dict]:
    """The jobs of each stage added up, and below them those of each verb, generator, set or segmenter.

    ``seconds`` is the sum, ``peak_mb`` the highest of one job: of its GPU where it had one, else of the host. A stage's
    own row has no ``verb``.
    """
    table = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        members = [row for row in rows if row["stage"] == stage]
        table.append({"stage": stage, "verb": None, "of": None} | _sum(members))
        for verb, of in dict.fromkeys((row["verb"], _whose(row)) for row in members):
            own = [row for row in members if (row["verb"], _whose(row)) == (verb, of)]
            table.append({"stage": stage, "verb": verb, "of": of} | _sum(own))
    return table


def _whose(row: Mapping) -> str:
    """The segmenter, else the set, else the generator that a job is of; a set's jobs are told apart by the set."""
    return next((row[key] for key in ("segmenter", "set", "generator") if row[key]), "")


def _sum(rows: Sequence[Mapping]) -> dict:
    peaks = [row["host_mb"] if row["device_mb"] is None else row["device_mb"] for row in rows]
    return {
        "jobs": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
        "peak_mb": max(peaks),
        "ran_on": "; ".join(dict.fromkeys(row["ran_on"] for row in rows)),
    }
