"""Parts of a patient anywhere in a case: small cubes around *details*, however they are turned or mirrored.

A detail is a place where the image is brightest or darkest at a fine scale (an extremum of the difference of two
Gaussians: Lowe 2004, Sec. 3): a fork of a vessel, a corner, a grain of noise. A copy takes its details along, whatever
body it is put in, so that only cubes around details need to be compared, and they lie voxel on voxel.

Comparing is in two stages. First each cube is described by numbers that none of the 48 turns of a cube change: mean
and mean square over voxels that a turn can exchange. The ``CANDIDATES`` train cubes with the nearest numbers are taken,
and only these are correlated, in all 48 turns. What the masks explain is removed from each cube beforehand, as in
`patches.unexplained`: a mask that is shared on purpose makes no copy.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from lungsyn.audit.memorisation import TURNS, unit
from lungsyn.audit.patches import depth_below_surface, explaining

EDGE_VOXELS = 9
SIGMAS_VOXELS = (1.0, 1.6)
LEAST_HU = 2.0  # of the difference of the Gaussians: less is rounding
DETAILS = 1000  # the strongest of a case
CANDIDATES = 16
COMPONENTS = 48  # principal ones, of the invariants
AT_ONCE = 256

HALF = EDGE_VOXELS // 2
MARGIN = 2  # that the blurred masks look beyond a voxel


@dataclass(frozen=True, eq=False)
class Found:
    """A query's best train cube: ``correlation``, the ``index`` of its case, and how many pairs were ``compared``."""

    correlation: float
    index: int
    compared: int


def details(hu: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The strongest ``DETAILS`` of a case, where it ``counts`` and a whole cube lies inside: voxels ``[n 3]``."""
    fine, coarse = (ndimage.gaussian_filter(hu, sigma) for sigma in SIGMAS_VOXELS)
    strength = np.abs(fine - coarse)
    inside = np.zeros(hu.shape, dtype=bool)
    inside[(slice(HALF, -HALF),) * 3] = True
    found = np.argwhere(
        (strength == ndimage.maximum_filter(strength, 3)) & (strength > LEAST_HU) & inside & (counts > 0)
    )
    return found[np.argsort(-strength[tuple(found.T)], kind="stable")[:DETAILS]]


def cubes(hu: np.ndarray, masks: np.ndarray, counts: np.ndarray | None = None) -> Tensor:
    """The cubes around the details of a case, less what the masks explain, of mean 0 and norm 1: ``[n e^3]``. Where
    a voxel is no number, no detail beside it can be seen: one cube of nan says so.

    ``hu`` ``[x y z]``, clipped; ``masks`` ``[3 x y z]``; ``counts``: where details are looked for (default: the body).
    """
    if not np.isfinite(hu).all():
        return torch.full((1, EDGE_VOXELS**3), torch.nan)
    places = torch.from_numpy(details(hu, masks[2] if counts is None else counts))
    if not len(places):
        return torch.zeros(0, EDGE_VOXELS**3)
    known = torch.from_numpy(np.stack([*masks, depth_below_surface(masks[0])], dtype=np.float32))
    known = F.pad(known[None], (MARGIN,) * 6, mode="replicate")  # beyond the border: the border
    given = explaining(known[:, :3], known[:, 3])[(0, slice(None), *[slice(MARGIN, -MARGIN)] * 3)]
    seen = torch.from_numpy(hu.astype(np.float32))
    return torch.cat([_unexplained(seen, given, part) for part in places.split(AT_ONCE)])


def _unexplained(hu: Tensor, given: Tensor, places: Tensor) -> Tensor:
    """The cubes of ``hu`` ``[x y z]`` around ``places`` ``[n 3]``, less what ``given`` ``[16 x y z]`` explains."""
    reach = torch.arange(-HALF, HALF + 1)
    x, y, z = (places[:, axis, None] + reach for axis in range(3))
    box = (x[:, :, None, None], y[:, None, :, None], z[:, None, None, :])
    target = hu[box].flatten(1)[:, :, None].double()  # [n e^3 1]
    columns = given[(slice(None), *box)].transpose(0, 1).flatten(2).double()  # [n 16 e^3]
    weights = torch.linalg.pinv(columns @ columns.transpose(1, 2), hermitian=True, rtol=1e-9) @ (columns @ target)
    return unit((target - columns.transpose(1, 2) @ weights)[:, :, 0].float())


@cache
def _orbits() -> Tensor:
    """The matrix ``[k e^3]`` of averages over voxels that some turn of the cube exchanges."""
    distances = np.abs(np.array(list(product(range(-HALF, HALF + 1), repeat=3))))
    _, orbit = np.unique(np.sort(distances, axis=1), axis=0, return_inverse=True)
    member = torch.from_numpy(np.arange(orbit.max() + 1)[:, None] == orbit).float()
    return member / member.sum(1, keepdim=True)


def invariants(parts: Tensor) -> Tensor:
    """Numbers that no turn or mirroring of the cubes ``[n e^3]`` changes: ``[n 2k]``."""
    means = _orbits().to(parts.device).T
    return torch.cat([parts @ means, parts.square() @ means], dim=1)


def description(train: Tensor) -> Callable[[Tensor], Tensor]:
    """Invariants in units of the train cubes' spread, in their principal directions, each halfway to equal weight."""
    found = invariants(train)
    centre, spread = found.mean(0), found.std(0).clamp(min=1e-6)
    _, _, directions = torch.linalg.svd((found - centre) / spread, full_matrices=False)
    axes = directions[:COMPONENTS].T
    widths = ((found - centre) / spread @ axes).std(0).clamp(min=1e-6).sqrt()
    return lambda parts: (invariants(parts) - centre) / spread @ axes / widths


def search(queries: Iterable[Tensor], train: Sequence[Tensor], device="cpu") -> Iterator[Found]:
    """For each query case's cubes the best among those of the ``train`` cases. A case without details is like none;
    one with a voxel that is no number has no correlation (nan), and neither has any if a train case has one.

    Memory holds the train cases' cubes, and the queries one after the other."""
    references = torch.cat(list(train)).to(device)
    owner = torch.cat([torch.full((len(part),), i) for i, part in enumerate(train)])
    if len(references) < 2 or not references.isfinite().all():
        yield from (Found(0.0 if len(references) < 2 else math.nan, 0, 0) for _ in queries)
        return
    describe = description(references)
    known = describe(references)
    for query in queries:
        best = [_best(part.to(device), references, known, describe) for part in query.split(AT_ONCE) if len(part)]
        value, at = max(best, default=(0.0, 0)) if query.isfinite().all() else (math.nan, 0)
        yield Found(value, int(owner[at]), len(query) * len(references))


def _best(parts: Tensor, references: Tensor, known: Tensor, describe) -> tuple[float, int]:
    """The highest correlation of any of ``parts`` ``[n e^3]`` with one of its candidates, and that one's index."""
    near = torch.cdist(describe(parts), known).topk(min(CANDIDATES, len(known)), largest=False).indices
    candidates = references[near]  # [n c e^3]
    values = candidates @ parts[:, _turned().to(parts.device)].transpose(1, 2)  # [n c 48]
    place = int(values.argmax())
    return float(values.max()), int(near.flatten()[place // len(TURNS)])


@cache
def _turned() -> Tensor:
    """Which voxel of a cube comes to lie where in every turn: ``[48 e^3]``."""
    numbers = torch.arange(EDGE_VOXELS**3).reshape((EDGE_VOXELS,) * 3)
    return torch.stack([numbers.permute(order).flip(axes).flatten() for order, axes in TURNS])
