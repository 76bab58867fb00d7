"""A volume written as DICOM is read back voxel for voxel, however its slices are stored."""

from __future__ import annotations

import random
import shutil
import tracemalloc
from pathlib import Path

import dicom_files
import numpy as np
import pytest
from dicom_files import Form, small_volume, turned, write_series
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from oarseg.errors import NonFiniteError, ResourceError
from oarseg.imaging.files import read_scan
from oarseg.imaging.files.dicom import read_series
from oarseg.imaging.files.dicom.choose import find_series
from oarseg.imaging.orientation import to_lps
from oarseg.imaging.volume import Grid, Volume
from oarseg.system import memory

pytestmark = pytest.mark.dicom
# In index axes (z, y, x): what runs backwards when the patient lies so.
POSITIONS = {"HFS": (1, 1, 1), "HFP": (1, -1, -1), "FFS": (-1, 1, -1), "FFP": (-1, -1, 1)}


def read(folder: Path, modality: str = "CT") -> Volume:
    return read_scan.read_volume(find_series(folder, modality))


def in_lps(volume: Volume) -> Volume:
    return to_lps(volume.grid).volume(volume)


def assert_same(found: Volume, expected: Volume) -> None:
    assert found.grid.matches(expected.grid, tolerance_mm=1e-6)
    assert found.array.dtype == expected.array.dtype
    np.testing.assert_array_equal(found.array, expected.array)


@pytest.mark.parametrize("position", POSITIONS)
def test_patient_position(tmp_path: Path, position: str) -> None:
    volume = small_volume()
    write_series(tmp_path, turned(volume, POSITIONS[position]), Form(position=position))
    assert_same(in_lps(read(tmp_path)), volume)


def test_a_sagittal_and_oblique_series(tmp_path: Path) -> None:
    turn = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    tilt = np.array([[1.0, 0.0, 0.0], [0.0, 0.96, -0.28], [0.0, 0.28, 0.96]])
    rows = [tuple(map(float, row)) for row in turn @ tilt @ np.diag([1, 1, 1])]
    if np.linalg.det(np.array(rows)) < 0:
        rows = [(x, y, -z) for x, y, z in rows]
    grid = Grid((5, 6, 7), (2.5, 0.75, 0.5), (1.0, 2.0, 3.0), (rows[0], rows[1], rows[2]))
    volume = Volume(small_volume().array, grid)
    write_series(tmp_path, volume)
    assert_same(read(tmp_path), volume)


def test_neither_names_nor_instance_numbers_nor_thickness_order_it(tmp_path: Path) -> None:
    """All instance numbers are 7 and the thickness is 9.5; the names are in another order."""
    volume = small_volume((9, 6, 7))
    order = list(range(9))
    random.Random(1).shuffle(order)
    write_series(tmp_path / "deep" / "er", volume, Form(names=lambda i: f"IM{order[i]}"))
    assert_same(read(tmp_path), volume)


@pytest.mark.parametrize(
    "form",
    [
        Form(slopes=(0.5,), intercept=0.0, signed=True),
        Form(slopes=(1.0, 0.5, 0.25), intercept=-1024.0),
        Form(syntax=ImplicitVRLittleEndian),
        Form(intercept=0.0, signed=True),
    ],
    ids=["half signed", "per slice", "implicit", "signed"],
)
def test_rescale_and_encoding(tmp_path: Path, form: Form) -> None:
    volume = small_volume()
    write_series(tmp_path, volume, form)
    assert_same(read(tmp_path), volume)


def test_values_that_short_integers_cannot_hold_become_float(tmp_path: Path) -> None:
    volume = small_volume()
    volume.array[3, 2, 1] = 7

    def change(data: FileDataset, index: int) -> None:
        if index == 3:
            data.RescaleSlope = "1.5"
            data.RescaleIntercept = "0"

    write_series(tmp_path, volume, Form(change=change))
    expected = volume.array.astype(np.float32)
    expected[3] = (expected[3] + 1024) * 1.5
    found = read(tmp_path)
    assert found.array.dtype == np.float32
    np.testing.assert_array_equal(found.array, expected)


def test_bits_above_those_stored_are_no_value(tmp_path: Path) -> None:
    """Twelve bits, signed, with an overlay in the four above."""
    volume = small_volume()

    def change(data: FileDataset, index: int) -> None:
        data.BitsStored, data.HighBit = 12, 11
        stored = np.frombuffer(data.PixelData, "<u2") & 0x0FFF
        data.PixelData = (stored | 0xA000).astype("<u2").tobytes()

    write_series(tmp_path, volume, Form(intercept=0.0, signed=True, change=change))
    assert_same(read(tmp_path), volume)


@pytest.mark.parametrize(
    ("modality", "padding", "becomes"),
    [("CT", 2000, -1000), ("MR", 2000, 0), ("MR", -2000, 0), ("CT", -2000, -2000)],
)
def test_padding_beyond_all_values(
    tmp_path: Path, modality: str, padding: int, becomes: int
) -> None:
    """High padding would be metal; the element's type need not be the pixels'."""
    volume = small_volume()
    volume.array[1, 0] = volume.array[2] = padding

    def change(data: FileDataset, index: int) -> None:
        data.add_new("PixelPaddingValue", "US", padding % 65536)

    form = Form(modality=modality, intercept=0.0, signed=True, change=change)
    write_series(tmp_path, volume, form)
    volume.array[1, 0] = volume.array[2] = becomes
    assert_same(read(tmp_path, modality), volume)


