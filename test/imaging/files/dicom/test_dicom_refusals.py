"""Series that make no volume, and files that lie: one sentence that names the file, at once."""

from __future__ import annotations

import os
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dicom_files
import dicom_fuzzing
import numpy as np
import pytest
from dicom_files import Change, Form, small_volume, write_series
from pydicom.dataset import FileDataset
from pydicom.pixels.decoders import base
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MediaStorageDirectoryStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)

from oarseg.errors import InputError
from oarseg.imaging.files import read_scan
from oarseg.imaging.files.dicom.assemble import assemble_series
from oarseg.imaging.files.dicom.choose import find_series
from oarseg.imaging.files.dicom.search import search_folder
from oarseg.imaging.volume import Grid, Volume

pytestmark = pytest.mark.dicom


def refusal(folder: Path, modality: str = "CT") -> str:
    """The message for a folder; it takes less than a second of CPU time."""
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        read_scan.read_volume(find_series(folder, modality))
    assert time.process_time() - start < dicom_fuzzing.LONGEST_S
    message = str(caught.value)
    assert message.isprintable()
    assert "Mustermann" not in message
    assert message.count(";") >= 1
    return message


def at(number: int, change: Callable[[FileDataset], None]) -> Change:
    """Change one slice only."""
    return lambda data, index: change(data) if index == number else None


def set_to(**values: object) -> Callable[[FileDataset], None]:
    def change(data: FileDataset) -> None:
        for name, value in values.items():
            setattr(data, name, value)

    return change


def without(name: str) -> Callable[[FileDataset], None]:
    return lambda data: delattr(data, name)


ONE_SLICE = {
    "size": (
        lambda data: dicom_files.set_pixels(data, np.zeros((6, 8), int), signed=False),
        "slice_0003.dcm: expected the size of the other slices of its series, 7×6 pixels, "
        "found 8×6 pixels",
    ),
    "spacing": (
        set_to(PixelSpacing=[0.75, 0.6]),
        "slice_0003.dcm: expected the pixel spacing of the other slices of its series, "
        "0.75, 0.5, found 0.75, 0.6",
    ),
    "orientation": (
        set_to(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]),
        "slice_0003.dcm: expected the orientation of the other slices",
    ),
    "frame": (
        set_to(FrameOfReferenceUID="1.2.3"),
        "slice_0003.dcm: expected the frame of reference of the other slices",
    ),
    "no frame": (
        without("FrameOfReferenceUID"),
        "slice_0003.dcm: expected a CT image with FrameOfReferenceUID (0020,0052), found none",
    ),
    "no position": (
        without("ImagePositionPatient"),
        "slice_0003.dcm: expected a CT image with ImagePositionPatient (0020,0032)",
    ),
    "inverted": (
        set_to(PhotometricInterpretation="MONOCHROME1"),
        "slice_0003.dcm: expected PhotometricInterpretation (0028,0004) MONOCHROME2 with one "
        "sample a pixel, found 'MONOCHROME1'",
    ),
    "colour": (
        set_to(PhotometricInterpretation="RGB", SamplesPerPixel=3),
        "slice_0003.dcm: expected PhotometricInterpretation (0028,0004) MONOCHROME2 with one "
        "sample a pixel, found 'RGB' with 3 samples",
    ),
    "no slope": (
        without("RescaleSlope"),
        "slice_0003.dcm: expected a CT image with RescaleSlope (0028,1053), found none",
    ),
    "no intercept": (
        without("RescaleIntercept"),
        "slice_0003.dcm: expected a CT image with RescaleIntercept (0028,1052), found none",
    ),
    "frames": (
        set_to(NumberOfFrames=2),
        "slice_0003.dcm: expected one slice in each file, found several frames",
    ),
    "rows beyond the bytes": (
        set_to(Rows=65535, Columns=65535),
        "slice_0003.dcm: expected 8589672450 bytes of pixel data for 65535×65535 pixels, found 84",
    ),
    "no pixels": (
        without("PixelData"),
        "slice_0003.dcm: expected 84 bytes of pixel data, found none",
    ),
    "missing bits": (
        set_to(BitsStored=0),
        "slice_0003.dcm: expected pixels of 8 or 16 bits with BitsStored",
    ),
    "moved aside": (
        set_to(ImagePositionPatient=[-10, 21, -292.75]),
        "slice_0003.dcm: expected slices on one line along their normal, found a tilt or shear",
    ),
    "moved along": (
        set_to(ImagePositionPatient=[-10, 20, -292.65]),
        "slice_0003.dcm: expected slices 2.500 mm apart, found 2.600 mm between slice_0002.dcm "
        "and it, at -10, 20, -292.65 mm",
    ),
    "patient": (
        set_to(PatientID="PAT-0002"),
        "slice_0000.dcm: expected a series of one patient, found the patient IDs P…1 and P…2",
    ),
    "far away": (
        set_to(ImagePositionPatient=[1e300, -1e300, 1e308]),
        "slice_0003.dcm: expected ImagePositionPatient (0020,0032) within 1e+06 mm",
    ),
    "no uid": (
        without("SOPInstanceUID"),
        "slice_0003.dcm: expected SOPInstanceUID, a UID, found none",
    ),
}


