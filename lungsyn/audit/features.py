"""What an image of CT looks like, as numbers: scattering, or a network of the user's.

Axes: ``images`` ``[n h w]`` in HU; ``pools`` ``[n p h w]``, the weights of ``p`` averages over each image: see
`lungsyn.volume.scattering`.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lungsyn.errors import InputError
from lungsyn.provenance import file_digest
from lungsyn.volume.intensity import to_model_range
from lungsyn.volume.scattering import (
    BIN_HU,
    LEAST_FRACTION,
    LEAST_HU,
    LEVELS,
    ORIENTATIONS,
    WINDOW_HU,
    scatter,
    wavelets,
)

BATCH_PIXELS = 2**18  # bounds the memory: about 50 MB

Extractor = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (images, pools) -> features [n p*d], float64


def digest() -> str:
    """Twelve hex digits over the filters, to the fifth decimal, and the numbers that define the extractor."""
    rounded = np.rint(np.stack([wavelets().real, wavelets().imag]) * 1e5).astype(np.int32)
    constants = f"{WINDOW_HU} {LEVELS} {ORIENTATIONS} {BIN_HU} {LEAST_HU} {LEAST_FRACTION}"
    return hashlib.sha256(rounded.tobytes() + constants.encode()).hexdigest()[:12]


@torch.no_grad()
def scattering(images: np.ndarray, pools: np.ndarray) -> np.ndarray:
    """The features of `scattering.scatter`, ``[n p*86]``, float64. Raises ValueError if a pool of an image has no
    weight."""
    if (pools.sum((2, 3)) <= 0).any():
        raise ValueError("a pool is empty: an average over nothing has no features")
    at_once = max(1, BATCH_PIXELS // images[0].size)
    parts = [
        scatter(*(torch.from_numpy(values[i : i + at_once].astype(np.float32)) for values in (images, pools)))
        for i in range(0, len(images), at_once)
    ]
    return torch.cat(parts).flatten(1).numpy()


def load_network(path: Path) -> Extractor:
    """The user's own extractor, a TorchScript file: images ``[n 3 h w]`` in [-1, 1] to ``[n d]`` or ``[n d h w]``.

    Such a file is a program: loading and calling it runs what its author wrote, so take it from where you trust. Its
    digest stands in the result (`choose`). It knows no pools: each pool is an image in which everything else is air.
    Raises InputError naming the file.
    """
    try:
        network = torch.jit.load(path, map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"audit.fidelity.weights: {path} is not a TorchScript file: {error}") from error

    @torch.no_grad()
    def extract(images: np.ndarray, pools: np.ndarray) -> np.ndarray:
        columns = []
        for pool in pools.transpose(1, 0, 2, 3):
            shown = to_model_range(np.where(pool > 0, images, WINDOW_HU[0]), WINDOW_HU)
            out = [network(torch.from_numpy(image).expand(1, 3, -1, -1)).double() for image in shown]
            columns.append(torch.cat([part.flatten(2).mean(2) if part.ndim == 4 else part for part in out]))
        return torch.cat(columns, dim=1).numpy()

    return extract


def choose(weights: Path | None) -> tuple[Extractor, str]:
    """The extractor and what to call it: the built-in one with its digest, or the file with its own."""
    if weights is None:
        return scattering, f"scattering {digest()}"
    extract = load_network(weights)
    return extract, f"{weights.name} {file_digest(weights)}"
