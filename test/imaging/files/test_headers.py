"""Geometry from headers: ITK's, where ITK reads it; a refusal where it could mislead."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from random import Random

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.files import locate, nrrd
from oarseg.imaging.files.read_scan import read_ct, read_mr, read_volume
from oarseg.imaging.volume import Grid, Volume, grid_of
from oarseg.labels.stacks import open_stack

SIZE = (7, 6, 5)
VALUES = np.arange(np.prod(SIZE), dtype="<i2")
# Air and soft tissue, for what is read as a CT; too little of both to be refused as an MR.
HU = np.resize(np.array([-1000, 40, 60], "<i2"), VALUES.shape)
SIGNS = {
    "left-posterior-superior": (1, 1),
    "right-anterior-superior": (-1, -1),
    "left-anterior-superior": (1, -1),
}


def by_itk(path: Path) -> Grid:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return grid_of(reader)


def rotation(random: Random) -> NDArray[np.float64]:
    transform = sitk.VersorTransform((random.random(), random.random(), random.random()), 1.0)
    transform.SetRotation(tuple(random.gauss(0, 1) for _ in range(3)), random.uniform(-3, 3))
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    return matrix * random.choice((1, -1)) ** np.array([0, 0, 1])


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path)
    return str(caught.value).removeprefix(f"{path}: ")


# --- NRRD


def write_nrrd(path: Path, *lines: str) -> Path:
    header = ["NRRD0005", "type: short", "dimension: 3", "sizes: 7 6 5", "endian: little"]
    text = "\n".join([*header, "encoding: raw", *lines]) + "\n\n"
    path.write_bytes(text.encode() + VALUES.tobytes())
    return path


def bracketed(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(v)) for v in values)})"


@pytest.mark.parametrize("space", SIGNS)
@pytest.mark.parametrize("seed", range(10))
def test_nrrd_geometry_is_itks_to_the_last_bit(tmp_path: Path, space: str, seed: int) -> None:
    random = Random(seed)
    columns = rotation(random) * np.array([random.uniform(0.3, 3) for _ in range(3)])
    path = write_nrrd(
        tmp_path / "x.nrrd",
        f"space: {space}",
        f"space directions: {' '.join(bracketed(column) for column in columns.T)}",
        f"space origin: {bracketed(np.array([random.uniform(-700, 700) for _ in range(3)]))}",
    )
    assert read_volume(path).grid == by_itk(path)


def test_nrrd_with_spacings_alone(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "x.nrrd", "spacings: 0.5 0.75 2")
    assert read_volume(path).grid == by_itk(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "expected spacings with 3 finite numbers, found ''; correct"),
        (("spacings: 1 1 nan",), "expected spacings with 3 finite numbers, found '1 1 nan';"),
        (("spacings: 1 1 1", "axis mins: 0 0 0"), "expected a position in space, found one along"),
        (("space: scanner-xyz",), "expected a space out of left-posterior-superior, "),
        (("space dimension: 3", "space directions: (1,0,0) (0,1,0) (0,0,1)"), "expected a space"),
        (("space: LPS",), "expected three space directions, found None; correct"),
        (("space: LPS", "space directions: (1,0,0) (0,1,0) none"), "expected one value a voxel"),
        (("space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,0)"), "expected spacings of 0.05"),
        (
            ("space: LPS", "space directions: (1,0,0) (0,1,0) (1,1,0)"),
            "expected orthonormal axis directions, found a shear of 45.00°; correct the gantry's",
        ),
        (
            ("space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,1)", 'space units: "cm"'),
            "expected space units of mm, found '\"cm\"'; write it again in mm",
        ),
        (("spacings: 1 1 1", "spacings: 2 2 2"), "expected 'spacings' once in the header, found"),
        (
            ("space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,1)", "spacings: 1 1 1"),
            "expected 'space directions' once in the header, found also 'spacings', which means",
        ),
        (("spacings: 1 1 1", "kinds: RGB-color domain domain"), "expected one value a voxel"),
    ],
)
def test_nrrd_geometry_that_could_mislead(
    tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    assert refusal(write_nrrd(tmp_path / "x.nrrd", *lines)).startswith(message)


@pytest.mark.parametrize(
    ("first", "lines"),
    [
        (True, ("kinds: list domain domain domain",)),
        (True, ("space directions: none (1,0,0) (0,1,0) (0,0,1)", "space: LPS")),
        (False, ("kinds: domain domain domain list",)),
    ],
)
def test_nrrd_of_channels(tmp_path: Path, first: bool, lines: tuple[str, ...]) -> None:
    path = tmp_path / "x.nrrd"
    sizes = "2 7 6 5" if first else "7 6 5 2"
    header = ["NRRD0004", "type: short", "dimension: 4", f"sizes: {sizes}", "endian: little"]
    given = [] if "space: LPS" in lines else ["spacings: nan 1 1 2" if first else "spacings: 1 1 2"]
    path.write_text("\n".join([*header, "encoding: raw", *given, *lines, "a:=b: c"]) + "\n\n")
    found = locate.locate_voxels(path, channels=True)
    assert (found.channels, found.interleaved, found.grid.shape) == (2, first, (5, 6, 7))
    assert nrrd.read_key_values(path, path.read_bytes()) == {"a": "b: c"}
    assert refusal(path).startswith("expected a 3-D image, found a 4-D image")


def one_frame() -> sitk.Image:
    image = sitk.GetImageFromArray(VALUES.reshape(1, 5, 6, 7), isVector=False)
    image.SetOrigin((1.5, 2.5, -3.0, 0.0))
    image.SetSpacing((0.5, 0.75, 2.0, 3.0))
    image.SetDirection((0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1))
    return image


@pytest.mark.parametrize("end", ["mha", "nrrd", "nii", "nii.gz"])
def test_one_frame_of_four_dimensions_is_a_volume(tmp_path: Path, end: str) -> None:
    sitk.WriteImage(one_frame(), str(tmp_path / f"x.{end}"))
    volume = read_volume(tmp_path / f"x.{end}", warn=pytest.fail)
    assert volume.array.ravel().tolist() == VALUES.tolist()
    expected = Grid(
        (5, 6, 7), (2.0, 0.75, 0.5), (1.5, 2.5, -3.0), ((0, -1, 0), (1, 0, 0), (0, 0, 1))
    )
    assert volume.grid == expected
    stack = open_stack(tmp_path / f"x.{end}")
    assert (stack.grid, stack.channels) == (expected, 1)


@pytest.mark.parametrize(
    ("sizes", "lines"),
    [
        ("7 6 5 1", ("kinds: domain domain domain time", "spacings: 0.5 0.75 2 nan")),
        ("1 7 6 5", ("kinds: list domain domain domain", "spacings: nan 0.5 0.75 2")),
        ("7 6 5 1", ("space: LPS", "space directions: (0.5,0,0) (0,0.75,0) (0,0,2) none")),
        ("1 7 6 5", ("space: LPS", "space directions: none (0.5,0,0) (0,0.75,0) (0,0,2)")),
        (
            "7 6 5 1",
            (
                "space: left-posterior-superior-time",
                "space directions: (0.5,0,0,0) (0,0.75,0,0) (0,0,2,0) (0,0,0,1)",
                "space origin: (0,0,0,5)",
                'space units: "mm" "mm" "mm" "s"',
            ),
        ),
    ],
)
def test_nrrd_of_one_frame(tmp_path: Path, sizes: str, lines: tuple[str, ...]) -> None:
    path = tmp_path / "x.nrrd"
    header = ["NRRD0004", "type: short", "dimension: 4", f"sizes: {sizes}", "endian: little"]
    text = "\n".join([*header, "encoding: raw", *lines]) + "\n\n"
    path.write_bytes(text.encode() + VALUES.tobytes())
    assert read_volume(path).grid == Grid((5, 6, 7), (2.0, 0.75, 0.5))


@pytest.mark.parametrize("key", ["space origin", "spaceorigin", "Spaceorigin"])
def test_nrrd_keys_without_blank_are_read_as_itk_reads_them(tmp_path: Path, key: str) -> None:
    lines = ("space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,1)", f"{key}: (10,20,30)")
    path = write_nrrd(tmp_path / "x.nrrd", *lines)
    assert read_volume(path).grid == by_itk(path)
    assert read_volume(path).grid.origin_mm == (10.0, 20.0, 30.0)


def test_nrrd_with_one_key_with_and_without_blank(tmp_path: Path) -> None:
    lines = ("spacings: 1 1 1", "space origin: (1,2,3)", "spaceorigin: (4,5,6)")
    assert refusal(write_nrrd(tmp_path / "x.nrrd", *lines)) == (
        "expected 'space origin' once in the header, found also 'spaceorigin', which means the "
        "same; correct the header"
    )


# --- MetaImage


def write_meta(path: Path, *lines: str, data: bytes = VALUES.tobytes()) -> Path:
    header = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "DimSize = 7 6 5", *lines]
    text = "\n".join([*header, "ElementType = MET_SHORT", "ElementDataFile = LOCAL"]) + "\n"
    path.write_bytes(text.encode() + data)
    return path


PLACES = tuple(f"{key} = 1 2 3" for key in ("Offset", "Position", "Origin", "ImagePosition"))
TURNS = tuple(
    f"{key} = 0 1 0 -1 0 0 0 0 1" for key in ("TransformMatrix", "Rotation", "Orientation")
)
ORDERS = tuple(f"{key} = True" for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))


@pytest.mark.parametrize("line", [*PLACES, *TURNS, *ORDERS])
def test_meta_image_synonyms_are_read_as_itk_reads_them(tmp_path: Path, line: str) -> None:
    path = write_meta(tmp_path / "x.mha", "ElementSpacing = 1 1 2", line)
    volume, image = read_volume(path), sitk.ReadImage(str(path))
    assert volume.grid == grid_of(image)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("lines", [PLACES, TURNS, ORDERS])
def test_meta_image_with_two_keys_for_one_thing(tmp_path: Path, lines: tuple[str, ...]) -> None:
    """Even if they agree, as two equal lines are refused too."""
    for one, other in permutations(lines, 2):
        path = write_meta(tmp_path / "x.mha", "ElementSpacing = 1 1 2", one, other)
        first, second = one.split()[0], other.split()[0]
        assert refusal(path) == (
            f"expected '{first}' once in the header, found also '{second}', which means the same; "
            "correct the header"
        )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("TransformMatrix:= 0 1 0 -1 0 0 0 0 1", "expected keys that end with = or :, found "),
        ("Name = x\rOffset = 1 2 3", "expected scalar binary voxels, raw or compressed with zlib"),
    ],
)
def test_meta_image_line_that_itk_reads_otherwise(tmp_path: Path, line: str, found: str) -> None:
    path = write_meta(tmp_path / "x.mha", "ElementSpacing = 1 1 2", line)
    assert refusal(path).startswith(found)


@pytest.mark.parametrize("text", ["True", "true", "T", "1", "False", "F", "0"])
@pytest.mark.parametrize("key", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
def test_meta_image_truth_is_itks(tmp_path: Path, key: str, text: str) -> None:
    path = write_meta(tmp_path / "x.mha", "ElementSpacing = 1 1 2", f"{key} = {text}")
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(read_volume(path).array, array)


@pytest.mark.parametrize("key", ["BinaryDataByteOrderMSB", "CompressedData", "BinaryData"])
def test_meta_image_that_is_neither_true_nor_false(tmp_path: Path, key: str) -> None:
    lines = [f"{key} = Maybe", "ElementSpacing = 1 1 2"]
    path = write_meta(tmp_path / "x.mha", *lines)
    if key == "BinaryData":
        path.write_bytes(path.read_bytes().replace(b"BinaryData = True\n", b""))
    assert refusal(path).startswith(f"expected {key} True or False, found 'Maybe'; correct")


@pytest.mark.parametrize(
    ("lines", "before"),
    [
        (("ElementSize = 0.9 0.9 2.5",), b""),
        (("ElementSize = 3 3 3", "ElementSpacing = 0.9 0.9 2.5"), b""),
        (("ElementSpacing = 0.9 0.9 2.5", "HeaderSize = -1"), b""),
        (("ElementSpacing = 0.9 0.9 2.5", "HeaderSize = -1"), b"anything in between"),
    ],
)
def test_meta_image_as_itk_reads_it(tmp_path: Path, lines: tuple[str, ...], before: bytes) -> None:
    path = write_meta(tmp_path / "x.mha", *lines, data=before + VALUES.tobytes())
    volume, image = read_volume(path), sitk.ReadImage(str(path))
    assert volume.grid == grid_of(image)
    assert volume.grid.spacing_mm == (2.5, 0.9, 0.9)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))


def test_meta_image_whose_voxels_would_begin_in_the_header(tmp_path: Path) -> None:
    lines = ("ElementSpacing = 1 1 2", "HeaderSize = -1")
    path = write_meta(tmp_path / "x.mha", *lines, data=VALUES.tobytes()[:-1])
    assert refusal(path).startswith("expected 420 bytes of voxels, found only 419 bytes in the")
    path = write_meta(path, *lines, "CompressedData = True", data=zlib.compress(VALUES.tobytes()))
    assert "found ElementType 'MET_SHORT', BinaryData 'True', HeaderSize '-1'" in refusal(path)


# --- NIfTI


def write_nifti(
    path: Path,
    *,
    codes: tuple[int, int] = (1, 1),
    spacing: tuple[float, ...] = (0.5, 0.75, 2.0),
    quaternion: tuple[float, ...] = (0.0, 0.0, 0.0),
    offset: tuple[float, ...] = (10.0, -20.0, 30.0),
    qfac: float = 1.0,
    rows: NDArray[np.float64] | None = None,
    units: int = 2,
    values: NDArray[np.int16] = VALUES,
) -> Path:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *SIZE, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<4f", header, 76, qfac, *spacing)
    struct.pack_into("<f", header, 108, 352)
    header[123], header[344:348] = units, b"n+1\0"
    struct.pack_into("<2h", header, 252, *codes)
    struct.pack_into("<6f", header, 256, *quaternion, *offset)
    if rows is None:
        rows = np.column_stack([np.diag(spacing), offset])
    struct.pack_into("<12f", header, 280, *rows.ravel())
    path.write_bytes(bytes(header) + values.tobytes())
    return path


def versor(matrix: NDArray[np.float64]) -> tuple[float, ...]:
    """The quaternion's b, c, d of a rotation."""
    transform = sitk.VersorTransform()
    transform.SetMatrix(matrix.ravel().tolist())
    return tuple(transform.GetVersor()[:3])


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (2, 2), (4, 3)])
@pytest.mark.parametrize("apart_mm", [0.0, 5.0])
@pytest.mark.parametrize("seed", range(4))
def test_nifti_geometry_is_itks(
    tmp_path: Path, codes: tuple[int, int], apart_mm: float, seed: int
) -> None:
    random = Random(seed)
    turn, qfac = rotation(random), 1.0
    if np.linalg.det(turn) < 0:
        turn, qfac = turn * np.array([1, 1, -1]), -1.0
    spacing = tuple(random.uniform(0.3, 3) for _ in range(3))
    offset = np.array([random.uniform(-20, 20) for _ in range(3)])
    # The two may tell of different places, and ITK has its rules whom to believe.
    rows = np.column_stack([turn * np.array([1, 1, qfac]) * spacing, offset + apart_mm])
    path = write_nifti(
        tmp_path / "x.nii",
        codes=codes,
        spacing=spacing,
        quaternion=versor(turn),
        offset=tuple(offset),
        qfac=qfac,
        rows=rows,
    )
    ours, itks = read_volume(path).grid, by_itk(path)
    assert ours.shape == itks.shape
    assert ours.spacing_mm == pytest.approx(itks.spacing_mm, rel=1e-12)
    assert ours.origin_mm == itks.origin_mm
    np.testing.assert_allclose(ours.direction, itks.direction, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("units", "factor"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001)])
