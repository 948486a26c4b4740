"""Agreement nodule by nodule: which were found, which finds are none, and the Dice of each.

The truth is an index volume (0, or the nodule's index); the prediction falls into components (26 neighbours).
A nodule owns every component that touches it. It is *found* when the two overlap with an intersection over
union of at least 0.1 (nnDetection's criterion for 3-D: Baumgartner et al. 2021), so a flood over half a lung
finds nothing. A component that touches no found nodule is a *false positive*.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

FOUND_IOU = 0.1


@dataclass(frozen=True)
class Nodule:
    """One nodule of the truth. ``dice`` is with its own components; 0 when it is missed."""

    index: int
    found: bool
    dice: float


def match_nodules(prediction: np.ndarray, nodules: np.ndarray) -> tuple[list[Nodule], int]:
    """The nodules of ``nodules`` (uint8 index ``[x y z]``) in order, and the number of false positives.

    A component over two nodules is owned by both, and neither is charged for its voxels on the other.
    """
    components, n_components = label(prediction)
    indices, counts = contingency(components, nodules, n_components)
    found, score, false_positives = judge(counts, np.ones(n_components, dtype=bool))
    return [
        Nodule(int(index), bool(hit), float(value)) for index, hit, value in zip(indices, found, score, strict=True)
    ], false_positives


def label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The mask's components, 1, 2, ... ``[x y z]``, and their number; neighbours share a face, an edge or a corner."""
    return ndimage.label(mask, structure=np.ones((3, 3, 3)))


def contingency(components: np.ndarray, nodules: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """The truth's indices ``[n]``, and shared voxels ``[1 + components, 1 + n]``; row and column 0: none."""
    marked = (components > 0) | (nodules > 0)
    component, nodule = components[marked].astype(np.int64), np.asarray(nodules[marked], dtype=np.int64)
    indices = np.unique(nodule[nodule > 0])
    column = np.searchsorted(indices, nodule, side="right")  # 0 for index 0, else 1 + its place
    shape = (n_components + 1, len(indices) + 1)
    return indices, np.bincount(component * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)


def judge(counts: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Which nodules the ``kept`` components (bool ``[p]``) find ``[n]``, the Dice of each ``[n]``, false positives.

    ``counts`` is that of `contingency`; a component that is not kept counts as not predicted.
    """
    overlap, background = counts[1:, 1:][kept], counts[1:, 0][kept]  # [p n], [p] voxels on no nodule
    owned = overlap > 0  # [p n]
    intersection = overlap.sum(axis=0)  # [n]
    truth = counts[:, 1:].sum(axis=0)  # [n]
    extra = background @ owned  # [n] voxels predicted beyond any nodule
    found = intersection >= FOUND_IOU * (truth + extra)  # union = truth + extra
    score = np.where(found, 2.0 * intersection / (truth + intersection + extra), 0.0)
    return found, score, int(np.count_nonzero(~(owned & found).any(axis=1)))
