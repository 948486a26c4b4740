"""A training's optimiser steps. On CUDA one is recorded as a graph and replayed.

A step on small patches is more than a thousand kernels, each of which takes longer to launch than to run: on an H100 a
generator of 32^3 patches kept the GPU busy for a tenth of the time. A CUDA graph launches all of them at once (Gray
2019, https://developer.nvidia.com/blog/cuda-graphs). It reads and writes the same memory each time, so batches are
copied to where the recorded one was, and whatever changes from step to step has to be a tensor.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps before the recording: libraries choose their kernels, optimisers make their state
Batch = dict[str, Tensor]


class Steps:
    """``step(batch)`` with the batch on the ``device``; what it returns is valid until the next call."""

    def __init__(self, step: Callable[[Batch], tuple[Tensor, ...]], device: torch.device, record: bool = True):
        self.step, self.device = step, device
        self.stream = torch.cuda.Stream(device) if record and device.type == "cuda" else None
        self.taken, self.graph = 0, None

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        if self.stream is None:
            return self.step(self._moved(batch))
        if self.graph is None and self.taken >= WARM_UP:
            self._record(batch)
        if self.graph is None or any(batch[key].shape != place.shape for key, place in self.places.items()):
            return self._by_itself(batch)
        for key, place in self.places.items():
            place.copy_(batch[key], non_blocking=True)
        self.graph.replay()
        return self.results

    def _moved(self, batch: Batch) -> Batch:
        return {key: tensor.to(self.device, non_blocking=True) for key, tensor in batch.items()}

    def _by_itself(self, batch: Batch) -> tuple[Tensor, ...]:
        """Not on the default stream: what autograd remembers of it must not be a stream that cannot be recorded."""
        self.taken += 1
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            results = self.step(self._moved(batch))
        torch.cuda.current_stream().wait_stream(self.stream)
        return results

    def _record(self, batch: Batch) -> None:
        """Record a step on a batch of this shape, without taking it."""
        self.places = self._moved(batch)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # a graph has memory of its own: leave it that of the steps before
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):  # a loader's thread pins
            self.results = self.step(self.places)
        self.graph = graph
