import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from lungsyn import checkpoint, processes
from lungsyn.errors import InputError
from lungsyn.generators.core import training
from lungsyn.seams import Run
from lungsyn.settings.compute import Compute
from tests.conftest import ROOT, network_of

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)


@pytest.fixture(scope="module", params=["patches", "latents"])
def settings(request, generator_settings, latent_settings):
    """Batches of three and a last one of two, so that the two processes' shares are unequal."""
    changed = {"images": 38, "batch_patches": 3, "held_out": 0.4}
    if request.param == "patches":
        return generator_settings.model_copy(update=changed)
    autoencoder = latent_settings.autoencoder.model_copy(update={"images": 8})
    return latent_settings.model_copy(update=changed | {"autoencoder": autoencoder})


@pytest.fixture(scope="module")
def together(case_folders, settings, tmp_path_factory):
    """The folder in which two processes left what they trained, and what they said."""
    out = tmp_path_factory.mktemp("together")
    told = {"generator": settings.model_dump(mode="json"), "compute": CPU.model_dump(mode="json"), "seed": 7,
            "folders": [str(folder) for folder in case_folders]}  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "tests.generators.in_two_processes", json.dumps(told), str(out)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture(scope="module")
def alone(case_folders, settings, tmp_path_factory):
    return training.train(case_folders, settings, Run(7, CPU, tmp_path_factory.mktemp("alone")))


@pytest.mark.slow
def test_two_processes_learn_what_one_does_at_the_same_global_batch(together, alone, settings):
    """Unequal shares, nodule weights that differ between them: sums in another order are all that may differ.

    How much that is in a single weight depends on the processor: where a gradient is nearly nothing, as that of MONAI's
    biases before a norm, AdamW moves by its sign. So it is asked of all weights together, beside how far they moved:
    0.001 of it at most here, and more than 0.3 where shares are summed wrongly."""
    weights, _, records = alone
    found, about = checkpoint.load(together[0] / "whole-0")
    for mine, theirs in zip(records, about["records"], strict=True):
        assert theirs["images_seen"] == mine["images_seen"]
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-3)
        assert theirs["validation"] == pytest.approx(mine["validation"], rel=1e-3)
        assert theirs["validation_per_noise"] == pytest.approx(mine["validation_per_noise"], rel=1e-2)
    torch.manual_seed(7)
    start = network_of(settings).state_dict()
    assert distance(found, weights) < 0.02 * distance(weights, start)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Euclidean, over all weights."""
    return sum(float((a[name] - b[name]).double().square().sum()) for name in b) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("which", ["whole", "resumed"])
def test_both_processes_end_with_the_same_weights(together, which):
    first, second = (checkpoint.load(together[0] / f"{which}-{rank}")[0] for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_signal_to_one_process_ends_both_and_they_go_on_exactly(together):
    out, said = together
    assert said.count("of 38 patches are saved") == 2
    assert said.count("left with 143") == 2
    assert said.count("from 24 of 38 patches") == 1
    whole, resumed = (checkpoint.load(out / f"{which}-0") for which in ("whole", "resumed"))
    assert all(torch.equal(whole[0][name], resumed[0][name]) for name in whole[0])
    assert [r["validation"] for r in whole[1]["records"]] == [r["validation"] for r in resumed[1]["records"]]


def test_shares_are_disjoint_and_make_up_the_batch():
    shares = [processes.Team(rank, 3).share(range(10, 18)) for rank in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(10, 18))


def test_a_batch_too_small_for_the_processes_is_refused(case_folders, settings, tmp_path):
    with pytest.raises(InputError, match=r"a batch of 2 patches is too small for 3 processes: lower compute.gpus to 2"):
        training.train(case_folders, settings, Run(0, CPU, tmp_path), processes.Team(0, 3))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"process 2 .* finds 1 CUDA devices"), processes.team(torch.device("cuda")):
        pass


TRAINING = """
import sys
from pathlib import Path
from lungsyn.seams import Run
from lungsyn.settings.checking import from_json
from lungsyn.settings.compute import Compute
from lungsyn.settings.generators import AnyGenerator
from lungsyn.generators.core.training import train

compute = Compute(device="cpu", precision="float32", generator_threads=1, loader_processes=2, checkpoint_seconds=3600)
train([Path(f) for f in sys.argv[3:]], from_json(AnyGenerator, sys.argv[2]), Run(0, compute, Path(sys.argv[1])))
"""


def test_a_signal_to_every_process_of_a_job_lets_the_training_save(case_folders, settings, tmp_path):
    """As Slurm sends it: also to the processes that read patches ahead, which must not go first."""
    long = settings.model_copy(update={"images": 100_000, "batch_patches": 2, "held_out": 0.0})
    command = [sys.executable, "-c", TRAINING, tmp_path, long.model_dump_json(), *case_folders]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           start_new_session=True)  # fmt: skip
    try:
        said = next(line for line in run.stdout if line.startswith("generator: "))
        os.killpg(run.pid, signal.SIGTERM)
        said += run.communicate(timeout=120)[0]
    finally:
        run.kill()
    assert "patches are saved; the same command goes on from there" in said, said
    assert run.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.glob("generator-*/checkpoint.safetensors"))
