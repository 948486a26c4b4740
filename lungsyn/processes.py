"""Several processes that train one network: torchrun starts them, and each takes its share of every batch.

All of them hold the same weights and walk through the same global batches, so that their number is a matter of where a
training runs and not of what it learns: sums over a batch are sums over all processes, and so is every decision.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from lungsyn.compute import loader_processes
from lungsyn.errors import InputError
from lungsyn.settings.compute import Compute

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # batch systems' warnings, and Ctrl-C


@dataclass(frozen=True)
class Team:
    """This process among ``size`` that work together; by default it is alone."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def share(self, items: Sequence) -> Sequence:
        """This process's part of ``items``; the parts of all processes are disjoint and make up the whole."""
        return items[self.rank :: self.size]

    def total(self, values: Tensor) -> Tensor:
        """The sum of every process's ``values``, the same in each; no gradient flows through it."""
        values = values.detach()
        if self.size == 1:
            return values
        everywhere = values.to(self.device, copy=True)
        dist.all_reduce(everywhere)
        return everywhere.to(values.device)

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process: the same answer in each, so that none waits for one that has left."""
        return flag if self.size == 1 else bool(self.total(torch.tensor(float(flag))) > 0)

    def parallel(self, network: nn.Module) -> nn.Module:
        """``network``, but the backward pass leaves in each process the mean of all processes' gradients."""
        if self.size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)


ALONE = Team()


@contextmanager
def team(device: torch.device) -> Iterator[Team]:
    """The processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), each on its own GPU; else this one alone."""
    size, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local + 1} of this machine finds {torch.cuda.device_count()} CUDA devices: lower "
                "compute.gpus, or ask for as many"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Team(dist.get_rank(), size, device.type)
    dist.destroy_process_group()  # not after an error: it would wait for processes that wait for this one


def reading_ahead(compute: Compute, device: torch.device) -> dict:
    """What a DataLoader is told so that as many processes read ahead as ``compute`` says (0: none), into pinned memory
    on CUDA."""
    processes = loader_processes(compute, device)
    return {
        "num_workers": processes,
        "pin_memory": device.type == "cuda",
        "persistent_workers": processes > 0,
        "prefetch_factor": 4 if processes else None,
        # Shares the memory maps of the cases; Python 3.14's own choice would copy all voxels into each process.
        "multiprocessing_context": "fork" if processes else None,
        "worker_init_fn": _leave_signals_to_the_training,
    }


def _leave_signals_to_the_training(worker: int) -> None:
    """What a loader's process does first. A terminal or a batch system signals every process of a job: the one that
    trains saves and ends the others, and cannot if they are gone before."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
