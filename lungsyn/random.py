"""Every random draw of the project: a stream of its own for each purpose and for each thing that is drawn for.

A seed alone is not enough. Two draws that begin from the same number are the same draw, whatever they are for: volume 3
of two sets would have the same noise, and a mask's place would follow from it. So a stream is named by what it is for
and by what it is drawn for. It depends on nothing else: neither on the order of the work nor on who else draws.

    rng = stream(2024, "patch", 17)                  # numpy's Generator, of the 17th training patch
    torch.manual_seed(seed_of(2024, "weights"))       # where a number is what is asked for, as by torch
"""

import hashlib

import numpy as np


def stream(seed: int, purpose: str, *keys: int | str) -> np.random.Generator:
    """The random numbers of the draw that is named by a seed, a purpose and ``keys``."""
    return np.random.default_rng(_entropy(seed, purpose, keys))


def seed_of(seed: int, purpose: str, *keys: int | str) -> int:
    """One whole number, 0 to 2^63 - 1, in place of a stream: for torch, or as a seed that is written down."""
    return _entropy(seed, purpose, keys) >> 65


def _entropy(seed: int, purpose: str, keys: tuple) -> int:
    """128 bits of a digest of all three, as they are written in Python: 1 and "1" are two keys."""
    plain = [int(key) if isinstance(key, int | np.integer) else str(key) for key in keys]
    name = repr((int(seed), purpose, *plain))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")
