"""The phantom against what is known of it: identities, slices, the place of its nodules, its true lungs."""

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from lungsyn import registry
from lungsyn.anatomy import chest
from lungsyn.cohort import annotations, chest_painting, phantom, table
from lungsyn.errors import InputError
from lungsyn.settings.cohort import Nodules, Phantom
from lungsyn.volume.resample import resample_mask
from lungsyn.volume.space import Volume

SETTINGS = Phantom(patients=6, matrix=128, slice_thickness_mm=(2.0, 3.0), max_slices=135, noise_hu=25)
NODULES = Nodules(consensus_level=0.5, min_readers=3, min_diameter_mm=10)
SEED = 3


@pytest.fixture(scope="module")
def chosen():
    return phantom.choose_scans(SETTINGS, NODULES, SEED)


@pytest.fixture(scope="module")
def simulated(chosen):
    return [phantom.simulate(scan, SETTINGS, found, SEED) for scan, found in chosen]


def on_image(nodule, scan, hu, affine):
    """The nodule's mask on the image's grid: bool ``[x y z]``."""
    pixel_mm = -affine[0, 0]
    corner = (-affine[0, 3] - pixel_mm / 2, -affine[1, 3] - pixel_mm / 2)
    mask = annotations.mask_volume(nodule, scan, corner)
    padded = Volume(np.pad(mask.data, 2), mask.space.crop([-2] * 3, np.add(mask.data.shape, 2)).affine)
    return resample_mask(padded, Volume(hu, affine).space)


def test_choice_is_one_even_scan_per_patient(chosen):
    assert len({scan.patient_id for scan, _ in chosen}) == 6
    for scan, found in chosen:
        z_mm = annotations.slice_z_mm(scan)
        assert 2.0 <= scan.slice_thickness <= 3.0 and len(z_mm) <= 135
        assert np.allclose(np.diff(z_mm), np.diff(z_mm)[0], atol=0.01)
        assert found and all(n.readers >= 3 and n.diameter_mm >= 10 for n in found)


def test_more_patients_leave_the_others_as_they_are(chosen, simulated):
    more = phantom.choose_scans(SETTINGS.model_copy(update={"patients": 8}), NODULES, SEED)
    assert [scan.id for scan, _ in more[:6]] == [scan.id for scan, _ in chosen]
    scan, found = more[1]
    hu, lungs, _ = phantom.simulate(scan, SETTINGS, found, SEED)
    assert np.array_equal(hu, simulated[1][0]) and np.array_equal(lungs, simulated[1][1])


def test_another_seed_is_another_chest(chosen, simulated):
    scan, found = chosen[0]
    _, lungs, _ = phantom.simulate(scan, SETTINGS, found, SEED + 1)
    assert (lungs != simulated[0][1]).mean() > 0.005


def test_too_few_scans_say_what_to_change():
    with pytest.raises(InputError, match=r"only 0 patients .* 0.1 to 0.2 mm.* widen"):
        phantom.choose_scans(SETTINGS.model_copy(update={"slice_thickness_mm": (0.1, 0.2)}), NODULES, SEED)


def test_lungs_have_a_plausible_volume_and_density(simulated):
    for hu, lungs, affine in simulated:
        litres = {side: (lungs == side).sum() * abs(np.linalg.det(affine[:3, :3])) / 1e6 for side in (1, 2)}
        assert 2.5 < sum(litres.values()) < 8.0 and min(litres.values()) > 0.8
        assert -900 < np.median(hu[lungs > 0]) < -780
        right, left = ndimage.center_of_mass(lungs == 1), ndimage.center_of_mass(lungs == 2)
        assert right[0] < left[0]  # columns run to the patient's left


def test_lungs_are_two_pieces_inside_the_body(simulated):
    for hu, lungs, _ in simulated:
        for side in (1, 2):
            pieces, n = ndimage.label(lungs == side)
            assert np.bincount(pieces.ravel())[1:].max() > 0.98 * (lungs == side).sum(), n
        middle = lungs.shape[2] // 2
        edge = np.concatenate([hu[0, :, middle], hu[-1, :, middle], hu[:, 0, middle], hu[:, -1, middle]])
        assert np.median(edge) < -900 and not lungs[[0, -1]].any() and not lungs[:, [0, -1]].any()


def test_nodules_are_in_the_lungs_and_stand_out(chosen, simulated):
    for (scan, found), (hu, lungs, affine) in zip(chosen, simulated, strict=True):
        filled = np.stack([ndimage.binary_fill_holes(lungs[:, :, k] > 0) for k in range(lungs.shape[2])], axis=2)
        for nodule in found:
            mask = on_image(nodule, scan, hu, affine)
            assert mask.sum() > 3, nodule
            assert filled[mask].mean() >= 0.9
            shell = ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask, iterations=2)
            around = np.median(hu[shell & (lungs > 0)])
            contrast = {1: 120, 2: 180, 3: 250, 4: 400, 5: 500}[round(nodule.ratings["texture"])]
            assert np.median(hu[mask]) - around > contrast


def test_noise_has_the_configured_strength():
    hu = np.zeros((96, 96, 12), dtype=np.int16)
    chest_painting.add_noise(hu, 25.0, np.random.default_rng(0))
    assert hu.std() == pytest.approx(25.0, rel=0.02)
    assert np.allclose(hu.std(axis=(0, 1)), 25.0, rtol=0.06)


