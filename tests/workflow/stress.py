"""Kill the tiny study again and again; the same command must finish it, with the same bits: `make stress`.

A *disturbance* starts the command in a process group of its own, waits for its moment and kills. Moments are seeded: a
time after the start, or a time after a training was seen. A study gets a few disturbances, then one run that nobody
disturbs, and then every file is opened and every table compared with those of a study that was left alone.
"""

import argparse
import filecmp
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from lungsyn import checkpoint
from lungsyn.volume.files import FOUND_WHOLE

ROOT = Path(__file__).parents[2]
CONFIG = ("--configfile", "tests/workflow/tiny.yaml")
KEPT = (".snakemake_timestamp", FOUND_WHOLE)  # hidden files that are no leftovers
KILLS = {  # how: which processes of the run get which signal
    "terminate everything": (signal.SIGTERM, "everything"),
    "kill everything": (signal.SIGKILL, "everything"),
    "terminate a job": (signal.SIGTERM, "a job"),
    "kill a job": (signal.SIGKILL, "a job"),
    "kill snakemake alone": (signal.SIGKILL, "snakemake"),  # its jobs live on while the command is given again
}


@dataclass(frozen=True)
class Disturbance:
    """``how`` of KILLS, ``seconds`` after the start or, ``in_training``, after a training wrote a checkpoint."""

    how: str
    seconds: float
    in_training: bool


def draw(rng: np.random.Generator) -> Disturbance:
    """Half of them in trainings, the others anywhere."""
    in_training = bool(rng.random() < 0.5)
    return Disturbance(str(rng.choice(list(KILLS))), float(rng.uniform(0, 1.5 if in_training else 60)), in_training)


