"""Outputs: exact geometry and values, equal bytes, and all of a case or nothing."""

from __future__ import annotations

import errno
import gzip
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oarseg.cases.case import Case
from oarseg.challenges import catalogue
from oarseg.errors import OutputError
from oarseg.imaging.files.nifti_geometry import describe_placement
from oarseg.imaging.files.read_scan import read_volume
from oarseg.imaging.nifti_placement import pack_placement
from oarseg.imaging.volume import Grid, Volume, grid_of, to_sitk
from oarseg.labels import deflate, write_labels
from oarseg.labels.boxes import label_boxes
from oarseg.results import staging
from oarseg.results.earlier import EarlierOutputs
from oarseg.results.folder import explained_refusal
from oarseg.results.write_case import (
    check_output,
    check_places,
    stage_outputs,
    write_case,
)

HAN_SEG = catalogue.load_challenge("han_seg")
# Rotations about two axes by angles whose sines are 0.6 and 0.28.
OBLIQUE = (0.96, -0.168, 0.224, 0.28, 0.576, -0.768, 0.0, 0.8, 0.6)
NAMES = {structure.label: structure.name for structure in HAN_SEG.structures}
GRID = Grid((4, 5, 6), (2.0, 0.64, 0.7), (-12.5, 100.1, -597.25))


def label_map() -> Volume:
    """Brainstem: one voxel. SpinalCord: a box of 2×2×3. All others are empty."""
    array = np.zeros(GRID.shape, np.uint8)
    array[1, 2, 3] = 5
    array[2:4, 0:2, 1:4] = 30
    return Volume(array, GRID)


def case(name: str = "case_01", end: str = ".nrrd") -> Case:
    folder = Path("/input")
    return Case(
        name, {"CT": folder / f"{name}_IMG_CT{end}", "MR_T1": folder / f"{name}_MR_T1{end}"}
    )


def write(
    output: Path,
    labels: Volume | None = None,
    *,
    name: str = "case_01",
    end: str = ".nrrd",
    report: Mapping[str, Any] | None = None,
) -> tuple[Path, ...]:
    return write_case(
        output,
        case=case(name, end),
        challenge=HAN_SEG,
        labels=labels or label_map(),
        report=report or {"seconds": 1.5},
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, and its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def header_of(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def random_grid(seed: int) -> Grid:
    rng = np.random.default_rng(seed)
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*rng.uniform(-3.0, 3.0, 3).tolist())
    matrix = transform.GetMatrix()
    rows = tuple(tuple(matrix[3 * i : 3 * i + 3]) for i in range(3))
    spacing = tuple(rng.uniform(0.3, 3.0, 3).tolist())
    origin = tuple(rng.uniform(-700.0, 700.0, 3).tolist())
    return Grid((4, 5, 6), spacing, origin, rows)  # type: ignore[arg-type]


def test_every_output_is_where_the_design_says(tmp_path: Path) -> None:
    files = write(tmp_path)
    expected = [
        "images/head_neck_oar/case_01_IMG_seg.nrrd",
        "oar_masks/case_01.seg.nrrd",
        *(f"oar_masks/case_01/case_01_OAR_{name}.seg.nrrd" for name in NAMES.values()),
        "reports/case_01.json",
    ]
    assert [str(path.relative_to(tmp_path)) for path in files] == expected
    assert set(tree(tmp_path)) == set(expected)
    assert json.loads(files[-1].read_text()) == {"seconds": 1.5}


@pytest.mark.parametrize("end", [".mha", ".nrrd", ".nii.gz", ".nii"])
def test_label_file_reads_back(tmp_path: Path, end: str) -> None:
    path = write(tmp_path, end=end)[0]
    image = sitk.ReadImage(str(path))
    assert path.name == f"case_01_IMG_seg{end}"
    assert image.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), label_map().array)
    assert grid_of(image).matches(GRID, tolerance_mm=1e-4)


def test_label_file_of_the_platform_keeps_its_name(tmp_path: Path) -> None:
    files = {"CT": Path("9b1d.mha")}
    written = write_case(
        tmp_path, case=Case("9b1d", files), challenge=HAN_SEG, labels=label_map(), report={}
    )
    assert written[0] == tmp_path / "images/head_neck_oar/9b1d.mha"


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**6), end=st.sampled_from(["mha", "nrrd"]))
def test_oblique_geometry_is_the_ct_s_to_the_last_bit(tmp_path: Path, seed: int, end: str) -> None:
    ct = tmp_path / f"ct.{end}"
    sitk.WriteImage(to_sitk(Volume(label_map().array, random_grid(seed))), str(ct))
    grid = grid_of(header_of(ct))
    labels = Volume(label_map().array, grid)
    with ThreadPoolExecutor(1) as pool:
        body = deflate.deflate_array(labels.array, pool)
    out = tmp_path / f"out.{end}"
    out.unlink(missing_ok=True)
    write_labels.write_label_file(out, labels, body)
    assert grid_of(header_of(out)) == grid


