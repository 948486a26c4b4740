"""Masks as ``.nii.gz`` that any viewer opens, of which a patch costs its own blocks.

A gzip file may be many small ones in a row. Here each, a *block*, holds ``BLOCK`` bytes of the NIfTI file and says in
its header how long it is packed. That is BGZF (SAM specification, section 4.1), a standard of genomics. So the block
of any voxel is found without unpacking those before it. Masks are long runs of one value: packed they take a hundredth
of their size.
"""

import struct
import zlib
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from nibabel import Nifti1Header

from lungsyn.errors import InputError

BLOCK = 2**13  # bytes before packing: see the benchmark ``disk``
HEADER = bytes.fromhex("1f8b08040000000000ff060042430200")  # gzip's, time 0; then BGZF's mark, packed length less one
TAIL = struct.Struct("<2I")  # gzip's: checksum and length of the content
END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")  # an empty block: the standard's last
GZIP, RAW = 31, -15  # zlib's numbers: with gzip's header, without any


def packed(content: bytes) -> bytes:
    """``content`` as blocks; the same content gives the same bytes."""
    return b"".join([*(_pack(content[at : at + BLOCK]) for at in range(0, len(content), BLOCK)), END])


def _pack(part: bytes) -> bytes:
    deflate = zlib.compressobj(6, zlib.DEFLATED, RAW)
    body = deflate.compress(part) + deflate.flush()
    length = len(HEADER) + 2 + len(body) + TAIL.size
    return HEADER + struct.pack("<H", length - 1) + body + TAIL.pack(zlib.crc32(part), len(part))


@lru_cache(512)
def _unpack(block: bytes) -> np.ndarray:
    """A block's content, uint8, its checksum compared. Most blocks of a mask are the same few, all 0 or all 1."""
    return np.frombuffer(zlib.decompress(block, GZIP), np.uint8)


def block_starts(content: bytes) -> list[int]:
    """Where each block of a file begins, and where the last one ends. Raises ValueError unless `packed` wrote it."""
    starts, at, end = [0], 0, len(content) - len(END)
    while at < end:
        if content[at : at + len(HEADER)] != HEADER:
            raise ValueError("it is not in blocks, as lungsyn writes masks")
        at += int.from_bytes(content[at + len(HEADER) : at + len(HEADER) + 2], "little") + 1
        starts.append(at)
    if content[at:] != END or len(starts) < 2:
        raise ValueError("it ends early, or goes on after its last block")
    if any(TAIL.unpack_from(content, stop - TAIL.size)[1] != BLOCK for stop in starts[1:-1]):
        raise ValueError(f"its blocks do not hold {BLOCK} bytes each, as lungsyn writes them")
    return starts


class Blocks(np.lib.mixins.NDArrayOperatorsMixin):
    """A mask on disk in blocks, uint8 ``[x y z]``: at three slices only what they need is read, as an array all of it.

    Opening finds the blocks and leaves no file open. Raises ValueError, OSError, or what zlib and nibabel raise, for a
    file that is not whole.
    """

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, path: Path):
        self.path, content = Path(path), Path(path).read_bytes()
        self.starts = block_starts(content)
        header = Nifti1Header(_unpack(content[: self.starts[1]])[: Nifti1Header.sizeof_hdr].tobytes())
        self.shape, self.affine = header.get_data_shape(), header.get_best_affine()
        self.offset, self.size = int(header["vox_offset"]), int(np.prod(self.shape))
        length = BLOCK * (len(self.starts) - 2) + TAIL.unpack_from(content, self.starts[-1] - TAIL.size)[1]
        if header.get_data_dtype() != self.dtype or len(self.shape) != self.ndim:
            raise ValueError(f"a mask is uint8 along three axes, not {header.get_data_dtype()} {self.shape}")
        if length != self.offset + self.size:
            raise ValueError(f"it holds {length} bytes, its header tells of {self.offset + self.size}")

    def __getitem__(self, key) -> np.ndarray:
        """Three slices unpack what they need, any other key all."""
        if not _is_box(key):
            return np.asarray(self)[key]
        x, y, z = (range(*one.indices(n)) for one, n in zip(key, self.shape, strict=True))
        if not (x and y and z):
            return np.empty((len(x), len(y), len(z)), self.dtype)
        return self._planes(y, z)[x.start : x.stop, y.start : y.stop].copy(order="F")

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        _, y, z = map(range, self.shape)
        whole = self._planes(y, z)
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __getattr__(self, name: str):
        """What else an array has, such as ``any`` and ``max``, is that of all of it."""
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"a mask in blocks has no {name!r}")
        return getattr(np.asarray(self), name)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        """Arithmetic and comparison, as of an array."""
        arrays = [np.asarray(one) if isinstance(one, Blocks) else one for one in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def _planes(self, y: range, z: range) -> np.ndarray:
        """The planes ``z`` ``[x y z]``, of which only the rows ``y`` are filled in."""
        row, _, _ = self.shape
        plane = row * self.shape[1]
        begin, end = self.offset + z.start * plane, self.offset + z.stop * plane
        first = begin // BLOCK
        content = np.empty(((end - 1) // BLOCK + 1 - first) * BLOCK, np.uint8)
        rows = [range(at + y.start * row, at + y.stop * row) for at in range(begin, end, plane)]
        wanted = sorted({block for part in rows for block in range(part[0] // BLOCK, part[-1] // BLOCK + 1)})
        for block, part in zip(wanted, self._unpacked(wanted), strict=True):
            content[(block - first) * BLOCK :][: len(part)] = part
        return content[begin - first * BLOCK : end - first * BLOCK].reshape(len(z), -1, row).transpose()

    def _unpacked(self, blocks: list[int]) -> list[np.ndarray]:
        """The content of some blocks, in ascending order."""
        first, starts = self.starts[blocks[0]], self.starts
        with _named(self.path), open(self.path, "rb") as file:
            file.seek(first)
            content = file.read(starts[blocks[-1] + 1] - first)
            return [_unpack(content[starts[block] - first : starts[block + 1] - first]) for block in blocks]


def _is_box(key) -> bool:
    return isinstance(key, tuple) and len(key) == 3 and all(isinstance(k, slice) and k.step in (None, 1) for k in key)


@contextmanager
def _named(path: Path):
    """A file that was damaged or removed since it was opened ends with its name."""
    try:
        yield
    except (OSError, zlib.error) as error:
        raise InputError(f"{path}: damaged since it was opened ({error}): delete its folder and run again") from error