def test_nifti_units(tmp_path: Path, units: int, factor: float) -> None:
    path = write_nifti(tmp_path / "x.nii", units=units, spacing=(2e-3, 2e-3, 2e-3))
    if factor != 1000.0:
        path = write_nifti(path, units=units, spacing=(100.0, 100.0, 100.0))
    grid = locate.locate_voxels(path).grid
    assert grid.spacing_mm == pytest.approx((2.0,) * 3 if factor == 1000 else (100 * factor,) * 3)
    assert grid.origin_mm == pytest.approx((-10 * factor, 20 * factor, 30 * factor))


def test_nifti_with_a_matrix_alone_far_from_the_origin(tmp_path: Path) -> None:
    """ITK's test of such a matrix is ill-conditioned; the file is good."""
    path = write_nifti(tmp_path / "x.nii", codes=(0, 2), offset=(12.0, -34.0, 755.25))
    assert read_volume(path).grid.origin_mm == (-12.0, 34.0, 755.25)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [(0, 0), (1, 2), (2, 3)])
def test_nifti_matrix_that_is_not_finite(tmp_path: Path, bad: float, at: tuple[int, int]) -> None:
    """ITK's reader hangs on some of these."""
    rows = np.column_stack([np.diag((0.5, 0.75, 2.0)), (0.0, 0.0, 0.0)])
    rows[at] = bad
    path = write_nifti(tmp_path / "x.nii", codes=(0, 1), rows=rows)
    assert refusal(path).startswith("expected orthogonal axis directions, found ")
    path = write_nifti(tmp_path / "x.nii", codes=(1, 1), rows=rows)
    assert read_volume(path).grid.origin_mm == (-10.0, 20.0, 30.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quaternion": (np.nan, 0, 0)}, "finite quaternion and offset, found"),
        ({"quaternion": (1.0, 1.0, 0)}, "a quaternion of length 1, found b, c, d of 1, 1, 0"),
        ({"spacing": (np.nan, 1, 1)}, "finite spacings, found"),
        ({"spacing": (0.0, 1, 1)}, ""),
        ({"codes": (0, 1), "rows": np.eye(3, 4)}, "the same spacing in pixdim and in the matrix"),
        (
            {"codes": (0, 1), "rows": np.array([[1.0, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])},
            "orthonormal axis directions, found a shear of 11.31°; correct the gantry's tilt first",
        ),
        ({"offset": (0.0, 0.0, np.inf)}, ""),
        ({"offset": (0.0, 0.0, 2e6)}, "an origin within 1e+06 mm"),
    ],
)
def test_nifti_geometry_of_no_scan(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    path = write_nifti(tmp_path / "x.nii", **fields)  # type: ignore[arg-type]
    assert refusal(path).startswith(f"expected {message}")


TILT_DEG = 15.0


def skewed(skew: float, spacing: tuple[float, ...] = (0.9, 0.9, 2.5)) -> NDArray[np.float64]:
    """A matrix whose slices are displaced along y, as those of a tilted gantry are."""
    axes = np.eye(3)
    axes[1, 2] = skew
    return np.column_stack([axes * spacing, (10.0, -20.0, 30.0)])


@pytest.mark.parametrize("code", [1, 2])
@pytest.mark.parametrize("degrees", [TILT_DEG, -7.5, 22.0])
def test_nifti_of_a_tilted_gantry(tmp_path: Path, degrees: float, code: int) -> None:
    """dcm2niix writes the shear into the sform, and a qform that lacks it."""
    rows = skewed(np.tan(np.radians(degrees)))
    spacing = (0.9, 0.9, 2.5 / np.cos(np.radians(degrees)))
    path = write_nifti(tmp_path / "x.nii", codes=(code, code), spacing=spacing, rows=rows)
    assert refusal(path) == (
        f"expected orthonormal axis directions, found a shear of {abs(degrees):.2f}°; correct the "
        "gantry's tilt first: resample it to right angles, as dcm2niix does for the file that it "
        "names _Tilt"
    )


def test_a_shear_without_effect_is_left_to_the_qform(tmp_path: Path) -> None:
    """As ITK reads it: 2e-4 moves no corner of this image by 0.1 mm."""
    path = write_nifti(tmp_path / "x.nii", spacing=(0.9, 0.9, 2.5), rows=skewed(2e-4))
    assert read_volume(path, warn=pytest.fail).grid == by_itk(path)


@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (0, 2), (2, 2)])
@pytest.mark.parametrize("skew", [1e-6, 1e-5, 2.5e-5, 4e-5])
def test_a_slight_skew_is_kept(tmp_path: Path, skew: float, codes: tuple[int, int]) -> None:
    path = write_nifti(tmp_path / "x.nii", codes=codes, spacing=(0.9, 0.9, 2.5), rows=skewed(skew))
    grid = read_volume(path, warn=pytest.fail).grid
    assert grid == by_itk(path)
    assert grid.direction[1][2] == pytest.approx(-skew, rel=1e-3)


