"""Blocks: what gzip and nibabel read, and windows of it, equal to numpy's of the same array."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from lungsyn.errors import InputError
from lungsyn.volume import blocks, files
from lungsyn.volume.space import Volume
from tests.conftest import make_case

SHAPE = (61, 47, 39)  # several blocks, which begin anywhere in a row


@pytest.fixture(scope="module")
def mask():
    """Runs of one value, and a corner of noise that hardly packs."""
    data = make_case(SHAPE).lungs.copy()
    data[:20, :20, :20] = np.random.default_rng(0).integers(0, 256, (20, 20, 20))
    return data


@pytest.fixture(scope="module")
def path(mask, tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "mask.nii.gz"
    files.write_volume(path, Volume(mask, np.diag([2.1, 2.1, 2.1, 1])))
    return path


def test_any_reader_of_gzip_reads_it(mask, path):
    image = nib.load(path)
    assert image.get_data_dtype() == np.uint8 and np.array_equal(np.asanyarray(image.dataobj), mask)
    assert np.array_equal(files.read_written(path).data, mask)
    assert len(gzip.decompress(path.read_bytes())) == 352 + mask.size
    assert path.stat().st_size < 0.25 * mask.size


def test_bgzf_by_its_specification(path):
    """SAM specification 4.1: a field BC holds the block's length less one, and the file ends with an empty block."""
    content, at, whole = path.read_bytes(), 0, b""
    while at < len(content):
        assert content[at : at + 4] == b"\x1f\x8b\x08\x04" and content[at + 12 : at + 16] == b"BC\x02\x00"
        length = int.from_bytes(content[at + 16 : at + 18], "little") + 1
        whole += gzip.decompress(content[at : at + length])
        at += length
    assert at == len(content) and content.endswith(blocks.END) and whole == gzip.decompress(content)


def test_the_same_mask_gives_the_same_bytes(mask, path, tmp_path):
    files.write_volume(tmp_path / "again.nii.gz", Volume(np.ascontiguousarray(mask), np.diag([2.1, 2.1, 2.1, 1])))
    assert (tmp_path / "again.nii.gz").read_bytes() == path.read_bytes()


def test_every_window_is_numpy_s(mask, path):
    opened, rng = blocks.Blocks(path), np.random.default_rng(1)
    assert (opened.shape, opened.dtype, opened.ndim) == (mask.shape, mask.dtype, 3)
    for _ in range(200):
        ends = [sorted(rng.integers(-5, n + 5, 2)) for n in SHAPE]
        box = tuple(slice(max(int(a), 0), max(int(b), 0)) for a, b in ends)
        assert np.array_equal(opened[box], mask[box])
    for key in (slice(None), (slice(None, None, 3),) * 3, (0, 3, -1), np.s_[..., 5], mask > 1, np.s_[-9:, :, ::-1]):
        assert np.array_equal(opened[key], mask[key])


def test_it_counts_as_an_array(mask, path):
    opened = blocks.Blocks(path)
    assert np.array_equal(opened, mask) and np.array_equal(np.asarray(opened, dtype=float), mask)
    assert np.array_equal(opened > 0, mask > 0) and np.array_equal(opened != opened, np.zeros(SHAPE, bool))
    assert np.zeros_like(opened).shape == SHAPE and np.stack([opened, opened]).dtype == np.uint8
    window = opened[:5, :5, :5]
    window[:] = 7  # a copy: nothing else changes
    assert np.array_equal(opened[:5, :5, :5], mask[:5, :5, :5])
    assert opened.any() and opened.max() == mask.max() and np.array_equal(opened.sum(axis=0), mask.sum(axis=0))
    with pytest.raises(AttributeError, match="has no 'median'"):
        opened.median  # noqa: B018


def test_a_window_unpacks_its_own_blocks_only(path, monkeypatch):
    unpacked = []
    monkeypatch.setattr(blocks, "_unpack", lambda block, unpack=blocks._unpack: unpacked.append(block) or unpack(block))
    opened = blocks.Blocks(path)
    unpacked.clear()
    opened[:8, :8, :1]
    assert len(unpacked) == 1
    assert len(opened.starts) > 10


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[: -len(blocks.END)],
        lambda whole: whole + blocks.END,
        lambda whole: gzip.compress(gzip.decompress(whole)),
        lambda whole: blocks.packed(gzip.decompress(whole)[:-1]),
        lambda whole: blocks.packed(gzip.decompress(whole) + b"\0"),
        lambda whole: blocks.END,
        lambda whole: b"",
    ],
)
def test_a_file_that_is_not_whole_is_refused_when_opened(path, tmp_path, damage):
    (tmp_path / "bad.nii.gz").write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"bad\.nii\.gz: not a whole volume"):
        files.map_volume(tmp_path / "bad.nii.gz")


def test_what_is_damaged_later_is_named_and_never_read_as_another_mask(path, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(path.read_bytes())
    opened = blocks.Blocks(bad)
    content = bytearray(path.read_bytes())
    content[opened.starts[3] + 100] ^= 1
    bad.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.nii\.gz: damaged since it was opened"):
        np.asarray(opened)
    bad.unlink()
    with pytest.raises(InputError, match=r"bad\.nii\.gz: damaged since it was opened"):
        opened[:1, :1, :1]


def test_many_cases_are_open_at_once_without_a_file_each(case_folders):
    """A system may allow 256 open files; a training has a thousand cases."""
    import os

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no list of open files here")
    before = len(os.listdir("/proc/self/fd"))
    cases = [files.open_case(case_folders[0]) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) <= before + len(cases)  # the CT's memory map
