"""What made a result: settings, versions, recipe, digest of the code. Written into every result, and reported."""

import hashlib
import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from lungsyn.recipes import code_of, recipe_of
from lungsyn.settings.section import Section
from lungsyn.volume.files import refused

PACKAGES = ("lungsyn", "torch", "monai", "snakemake", "pylidc", "pydicom", "nibabel", "numpy", "scipy", "matplotlib")


def note(job: tuple[str, ...], **facts) -> dict:
    """``facts`` (sections of the config become dicts), the versions, the recipe and the digest of the code.

    ``job``: stage and verb, and the kind of family for each seam of the verb.
    """
    plain = {
        key: value.model_dump(mode="json") if isinstance(value, Section) else value for key, value in facts.items()
    }
    return plain | {"versions": versions(), "recipe": recipe_of(*job), "code": code_of(*job)}


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that matter, and of Python."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def file_digest(path: Path) -> str:
    """Twelve hex digits over a file's bytes; of a model over its weights and settings: the file also says how long its
    training took, which is other each time."""
    if path.suffix == ".safetensors":
        return model_digest(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def model_digest(path: Path) -> str:
    """Twelve hex digits over a model's weights, as its header tells of them, and its settings. Raises InputError."""
    about, weights = model_header(path, "about", "weights")
    settings = {key: about[key] for key in ("generator", "segmenter") if key in about}
    return hashlib.sha256(json.dumps([weights, settings], sort_keys=True).encode()).hexdigest()[:12]


NO_MODEL = "not a model of lungsyn", "delete it and run the training again"  # what to say of it, and the way out
LONGEST_HEADER = 100_000_000  # bytes; that of safetensors itself


def model_facts(path: Path) -> dict:
    """The description in a model file's header; reads no weights and needs no torch. Raises InputError naming it."""
    return model_header(path, "about")[0]


def model_header(path: Path, *keys: str) -> list:
    """What a model file's header has at these keys; the first is a dict."""
    with refused(path, *NO_MODEL), open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        metadata = json.loads(file.read(length))["__metadata__"]
        found = [json.loads(metadata[key]) for key in keys]
        if not isinstance(found[0], dict):
            raise ValueError("it does not describe itself")
        return found