def start(folder: Path, *arguments: str, cores: int = 2) -> subprocess.Popen:
    """The command as a user gives it, at the head of a process group."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [
        sys.executable, "-m", "snakemake", "--workflow-profile", "workflow/profiles/default", "--cores", str(cores),
        "--directory", str(folder), *CONFIG, *arguments,
    ]  # fmt: skip
    with open(folder / "said.txt", "a", encoding="utf-8") as said:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PATH": path}, stdout=said, stderr=said, start_new_session=True
        )


def processes(run: subprocess.Popen) -> dict[int, str]:
    """Number and command of every process of the run."""
    listed = subprocess.check_output(["ps", "-A", "-ww", "-o", "pid=,pgid=,args="], text=True)
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return {int(pid): command for pid, group, command in rows if int(group) == run.pid and "<defunct>" not in command}


def jobs(run: subprocess.Popen) -> dict[int, str]:
    """Number and verb of its jobs: ``generation train``."""
    heads = {pid: command.split(" --")[0] for pid, command in processes(run).items()}
    return {pid: head.split("/lungsyn ")[1] for pid, head in heads.items() if "/lungsyn " in head}


def trainings(run: subprocess.Popen) -> dict[int, str]:
    return {pid: verb for pid, verb in jobs(run).items() if verb.endswith(" train")}


def wait_for(run: subprocess.Popen, what: Callable[[], bool]) -> None:
    """Until ``what()`` or the end of the run."""
    while run.poll() is None and not what():
        time.sleep(0.1)


def disturb(folder: Path, disturbance: Disturbance, *arguments: str) -> list[str]:
    """Start the run, kill at the moment, wait for what is left of it. Returns the verbs that were hit."""
    checkpoints, began = folder / "results/checkpoints", time.time()
    run = start(folder, *arguments)

    def training_has_saved() -> bool:
        saved = [path.stat().st_mtime for path in checkpoints.rglob("checkpoint.safetensors")]
        return max(saved, default=0) > began and bool(trainings(run))

    if disturbance.in_training:
        wait_for(run, training_has_saved)
    moment = time.monotonic() + disturbance.seconds
    wait_for(run, lambda: time.monotonic() > moment)
    number, whom = KILLS[disturbance.how]
    if whom == "a job":
        wait_for(run, lambda: bool(jobs(run)))  # on a busy machine the moment may come before the first
    hit = jobs(run)
    if whom == "a job":
        hit = dict(list((trainings(run) or hit).items())[:1])
    for pid in {"everything": list(processes(run)), "a job": list(hit), "snakemake": [run.pid]}[whom]:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    run.wait()
    while whom != "snakemake" and processes(run):  # a training that is asked to stop saves first
        time.sleep(0.1)
    return sorted(hit.values())


def continued(folder: Path) -> list[int]:
    """Of the trainings that did not start afresh when they were run last: the work that was behind them."""
    logs = (folder / "results/logs").glob("train_*/**/*.log")
    found = [re.search(r"training on .*, from (\d+) of", log.read_text()) for log in logs]
    return [int(match[1]) for match in found if match and int(match[1]) > 0]


def run_to_the_end(folder: Path, *arguments: str) -> None:
    ended = start(folder, *arguments).wait()
    assert ended == 0, f"ended with {ended}:\n{(folder / 'said.txt').read_text()[-4000:]}"


def check_whole(folder: Path) -> None:
    """Every file opens in full, nothing half-written lies beside them."""
    results = folder / "results"
    files = [path for path in results.rglob("*") if path.is_file() and "logs" not in path.parts]
    assert not [path for path in files if path.name.startswith(".") and path.name not in KEPT]
    readers = {
        ".nii": lambda path: np.asanyarray(nib.load(path).dataobj),
        ".json": lambda path: json.loads(path.read_text()),
        ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
        ".safetensors": checkpoint.load,
        ".png": lambda path: Image.open(path).load(),
    }
    for path in files:
        readers.get(path.suffix, Path.read_bytes)(path)
    assert {path.suffix for path in files} >= {".nii", ".json", ".safetensors"}


def check_same(folder: Path, undisturbed: Path) -> None:
    """Tables, masks, the digests of cases and all weights are those of the undisturbed study, bit for bit."""

    def made(pattern: str) -> list[tuple[Path, Path]]:
        paths = sorted(folder.glob(f"results/{pattern}"))
        assert paths, f"no {pattern}"
        return [(path, undisturbed / path.relative_to(folder)) for path in paths]

    for found, wanted in made("cohort.tsv") + made("[!lp]*/**/*.tsv") + made("predictions/**/*.nii.gz"):
        assert filecmp.cmp(found, wanted, shallow=False), found
    for found, wanted in made("cases/*/case.json") + made("synthetic/**/case.json"):
        assert json.loads(found.read_text())["digest"] == json.loads(wanted.read_text())["digest"], found
    for found, wanted in made("generator/**/model.safetensors") + made("segmentation/**/model.safetensors"):
        weights, others = checkpoint.load(found)[0], checkpoint.load(wanted)[0]
        assert weights.keys() == others.keys() and all(weights[name].equal(others[name]) for name in weights), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kills-per-study", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="kept, with its studies; default: a temporary one")
    parser.add_argument("--undisturbed", type=Path, default=None, help="a finished tiny study to compare with")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="stress-"))
    undisturbed = args.undisturbed or folder / "undisturbed"
    undisturbed.mkdir(parents=True, exist_ok=True)
    if not args.undisturbed:
        run_to_the_end(undisturbed)
    rng, went_on = np.random.default_rng(args.seed), 0
    for kill in range(args.kills):
        study = folder / f"study-{kill // args.kills_per_study}"
        study.mkdir(parents=True, exist_ok=True)
        disturbance = draw(rng)
        hit = disturb(study, disturbance)
        where = " in a training" if disturbance.in_training else ""
        print(f"{kill + 1:3d} {study.name}: {disturbance.how}{where}: {', '.join(hit) or 'no job'}", flush=True)
        if (kill + 1) % args.kills_per_study == 0 or kill + 1 == args.kills:
            run_to_the_end(study)
            check_whole(study)
            check_same(study, undisturbed)
            went_on += len(continued(study))
            print(f"    {study.name} is whole and the same; {len(continued(study))} trainings went on", flush=True)
    assert went_on, "no training was hit: another seed"
    print(f"{args.kills} kills, every study finished by the same command with the same bits: {folder}")


if __name__ == "__main__":
    main()
