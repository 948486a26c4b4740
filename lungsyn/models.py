"""Trained models, ready to be used: a model file says of which kind it is, and the family of that kind loads it."""

import json
from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.provenance import model_facts
from lungsyn.registry import family
from lungsyn.seams import Generator
from lungsyn.settings.checking import from_json
from lungsyn.settings.compute import Compute
from lungsyn.settings.synthesis import Synthesis


def load_generator(path: str | Path, compute: Compute | None = None, synthesis: Synthesis | None = None) -> Generator:
    """The generator of a model file, on its device.

    ``compute``: where it runs (``lungsyn.settings.compute``); ``synthesis``: how a volume is sampled
    (``lungsyn.settings.synthesis``). Both have defaults. Raises InputError that names the file.

    >>> from lungsyn.settings.synthesis import Synthesis
    >>> generator = lungsyn.load_generator("model.safetensors", synthesis=Synthesis(steps=5))
    >>> sorted(generator.needs)
    ['body', 'lungs', 'nodules']
    """
    path = Path(path)
    about = model_facts(path)
    if "generator" not in about:
        raise InputError(f"{path}: a model of lungsyn, but not a generator")
    own = family("generators", about["generator"]["kind"])
    settings = from_json(own.Settings, json.dumps(about["generator"]))
    return own.load(path, settings, compute or Compute(), synthesis or Synthesis())