@pytest.mark.parametrize("end", ["nii", "nii.gz"])
@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (0, 2), (1, 0), (2, 2), (4, 3), (0, 0)])
@pytest.mark.parametrize("skew", [0.0, 1e-5, 2.5e-5])
def test_nifti_labels_have_the_fields_of_the_ct_s_header(
    tmp_path: Path, end: str, codes: tuple[int, int], skew: float
) -> None:
    ct, out = tmp_path / f"ct.{end}", tmp_path / f"label.{end}"
    write_ct(ct, skewed_grid(skew), codes=codes)
    write_labels_of(ct, out)
    kept = [slice(76, 92), slice(252, 256), slice(256, 328)]
    assert [header_bytes(out)[part] for part in kept] == [header_bytes(ct)[part] for part in kept]
    assert_masks(ct, out)


@pytest.mark.parametrize("output", ["mha", "nrrd", "nii", "nii.gz"])
@pytest.mark.parametrize("source", ["mha", "nrrd", "nii", "nii.gz"])
@pytest.mark.parametrize("skew", [0.0, 1e-5, 2.5e-5])
def test_simpleitk_takes_ct_and_labels_as_one_grid(
    tmp_path: Path, source: str, output: str, skew: float
) -> None:
    """Oblique, and askew as some real files are; places that single precision can hold."""
    ct, out = tmp_path / f"ct.{source}", tmp_path / f"label.{output}"
    write_ct(ct, skewed_grid(skew))
    write_labels_of(ct, out)
    assert_masks(ct, out)


def skewed_grid(skew: float) -> Grid:
    """Turned about two axes, the slices displaced along y; in numbers that floats can hold."""
    axes = np.array(OBLIQUE).reshape(3, 3) @ np.array([[1, 0, 0], [0, 1, skew], [0, 0, 1]])
    axes /= np.linalg.norm(axes, axis=0)
    direction = tuple(tuple(row) for row in axes.tolist())
    return Grid(GRID.shape, (2.5, 0.75, 0.75), (-12.5, 100.0, -597.25), direction)


def write_ct(path: Path, grid: Grid, *, codes: tuple[int, int] = (1, 1)) -> None:
    """A CT; as NIfTI with a matrix that keeps the skew, which ITK's writer leaves out."""
    volume = Volume(label_map().array.astype(np.int16) * 100 - 1000, grid)
    sitk.WriteImage(to_sitk(volume), str(path))
    if ".nii" not in path.name:
        return
    compressed = path.suffix == ".gz"
    data = bytearray(gzip.decompress(path.read_bytes()) if compressed else path.read_bytes())
    placement = replace(describe_placement(grid), qform=codes[0], sform=codes[1])
    pack_placement(data, placement)
    path.write_bytes(gzip.compress(data) if compressed else data)


def header_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data)[:352]


def write_labels_of(ct: Path, out: Path) -> None:
    """Read a CT and write labels on its grid, as a case does."""
    labels = Volume(label_map().array, read_volume(ct).grid)
    with ThreadPoolExecutor(1) as pool:
        body = deflate.deflate_array(labels.array, pool)
    write_labels.write_label_file(out, labels, body)


def assert_masks(ct: Path, out: Path) -> None:
    """SimpleITK refuses a pair whose places differ by a millionth of a voxel."""
    image, label = sitk.ReadImage(str(ct)), sitk.ReadImage(str(out))
    assert label.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), label_map().array)
    masked = sitk.GetArrayFromImage(sitk.Mask(image, label, outsideValue=-2000))
    np.testing.assert_array_equal(masked > -2000, label_map().array > 0)


def test_nifti_of_a_grid_that_was_changed_since(tmp_path: Path) -> None:
    """The header of another grid is not copied."""
    ct, out = tmp_path / "ct.nii", tmp_path / "label.nii"
    write_ct(ct, skewed_grid(0.0))
    grid = replace(read_volume(ct).grid, origin_mm=(1.0, 2.0, 3.0))
    assert grid.nifti is not None
    with ThreadPoolExecutor(1) as pool:
        body = deflate.deflate_array(label_map().array, pool)
    write_labels.write_label_file(out, Volume(label_map().array, grid), body)
    assert grid_of(sitk.ReadImage(str(out))).origin_mm == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("seed", range(20))