@pytest.mark.parametrize("what", ONE_SLICE)
def test_one_slice(tmp_path: Path, what: str) -> None:
    change, message = ONE_SLICE[what]
    write_series(tmp_path, small_volume(), Form(change=at(3, change)))
    assert message in refusal(tmp_path)


@pytest.mark.parametrize("tag_deg", [0.0, 15.0])
def test_a_tilted_gantry_whatever_the_tag_says(tmp_path: Path, tag_deg: float) -> None:
    def tilt(data: FileDataset, index: int) -> None:
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [
            x,
            round(float(y) + index * 2.5 * np.tan(np.radians(15)), 4),
            z,
        ]
        data.GantryDetectorTilt = tag_deg

    write_series(tmp_path, small_volume(), Form(change=tilt))
    message = refusal(tmp_path)
    assert "found a tilt or shear of 15.00°, up to 2.68 mm aside; correct" in message


def test_a_tilt_of_no_moment_is_none(tmp_path: Path) -> None:
    def tilt(data: FileDataset, index: int) -> None:
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [x, float(y) + index * 0.002, z]

    write_series(tmp_path, small_volume(), Form(change=tilt))
    read_scan.read_volume(find_series(tmp_path, "CT"))


def test_a_missing_slice(tmp_path: Path) -> None:
    write_series(tmp_path, small_volume((9, 6, 7)))[5].unlink()
    assert (
        "slice_0006.dcm: expected slices 2.500 mm apart, found 5.000 mm between slice_0004.dcm and "
        "it, at -10, 20, -285.25 mm, so that 1 may be missing; export the whole series"
    ) in refusal(tmp_path)


def test_spacing_that_drifts(tmp_path: Path) -> None:
    """No step is far from the usual one, and the last slices are half a slice off."""

    def move(data: FileDataset, index: int) -> None:
        data.ImagePositionPatient = [-10, 20, index * 2.5 + max(0, index - 30) * 0.02]

    write_series(tmp_path, small_volume((60, 6, 7)), Form(change=move))
    assert "mm apart, found" in refusal(tmp_path)


def test_two_slices_at_one_position(tmp_path: Path) -> None:
    write_series(tmp_path, small_volume(), Form())
    write_series(
        tmp_path,
        small_volume(),
        Form(names="b{}".format, change=lambda d, i: setattr(d, "SOPInstanceUID", f"1.2.{i}")),
    )
    message = refusal(tmp_path)
    assert "expected one slice at each position, found another one at the same position" in message
    assert f"{tmp_path}/b" in message
    assert f"{tmp_path}/slice_" in message


