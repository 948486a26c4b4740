"""What is taken from a case: the right slices, patches and voxels, and nothing of what does not count."""

from dataclasses import replace

import numpy as np
import pytest

from lungsyn.audit import specimens
from lungsyn.audit.features import scattering
from lungsyn.audit.specimens import measure, nodule_slices, specimen, spread_places
from lungsyn.volume.files import write_case
from tests.conftest import make_case


@pytest.fixture(scope="module")
def case():
    return make_case((40, 44, 30))


def all_numbers(measured) -> np.ndarray:
    parts = [*measured.features.values(), *measured.histograms.values(), measured.picture]
    return np.concatenate([np.ravel(part) for part in parts])


def test_slices_are_spread_over_the_voxels_that_count():
    counts = np.zeros((4, 4, 100), bool)
    counts[..., 20:60] = True
    assert spread_places(counts, 2, 4).tolist() == [24, 34, 44, 54]
    counts[:2, :2, 20:60] = False
    counts[:2, :2, 90] = True
    assert spread_places(counts, 0, 100).tolist() == [0, 1, 2, 3]  # each slice once
    assert spread_places(counts, 2, 1)[0] < 60


def test_outside_the_body_nothing_counts(case):
    changed = np.where(case.body > 0, case.ct, 300).astype(np.int16)
    assert (changed != case.ct).any()
    a, b = (measure(specimen(c, "a"), 2, scattering) for c in (case, replace(case, ct=changed)))
    np.testing.assert_array_equal(all_numbers(a), all_numbers(b))


def test_every_view_and_tissue_is_measured(case):
    found = measure(specimen(case, "a"), 2, scattering)
    assert {view: part.shape for view, part in found.features.items()} == {
        "axial": (2, 86), "coronal": (2, 86), "sagittal": (2, 86), "nodule": (6, 172),
    }  # fmt: skip
    means = {tissue: h @ (specimens.BIN_EDGES_HU[:-1] + 0.5) for tissue, h in found.histograms.items()}
    assert means == pytest.approx({"lung": -800, "soft tissue": 40, "nodule": 20}, abs=2)


def test_a_case_without_nodules_or_lungs_says_nothing_of_them(case):
    found = measure(specimen(case.with_labels(nodules=0 * case.nodules, lungs=0 * case.lungs), "a"), 1, scattering)
    assert set(found.features) == {"axial", "coronal", "sagittal"} and set(found.histograms) == {"soft tissue"}


def test_a_nodule_s_slices_lie_around_it_with_its_surroundings(case):
    item = specimen(case, "a")
    slices = nodule_slices(item, 1)
    assert len(slices) == 3
    for image, (inside, shell) in slices:
        assert image.shape == (48, 48) and not (inside & shell).any()
        assert np.abs(np.argwhere(inside).mean(0) - 24).max() < 1
        assert (image[inside] == 20).all() and (image[shell] < -600).mean() > 0.9
        reach_mm = 2.0 * np.abs(np.argwhere(shell) - np.argwhere(inside).mean(0)).max()
        assert 8 < reach_mm <= 8 + 2.0 * 6  # the nodule is five voxels in radius


def test_of_an_inpainted_case_only_what_was_made_counts(case):
    """One nodule of two is new: voxels away from it may change at will, those near it not."""
    made = np.zeros(case.ct.shape, bool)
    made[:20] = True  # the second nodule's side
    far, near = case.ct.copy(), case.ct.copy()
    far[34:], near[:12] = -500, -500
    a, b, c = (
        measure(specimen(replace(case, ct=ct), "a", made, numbers=[2]), 1, scattering) for ct in (case.ct, far, near)
    )
    assert len(a.features["nodule"]) == 3
    for tissue, histogram in a.histograms.items():
        np.testing.assert_array_equal(histogram, b.histograms[tissue])
    np.testing.assert_array_equal(a.picture, b.picture)
    np.testing.assert_allclose(a.features["sagittal"], b.features["sagittal"], atol=1e-6)
    assert np.abs(a.features["axial"] - c.features["axial"]).max() > 0.5


def test_a_pasted_case_that_stayed_as_it_is_says_nothing_and_a_nodule_made_again_counts(case, tmp_path):
    """Where no nodule fits, a case stays as it is; or its own nodules are made again, under their old numbers."""
    folders = {name: tmp_path / name for name in ("body", "same", "again")}
    write_case(folders["body"], case)
    write_case(folders["same"], replace(case, about=case.about | {"new_nodules": 0, "known_case": "body"}))
    moved = np.roll(np.where(case.nodules == 1, 1, 0), 1, axis=0) + np.where(case.nodules == 2, 2, 0)
    about = case.about | {"new_nodules": 1, "known_case": "body"}
    again = replace(case, about=about).with_labels(nodules=moved.astype(np.uint8))
    write_case(folders["again"], again)
    found = specimens.openers([folders["body"]], [folders["body"]], [folders["same"], folders["again"]])
    (only,) = [opener() for opener in found["synthetic"]]
    assert only.unit == "again"
    assert set(np.unique(only.nodules)) == {0, 1}
    assert only.counts[only.nodules > 0].all() and not only.counts.all()


def test_a_case_in_which_nothing_counts_is_refused(case):
    with pytest.raises(ValueError, match="no voxel counts"):
        measure(specimen(case, "a", np.zeros(case.ct.shape, bool)), 1, scattering)
