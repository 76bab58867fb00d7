"""Reading: what a good file gives, and every bad one in one sentence."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.files.read_scan import Limits, check_ct, read_ct, read_volume
from oarseg.imaging.volume import Grid, Volume, grid_of

ENDINGS = ("mha", "nrrd", "nii", "nii.gz")
# Rotations about two axes by angles whose sines are 0.6 and 0.28: exact to print.
OBLIQUE = (0.96, -0.168, 0.224, 0.28, 0.576, -0.768, 0.0, 0.8, 0.6)


def ramp(dtype: str = "i2", shape: tuple[int, ...] = (5, 6, 7)) -> NDArray[Any]:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write(path: Path, array: NDArray[Any], *, compressed: bool = True) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.75, 2.0)[: image.GetDimension()])
    sitk.WriteImage(image, str(path), compressed)
    return path


def meta(path: Path, data: bytes, **fields: str) -> Path:
    """A MetaImage of 5×5×5 int16 whose header lines can be replaced."""
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 1 2",
        "DimSize": "5 5 5",
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
        **fields,
    }
    header = "".join(f"{key} = {value}\n" for key, value in lines.items() if value)
    path.write_bytes(header.encode() + data)
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f4"])
def test_values_and_type_are_kept(tmp_path: Path, end: str, dtype: str, compressed: bool) -> None:
    array = (ramp(dtype) % 100).astype(dtype)
    volume = read_volume(write(tmp_path / f"x.{end}", array, compressed=compressed))
    assert volume.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.grid.spacing_mm == (2.0, 0.75, 0.5)


@pytest.mark.parametrize("end", ENDINGS)
def test_double_becomes_float32(tmp_path: Path, end: str) -> None:
    volume = read_volume(write(tmp_path / f"x.{end}", ramp("f8") / 4))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, ramp("f4") / 4)


@pytest.mark.parametrize("end", ["mha", "nrrd"])
def test_oblique_geometry_is_itks(tmp_path: Path, end: str) -> None:
    image = sitk.GetImageFromArray(ramp())
    image.SetDirection(OBLIQUE)
    image.SetOrigin((-12.5, 100.0, -597.25))
    path = tmp_path / f"x.{end}"
    sitk.WriteImage(image, str(path))
    assert read_volume(path).grid == grid_of(sitk.ReadImage(str(path)))


def test_big_endian(tmp_path: Path) -> None:
    array = ramp(">i2", (5, 5, 5))
    path = meta(tmp_path / "x.mha", array.tobytes(), BinaryDataByteOrderMSB="True")
    volume = read_volume(path)
    assert volume.array.dtype == np.dtype("i2")
    np.testing.assert_array_equal(volume.array, array)


def test_nifti_scaling(tmp_path: Path) -> None:
    path = write(tmp_path / "x.nii", ramp())
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([2.0, -1024.0], "<f4").tobytes()
    path.write_bytes(data)
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, 2.0 * ramp("f4") - 1024.0)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def test_gzip_of_several_members(tmp_path: Path) -> None:
    plain = write(tmp_path / "x.nii", ramp()).read_bytes()
    path = tmp_path / "y.nii.gz"
    path.write_bytes(gzip.compress(plain[:400]) + gzip.compress(plain[400:]))
    np.testing.assert_array_equal(read_volume(path).array, ramp())


def test_nifti_with_a_fourth_axis_of_one_is_three_dimensional(tmp_path: Path) -> None:
    path = tmp_path / "x.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(ramp()[None], isVector=False), str(path))
    assert read_volume(path).array.shape == (5, 6, 7)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (ramp(shape=(6, 7)), "a 3-D image, found a 2-D image; give one volume in one file"),
        (ramp(shape=(2, 5, 6, 7)), "a 3-D image, found a 4-D image; give one volume in one file"),
    ],
)
@pytest.mark.parametrize("end", ["mha", "nrrd"])
def test_not_three_dimensional(tmp_path: Path, end: str, array: NDArray[Any], found: str) -> None:
    image = sitk.GetImageFromArray(array, isVector=False)
    path = tmp_path / f"x.{end}"
    sitk.WriteImage(image, str(path))
    assert refusal(path) == f"expected {found}"


def test_a_single_slice(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "x.nii.gz", ramp()[:1])) == (
        "expected a 3-D image with at least 4 voxels along each axis, found 7×6×1; "
        "give the whole scan"
    )


def test_colours(tmp_path: Path) -> None:
    path = tmp_path / "x.mha"
    sitk.WriteImage(sitk.GetImageFromArray(ramp("u1", (5, 6, 7, 3)), isVector=True), str(path))
    assert refusal(path) == (
        "expected one value a voxel, found 3; give the scalar image, not colours or vectors"
    )


@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kept", [0.6, 0.99])
def test_truncated(tmp_path: Path, end: str, compressed: bool, kept: float) -> None:
    noise = np.random.default_rng(0).integers(-1000, 1000, (9, 9, 9)).astype("i2")
    path = write(tmp_path / f"x.{end}", noise, compressed=compressed)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert refusal(path).endswith("; the file is damaged, copy it again")


@pytest.mark.parametrize("end", ["mha", "nrrd", "nii.gz"])
def test_damaged_stream(tmp_path: Path, end: str) -> None:
    # Large enough that the damage lies behind what reading the header inflates.
    noise = np.random.default_rng(0).integers(-1000, 1000, (60, 60, 60)).astype("i2")
    path = write(tmp_path / f"x.{end}", noise)
    data = bytearray(path.read_bytes())
    data[-100] ^= 0xFF
    path.write_bytes(data)
    assert refusal(path).startswith("expected a whole compressed stream, found a stream that")


def test_a_bomb_stops_at_the_promised_size(tmp_path: Path) -> None:
    path = meta(tmp_path / "x.mha", zlib.compress(bytes(50_000_000)), CompressedData="True")
    assert refusal(path) == (
        "expected 250 bytes of voxels, found more; the file is damaged, copy it again"
    )


def test_a_promise_beyond_the_file_is_refused_before_allocating(tmp_path: Path) -> None:
    path = meta(tmp_path / "x.mha", bytes(250), DimSize="1000 1000 1000")
    assert refusal(path).startswith(
        "expected 2000000000 bytes of voxels, found only 250 bytes in the file;"
    )


def test_size_limits(tmp_path: Path) -> None:
    path = meta(tmp_path / "x.mha", bytes(250))
    for limits in (Limits(voxels=124), Limits(bytes=249)):
        assert refusal(path, limits=limits) == (
            f"expected at most {limits.voxels} voxels and {limits.bytes} bytes, "
            "found 5×5×5 of 2 bytes; resample or crop it"
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ElementSpacing": "1 1 0.01"}, "spacings of 0.05 to 50.0 mm, found 1 × 1 × 0.01;"),
        ({"ElementSpacing": "1 1 nan"}, ""),
        ({"ElementSpacing": "1 1 -2"}, ""),
        ({"ElementSpacing": "1 1 0"}, ""),
        ({"Offset": "0 nan 0"}, "Offset with 3 finite numbers, found '0 nan 0'; correct"),
        ({"Offset": "0 1e999 0"}, "a finite Offset, found (0.0, inf, 0.0); correct the header"),
        ({"NDims": "9999999999993"}, "a 3-D image, found a 9999999999993-D image;"),
        ({"DimSize": "5 5 -5"}, ""),
        ({"Offset": "0 2e6 0"}, "an origin within 1e+06 mm, found (0.0, 2000000.0, 0.0);"),
        ({"TransformMatrix": "1 0.1 0 0 1 0 0 0 1"}, "orthonormal axis directions, found "),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, ""),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 nan"}, ""),
        ({"TransformMatrix": "1e300 0 0 0 1 0 0 0 1"}, "orthonormal axis directions, found "),
    ],
)
@pytest.mark.filterwarnings("error")
def test_geometry_of_no_scan(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    path = meta(tmp_path / "x.mha", ramp("i2", (5, 5, 5)).tobytes(), **fields)
    assert refusal(path).startswith(f"expected {message}")


def test_detached_meta_image(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(250))
    for end, target in (("mhd", "secret"), ("mha", str(secret)), ("mhd", "LIST")):
        path = meta(tmp_path / f"x.{end}", b"", ElementDataFile=target)
        assert refusal(path) == (
            "expected header and voxels in one file, "
            f"found a header that points to {target!r}; write the image as one file"
        )


def test_detached_data_hidden_behind_a_comment(tmp_path: Path) -> None:
    path = meta(tmp_path / "x.mha", b"", Comment="ElementDataFile = LOCAL", ElementDataFile="")
    path.write_bytes(b"Comment = ElementDataFile = LOCAL\n" + path.read_bytes())
    assert "a header whose end cannot be told" in refusal(path)


@pytest.mark.parametrize("line", ["data file: /etc/hostname", "DataFile: skip 1", "data file:=x"])
def test_detached_nrrd(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "x.nrrd", ramp())
    path.write_bytes(path.read_bytes().replace(b"\nendian", f"\n{line}\nendian".encode(), 1))
    assert "expected header and voxels in one file" in refusal(path)


def test_nrrd_of_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "x.nrrd", ramp(), compressed=False)
    path.write_bytes(path.read_bytes().replace(b"encoding: raw", b"encoding: hex"))
    assert refusal(path) == (
        "expected scalar binary voxels, raw or compressed with zlib or gzip, "
        "found type 'short', encoding 'hex'; convert it, for example with 3D Slicer"
    )


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("x.mha", b"", "MetaImage as the name says, found an empty file"),
        ("x.nrrd", b"PK\x03\x04", "NRRD as the name says, found a zip file"),
        ("x.nii.gz", b"\x1f\x8b\x08", "NIfTI as the name says, found a gzip file of something"),
        ("x.nii", bytes(128) + b"DICM", "NIfTI as the name says, found a DICOM file"),
        ("x.mha", b"NRRD0004\n", "MetaImage as the name says, found NRRD"),
    ],
)
def test_kind_is_told_by_content(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(path).startswith(f"expected {found}")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mha")
    (tmp_path / "y.mha").mkdir()
    for name in ("x.mha", "y.mha"):
        assert refusal(tmp_path / name).startswith("expected a plain file, found something else;")
    assert refusal(tmp_path / "z.mha") == (
        "expected a readable file, found No such file or directory; check the file"
    )


def test_nan_and_infinity_are_counted(tmp_path: Path) -> None:
    array = ramp("f4")
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    assert refusal(write(tmp_path / "x.nii.gz", array)) == (
        "expected finite values, found 2 voxels that are NaN or infinite; "
        "fill them, and check what made them"
    )


def test_double_beyond_float32_counts_as_infinite(tmp_path: Path) -> None:
    array = ramp("f8")
    array[2, 2, 2] = 1e300
    assert "found 1 voxels that are NaN or infinite" in refusal(write(tmp_path / "x.mha", array))


def test_constant_image(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "x.mha", np.full((5, 6, 7), -1000, "i2"))) == (
        "expected an image, found the value -1000 in every voxel; give the scan itself"
    )


def ct(*values: float, dtype: str = "i2") -> Volume:
    return Volume(np.resize(np.array(values, dtype), (5, 5, 5)), Grid((5, 5, 5), (2.0, 1.0, 1.0)))


def test_ct_is_clipped_at_padding_and_metal() -> None:
    checked = check_ct(ct(-3024, -1024, 0, 3000, 3071), Path("x.mha"))
    assert np.unique(checked.array).tolist() == [-1024, 0, 3000]


def test_ct_within_range_is_untouched() -> None:
    volume = ct(-1000, 40, 1500)
    assert check_ct(volume, Path("x.mha")) is volume


@pytest.mark.parametrize(
    ("values", "found"),
    [
        # Raw values, and such whose padding alone lies below zero.
        ((24, 24, 1064, 4095), "values 24 to 4095, most of them near 1060"),
        ((-2000, 24, 24, 1064), "values -2000 to 1064, most of them near 20 and near 1060"),
        ((-1000, 900), "values -1000 to 900, most of them near 900"),
        ((0.0, 0.25, 1.0), "values 0 to 1"),
    ],
)
def test_ct_without_hounsfield_units(values: tuple[float, ...], found: str) -> None:
    with pytest.raises(InputError) as caught:
        check_ct(ct(*values, dtype="f4"), Path("x.mha"))
    assert str(caught.value) == (
        f"x.mha: expected a CT in HU (air near -1000, soft tissue near 40), found {found}; "
        "rescale it to HU, check that CT and MR are not exchanged, or pass --assume-hu"
    )


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4"])
def test_padding_of_zero_becomes_air(dtype: str) -> None:
    """A round field in a square plane; a zero within the patient is water."""
    array = np.zeros((5, 40, 40), dtype)
    y, x = np.mgrid[-19.5:20, -19.5:20]
    array[:, x**2 + y**2 < 19**2] = -1000
    array[:, 15:25, 15:25] = 40
    array[:, 20, 20] = 0
    padding = int(np.count_nonzero(array[0] == 0)) - 1
    told: list[str] = []
    volume = Volume(array, Grid((5, 40, 40), (2.0, 1.0, 1.0)))
    checked = check_ct(volume, Path("x.mha"), warn=told.append).array
    assert told == [f"x.mha: {5 * padding} voxels of padding with the value 0 were taken as air"]
    assert (checked[:, 0, 0] == -1024).all()
    assert (checked[:, 20, 20] == 0).all()
    assert int(np.count_nonzero(checked == -1024)) == 5 * padding


def test_ct_clipped_to_a_soft_tissue_window_is_still_hu() -> None:
    volume = ct(-200, 0, 40, 300)
    assert check_ct(volume, Path("x.mha")) is volume


def test_unsigned_ct_that_is_taken_as_hu() -> None:
    checked = check_ct(ct(0, 100, 4095, dtype="u2"), Path("x.mha"), assume_hu=True)
    assert checked.array.dtype == np.uint16
    assert np.unique(checked.array).tolist() == [0, 100, 3000]


def test_read_ct_checks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a CT in HU"):
        read_ct(write(tmp_path / "x.mha", ramp()))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    end=st.sampled_from(ENDINGS),
    position=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 12),
    new=st.binary(max_size=12),
)
def test_any_bytes_give_a_volume_or_an_input_error(
    tmp_path: Path, end: str, position: float, length: int, new: bytes
) -> None:
    path = write(tmp_path / f"x.{end}", ramp(), compressed=end != "nrrd")
    data = path.read_bytes()
    at = int(position * len(data))
    path.write_bytes(data[:at] + new + data[at + length :])
    try:
        volume = read_volume(path, limits=Limits(voxels=10**6))
    except InputError:
        return
    assert volume.array.dtype.kind in "iuf"
    assert np.isfinite(volume.array).all()