def test_the_same_instance_with_other_bytes(tmp_path: Path) -> None:
    files = write_series(tmp_path, small_volume())
    data = bytearray(files[2].read_bytes())
    data[-1] ^= 1
    (tmp_path / "other").write_bytes(data)
    assert "expected one slice at each position" in refusal(tmp_path)


def test_an_instance_of_another_slice(tmp_path: Path) -> None:
    """Contours could not say on which slice they lie."""
    change = at(3, set_to(SOPInstanceUID=dicom_files.uid("slice", "1", "1", 1)))
    write_series(tmp_path, small_volume(), Form(change=change))
    assert (
        f"slice_0003.dcm: expected SOPInstanceUID (0008,0018) of its own, found that of {tmp_path}/"
        "slice_0001.dcm"
    ) in refusal(tmp_path)


def test_thousands_of_different_files_of_one_instance(tmp_path: Path) -> None:
    """Each is not compared with every other."""
    data = bytearray(write_series(tmp_path, small_volume())[0].read_bytes())
    for number in range(1000):
        data[-2:] = struct.pack("<H", number)
        (tmp_path / f"a{number}").write_bytes(data)
    headers = search_folder(tmp_path).series[0]
    start = time.process_time()
    with pytest.raises(InputError, match="expected one slice at each position"):
        assemble_series(headers)
    assert time.process_time() - start < 0.2 * dicom_fuzzing.LONGEST_S


@pytest.mark.parametrize("keep", ["DICM", "meta", "data set"])
def test_a_data_set_without_what_belongs_before_it(tmp_path: Path, keep: str) -> None:
    """The last slices of a series; without them it would seem whole."""
    data = write_series(tmp_path, small_volume())[-1]
    whole = data.read_bytes()
    begins = {"DICM": 128, "meta": 132, "data set": whole.index(b"\x08\0\x05\0CS")}
    data.write_bytes(whole[begins[keep] :])
    assert refusal(tmp_path).startswith(
        f"{data}: expected a DICOM file with DICM at byte 128, found a data set without file meta"
    )


