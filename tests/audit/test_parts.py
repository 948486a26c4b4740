"""Small cubes are found in whatever body and however turned, and strangers' are not."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from lungsyn.audit.memorisation import TURNS
from lungsyn.audit.parts import EDGE_VOXELS, cubes, details, invariants, search
from tests.conftest import make_case

EDGE = 30


def window(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """HU of smooth noise in a body that fills the window, without lungs or nodule."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(EDGE,) * 3), 1)
    masks = np.zeros((3, *noise.shape), dtype=bool)
    masks[2] = True
    return (100 * noise / noise.std()).astype(np.float32), masks


TRAIN = [cubes(*window(seed)) for seed in range(6)]


def test_the_numbers_that_find_candidates_are_the_same_in_all_turns():
    part = torch.randn(1, EDGE_VOXELS, EDGE_VOXELS, EDGE_VOXELS)
    turned = torch.stack([part[0].permute(order).flip(axes).flatten() for order, axes in TURNS])
    found = invariants(turned)
    torch.testing.assert_close(found, found[:1].expand_as(found))


def test_details_go_along_with_what_is_moved():
    hu, masks = window(0)
    first, moved = (details(np.roll(hu, shift, axis=(0, 1, 2)), masks[2]) for shift in ((0, 0, 0), (2, -1, 3)))
    inner = {tuple(p) for p in first + (2, -1, 3) if (p > 9).all() and (p < EDGE - 10).all()}
    assert inner and inner <= {tuple(p) for p in moved}


@pytest.mark.parametrize("turn", range(0, 48, 7))
def test_a_piece_of_a_train_case_is_found_anywhere_and_turned(turn):
    order, axes = TURNS[turn]
    hu, masks = window(100)
    piece = window(3)[0][5:23, 8:26, 2:20]
    hu[8:26, 3:21, 7:25] = np.flip(piece.transpose(order), axes)
    copied, stranger = search([cubes(hu, masks), cubes(*window(101))], TRAIN)
    assert copied.index == 3 and copied.correlation > 0.999
    assert stranger.correlation < 0.9


def test_a_nodule_is_found_with_what_is_around_it_in_another_body():
    train = [make_case((40, 40, 40), seed=i) for i in range(4)]
    host = make_case((40, 40, 40), seed=9)

    def parts_of(hu, case):
        return cubes(hu, np.stack([np.asarray(m) > 0 for m in (case.nodules, case.lungs, case.body)]))

    near = ndimage.distance_transform_edt(train[2].nodules == 0) <= 8
    made = np.where(near, train[2].ct, host.ct).astype(np.float32)
    known = [parts_of(case.ct.astype(np.float32), case) for case in train]
    copied, stranger = search([parts_of(made, host), parts_of(host.ct.astype(np.float32), host)], known)
    assert copied.index == 2 and copied.correlation > 0.999
    assert stranger.correlation < 0.9


def test_a_case_without_details_is_like_none():
    hu, masks = window(0)
    empty = cubes(np.zeros_like(hu), masks)
    assert empty.shape == (0, EDGE_VOXELS**3)
    assert [found.correlation for found in search([empty], TRAIN)] == [0.0]
    assert [found.correlation for found in search(TRAIN[:1], [empty])] == [0.0]
    masks[2] = False
    assert len(cubes(hu, masks)) == 0


def test_a_voxel_that_is_no_number_hides_nobody():
    """Its case has no correlation; if it is a train case's, which may be the best, nobody has."""
    hu, masks = window(3)
    hu[15, 15, 15] = np.nan
    broken = cubes(hu, masks)
    one_cube = torch.cat([TRAIN[2], torch.full((1, EDGE_VOXELS**3), torch.nan), TRAIN[3]])
    found = [each.correlation for each in search([broken, one_cube, TRAIN[3]], TRAIN)]
    assert np.isnan(found).tolist() == [True, True, False]
    assert np.isnan([each.correlation for each in search(TRAIN[:2], [*TRAIN, broken])]).all()


def test_queries_are_asked_for_one_after_the_other():
    """A set of 10,000 cases has 30 GB of cubes."""
    asked = []
    queries = (asked.append(i) or TRAIN[i] for i in range(3))
    for i, found in enumerate(search(queries, TRAIN)):
        assert (found.index, asked) == (i, list(range(i + 1)))
