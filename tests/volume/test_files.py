import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from safetensors import SafetensorError

from lungsyn.errors import InputError
from lungsyn.volume import files
from lungsyn.volume.blocks import Blocks
from lungsyn.volume.labels import LabelMap
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


def test_the_digest_of_a_case_of_the_usual_labels_is_what_it_always_was():
    """Verdicts and checkpoints of older versions hold it."""
    case = make_case()
    assert case.digest == files.voxels_digest(case.affine, case.ct, case.nodules, case.lungs, case.body)


def with_airway(seed: int = 0) -> files.Case:
    case = make_case(seed=seed)
    return case.with_labels(bone=(case.ct > 30).astype(np.uint8), airway=(case.ct < -820).astype(np.uint8))


def test_further_labels_come_back_by_name(tmp_path):
    case = with_airway()
    files.write_case(tmp_path / "a", case)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {*files.CASE_FILES, "airway.nii.gz", "bone.nii.gz"}
    for back in (files.open_case(tmp_path / "a"), files.whole_case(tmp_path / "a")):
        assert back.labels.names == ("nodules", "lungs", "body", "airway", "bone")
        assert all(np.array_equal(back.labels[name], case.labels[name]) for name in case.labels.names)
        assert back.digest == case.digest == back.about["digest"]
    assert files.read_json(tmp_path / "a/case.json")["labels"] == ["airway", "bone"]
    assert case.digest != make_case().digest


def test_a_case_that_lost_its_further_labels_no_longer_names_them(tmp_path):
    files.write_case(tmp_path / "a", with_airway())
    back = files.open_case(tmp_path / "a")
    usual = replace(back, labels=LabelMap({name: back.labels[name] for name in ("nodules", "lungs", "body")}))
    files.write_case(tmp_path / "b", usual)
    assert "labels" not in files.read_json(tmp_path / "b/case.json")
    assert files.open_case(tmp_path / "b").labels.names == ("nodules", "lungs", "body")


def test_a_further_label_that_changed_or_is_gone_is_noticed(tmp_path):
    files.write_case(tmp_path / "a", with_airway())
    files.whole_case(tmp_path / "a")
    files.write_volume(tmp_path / "a/airway.nii.gz", Volume(with_airway(seed=1).labels["airway"], make_case().affine))
    with pytest.raises(InputError, match=r"not the voxels that case\.json tells of"):
        files.whole_case(tmp_path / "a")
    (tmp_path / "a/airway.nii.gz").unlink()
    with pytest.raises(InputError, match=r"not a case .*airway\.nii\.gz"):
        files.open_case(tmp_path / "a")


@pytest.mark.parametrize("name", ["../secret", "ct", "Airway", "", 3])
def test_what_is_no_name_of_a_label_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is no name of a label"):
        LabelMap({name: np.zeros((2, 2, 2), np.uint8)})
    files.write_case(tmp_path / "a", make_case())
    files.write_json(tmp_path / "a/case.json", make_case().about | {"labels": [name]})
    with pytest.raises(InputError, match="is no name of a label"):
        files.open_case(tmp_path / "a")


