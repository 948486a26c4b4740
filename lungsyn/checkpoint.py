"""Weights on disk: one safetensors file with its description as JSON in the header. Written whole or not at all.

A *checkpoint* lies in a folder that Snakemake does not know (it deletes the declared outputs of a failed job), named by
a digest of everything that determines the training; so the same command goes on where it stopped, and a changed
setting starts afresh. A *model* is the result: the averaged weights alone, and what made them.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lungsyn.errors import InputError
from lungsyn.processes import ALONE, STOP_SIGNALS, Team
from lungsyn.provenance import NO_MODEL
from lungsyn.settings.checking import from_json
from lungsyn.settings.section import SectionType
from lungsyn.volume.files import refused, whole_file, write_json_lines


def save(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Write ``tensors`` and ``about`` (JSON-able) to one file, with digests of both. Tensors that share memory are
    written once."""
    first: dict[int, str] = {}
    aliases = {name: first.setdefault(tensor.data_ptr(), name) for name, tensor in tensors.items()}
    unique = {name: tensors[name].detach().cpu().contiguous() for name in first.values()}
    metadata = {
        "about": about,
        "aliases": {alias: name for alias, name in aliases.items() if alias != name},
        "weights": weights_digest(unique),
    }
    metadata["digest"] = digest(metadata)
    with whole_file(path) as temporary:
        text = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
        safetensors.torch.save_file(unique, temporary, metadata=text)
        os.umask(mask := os.umask(0o077))
        temporary.chmod(0o660 & ~mask)  # safetensors lets nobody else read; a group shares its models as other files


def load(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the description, both as they were written. Raises InputError naming a file that is damaged."""
    with refused(path, *NO_MODEL, SafetensorError, AttributeError), safe_open(path, framework="pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata.pop("digest") != digest(metadata) or metadata["weights"] != weights_digest(tensors):
            raise ValueError("damaged: what it holds is not what was written")
        return tensors | {alias: tensors[name] for alias, name in metadata["aliases"].items()}, metadata["about"]


def weights_digest(tensors: dict[str, Tensor]) -> str:
    """Twelve hex digits over names, types, shapes and every byte of tensors in the CPU's memory."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:12]


def load_model(path: Path, kind: str, settings: type[SectionType]) -> tuple[dict[str, Tensor], SectionType, dict]:
    """Weights, settings and description of a model of this ``kind`` (generator, segmenter). Raises InputError naming
    the file, also for a model of another kind or with settings that this version does not take."""
    weights, about = load(path)
    if kind not in about:
        raise InputError(f"{path}: a model of lungsyn, but not a {kind}")
    try:
        return weights, from_json(settings, json.dumps(about[kind])), about
    except InputError as error:
        raise InputError(f"{path}: made by another version; delete it and run the training again\n{error}") from None


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, averages: dict[str, dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Everything that a training needs to go on exactly: weights, optimiser moments, averaged weights by name."""
    state = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for i, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer/{i}/{key}": torch.as_tensor(value) for key, value in moments.items()}
    for kind, weights in averages.items():
        state |= {f"{kind}/{name}": tensor for name, tensor in weights.items()}
    return state


def restore(
    state: dict[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: dict[str, dict[str, Tensor]],
) -> None:
    """Put a ``training_state`` back, in place."""
    model.load_state_dict(_part(state, "model"))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part(state, "optimizer").items():
        i, key = name.split("/")
        if tensor.shape == parameters[int(i)].shape:  # fused optimisers pair elements by place in memory: same strides
            tensor = torch.empty_like(parameters[int(i)]).copy_(tensor)
        moments.setdefault(int(i), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    for kind, weights in averages.items():
        for name, tensor in _part(state, kind).items():
            weights[name].copy_(tensor)


def _part(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{kind}/"): t for name, t in state.items() if name.startswith(f"{kind}/")}


def digest(*parts) -> str:
    """Twelve hex digits that name any JSON-able content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


class Restart:
    """From where one training goes on: its checkpoint, its clock, and its end by a signal.

    ``about`` is the training's own state beside the tensors (JSON-able): ``seconds`` of work over all its runs and the
    ``records`` of its curve are here, the rest is the training's.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        averages: dict[str, dict[str, Tensor]],
        about: dict,
        every_seconds: float,
        team: Team = ALONE,
        begin_with: Path | None = None,
    ):
        """Puts the state of a stopped training back, in place, where ``folder`` holds one; else the one kept in
        ``begin_with``, if that is given."""
        self.path, self.every_seconds, self.team = folder / "checkpoint.safetensors", every_seconds, team
        self.parts = (model, optimizer, averages)
        self.about = {"seconds": 0.0, "records": []} | about
        if found := self.path if self.path.exists() else begin_with:
            state, self.about = load(found)
            restore(state, *self.parts)
        self.stop = StopRequest()
        self.saved = self.tick = time.monotonic()

    def seconds(self) -> float:
        """Seconds of work so far, this run's and those before it."""
        now = time.monotonic()
        self.about["seconds"] += now - self.tick
        self.tick = now
        return self.about["seconds"]

    def keep(self, path: Path) -> None:
        """Write the state as it is to ``path``; one process does."""
        if self.team.leads:
            self.seconds()
            save(path, training_state(*self.parts), self.about)

    def save(self) -> None:
        """Write the checkpoint and the curve so far; one process does."""
        if not self.team.leads:
            return
        self.keep(self.path)
        write_json_lines(self.path.with_name("training.jsonl"), self.about["records"])
        self.saved = time.monotonic()

    def between_steps(self, done: str) -> None:
        """Save when it is time to; at a signal to any process save and end them all, saying what is ``done``."""
        stopped = self.team.any(self.stop.received is not None)
        if stopped or time.monotonic() - self.saved > self.every_seconds:
            self.save()
        if stopped:
            self.stop.leave(f"{done} are saved")


class StopRequest:
    """Turns Ctrl-C and a batch system's warnings into a flag that a loop looks at between two steps. A second Ctrl-C
    ends the process at once."""

    def __init__(self):
        self.received: int | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number, _frame) -> None:
        if number == self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def leave(self, what: str) -> None:
        """End the process as the signal would have, after saying that the work is saved."""
        number = signal.Signals(self.received or signal.SIGTERM)  # none here: another process of the team has it
        print(f"stopped by {number.name}: {what}; the same command goes on from there", flush=True)
        sys.exit(128 + number)
