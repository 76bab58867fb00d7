"""The time that a file takes grows no faster than its size, whatever its header holds."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oarseg.errors import InputError
from oarseg.imaging.files import pixels
from oarseg.imaging.files.read_scan import read_volume
from oarseg.labels.open_masks import open_stack

LARGEST = 1 << 20
LONGEST_S = 1.0
# Twice the size may take twice the time; what is super-linear by nature takes four times.
GENEROUS = 3.0
NOISE_S = 0.05

META = b"ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 7 6 5\n"
META += b"ElementSpacing = 1 1 2\nElementType = MET_SHORT\n"
NRRD = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 5\nspacings: 1 1 2\nencoding: raw\n"
VOXELS = np.arange(210, dtype="<i2").tobytes()
EMPTY, ONE = gzip.compress(b"", mtime=0), gzip.compress(b"x", mtime=0)

Filler = Callable[[int], bytes]
FILLERS: dict[str, Filler] = {
    "key and blanks": lambda n: b"key" + b" " * n,
    "key, blanks, value": lambda n: b"key" + b" " * n + b"value",
    "blanks, then a separator": lambda n: b"key" + b" " * n + b": x",
    "value of blanks": lambda n: b"key = " + b" " * n + b"x",
    "words": lambda n: b"k " * (n // 2),
    "tabs and blanks": lambda n: b"\t " * (n // 2),
    "blank lines": lambda n: b" \n" * (n // 2),
    "empty lines": lambda n: b"\r" * n,
    "short fields": lambda n: b"\n".join(b"k%d: 1" % i for i in range(n // 10)),
    "free texts": lambda n: b"\n".join(b"k%d:=1" % i for i in range(n // 10)),
    "separators": lambda n: b"=:" * (n // 2),
    "colons": lambda n: b"key " + b":" * n,
    "letters": lambda n: b"a" * n,
    "digits": lambda n: b"ElementSpacing = " + b"1" * n,
    "numbers": lambda n: b"Offset = " + b"1 " * (n // 2),
    "open brackets": lambda n: b"space directions: " + b"(" * n,
    "closed brackets": lambda n: b"space directions: " + b"()" * (n // 2),
    "kinds": lambda n: b"kinds: " + b"domain " * (n // 7),
    "quotes": lambda n: b"space: LPS\nspace units: " + b'"' * n,
    "data and blanks": lambda n: b"data" + b" " * n + b"x",
    "data file and blanks": lambda n: b"data file" + b" " * n,
    "last key and blanks": lambda n: b"ElementDataFile = " + b" " * n,
    "last key again": lambda n: b"x ElementDataFile" * (n // 17),
    "segments": lambda n: b"\n".join(b"Segment%d_ID:=x" % i for i in range(n // 20)),
    "comments": lambda n: b"# " * (n // 2),
    "not text": lambda n: bytes(range(128, 256)) * (n // 128),
}


def read(path: Path) -> None:
    """Read a file as an image and as labels."""
    for reader in (read_volume, open_stack):
        try:
            reader(path)
        except InputError:
            continue


def assert_linear(path: Path, make: Callable[[int], bytes]) -> None:
    """Write files of growing size and read each, until one takes too long."""
    before = np.inf
    for size in (1 << exponent for exponent in range(13, 21)):
        data = make(size - 2048)
        assert len(data) <= LARGEST
        path.write_bytes(data)
        seconds = np.inf
        for _ in range(3):
            start = time.process_time()
            read(path)
            seconds = min(seconds, time.process_time() - start)
            if seconds < NOISE_S:
                break
        assert seconds < LONGEST_S, f"{len(data)} bytes took {seconds:.2f} s"
        assert seconds < GENEROUS * before + NOISE_S, f"{before:.3f} s, then {seconds:.3f} s"
        before = seconds


@pytest.mark.parametrize("name", FILLERS)
@pytest.mark.parametrize("end", ["mha", "nrrd"])
@pytest.mark.parametrize("at", ["first", "within", "last"])
def test_text_headers(tmp_path: Path, end: str, name: str, at: str) -> None:
    filler = FILLERS[name]
    start, stop = (META, b"ElementDataFile = LOCAL\n") if end == "mha" else (NRRD, b"\n")

    def make(size: int) -> bytes:
        text = filler(size) + b"\n"
        if at == "first":
            return text + start + stop + VOXELS
        return start + text + stop + VOXELS if at == "within" else start + text

    assert_linear(tmp_path / f"x.{end}", make)


@pytest.mark.parametrize("member", [EMPTY, ONE])
@pytest.mark.parametrize("end", ["nrrd", "nii.gz"])
def test_members_of_gzip(tmp_path: Path, end: str, member: bytes) -> None:
    header = NRRD.replace(b"raw", b"gzip") + b"\n" if end == "nrrd" else nifti_start()
    assert_linear(tmp_path / f"x.{end}", lambda n: header + member * (n // len(member)))


@pytest.mark.parametrize("before", [b"", VOXELS])
def test_blocks_of_deflate(tmp_path: Path, before: bytes) -> None:
    """Empty stored blocks, of five bytes each."""
    stream = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS)
    start = stream.compress(before) + stream.flush(zlib.Z_SYNC_FLUSH)
    header = META + b"CompressedData = True\nElementDataFile = LOCAL\n" + start
    assert_linear(tmp_path / "x.mha", lambda n: header + b"\0\0\0\xff\xff" * (n // 5))


def test_a_few_small_members_are_read(tmp_path: Path) -> None:
    """As bgzip ends every file with an empty one, and joined files hold several of those."""
    path = tmp_path / "x.nii.gz"
    end = EMPTY * (pixels.MOST_SMALL_MEMBERS - 1)
    path.write_bytes(nifti_start() + gzip.compress(VOXELS) + end)
    assert read_volume(path).array.shape == (5, 6, 7)
    path.write_bytes(nifti_start() + gzip.compress(VOXELS) + end + EMPTY * 2)
    with pytest.raises(InputError, match="more than 1024 members of next to nothing"):
        read_volume(path)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_member_that_begins_where_a_read_ends(tmp_path: Path, left: int) -> None:
    """The two bytes by which a member is known may come from two reads."""
    voxels = np.random.default_rng(0).integers(0, 256, 2 * 64 * 64 * 8, np.uint8).tobytes()
    header = gzip.compress(nifti_header((64, 64, 8)), mtime=0)
    # Stored: ten bytes of header, five of a block, eight of checksum and length.
    count = pixels.INPUT_BYTES - left - len(header) - 23
    first = header + gzip.compress(voxels[:count], 0, mtime=0)
    assert len(first) == pixels.INPUT_BYTES - left
    path = tmp_path / "x.nii.gz"
    path.write_bytes(first + gzip.compress(voxels[count:], mtime=0))
    assert read_volume(path).array.tobytes() == voxels


def nifti_header(size: tuple[int, int, int] = (7, 6, 5)) -> bytes:
    header = bytearray(352)
    header[0:4] = (348).to_bytes(4, "little")
    header[40:56] = np.array([3, *size, 1, 1, 1, 1], "<i2").tobytes()
    header[70:74] = np.array([4, 16], "<i2").tobytes()
    header[76:92] = np.array([1, 1, 1, 2], "<f4").tobytes()
    header[108:112] = np.array([352], "<f4").tobytes()
    header[344:348] = b"n+1\0"
    return bytes(header)


def nifti_start() -> bytes:
    return gzip.compress(nifti_header(), mtime=0)
