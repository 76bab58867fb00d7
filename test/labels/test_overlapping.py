"""Organs that overlap: a 4-D image for the challenge, layers for Slicer, a mask an organ."""

from __future__ import annotations

import zlib
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from oarseg.cases.case import Case
from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge, Organ
from oarseg.imaging.volume import Grid, Volume, grid_of
from oarseg.labels import deflate, write_labels
from oarseg.labels.boxes import enclosing_box, label_boxes
from oarseg.results.write_case import write_case

SEGRAP = catalogue.load_challenge("segrap_oar")
OBLIQUE = ((0.8, -0.6, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, 1.0))
GRID = Grid((3, 9, 18), (3.0, 0.5, 0.6), (-10.0, 20.5, -300.25), OBLIQUE)


def every_label(rules: Challenge = SEGRAP) -> NDArray[np.uint8]:
    """Each label in nine voxels, in no order."""
    labels = np.arange(GRID.voxels) % (len(rules.structures) + 1)
    return np.random.default_rng(0).permutation(labels).astype(np.uint8).reshape(GRID.shape)


def write(folder: Path, rules: Challenge, end: str = ".mha") -> tuple[Path, ...]:
    file = Path("/input") / f"a{end}"
    case = Case("a", {socket.channel: file for socket in rules.sockets})
    labels = Volume(every_label(rules), GRID)
    return write_case(folder, case=case, challenge=rules, labels=labels, report={})


def expected(organ: Organ, rules: Challenge = SEGRAP) -> NDArray[np.bool_]:
    return np.isin(every_label(rules), organ.labels)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segrap")
    write(folder, SEGRAP, ".nii.gz")
    return folder


def test_the_4d_image_as_the_organisers_want_it(written: Path) -> None:
    path = written / "images/head-neck-segmentation/a.mha"
    image = sitk.ReadImage(str(path))
    assert image.GetPixelID() == sitk.sitkUInt8
    assert image.GetNumberOfComponentsPerPixel() == 1
    assert image.GetSize() == (18, 9, 3, 45)
    assert image.GetSpacing() == (0.6, 0.5, 3.0, 1.0)
    assert image.GetOrigin() == (0.0, 0.0, 0.0, 0.0)
    assert image.GetDirection() == tuple(np.eye(4).ravel())
    array = sitk.GetArrayFromImage(image)
    for channel, organ in zip(array, SEGRAP.organs, strict=True):
        np.testing.assert_array_equal(channel, expected(organ), err_msg=organ.name)
    assert b"CompressedData = True" in path.read_bytes()[:400]


def test_the_4d_image_in_the_frame_of_the_ct(tmp_path: Path) -> None:
    path = tmp_path / "x.mha"
    zeros = deflate.Zeros(GRID.shape[2])
    body = deflate.deflate_mask(np.zeros(GRID.shape, np.uint8), (1,), box=None, zeros=zeros)
    write_labels.write_channels(path, GRID, [body, body], identity_frame=False)
    image = sitk.ReadImage(str(path))
    assert image.GetOrigin() == (*GRID.origin_mm, 0.0)
    assert grid_of(image[:, :, :, 1]).matches(GRID, tolerance_mm=1e-9)


def test_task_2_has_two_channels(tmp_path: Path) -> None:
    rules = catalogue.load_challenge("segrap_gtv")
    path = write(tmp_path, rules)[0]
    assert path == tmp_path / "images/gross-tumor-volume-segmentation/a.mha"
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert array.shape == (2, *GRID.shape)
    np.testing.assert_array_equal(array, np.stack([every_label(rules) == k for k in (1, 2)]))