@pytest.mark.parametrize(
    ("codes", "apart_mm", "used"),
    [((1, 1), 0.2, "sform"), ((1, 2), 0.2, "qform"), ((2, 1), 5, "sform"), ((1, 1), 0.09, "")],
)
@pytest.mark.parametrize("read", [read_ct, read_mr, read_volume])
def test_nifti_whose_two_places_disagree(
    tmp_path: Path,
    codes: tuple[int, int],
    apart_mm: float,
    used: str,
    read: Callable[..., Volume],
) -> None:
    rows = np.column_stack([np.diag((0.5, 0.75, 2.0)), (10.0, -20.0, 30.0 + apart_mm)])
    path = write_nifti(tmp_path / "x.nii", codes=codes, rows=rows, values=HU)
    told: list[str] = []
    grid = read(path, warn=told.append).grid
    assert grid.origin_mm == by_itk(path).origin_mm
    other = {"sform": "qform", "qform": "sform", "": ""}[used]
    expected = (
        f"x.nii: sform and qform disagree by {apart_mm:g} mm at a corner; the {used} was taken, "
        f"as ITK does, and not the {other}; check where the image lies"
    )
    assert [text for text in told if "sform" in text] == ([expected] if used else [])


@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (1, 0), (2, 1), (0, 0)])
@pytest.mark.parametrize("signs", [(-1, 1, 1), (1, -1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("signed_matrix", [False, True])
def test_nifti_of_negative_spacing_is_read_as_itk_reads_it(
    tmp_path: Path, codes: tuple[int, int], signs: tuple[int, ...], signed_matrix: bool
) -> None:
    spacing = np.array((0.5, 0.75, 2.0))
    if signed_matrix and codes[0] and codes[1]:
        pytest.skip("sform and qform would disagree")
    matrix = np.diag(spacing * signs if signed_matrix else spacing)
    path = write_nifti(
        tmp_path / "x.nii",
        codes=codes,
        spacing=tuple(spacing * signs),
        rows=np.column_stack([matrix, (10.0, -20.0, 30.0)]),
    )
    told: list[str] = []
    # Its header's reader alone leaves the spacing negative.
    assert read_volume(path, warn=told.append).grid == grid_of(sitk.ReadImage(str(path)))
    assert told == [
        "x.nii: axes of negative spacing (pixdim) are taken as reversed, as ITK takes them and "
        "others do not; check left and right"
    ]
