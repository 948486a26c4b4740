"""Label maps: what is where, by name, on one grid.

A name has a layer of its own, so that layers may overlap: a nodule lies in a lung, and the lung in the body. In
``nodules`` a voxel has the index of its nodule, in ``lungs`` 1 is right and 2 left, elsewhere 1 is inside; 0 is none.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

ALWAYS = ("nodules", "lungs", "body")  # what every case has; further names are a study's own
NO_LABELS = ("ct",)  # a case's other files


def check_names(names: Iterable[str]) -> list[str]:
    """``names`` of labels, as a list. Raises ValueError for one that cannot be the name of a label's file.

    >>> check_names(["airway", "lobe_2"])
    ['airway', 'lobe_2']
    """
    names = list(names)
    for name in names:
        if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name) or name in NO_LABELS:
            raise ValueError(f"{name!r} is no name of a label: use small letters, digits and '_', and not 'ct'")
    return names


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Layers ``{name: uint8 [x y z]}`` on one grid, at least one. Raises ValueError where their shapes differ, or where
    a name is none (`check_names`).

    >>> lungs = np.zeros((4, 4, 4), np.uint8)
    >>> LabelMap({"lungs": lungs}).names
    ('lungs',)
    """

    layers: Mapping[str, np.ndarray]

    def __post_init__(self):
        check_names(self.layers)
        if len({layer.shape for layer in self.layers.values()}) != 1:
            shapes = {name: layer.shape for name, layer in self.layers.items()}
            raise ValueError(f"the layers of a label map have one shape, not {shapes}")

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.layers:
            raise KeyError(f"no label {name!r}, only {', '.join(self.layers)}")
        return self.layers[name]

    def __contains__(self, name: str) -> bool:
        return name in self.layers

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.layers)

    @property
    def further(self) -> tuple[str, ...]:
        """The names that not every case has, sorted."""
        return tuple(sorted(self.layers.keys() - set(ALWAYS)))

    @property
    def shape(self) -> tuple[int, int, int]:
        return next(iter(self.layers.values())).shape

    def stack(self, names: Iterable[str]) -> np.ndarray:
        """The named layers as uint8 ``[n x y z]``. Raises KeyError for one that is not there."""
        return np.stack([np.asarray(self[name]) for name in names])

    def replaced(self, **layers: np.ndarray) -> "LabelMap":
        """A label map with other, or further, layers.

        >>> one = LabelMap({"body": np.ones((2, 2, 2), np.uint8)})
        >>> one.replaced(airway=np.zeros((2, 2, 2), np.uint8)).names
        ('body', 'airway')
        """
        return LabelMap({**self.layers, **layers})