def segments(header: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Name → (layer, value), as a Slicer file tells them."""
    count = sum(key.endswith("_Name") for key in header)
    fields = [
        {key: header[f"Segment{i}_{key}"] for key in ("Name", "Layer", "LabelValue")}
        for i in range(count)
    ]
    return {f["Name"]: (int(f["Layer"]), int(f["LabelValue"])) for f in fields}


def test_layers_hold_every_organ_as_pynrrd_reads_them(written: Path) -> None:
    data, header = nrrd.read(str(written / "oar_masks/a.seg.nrrd"))
    assert list(header["kinds"]) == ["list", "domain", "domain", "domain"]
    assert data.shape == (3, 18, 9, 3)  # layers, x, y, z
    assert np.isnan(header["space directions"][0]).all()
    found = segments(header)
    assert list(found) == [organ.name for organ in SEGRAP.organs]
    for organ in SEGRAP.organs:
        layer, value = found[organ.name]
        np.testing.assert_array_equal(value == data[layer].T, expected(organ), organ.name)


def test_layers_hold_every_organ_as_itk_reads_them(written: Path) -> None:
    image = sitk.ReadImage(str(written / "oar_masks/a.seg.nrrd"))
    assert image.GetNumberOfComponentsPerPixel() == 3
    assert grid_of(image).matches(GRID, tolerance_mm=1e-6)
    found = segments({key: image.GetMetaData(key) for key in image.GetMetaDataKeys()})
    array = sitk.GetArrayFromImage(image)
    for organ in SEGRAP.organs:
        layer, value = found[organ.name]
        np.testing.assert_array_equal(array[..., layer] == value, expected(organ), organ.name)


def test_extents_are_those_of_the_union(written: Path) -> None:
    _, header = nrrd.read(str(written / "oar_masks/a.seg.nrrd"))
    brain = np.argwhere(expected(SEGRAP.organs[0]))
    low, high = brain.min(axis=0)[::-1], brain.max(axis=0)[::-1]
    want = " ".join(f"{a} {b}" for a, b in zip(low, high, strict=True))
    assert header["Segment0_Extent"] == want


def test_a_mask_an_organ(written: Path) -> None:
    for organ in SEGRAP.organs:
        path = written / f"oar_masks/a/a_OAR_{organ.name}.seg.nrrd"
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        np.testing.assert_array_equal(array, expected(organ), organ.name)


def test_a_segment_without_a_known_code_has_none(written: Path) -> None:
    _, header = nrrd.read(str(written / "oar_masks/a.seg.nrrd"))
    by_name = {header[f"Segment{i}_Name"]: header[f"Segment{i}_Tags"] for i in range(45)}
    assert "SCT^12738006^Brain" in by_name["Brain"]
    assert "~^^~SCT^7771000^Left~" in by_name["ETbone_L"]


def test_layers_share_no_label() -> None:
    layers = write_labels.layers_of(SEGRAP.organs)
    assert max(layers) == 2
    for layer in range(3):
        labels = [
            label
            for organ, mine in zip(SEGRAP.organs, layers, strict=True)
            if mine == layer
            for label in organ.labels
        ]
        assert len(labels) == len(set(labels))


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_joined_masks_are_one_zlib_stream(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)))
    flat = data.draw(st.lists(st.integers(0, 3), min_size=int(np.prod(shape)), max_size=120))
    labels = np.array(flat[: int(np.prod(shape))], np.uint8).reshape(shape)
    boxes = label_boxes(labels, 3)
    chosen = data.draw(st.lists(st.lists(st.integers(1, 3), min_size=1, unique=True), max_size=4))
    zeros = deflate.Zeros(shape[2])
    parts = [
        deflate.deflate_mask(
            labels, some, box=enclosing_box(boxes[k - 1] for k in some), zeros=zeros
        )
        for some in chosen
    ]
    # zlib itself checks the Adler-32 at the end.
    inflated = zlib.decompress(b"".join(deflate.zlib_of(parts)))
    want = b"".join(np.isin(labels, some).astype(np.uint8).tobytes() for some in chosen)
    assert inflated == want


# --- NIfTI, which StructSeg wants


def test_structseg_labels_lie_on_the_ct_even_where_it_is_oblique(tmp_path: Path) -> None:
    rules = catalogue.load_challenge("structseg_thoracic_oar")
    path = write(tmp_path, rules, ".nii.gz")[0]
    assert path == tmp_path / "a/label.nii.gz"
    image = sitk.ReadImage(str(path))
    assert image.GetPixelID() == sitk.sitkUInt8
    assert grid_of(image).matches(GRID, tolerance_mm=1e-4)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), every_label(rules))
    # Both of NIfTI's forms of the geometry are given, and agree.
    assert image.GetMetaData("qform_code") == "1"
    assert image.GetMetaData("sform_code") == "1"