@pytest.mark.parametrize(
    ("name", "vr", "value"),
    [
        ("Rows", "UL", 6),
        ("Rows", "IS", "6"),
        ("PixelPaddingValue", "IS", 10**11),
        ("RescaleSlope", "LO", "1"),
        ("RescaleIntercept", "FD", -1024.0),
        ("PixelSpacing", "FD", [0.75, 0.5]),
        ("PixelSpacing", "LO", ["0.75", "0.5"]),
        ("StudyInstanceUID", "LO", "1.2.3"),
        ("PatientID", "UT", "PAT-0001"),
    ],
)
def test_elements_of_another_type(tmp_path: Path, name: str, vr: str, value: object) -> None:
    """What a sloppy program wrote is read where it can mean one thing only."""

    def change(data: FileDataset, index: int) -> None:
        data.add_new(name, vr, value)

    write_series(tmp_path, small_volume(), Form(change=change))
    assert_same(read(tmp_path), small_volume())


def test_padding_within_the_values_is_tissue(tmp_path: Path) -> None:
    volume = small_volume()
    volume.array[1, 0] = 0
    change = set_padding(0)
    write_series(tmp_path, volume, Form(intercept=0.0, signed=True, change=change))
    assert_same(read(tmp_path), volume)


def set_padding(value: int) -> dicom_files.Change:
    return lambda data, index: setattr(data, "PixelPaddingValue", value)


def test_a_volume_that_becomes_float_must_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both types are held at once then, which the check of the header does not know."""
    change = set_slope("1.5")
    write_series(tmp_path, small_volume(), Form(change=change))
    series = find_series(tmp_path, "CT")
    # The array of 16-bit integers would fit.
    room = memory.Room("the free RAM", 500, 0)
    monkeypatch.setattr(memory, "tightest_room", lambda: room)
    with pytest.raises(ResourceError, match="whose values are no whole numbers of 16 bits, needs"):
        read_series.read_slices(series)


def set_slope(value: str) -> dicom_files.Change:
    return lambda data, index: setattr(data, "RescaleSlope", value)


def test_values_beyond_float_are_refused_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    write_series(tmp_path, small_volume(), Form(change=set_slope("1e39")))
    with pytest.raises(NonFiniteError, match="found 210 voxels that are NaN or infinite"):
        read(tmp_path)
    assert not recwarn.list


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1]
)
@pytest.mark.parametrize("signed", [False, True])
def test_compressed(tmp_path: Path, syntax: UID, signed: bool) -> None:
    volume = small_volume((5, 32, 40))
    volume.array[0, 0, :2] = -1024, 3000
    form = Form(
        signed=signed,
        intercept=0.0 if signed else -1024.0,
        change=lambda data, _: dicom_files.compress(data, syntax),
    )
    write_series(tmp_path, volume, form)
    assert_same(read(tmp_path), volume)


def test_what_lies_beside_a_series_is_not_used(tmp_path: Path) -> None:
    volume = small_volume()
    files = write_series(tmp_path / "ct", volume)
    shutil.copy(files[2], tmp_path / "ct" / "again")
    shutil.copy(files[2], tmp_path / "elsewhere")
    (tmp_path / "ct" / "notes").write_bytes(b"junk" * 100)
    (tmp_path / "ct" / "empty").touch()
    (tmp_path / ".hidden").write_bytes(files[0].read_bytes()[:-5])
    write_series(tmp_path / "scout", small_volume((1, 9, 9)), Form(series="2", change=as_scout))
    write_series(tmp_path / "bolus", small_volume((2, 9, 9)), Form(series="3"))
    assert_same(read(tmp_path), volume)


def as_scout(data: FileDataset, index: int) -> None:
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def test_an_mr_needs_no_rescale(tmp_path: Path) -> None:
    volume = small_volume()
    volume.array[:] += 1000
    write_series(tmp_path, volume, Form(modality="MR", intercept=None))
    assert_same(read(tmp_path, "MR"), volume)


def test_a_series_is_named(tmp_path: Path) -> None:
    volume = small_volume()
    write_series(tmp_path / "1", small_volume((8, 6, 7)), Form(series="1"))
    write_series(tmp_path / "2", volume, Form(series="2"))
    series = find_series(tmp_path, "CT", [dicom_files.uid("series", "1", "2")])
    assert_same(read_scan.read_volume(series), volume)


def test_the_record_tells_what_results_need(tmp_path: Path) -> None:
    volume = small_volume()
    files = write_series(tmp_path, volume)
    series = find_series(tmp_path, "CT")
    assert series.files == tuple(files)
    assert series.sop_instance_uids[1] == dicom_files.uid("slice", "1", "1", 1)
    assert series.positions_mm[1] == (-10.0, 20.0, -297.75)
    assert series.spacing_mm == 2.5
    assert series.pixel_spacing_mm == (0.75, 0.5)
    assert series.patient_attributes["PatientName"] == dicom_files.PATIENT_NAME
    assert series.patient_attributes["StudyDate"] == "20240131"
    assert dicom_files.PATIENT_NAME not in repr(series)
    assert series.folder == tmp_path


def test_memory_is_one_volume_and_a_slice(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(-1000, 2000, (40, 128, 128)).astype(np.int16)
    volume = Volume(values, Grid((40, 128, 128), (1.0, 1.0, 1.0)))
    write_series(tmp_path, volume)
    series = find_series(tmp_path, "CT")
    read_scan.read_volume(series)
    tracemalloc.start()
    array = read_scan.read_volume(series).array
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A slice: its bytes, the numbers stored, three times in double precision, and its header.
    assert peak < array.nbytes + 40 * 128 * 128
