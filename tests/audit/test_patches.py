"""Cubes lie where they should, and what masks explain is gone while what they do not stays."""

import numpy as np
import pytest
from scipy import ndimage

from lungsyn.audit.memorisation import nearest
from lungsyn.audit.patches import (
    COARSE_VOXELS,
    Cutter,
    cut,
    nodule_cutter,
    nodule_places,
    residuals,
    unexplained,
    volume_cutter,
    volume_places,
)
from lungsyn.errors import InputError
from lungsyn.volume.files import open_case

WINDOW = (-1000, 400)


def test_a_nodule_s_cube_is_the_volume_around_it(case_folders):
    places = nodule_places(case_folders)
    assert [place.name for place in places[:2]] == ["case-0/1", "case-0/2"]
    place = places[2]
    hu, masks = cut([place], Cutter(6, 1, (-1000, 30)))
    case, box = open_case(place.folder), tuple(slice(c - 3, c + 3) for c in place.centre)
    np.testing.assert_array_equal(hu[0], case.ct[box].clip(-1000, 30))
    np.testing.assert_array_equal(masks[0], [case.nodules[box] > 0, case.lungs[box] > 0, case.body[box] > 0])
    assert masks[0, 0].any()


def test_beyond_the_border_is_air(case_folders):
    hu, masks = cut(nodule_places(case_folders[:1]), Cutter(60, 1, WINDOW))
    assert (hu[:, 0] == -1000).all() and not masks[:, :, 0].any()


def test_a_coarse_volume_holds_the_whole_case_in_means(case_folders):
    places = volume_places(case_folders)
    cutter = volume_cutter(places, WINDOW)
    assert (cutter.factor, cutter.edge) == (2, 20)  # the longest axis has 40 voxels
    assert cutter.edge <= COARSE_VOXELS
    hu, masks = cut(places, cutter)
    for place, cube, mask in zip(places, hu, masks, strict=True):
        case = open_case(place.folder)
        assert 8 * (cube + 1000).sum() == pytest.approx((case.ct.clip(*WINDOW) + 1000.0).sum(), rel=1e-4)
        assert 8 * mask[2].sum() == pytest.approx((case.body > 0).sum(), rel=1e-5)


def test_too_small_a_patch_is_refused(case_folders):
    place = nodule_places(case_folders)[0]
    assert nodule_cutter(place, 12, 1, WINDOW).edge == 6
    with pytest.raises(InputError, match=r"audit.patch_mm is 10: that is 5 voxels of 2 mm.*raise patch_mm"):
        nodule_cutter(place, 10, 1, WINDOW)


def ball(rng, edge=16) -> np.ndarray:
    """A random ellipsoid in a lung with a wall beside it: masks ``[3 e e e]``, as in a cube around a nodule."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, edge)] * 3, indexing="ij"))
    radii = rng.uniform(0.3, 0.6, 3).reshape(3, 1, 1, 1)
    nodule = ((grid / radii) ** 2).sum(axis=0) < 1
    lung = (grid[0] < rng.uniform(0.6, 0.9)) | nodule
    return np.stack([nodule, lung, np.ones_like(lung)]).astype(np.float32)


def appearance(masks: np.ndarray, rng, grain: np.ndarray, blur_voxels=0.8) -> np.ndarray:
    """HU of a scanner with soft edges: tissue means of its own, and ``grain``."""
    nodule, lung, _ = masks
    tissue = np.where(nodule, rng.uniform(-50, 60), np.where(lung, rng.uniform(-900, -800), rng.uniform(0, 60)))
    return (ndimage.gaussian_filter(tissue, blur_voxels) + grain).astype(np.float32)


def grains(rng, n, edge=16) -> np.ndarray:
    rough = rng.normal(size=(n, edge, edge, edge))
    smooth = np.stack([ndimage.gaussian_filter(r, 1) for r in rough])
    return 60 * smooth / smooth.std()


def test_what_the_masks_explain_is_gone():
    rng = np.random.default_rng(0)
    masks = np.stack([ball(rng) for _ in range(4)])
    hu = np.stack([appearance(m, rng, 0.0) for m in masks])
    sharp = np.stack([appearance(m, rng, 0.0, blur_voxels=0) for m in masks])
    assert np.abs(unexplained(sharp, masks)).max() < 1e-2
    assert (unexplained(hu, masks).std(axis=(1, 2, 3)) < 0.05 * hu.std(axis=(1, 2, 3))).all()


def test_a_shared_mask_is_no_copy_but_copied_grain_is():
    """Each synthetic cube has the mask of a train cube. Raw HU cannot tell that from a copy; the residual can."""
    rng = np.random.default_rng(1)
    masks = np.stack([ball(rng) for _ in range(12)])
    grain = grains(rng, 12)
    train = np.stack([appearance(m, rng, g) for m, g in zip(masks, grain, strict=True)])
    strangers = np.stack([ball(rng) for _ in range(12)])
    held_out = np.stack([appearance(m, rng, g) for m, g in zip(strangers, grains(rng, 12), strict=True)])
    made = np.stack([appearance(m, rng, g) for m, g in zip(masks, grains(rng, 12), strict=True)])
    copied = np.stack([appearance(m, rng, g + n) for m, g, n in zip(masks, grain, 0.5 * grains(rng, 12), strict=True)])
    assert (nearest(made, [train], 1).index == np.arange(12)).mean() > 0.8  # the mask alone finds its donor

    left = unexplained(train, masks)
    found = {
        name: nearest(unexplained(x, m), [left], 1)
        for name, x, m in (("held-out", held_out, strangers), ("made", made, masks), ("copied", copied, masks))
    }
    values = {name: n.correlation for name, n in found.items()}
    assert np.median(values["made"]) < np.median(values["held-out"]) + 0.05
    assert (found["made"].index == np.arange(12)).mean() < 0.5
    assert values["copied"].min() > max(values["held-out"].max(), values["made"].max())
    assert (found["copied"].index == np.arange(12)).all()


def test_a_bright_core_in_a_generous_mask_is_explained_by_the_depth():
    """Readers draw around the rim: all nodules are cores, and one large core must not be everybody's neighbour."""
    rng = np.random.default_rng(2)

    def cored() -> tuple[np.ndarray, np.ndarray]:
        masks = ball(rng, 24)
        depth = ndimage.distance_transform_edt(masks[0])
        core = rng.uniform(700, 900) / (1 + np.exp(-(depth - rng.uniform(3, 4)) / 0.7))
        return masks, (-850 + core + grains(rng, 1, 24)[0]).astype(np.float32)

    masks, hu = (np.stack(parts) for parts in zip(*(cored() for _ in range(12)), strict=True))
    left = unexplained(hu, masks)
    pairs = np.corrcoef(left.reshape(12, -1))[np.triu_indices(12, 1)]
    assert np.abs(pairs).max() < 0.1  # the masks and their blurred versions alone leave 0.25


def test_residuals_come_in_blocks_and_in_order(case_folders, monkeypatch):
    places = nodule_places(case_folders)
    cutter = Cutter(8, 1, WINDOW)
    monkeypatch.setattr("lungsyn.audit.patches.PLACES_PER_BLOCK", 3)
    blocks = list(residuals(places, cutter))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    np.testing.assert_allclose(np.concatenate(blocks), unexplained(*cut(places, cutter)), atol=1e-3)