def test_nifti_of_any_grid_is_right_to_single_precision(tmp_path: Path, seed: int) -> None:
    grid = random_grid(seed)
    with ThreadPoolExecutor(1) as pool:
        body = deflate.deflate_array(label_map().array, pool)
    out = tmp_path / "out.nii.gz"
    write_labels.write_label_file(out, Volume(label_map().array, grid), body)
    found = grid_of(sitk.ReadImage(str(out)))
    np.testing.assert_allclose(found.spacing_mm, grid.spacing_mm, rtol=1e-7)
    np.testing.assert_allclose(found.origin_mm, grid.origin_mm, rtol=1e-7)
    np.testing.assert_allclose(found.direction, grid.direction, rtol=0, atol=2e-7)


def test_masks_read_back_in_simpleitk_and_pynrrd(tmp_path: Path) -> None:
    files = write(tmp_path)
    array = label_map().array
    for label, path in zip(NAMES, files[2:-1], strict=True):
        image = sitk.ReadImage(str(path))
        assert grid_of(image).matches(GRID, tolerance_mm=1e-9)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array == label)
        data, header = nrrd.read(str(path), index_order="C")
        np.testing.assert_array_equal(data, array == label)
        assert data.dtype == np.uint8
        assert header["Segment0_Name"] == NAMES[label]
        assert header["Segment0_LabelValue"] == "1"


def test_slicer_segmentation(tmp_path: Path) -> None:
    path = write(tmp_path)[1]
    data, header = nrrd.read(str(path), index_order="C")
    np.testing.assert_array_equal(data, label_map().array)
    assert header["space"] == "left-posterior-superior"
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert header["Segmentation_SourceRepresentation"] == "Binary labelmap"
    assert header["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert header["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    cord = {key[10:]: text for key, text in header.items() if key.startswith("Segment29_")}
    assert cord == {
        "ID": "SpinalCord",
        "Name": "SpinalCord",
        "NameAutoGenerated": "0",
        "Color": "0.956863 0.956863 0.431373",
        "ColorAutoGenerated": "0",
        "LabelValue": "30",
        "Layer": "0",
        # x, y, z: first and last voxel.
        "Extent": "1 3 0 1 2 3",
        "Tags": "TerminologyEntry:Segmentation category and type - DICOM master list"
        "~SCT^123037004^Anatomical Structure~SCT^2748008^Spinal cord~^^"
        "~Anatomic codes - DICOM master list~^^~^^|",
    }
    assert header["Segment0_Extent"] == "0 -1 0 -1 0 -1"
    assert "~SCT^69105007^Carotid artery~SCT^7771000^Left~Anatomic" in header["Segment0_Tags"]
    assert "Segment30_ID" not in header


def test_empty_label_map(tmp_path: Path) -> None:
    files = write(tmp_path, Volume(np.zeros(GRID.shape, np.uint8), GRID))
    assert len(files) == 33
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(files[2]))).any()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_masks_are_valid_gzip_of_the_mask(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    array = np.array(
        data.draw(
            st.lists(st.integers(0, 2), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
        ),
        np.uint8,
    ).reshape(shape)
    zeros = deflate.Zeros(shape[2])
    for label, box in enumerate(label_boxes(array, 2), start=1):
        body = deflate.deflate_mask(array, (label,), box=box, zeros=zeros)
        # gzip checks length and CRC.
        assert gzip.decompress(b"".join(body.gzip())) == (array == label).tobytes()


def test_runs_of_zeros_beyond_the_largest_piece() -> None:
    array = np.zeros((40, 512, 512), np.uint8)
    array[20, 100, 7] = 1
    (box,) = label_boxes(array, 1)
    body = deflate.deflate_mask(array, (1,), box=box, zeros=deflate.Zeros(512))
    assert array.size > 2 * deflate.LARGEST_PIECE
    assert gzip.decompress(b"".join(body.gzip())) == array.tobytes()


@pytest.mark.parametrize("end", [".mha", ".nrrd", ".nii.gz"])
def test_equal_labels_give_equal_bytes(tmp_path: Path, end: str) -> None:
    write(tmp_path / "a", end=end)
    write(tmp_path / "b", end=end)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_label_without_structure_is_a_bug(tmp_path: Path) -> None:
    labels = label_map()
    labels.array[0, 0, 0] = 31
    with pytest.raises(ValueError, match="expected uint8 labels 0–30, found uint8 up to 31"):
        write(tmp_path, labels)
    with pytest.raises(ValueError, match="found int16 up to 30"):
        write(tmp_path, Volume(label_map().array.astype(np.int16), GRID))
    assert tree(tmp_path) == {}


class Full:
    """Stands in for a function of the system; fails at the n-th call."""

    def __init__(self, real: Any, fails_at: int) -> None:
        self.real, self.left = real, fails_at

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(*args, **options)


@pytest.mark.parametrize("nth", [1, 2, 20, 32])
def test_disk_full_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    monkeypatch.setattr(os, "fsync", Full(os.fsync, nth))
    with pytest.raises(OutputError) as caught:
        write(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: expected a folder that can be written, found No space left on device; "
        "free space, or pass another --output"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize("earlier", [False, True])
def test_failure_while_renaming_restores_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, earlier: bool
) -> None:
    if earlier:
        write(tmp_path, report={"run": 1})
    before = tree(tmp_path)
    place = staging.CaseStage._place
    calls = Full(place, nth)
    monkeypatch.setattr(staging.CaseStage, "_place", lambda stage, file: calls(stage, file))
    monkeypatch.setattr(staging.CaseStage, "_place_last", lambda stage, file: calls(stage, file))
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path, Volume(np.zeros(GRID.shape, np.uint8), GRID), report={"run": 2})
    assert tree(tmp_path) == before


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        stage_outputs(tmp_path, case=case(), challenge=HAN_SEG, labels=label_map()),
    ):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_committed_leaves_nothing_and_what_was_set_aside_stays(tmp_path: Path) -> None:
    write(tmp_path)
    earlier = EarlierOutputs(tmp_path, HAN_SEG, {})
    assert earlier.set_aside("case_01") == "its outputs of an earlier run are in earlier/case_01"
    before = tree(tmp_path)
    with stage_outputs(tmp_path, case=case(), challenge=HAN_SEG, labels=label_map()) as staged:
        waiting = tree(staged.stage.new)
    assert str(staged.files[0]) in waiting
    assert str(staged.report_file) not in waiting
    assert tree(tmp_path) == before


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    write(tmp_path, report={"run": 1})
    (tmp_path / ".oarseg/stage/case_01").mkdir(parents=True)
    (tmp_path / ".oarseg/stage/case_01/left by a killed run").touch()
    stale = tmp_path / "oar_masks/case_01/case_01_OAR_Gone.seg.nrrd"
    stale.touch()
    write(tmp_path, Volume(np.zeros(GRID.shape, np.uint8), GRID), report={"run": 2})
    empty = tmp_path / "fresh"
    write(empty, Volume(np.zeros(GRID.shape, np.uint8), GRID), report={"run": 2})
    fresh = tree(empty)
    assert {key: value for key, value in tree(tmp_path).items() if "fresh" not in key} == fresh