def test_tree_reaches_every_target_and_thins_out():
    rng = np.random.default_rng(0)
    targets = rng.uniform(20, 80, (40, 3))
    segments = chest_painting.grow_tree(rng, np.zeros(3), targets, 6.0)
    ends = np.array([end for _, end, _, _ in segments])
    assert all((np.abs(ends - target).sum(axis=1) < 1e-9).any() for target in targets)
    assert all(thin <= thick for _, _, thick, thin in segments)
    starts = {tuple(start) for start, _, _, _ in segments} - {(0.0, 0.0, 0.0)}
    assert starts <= {tuple(end) for end in ends}  # connected


def test_capsule_of_known_volume():
    """A stamped capsule of radius 6 and length 30 mm has the volume of a cylinder and a sphere."""
    axis = np.arange(-30.0, 30.0, 0.75)
    grid = chest.Grid(axis, axis, np.arange(-30.0, 30.0, 1.0))
    hu = np.zeros(grid.shape, dtype=np.float32)
    chest_painting.stamp(hu, grid, (np.array([-15.0, 0, 0]), np.array([15.0, 0, 0]), 6.0, 6.0), 1.0)
    assert hu.sum() * 0.75**2 == pytest.approx(np.pi * 36 * 30 + 4 / 3 * np.pi * 216, rel=0.02)


def test_written_series_have_the_identities_and_slices_of_the_database(tmp_path, chosen, simulated, monkeypatch):
    done = {scan.id: result for (scan, _), result in zip(chosen, simulated, strict=True)}
    monkeypatch.setattr(phantom, "simulate", lambda scan, *_: done[scan.id])  # the same again: save the time
    lines = []
    phantom.write_cohort(SETTINGS, NODULES, SEED, tmp_path, progress=lines.append)
    assert len(lines) == 6
    for (scan, _), (hu, _, affine) in zip(chosen, simulated, strict=True):
        folder = tmp_path / scan.patient_id / scan.study_instance_uid / scan.series_instance_uid
        slices = sorted((pydicom.dcmread(f) for f in folder.iterdir()), key=lambda s: s.ImagePositionPatient[2])
        z_mm = [float(s.ImagePositionPatient[2]) for s in slices]
        np.testing.assert_allclose(z_mm, annotations.slice_z_mm(scan), atol=0.01)
        assert {(s.PatientID, s.StudyInstanceUID, s.SeriesInstanceUID) for s in slices} == {
            (scan.patient_id, scan.study_instance_uid, scan.series_instance_uid)
        }
        assert sorted(int(s.InstanceNumber) for s in slices) == list(range(1, len(slices) + 1))
        assert len({s.SOPInstanceUID for s in slices}) == len(slices)
        first = slices[0]
        assert first.Manufacturer == "lungsyn phantom" and "PHANTOM" in first.SeriesDescription
        assert list(first.PixelSpacing) == pytest.approx([scan.pixel_spacing * 4] * 2, abs=1e-5)
        assert list(first.ImagePositionPatient)[:2] == pytest.approx([-affine[0, 3], -affine[1, 3]], abs=1e-5)
        stored = np.stack(
            [s.pixel_array.astype(int) * int(s.RescaleSlope) + int(s.RescaleIntercept) for s in slices],
            axis=-1,
        )
        assert np.array_equal(stored.transpose(1, 0, 2), hu)


# --------------------------------------------------------------------------------------------------------------- hosts


def test_hosts_are_further_patients_without_a_nodule(chosen, monkeypatch):
    wanted = SETTINGS.model_copy(update={"hosts": 3})
    found = phantom.choose_scans(wanted, NODULES, SEED)
    assert [scan.id for scan, _ in found[:6]] == [scan.id for scan, _ in chosen]
    assert len({scan.patient_id for scan, _ in found}) == 9
    assert all(nodules for _, nodules in found[:6]) and not any(nodules for _, nodules in found[6:])
    monkeypatch.setattr(annotations, "all_scans", lambda: [scan for scan, _ in found])
    with pytest.raises(InputError, match="only 3 further patients of LIDC-IDRI have such a scan without a nodule"):
        phantom.choose_scans(wanted.model_copy(update={"hosts": 4}), NODULES, SEED)


def test_a_series_of_lidc_idri_without_a_nodule_is_a_host_if_the_user_says_so(tmp_path, study):
    """The phantom's are always: it writes those alone that were asked for."""
    cohort = study.cohort.model_copy(
        update={"nodules": NODULES, "phantom": SETTINGS.model_copy(update={"hosts": 1, "slice_thickness_mm": (3, 3)})}
    )
    scans = phantom.choose_scans(cohort.phantom, NODULES, SEED)
    for scan, _ in (scans[0], scans[-1]):
        phantom._write_one(cohort.phantom, NODULES, SEED, tmp_path, scan.series_instance_uid)
    (marked, _), (host, _) = scans[0], scans[-1]

    def roles(dataset: str, unmarked: str) -> dict:
        asked = cohort.model_copy(update={"unmarked": unmarked})
        rows = registry.family("readers", dataset).index(tmp_path, asked, 1)
        return {row["patient"]: (row["status"], row.get("role"), row["n_nodules"]) for row in rows}

    both = {marked.patient_id: ("included", "marked", len(scans[0][1])), host.patient_id: ("included", "host", 0)}
    assert roles("phantom", "excluded") == roles("lidc", "host") == both
    assert roles("lidc", "excluded")[host.patient_id][0] == "excluded"
    (row,) = (row for row in registry.family("readers", "lidc").index(tmp_path, cohort.model_copy(
        update={"unmarked": "host"}), 1) if row["patient"] == host.patient_id)  # fmt: skip
    case = table.prepare_case(row | {"case": "host"}, cohort, tmp_path)
    assert case.about["role"] == "host" and not case.nodules.any() and (case.lungs > 0).mean() > 0.1
