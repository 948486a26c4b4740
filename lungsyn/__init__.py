"""Does synthetic data help my nodule segmenter, by how much, and can I share it?

What a notebook needs is here by name. A name is loaded when it is first used, so ``import lungsyn`` loads no torch.

>>> generator = lungsyn.load_generator("model.safetensors")
>>> case = lungsyn.open_case("cases/one")
>>> made = generator.sample(lungsyn.Scene(case.labels, case.affine), seed=1)
>>> made.hu.shape
(16, 16, 16)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lungsyn.evaluation.dice import dice
    from lungsyn.evaluation.paired import Difference, paired_difference
    from lungsyn.models import load_generator
    from lungsyn.seams import Sampled, Scene
    from lungsyn.sets import as_case
    from lungsyn.volume.files import Case, open_case, write_case
    from lungsyn.volume.labelled import read_labels
    from lungsyn.volume.labels import LabelMap

__version__ = "0.2.0"
__all__ = [
    "Case", "Difference", "LabelMap", "Sampled", "Scene", "as_case", "dice", "load_generator", "open_case",
    "paired_difference", "read_labels", "write_case",
]  # fmt: skip

MODULES = {
    "evaluation.dice": ("dice",),
    "evaluation.paired": ("Difference", "paired_difference"),
    "models": ("load_generator",),
    "seams": ("Sampled", "Scene"),
    "sets": ("as_case",),
    "volume.files": ("Case", "open_case", "write_case"),
    "volume.labelled": ("read_labels",),
    "volume.labels": ("LabelMap",),
}
PLACES = {name: module for module, names in MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it (PEP 562)."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