def test_output_is_checked_before_any_work(tmp_path: Path) -> None:
    check_output(tmp_path / "new/folder")
    assert list((tmp_path / "new/folder").iterdir()) == []


@pytest.mark.parametrize("planted", ["images", "oar_masks", "reports", "earlier", ".oarseg"])
def test_links_in_the_output_are_refused_before_any_work(tmp_path: Path, planted: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / planted).symlink_to(tmp_path / "outside")
    with pytest.raises(OutputError, match=f"{planted}: expected a folder, found a link"):
        check_output(tmp_path / "output")
    assert list((tmp_path / "outside").iterdir()) == []


def test_the_output_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    check_output(tmp_path / "link")
    assert len(write(tmp_path / "link")) == 33
    assert len(tree(tmp_path / "real")) == 33


@pytest.mark.parametrize(
    ("name", "folder"),
    [("oar_masks/case_01.seg.nrrd", True), ("oar_masks/case_01", False), ("reports", False)],
)
def test_places_are_checked_before_a_case_is_computed(
    tmp_path: Path, name: str, folder: bool
) -> None:
    check_places(tmp_path, case(), HAN_SEG)
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.mkdir() if folder else place.touch()
    with pytest.raises(OutputError, match=f"{name}.*: expected a .*, found a"):
        check_places(tmp_path, case(), HAN_SEG)


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "out.mha").symlink_to(tmp_path / "outside")
    with ThreadPoolExecutor(1) as pool:
        body = deflate.deflate_array(label_map().array, pool)
    with pytest.raises(FileExistsError):
        write_labels.write_label_file(tmp_path / "out.mha", label_map(), body)
    assert not (tmp_path / "outside").exists()


def test_output_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(OutputError) as caught, explained_refusal(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert str(caught.value) == (
        f"{tmp_path}: expected a folder that can be written, found Permission denied; let uid "
        '12345 write there (docker run: --user "$(id -u)"), or pass another --output'
    )


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file/below", Path("/proc/oarseg")):
        with pytest.raises(OutputError) as caught:
            check_output(output)
        message = str(caught.value)
        assert message.startswith(f"{output}: expected a folder that can be written, found ")
        assert message.endswith("; free space, or pass another --output")
