"""What each of two processes does in the test of training together; torchrun starts them.

A training from beginning to end; the same, of which one process is told to stop halfway; and its continuation.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from lungsyn import checkpoint
from lungsyn.generators.core import training
from lungsyn.generators.core.patches import TrainingPatches
from lungsyn.processes import Team, team
from lungsyn.seams import Run
from lungsyn.settings.checking import from_json
from lungsyn.settings.compute import Compute
from lungsyn.settings.generators import AnyGenerator


class Stopping(TrainingPatches):
    """One process of the two gets the signal, with the patch number 21 (process 1 has the odd ones)."""

    def __getitem__(self, i):
        if i == 21:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(i)


def main(told: dict, out: Path, processes: Team) -> None:
    settings = from_json(AnyGenerator, json.dumps(told["generator"]))
    compute = Compute.model_validate(told["compute"])
    folders = [Path(folder) for folder in told["folders"]]
    weights, _, records = training.train(folders, settings, Run(told["seed"], compute, out / "whole"), processes)
    checkpoint.save(out / f"whole-{processes.rank}", weights, {"records": records})

    training.TrainingPatches = Stopping
    try:
        training.train(folders, settings, Run(told["seed"], compute, out / "stopped"), processes)
    except SystemExit as stopped:
        print(f"process {processes.rank} left with {stopped.code}", flush=True)
    processes.any(False)  # wait for each other: a job has ended, and its checkpoint is written, before the next begins
    training.TrainingPatches = TrainingPatches
    weights, _, records = training.train(folders, settings, Run(told["seed"], compute, out / "stopped"), processes)
    checkpoint.save(out / f"resumed-{processes.rank}", weights, {"records": records})


if __name__ == "__main__":
    torch.set_num_threads(1)
    with team(torch.device("cpu")) as processes:
        main(json.loads(sys.argv[1]), Path(sys.argv[2]), processes)
