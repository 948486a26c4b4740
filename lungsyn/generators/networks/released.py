"""MAISI's networks from the files that NVIDIA released: a configuration, and tensors that must be just those it asks.

Nothing in these files is run: weights are read as tensors only, and of the configuration names are looked up, not code.
"""

import hashlib
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler
from torch import Tensor, nn

from lungsyn.errors import InputError
from lungsyn.volume.files import refused

AGAIN = "put the released file there again"


def digests(files: list[Path]) -> Tensor:
    """SHA-256 of each file: uint8 ``[files 32]``."""
    found = []
    for path in files:
        with open(path, "rb") as file:
            found.append(list(hashlib.file_digest(file, "sha256").digest()))
    return torch.tensor(found, dtype=torch.uint8)


class Configuration:
    """The JSON that describes the networks. A text ``@key`` in it stands for the value at the top of the file."""

    def __init__(self, path: Path):
        self.path = path
        with refused(path, "not a configuration of MAISI", AGAIN):
            self.values: dict = dict(json.loads(path.read_text(encoding="utf-8")))

    def build(self, key: str, *classes: type, **instead) -> Any:
        """What is described at ``key``, one of these ``classes``, some arguments being others ``instead``."""
        try:
            given = {name: self._resolved(value) for name, value in self.values[key].items()}
            wanted = {own.__name__: own for own in classes}[str(given.pop("_target_")).rpartition(".")[2]]
            return wanted(**given | instead)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            names = " or ".join(own.__name__ for own in classes)
            raise InputError(
                f"{self.path}: {key} describes no {names} that MONAI has here ({error!r}): it must be the "
                "configuration that was released with the weights"
            ) from error

    def _resolved(self, value: Any) -> Any:
        return self.values[value.lstrip("$").removeprefix("@")] if str(value).lstrip("$").startswith("@") else value


def stored(path: Path) -> Mapping[str, Any]:
    """What a file of ``torch.save`` holds, tensors by name or dicts of them. Raises InputError for anything else."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: damaged, or it holds more than tensors, and nothing else is read of it: {AGAIN}"
        ) from error
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: holds no tensors by name, as a released file does: {AGAIN}")
    return found


def part_of(found: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    """The tensors at ``key`` of what a file holds. Raises InputError where there are none."""
    if not isinstance(found.get(key), Mapping):
        raise InputError(f"{path}: holds no {key}, as a released file does: {AGAIN}")
    return found[key]


def filled(network: nn.Module, tensors: Mapping[str, Any], path: Path, version: str) -> nn.Module:
    """``network`` with these weights. Raises InputError where they are not just those that it has."""
    own = network.state_dict()
    faults = {
        "lacks": own.keys() - tensors.keys(),
        "has unknown": tensors.keys() - own.keys(),
        "has of another shape": {
            name for name in own.keys() & tensors.keys() if own[name].shape != getattr(tensors[name], "shape", None)
        },
    }
    for what, names in faults.items():
        if names:
            raise InputError(
                f"{path}: {what} {len(names)} of the tensors of {version}'s {type(network).__name__}, such as "
                f"{min(names)}: it is of another version than its configuration; {AGAIN}, or name another version"
            )
    network.load_state_dict(tensors)
    return network


def networks(
    files: list[Path], version: str, device: torch.device, precision: torch.dtype
) -> tuple[AutoencoderKlMaisi, DiffusionModelUNetMaisi, ControlNetMaisi, float, RFlowScheduler | DDPMScheduler]:
    """Autoencoder, diffusion model, ControlNet, the factor by which latents are multiplied, and the kind of noise."""
    config, (_, of_autoencoder, of_unet, of_control) = Configuration(files[0]), files
    half = device.type == "cuda" and precision != torch.float32
    attention = {} if device.type == "cuda" else {"use_flash_attention": False}  # MONAI has it for CUDA only
    norm = {} if half else {"norm_float16": False}
    weights = stored(of_autoencoder)
    weights = weights.get("unet_state_dict", weights)
    autoencoder = filled(config.build("autoencoder_def", AutoencoderKlMaisi, **norm), weights, of_autoencoder, version)
    found = stored(of_unet)
    weights = part_of(found, "unet_state_dict", of_unet)
    unet = filled(config.build("diffusion_unet_def", DiffusionModelUNetMaisi, **attention), weights, of_unet, version)
    weights = part_of(stored(of_control), "controlnet_state_dict", of_control)
    control = filled(config.build("controlnet_def", ControlNetMaisi, **attention), weights, of_control, version)
    try:
        scale_factor = float(found["scale_factor"])
    except (KeyError, TypeError, ValueError, RuntimeError):
        scale_factor = 0.0
    if not 0 < scale_factor < math.inf:
        raise InputError(f"{of_unet}: holds no scale_factor, the number that latents are multiplied with: {AGAIN}")
    noise = config.build("noise_scheduler", RFlowScheduler if version == "rflow-ct" else DDPMScheduler)
    return autoencoder, unet, control, scale_factor, noise