def test_opening_maps_and_does_not_read(tmp_path):
    files.write_case(tmp_path / "a", make_case())
    case = files.open_case(tmp_path / "a")
    assert isinstance(case.ct.base, np.memmap) or isinstance(case.ct, np.memmap)
    assert isinstance(case.nodules, Blocks) and isinstance(case.lungs, Blocks) and isinstance(case.body, Blocks)


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), files.whole_file(tmp_path / "x.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_masks_of_another_shape_are_refused(tmp_path):
    case = make_case()
    with pytest.raises(ValueError, match=r"layers of a label map have one shape"):
        case.with_labels(nodules=case.nodules[:-1])
    wrong = LabelMap({name: case.labels[name][:-1] for name in case.labels.names})
    with pytest.raises(ValueError, match="the labels have shape"):
        files.write_case(tmp_path / "a", replace(case, labels=wrong))


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


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A volume in gzip, with its values: noise as that of a CT, 8,000 voxels."""
    path = tmp_path_factory.mktemp("packed") / "a.nii.gz"
    values = np.random.default_rng(0).normal(-500, 300, (20, 20, 20)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    return path, values


def turn_one_bit(content: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(content)))
    return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]


def test_a_damaged_gzip_is_never_read_as_another_image(packed, tmp_path):
    """Of its name, time and the like in the first bytes nothing depends; any other bit shows in the checksum."""
    path, values = packed
    rng, refused = np.random.default_rng(1), 0
    for _ in range(200):
        (tmp_path / "bad.nii.gz").write_bytes(turn_one_bit(path.read_bytes(), rng))
        try:
            assert np.array_equal(files.read_volume(tmp_path / "bad.nii.gz").data, values)
        except InputError as error:
            assert "not a readable NIfTI volume" in str(error)
            refused += 1
    assert refused > 190


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole + b"something else",
        lambda whole: whole + gzip.compress(b"more"),
        lambda whole: whole[:-1],
        lambda whole: whole[:-8],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:10],
        lambda whole: gzip.compress(gzip.decompress(whole) + b"\0"),
        lambda whole: gzip.compress(gzip.decompress(whole)[:-1]),
        lambda whole: gzip.decompress(whole) + b"\0",
        lambda whole: gzip.decompress(whole)[:-1],
        lambda whole: __import__("bz2").compress(gzip.decompress(whole)),
        lambda whole: b"",
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a.nii.bz2"])
def test_a_file_that_is_not_exactly_one_volume_is_refused(packed, tmp_path, damage, name):
    (tmp_path / name).write_bytes(damage(packed[0].read_bytes()))
    with pytest.raises(InputError, match=f"{name}: not a readable NIfTI volume"):
        files.read_volume(tmp_path / name)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="it is no file"):
        files.read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["a.nii.gz", "A.NII.GZ", "a.Nii.Gz"])
def test_a_suffix_is_a_suffix_however_it_is_spelt(packed, tmp_path, name):
    shutil.copy(packed[0], tmp_path / name)
    assert np.array_equal(files.read_volume(tmp_path / name).data, packed[1])


def test_gzip_in_several_members_or_padded_with_zeros_is_one_volume(packed, tmp_path):
    whole = gzip.decompress(packed[0].read_bytes())
    for content in (gzip.compress(whole[:5000]) + gzip.compress(whole[5000:]), packed[0].read_bytes() + bytes(512)):
        (tmp_path / "a.nii.gz").write_bytes(content)
        assert np.array_equal(files.read_volume(tmp_path / "a.nii.gz").data, packed[1])


def test_nifti_2_is_read_too(packed, tmp_path):
    nib.save(nib.Nifti2Image(packed[1], np.eye(4)), tmp_path / "a.nii.gz")
    assert np.array_equal(files.read_volume(tmp_path / "a.nii.gz").data, packed[1])


@pytest.mark.parametrize("shape", [(30000, 30000, 30000), (2000, 2000, 2000), (32767,) * 7, (20, 20, 0), (20, -20, 20)])
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_what_a_header_claims_is_not_asked_of_the_memory(packed, tmp_path, shape, pack, monkeypatch):
    header = nib.load(packed[0]).header
    header["dim"][: 1 + len(shape)] = (len(shape), *shape)
    monkeypatch.setattr(np, "asanyarray", None)  # nothing is allocated
    (tmp_path / "a.nii.gz").write_bytes(pack(header.binaryblock + bytes(4)))
    with pytest.raises(InputError, match=r"more than any chest has|holds no voxels"):
        files.read_volume(tmp_path / "a.nii.gz")


def test_a_volume_that_the_memory_cannot_hold_is_refused(packed, monkeypatch):
    def full(_):
        raise MemoryError

    monkeypatch.setattr(files.np, "asanyarray", full)
    with pytest.raises(InputError, match="more memory is needed than there is"):
        files.read_volume(packed[0])


def test_no_header_ends_in_a_traceback(packed, tmp_path):
    """Any byte of it may be any other: it is read, or refused."""
    whole, rng = gzip.decompress(packed[0].read_bytes()), np.random.default_rng(2)
    for at in range(352):
        changed = bytearray(whole)
        changed[at : at + 4] = rng.bytes(4)
        (tmp_path / "a.nii").write_bytes(changed[: len(whole)])
        with suppress(InputError):
            files.read_volume(tmp_path / "a.nii")


def test_that_the_system_opens_no_more_files_is_not_the_file_s_fault(packed, tmp_path, monkeypatch):
    files.write_case(tmp_path / "a", make_case())

    def none(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", none)
    monkeypatch.setattr(files.nib, "load", none)
    for read, path in ((files.read_volume, packed[0]), (files.open_case, tmp_path / "a")):
        with pytest.raises(OSError, match="Too many open files"):
            read(path)


@pytest.mark.parametrize("name", ["ct", "nodules", "lungs", "body"])
def test_a_changed_voxel_is_noticed_where_a_case_is_computed_with(tmp_path, name):
    """Opening does not read the voxels; asked for whole, each counts, in every file, and so does the affine."""
    files.write_case(tmp_path / "a", make_case())
    assert files.whole([tmp_path / "a"]) == [tmp_path / "a"]
    path = tmp_path / "a" / files.FILE_OF[name]
    volume = files.read_volume(path)
    data = np.array(volume.data)
    data[-1, -1, -1] ^= 1
    files.write_volume(path, Volume(data, volume.affine))
    files.open_case(tmp_path / "a")
    with pytest.raises(InputError, match=r"a: not the voxels that case\.json tells of .* delete the folder"):
        files.whole_case(tmp_path / "a")


def test_exchanged_and_incomplete_cases_are_noticed(tmp_path):
    for i, name in enumerate(("a", "b")):
        files.write_case(tmp_path / name, make_case(seed=i))
    files.write_case(tmp_path / "moved", make_case(spacing_mm=2.1))
    shutil.copy(tmp_path / "b/ct.nii", tmp_path / "a/ct.nii")
    shutil.copy(tmp_path / "a/case.json", tmp_path / "moved/case.json")
    for name in ("a", "moved"):
        with pytest.raises(InputError, match="not the voxels"):
            files.whole([tmp_path / "b", tmp_path / name])
    files.write_json(tmp_path / "b/case.json", {"case": "b"})
    for read in (files.whole_case, lambda folder: files.data_digests([folder])):
        with pytest.raises(InputError, match=r"b: case\.json has no digest"):
            read(tmp_path / "b")
    files.write_volume(tmp_path / "moved/body.nii.gz", Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4)))
    with pytest.raises(InputError, match=r"moved: not a case \(the CT has shape"):
        files.open_case(tmp_path / "moved")


def test_a_longer_file_of_a_case_is_refused(tmp_path):
    files.write_case(tmp_path / "a", make_case())
    with open(tmp_path / "a/ct.nii", "ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match=r"not a case .*goes on after the voxels"):
        files.open_case(tmp_path / "a")


@pytest.mark.parametrize("at", [-1, 352 + 7, 300], ids=["last voxel", "a voxel", "the affine"])
def test_a_prediction_that_was_changed_is_not_scored(tmp_path, at):
    volume = Volume(np.random.default_rng(0).integers(0, 100, (7, 8, 9)).astype(np.uint8), np.diag([2.1, 2.1, 2.1, 1]))
    files.write_volume(tmp_path / "a.nii", volume)
    assert np.array_equal(files.read_written(tmp_path / "a.nii").data, volume.data)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[at] ^= 4
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.nii: not as it was written .*delete it"):
        files.read_written(tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(volume.data, volume.affine), tmp_path / "foreign.nii")
    with pytest.raises(InputError, match="not as it was written"):
        files.read_written(tmp_path / "foreign.nii")


def test_json_nested_without_end_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not a readable JSON file"):
        files.read_json(tmp_path / "a.json")


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


def test_a_file_in_place_of_a_folder_is_said(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, what in (("file/a.json", "a file stands"), ("file/b/a.json", "a file stands"), ("folder", "a folder of")):
        with pytest.raises(InputError, match=f"cannot be written, {what}"):
            files.write_json(tmp_path / path, {})


def test_a_case_is_read_through_once_as_long_as_nobody_changes_it(case_folders, tmp_path, monkeypatch):
    """Each training of a study asks for all its cases; a file put back in its place with its old time is another."""
    folder = shutil.copytree(case_folders[0], tmp_path / "case")
    read, digest_of = [], files.voxels_digest
    monkeypatch.setattr(files, "voxels_digest", lambda *data: read.append(1) or digest_of(*data))
    for _ in range(3):
        files.whole_case(folder)
    assert len(read) == 1
    path, old = folder / "ct.nii", (folder / "ct.nii").stat()
    content = bytearray(path.read_bytes())
    path.write_bytes(content)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    files.whole_case(folder)
    assert len(read) == 2
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    with pytest.raises(InputError, match="not the voxels that case"):
        files.whole_case(folder)


def test_a_case_that_can_only_be_read_is_read(case_folders, tmp_path, monkeypatch):
    folder = shutil.copytree(case_folders[0], tmp_path / "case")
    monkeypatch.setattr(files, "write_text", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert files.whole_case(folder).about["case"] == "case-0"


def as_before(folder, case):
    """A case as it was written until November 2026: nothing compressed."""
    files.write_case(folder, case)
    for name in files.VOLUMES[1:]:
        files.write_volume(folder / f"{name}.nii", files.read_volume(folder / files.FILE_OF[name]))
        (folder / files.FILE_OF[name]).unlink()


def test_a_case_of_an_older_study_is_read_and_written_anew_once(tmp_path):
    case = make_case()
    as_before(tmp_path / "a", case)
    back = files.whole_case(tmp_path / "a")
    assert back.digest == case.digest and isinstance(back.lungs, np.ndarray)
    files.write_case(tmp_path / "a", back)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted([*files.CASE_FILES, files.FOUND_WHOLE])
    assert files.whole_case(tmp_path / "a").digest == case.digest
    as_before(tmp_path / "b", case)
    files.write_left_out(tmp_path / "b", {"case": "b"})
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == sorted(files.CASE_FILES)
