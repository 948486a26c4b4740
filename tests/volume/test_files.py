import errno
import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from safetensors import SafetensorError

from lungsyn.errors import InputError
from lungsyn.volume import files
from lungsyn.volume.space import Volume
from tests.conftest import make_case


def test_a_case_comes_back_and_opens_in_nibabel(tmp_path):
    case = make_case()
    files.write_case(tmp_path / "a", case)
    back = files.open_case(tmp_path / "a")
    for name in ("ct", "nodules", "lungs", "body"):
        assert np.array_equal(getattr(back, name), getattr(case, name))
    assert np.allclose(back.affine, case.affine)
    assert back.about == case.about | {"digest": case.digest}
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(files.CASE_FILES)
    image = nib.load(tmp_path / "a" / "ct.nii")
    assert image.get_data_dtype() == np.int16
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")


def test_a_case_s_digest_changes_with_one_voxel_and_with_the_affine(tmp_path):
    case = make_case(spacing_mm=2.1)
    digest = case.digest
    assert make_case(spacing_mm=2.1).digest == digest
    files.write_case(tmp_path / "a", case)
    assert files.open_case(tmp_path / "a").digest == digest
    case.body[0, 0, 0] += 1
    assert case.digest != digest
    assert make_case(spacing_mm=2.5).digest != digest


def test_opening_maps_and_does_not_read(tmp_path):
    files.write_case(tmp_path / "a", make_case())
    assert isinstance(files.open_case(tmp_path / "a").ct.base, np.memmap) or isinstance(
        files.open_case(tmp_path / "a").ct, np.memmap
    )


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), files.whole_file(tmp_path / "x.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_masks_of_another_shape_are_refused(tmp_path):
    case = make_case()
    wrong = files.Case(case.ct, case.nodules[:-1], case.lungs, case.body, case.affine, {})
    with pytest.raises(ValueError, match="nodules has shape"):
        files.write_case(tmp_path / "a", wrong)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(InputError, match="not a case"):
        files.open_case(tmp_path / "nowhere")
    files.write_case(tmp_path / "cut", make_case())
    whole = (tmp_path / "cut/ct.nii").read_bytes()
    for length in (100, 2000):  # in the header, in the voxels
        (tmp_path / "cut/ct.nii").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"(?s)not a case .*all whole"):
            files.open_case(tmp_path / "cut")
    (tmp_path / "bad.nii").write_bytes(b"not nifti")
    with pytest.raises(InputError, match=r"bad\.nii: not a readable NIfTI"):
        files.read_volume(tmp_path / "bad.nii")
    (tmp_path / "bad.json").write_text("{")
    for name in ("bad.json", "nowhere.json"):
        with pytest.raises(InputError, match=f"{name}: not a readable JSON file"):
            files.read_json(tmp_path / name)


def test_scaled_values_are_read_scaled(tmp_path):
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(2, -10)
    nib.save(image, tmp_path / "scaled.nii.gz")
    assert (
        files.read_volume(tmp_path / "scaled.nii.gz").data.max()
        == nib.load(tmp_path / "scaled.nii.gz").get_fdata().max()
    )


def test_json_is_sorted_and_whole(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["a", "b"]
    assert files.read_json(tmp_path / "a.json") == {"a": 2, "b": 1}


def test_written_volume_has_no_hidden_scaling(tmp_path):
    files.write_volume(tmp_path / "v.nii", Volume(np.full((2, 2, 2), -1000, np.int16), np.eye(4)))
    assert nib.load(tmp_path / "v.nii").header.get_slope_inter() in ((None, None), (1.0, 0.0))


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path):
    """Another live process' temporary stays: it may be about to replace the file, too."""
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    for pid in (killed.pid, os.getppid()):
        (tmp_path / f".{pid}.a.json").write_text("half")
    (tmp_path / ".hidden.a.json").write_text("not ours")
    files.write_json(tmp_path / "a.json", {})
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", f".{os.getppid()}.a.json", ".hidden.a.json"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), "the file system is read-only"),
        (PermissionError(errno.EACCES, "Permission denied"), "no permission"),
    ],
)
def test_a_disk_that_takes_nothing_is_said_with_the_file_and_the_way_out(tmp_path, error, reason):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match=rf"a\.json cannot be written, {reason}.*same command"), files.whole_file(path):
        raise error