def test_a_series_in_two_studies(tmp_path: Path) -> None:
    """Each would have a part of the slices."""

    def change(data: FileDataset, index: int) -> None:
        data.StudyInstanceUID = f"1.2.{index // 4}"

    write_series(tmp_path, small_volume((8, 6, 7)), Form(change=change))
    series = dicom_files.uid("series", "1", "1")
    expected = f"expected the StudyInstanceUID (0020,000D) of all slices of series {series}, found"
    assert expected in refusal(tmp_path)
    faults = search_folder(tmp_path).faults
    assert [path.name for path, _ in faults] == ["slice_0000.dcm", "slice_0004.dcm"]
    assert expected in str(faults[1][1])


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold slices of the series beside it."""
    write_series(tmp_path, small_volume())
    locked = tmp_path / "more"
    locked.mkdir()
    real = os.scandir

    def scandir(path: str) -> Any:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refusal(tmp_path).startswith(
        f"{locked}: expected a folder that can be read, found Permission denied"
    )


def test_control_characters_in_a_file_s_name(tmp_path: Path) -> None:
    path = write_series(tmp_path, small_volume())[2]
    path.write_bytes(path.read_bytes()[:-9])
    path.rename(tmp_path / "a\nb\x1b[31m")
    assert r"a\nb\x1b[31m': expected 84 bytes of pixel data" in refusal(tmp_path)


def test_several_series(tmp_path: Path) -> None:
    write_series(tmp_path / "1", small_volume(), Form(series="1", description="Thin\x1b[31m"))
    write_series(tmp_path / "2", small_volume((9, 6, 7)), Form(series="2", description="Thick"))
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}: expected one CT series, found 2 of ")
    uids = [dicom_files.uid("series", "1", number) for number in "12"]
    assert all(uid in message for uid in uids)
    assert "('Thick', 9 slices of 2.50 mm)" in message
    assert message.endswith("choose one with --series UID")


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    data = dicom_files.new_dataset(EnhancedCTImageStorage, "1.2.3")
    dicom_files.set_pixels(data, np.zeros((4, 4), int), signed=False)
    data.NumberOfFrames = 1
    data.save_as(tmp_path / "enhanced", enforce_file_format=True)
    assert refusal(tmp_path).startswith(
        f"{tmp_path}/enhanced: expected one slice in each file, found an enhanced multi-frame"
    )


def test_a_structure_set_alone(tmp_path: Path) -> None:
    data = dicom_files.new_dataset(RTStructureSetStorage, "1.2.3")
    data.save_as(tmp_path / "rs", enforce_file_format=True)
    assert refusal(tmp_path).startswith(
        f"{tmp_path}/rs: expected a CT series in DICOM, found RT Structure Set Storage (1)"
    )


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_truncated(tmp_path: Path, keep: float) -> None:
    path = write_series(tmp_path, small_volume())[4]
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert refusal(tmp_path).startswith(f"{path}: expected ")


def test_a_data_set_that_inflates_is_never_parsed(tmp_path: Path) -> None:
    """Eight hundred KiB that would inflate to 800 MiB."""
    path = write_series(tmp_path, small_volume())[0]
    data = dicom_files.slice_dataset(small_volume(), 0, Form(syntax=DeflatedExplicitVRLittleEndian))
    data.save_as(path, enforce_file_format=True)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(1 << 20)
    bomb = b"".join([*(packer.compress(zeros) for _ in range(200)), packer.flush()])
    head = path.read_bytes()
    path.write_bytes(head[: head.index(b"1.2.840.10008.1.2.1.99") + 22] + bomb)
    message = refusal(tmp_path)
    assert message.startswith(f"{path}: expected a transfer syntax among Explicit VR Little")
    assert "found Deflated Explicit VR Little Endian" in message


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (JPEGBaseline8Bit, "JPEG Baseline (Process 1)"),
        (ExplicitVRBigEndian, "Explicit VR Big Endian"),
        (JPEGLSNearLossless, "JPEG-LS Lossy (Near-Lossless) Image Compression"),
        (JPEG2000, "JPEG 2000 Image Compression"),
        (HTJ2KLossless, "High-Throughput JPEG 2000 Image Compression (Lossless Only)"),
        (UID("1.2.3.4"), "1.2.3.4"),
        (UID(""), "none"),
    ],
)
def test_another_transfer_syntax(tmp_path: Path, syntax: UID, name: str) -> None:
    path = write_series(tmp_path, small_volume())[0]
    data = path.read_bytes()
    new = syntax.encode()
    old, new = b"1.2.840.10008.1.2.1\0", new + b"\0" * (len(new) % 2)
    data = data.replace(struct.pack("<H", len(old)) + old, struct.pack("<H", len(new)) + new)
    path.write_bytes(data)
    assert f"found {name}; export it without compression" in refusal(tmp_path)


def test_a_faulty_file_costs_the_series_beside_it(tmp_path: Path) -> None:
    """It may be a slice of that series, whose end would be missing without a word."""
    files = write_series(tmp_path / "a", small_volume())
    files[-1].write_bytes(files[-1].read_bytes()[:400])
    assert str(files[-1]) in refusal(tmp_path)


def test_sequences_nested_deep(tmp_path: Path) -> None:
    path = write_series(tmp_path, small_volume())[0]
    inner = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack(
        "<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF
    )
    begin = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    data = path.read_bytes()
    at_byte = data.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    path.write_bytes(data[:at_byte] + begin + inner * 400 + data[at_byte:])
    message = refusal(tmp_path)
    assert message.startswith(f"{path}: expected a DICOM file whose data set can be read, found ")
    assert "sequences nested too deep" in message


def test_far_too_many_elements(tmp_path: Path) -> None:
    path = write_series(tmp_path, small_volume())[0]
    data = path.read_bytes()
    at_byte = data.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    many = struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0) * 1_000_000
    path.write_bytes(data[:at_byte] + many + data[at_byte:])
    assert "far more elements than expected" in refusal(tmp_path)


def test_a_value_that_claims_four_gib(tmp_path: Path) -> None:
    path = write_series(tmp_path, small_volume())[0]
    data = path.read_bytes()
    at_byte = data.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    huge = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 0xFFFFFFF0)
    path.write_bytes(data[:at_byte] + huge + data[at_byte:])
    assert refusal(tmp_path).startswith(f"{path}: expected ")


def test_a_run_length_that_asks_for_gibibytes(tmp_path: Path) -> None:
    """Five hundred bytes whose header promises 8 GiB; nothing of it is allocated."""

    def change(data: FileDataset, index: int) -> None:
        data.file_meta.TransferSyntaxUID = RLELossless
        data.Rows = data.Columns = 65535
        stream = struct.pack("<16I", 2, 64, 66, *[0] * 13) + b"\x81\0\x81\0"
        item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
        item += struct.pack("<HHI", 0xFFFE, 0xE000, len(stream)) + stream
        data.PixelData = item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True

    write_series(tmp_path, small_volume(), Form(change=change))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "expected 8589672450 bytes of pixels, found" in refusal(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_stream_of_another_size(tmp_path: Path, syntax: UID) -> None:
    """Its decoder would allocate what the stream asks for."""

    def change(data: FileDataset, index: int) -> None:
        data.compress(syntax, generate_instance_uid=False)
        data.Rows -= 1

    write_series(tmp_path, small_volume((5, 32, 40)), Form(change=change))
    assert "expected 40×31 grey pixels, found 40×32 in the stream" in refusal(tmp_path)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1])
@pytest.mark.parametrize("keep", [0.5, 0.95, 0.99])
def test_a_compressed_frame_that_breaks_off(tmp_path: Path, syntax: UID, keep: float) -> None:
    """Some decoders make up the rest."""
    change = at(3, lambda data: dicom_files.compress(data, syntax, keep))
    write_series(tmp_path, small_volume((5, 32, 40)), Form(change=change))
    assert (
        "slice_0003.dcm: expected a whole compressed stream, found one that breaks off"
    ) in refusal(tmp_path)


def test_a_jpeg_2000_stream_without_most_of_its_tiles(tmp_path: Path) -> None:
    """Its decoder would fill their pixels with zeros."""
    change = at(3, lambda data: dicom_files.compress(data, JPEG2000Lossless))
    path = write_series(tmp_path, small_volume((5, 32, 40)), Form(change=change))[3]
    data = bytearray(path.read_bytes())
    begin = data.index(b"\xff\x4f\xff\x51")
    data[begin + 24 : begin + 32] = struct.pack(">II", 8, 8)
    path.write_bytes(data)
    assert f"{path}: expected a whole compressed stream" in refusal(tmp_path)


def test_a_syntax_whose_decoder_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(data: FileDataset, index: int) -> None:
        data.compress(JPEGLSLossless, generate_instance_uid=False)

    path = write_series(tmp_path, small_volume((5, 32, 40)), Form(change=change))[0]
    missing = SimpleNamespace(available_plugins=("another",))
    monkeypatch.setattr(base, "get_decoder", lambda _: missing)
    assert refusal(tmp_path).startswith(
        f"{path}: expected a decoder for JPEG-LS Lossless Image Compression, found none; install "
        "oarseg[dicom-jpeg]"
    )


def test_a_broken_run_length(tmp_path: Path) -> None:
    def change(data: FileDataset, index: int) -> None:
        data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)

    path = write_series(tmp_path, small_volume(), Form(change=change))[1]
    data = bytearray(path.read_bytes())
    at_byte = data.rindex(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    data[at_byte - 40 : at_byte] = b"\x7f" * 40
    path.write_bytes(data)
    assert refusal(tmp_path).startswith(f"{path}: expected ")


def test_limits_hold_before_a_pixel_is_read(tmp_path: Path) -> None:
    write_series(tmp_path, small_volume())
    series = find_series(tmp_path, "CT")
    with pytest.raises(InputError, match="at most 100 voxels"):
        read_scan.read_volume(series, limits=read_scan.Limits(voxels=100))


def test_three_slices_are_no_scan(tmp_path: Path) -> None:
    write_series(tmp_path, small_volume((3, 6, 7)))
    assert "expected a 3-D image with at least 4 voxels along each axis" in refusal(tmp_path)


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    files = write_series(tmp_path, small_volume())
    series = find_series(tmp_path, "CT")
    files[1].write_bytes(files[2].read_bytes())
    with pytest.raises(InputError, match="found another file than a moment ago"):
        read_scan.read_volume(series)


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in", small_volume())
    away = tmp_path / "away"
    files[4].rename(away)
    files[4].symlink_to(away)
    assert "slice_0004.dcm: expected a file inside the input folder" in refusal(tmp_path / "in")


def test_what_a_folder_holds_is_counted(tmp_path: Path) -> None:
    write_series(tmp_path, small_volume())
    (tmp_path / "x").write_bytes(b"junk")
    kinds = {
        "DICOMDIR": MediaStorageDirectoryStorage,
        "rs": RTStructureSetStorage,
        "pet": PositronEmissionTomographyImageStorage,
        "sc": SecondaryCaptureImageStorage,
    }
    for name, kind in kinds.items():
        data = dicom_files.new_dataset(kind, "1.2.3")
        data.save_as(tmp_path / name, enforce_file_format=True)
    found = search_folder(tmp_path)
    assert found.others == 1
    assert found.unused_kinds() == (
        "Media Storage Directory Storage (1), Positron Emission Tomography Image Storage (1), "
        "RT Structure Set Storage (1), Secondary Capture Image Storage (1)"
    )


CHARACTER_SETS = {
    "ISO_IR 100": "Müller^Jörg",
    "ISO_IR 101": "Wałęsa^Lech",
    "ISO_IR 144": "Люксембург",
    "ISO_IR 127": "قباني^لنزار",
    "ISO_IR 126": "Διονυσιος",
    "ISO_IR 138": "שרון^דבורה",
    "ISO_IR 148": "Çavuşoğlu",
    "ISO_IR 166": "นามสกุล",
    "ISO_IR 13": "ﾔﾏﾀﾞ^ﾀﾛｳ",
    "ISO_IR 192": "王^小東",
    "GB18030": "王^小东",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
}


@pytest.mark.parametrize("name", CHARACTER_SETS)
def test_names_in_every_character_set(tmp_path: Path, name: str) -> None:
    """What results repeat of the patient; messages do not."""
    patient = CHARACTER_SETS[name]

    def change(data: FileDataset, index: int) -> None:
        data.SpecificCharacterSet = name.split("\\")
        data.PatientName = patient

    write_series(tmp_path, small_volume(), Form(change=change))
    assert find_series(tmp_path, "CT").patient_attributes["PatientName"] == patient


@pytest.mark.parametrize("name", ["ISO_IR 999", "utf8", "\\\\x", ""])
def test_a_character_set_that_is_none(tmp_path: Path, name: str) -> None:
    """Nobody can tell what is meant, and the images are none the worse."""
    for path in write_series(tmp_path, small_volume()):
        data = path.read_bytes().replace(b"ISO_IR 192", name.encode().ljust(10))
        path.write_bytes(data.replace(b"Mustermann", b"M\xfcstermann"[:10]))
    series = find_series(tmp_path, "CT")
    assert series.patient_attributes["PatientName"].startswith("M")
    read_scan.read_volume(series)


def test_constant_pixels(tmp_path: Path) -> None:
    grid = Grid((5, 6, 7), (1.0, 1.0, 1.0))
    write_series(tmp_path, Volume(np.zeros((5, 6, 7), np.int16), grid))
    assert "found the value 0 in every voxel" in refusal(tmp_path)
