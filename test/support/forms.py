"""The form of what a challenge asks for, checked field by field on the files themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.cases.case import Case, label_path
from oarseg.challenges.challenge import Challenge
from oarseg.imaging.volume import Grid, grid_of

# NIfTI keeps its geometry in 32-bit floats.
NIFTI_MM = 1e-3


def check_form(output: Path, case: Case, rules: Challenge) -> NDArray[np.bool_]:
    """Check all outputs of a case; returns its masks (organs, z, y, x)."""
    path = output / label_path(case, rules)
    grid = grid_of(sitk.ReadImage(str(case.files[rules.reference.channel])))
    if rules.output.form == "channels":
        masks = _channels(path, grid, rules)
    else:
        masks = _label_map(path, grid, rules)
    _check_masks(output, case.name, masks, rules)
    _check_segmentation(output / "oar_masks" / f"{case.name}.seg.nrrd", masks, rules)
    _check_report(output, case, rules, masks, grid)
    return masks


def _header(path: Path) -> dict[str, str]:
    """A MetaImage's header, as written."""
    text = path.read_bytes()[:4096].split(b"ElementDataFile = LOCAL")[0].decode("ascii")
    return dict(line.split(" = ", 1) for line in text.splitlines())


def _channels(path: Path, grid: Grid, rules: Challenge) -> NDArray[np.bool_]:
    """A 4-D MetaImage: every field of its header, then its values."""
    assert path.suffix == ".mha"
    header = _header(path)
    count = len(rules.organs)
    depth, height, width = grid.shape
    sz, sy, sx = grid.spacing_mm
    assert header["ObjectType"] == "Image"
    assert header["NDims"] == "4"
    assert header["DimSize"] == f"{width} {height} {depth} {count}"
    assert [float(v) for v in header["ElementSpacing"].split()] == [sx, sy, sz, 1.0]
    assert header["ElementType"] == "MET_UCHAR"
    assert header["CompressedData"] == "True"
    assert header["BinaryDataByteOrderMSB"] == "False"
    if rules.output.identity_frame:
        assert [float(v) for v in header["Offset"].split()] == [0.0] * 4
        assert [float(v) for v in header["TransformMatrix"].split()] == np.eye(4).ravel().tolist()
    image = sitk.ReadImage(str(path))
    assert image.GetPixelID() == sitk.sitkUInt8
    array = sitk.GetArrayFromImage(image)
    assert array.shape == (count, *grid.shape)
    assert set(np.unique(array)) <= {0, 1}
    return np.asarray(array, bool)


def _label_map(path: Path, grid: Grid, rules: Challenge) -> NDArray[np.bool_]:
    """A label map on the reference's grid."""
    image = sitk.ReadImage(str(path))
    assert image.GetPixelID() == sitk.sitkUInt8
    assert image.GetNumberOfComponentsPerPixel() == 1
    found = grid_of(image)
    if path.name.endswith((".nii", ".nii.gz")):
        assert found.matches(grid, tolerance_mm=NIFTI_MM)
    else:
        assert found == grid
    array = sitk.GetArrayFromImage(image)
    assert int(array.max()) <= len(rules.structures)
    return np.stack([np.isin(array, organ.labels) for organ in rules.organs])


def _check_masks(output: Path, name: str, masks: NDArray[np.bool_], rules: Challenge) -> None:
    folder = output / "oar_masks" / name
    assert {p.name for p in folder.iterdir()} == {
        f"{name}_OAR_{organ.name}.seg.nrrd" for organ in rules.organs
    }
    for organ, mask in zip(rules.organs, masks, strict=True):
        data, header = nrrd.read(str(folder / f"{name}_OAR_{organ.name}.seg.nrrd"))
        assert header["Segment0_Name"] == organ.name
        assert np.array_equal(data.T > 0, mask), organ.name


def _check_segmentation(path: Path, masks: NDArray[np.bool_], rules: Challenge) -> None:
    """All organs in one Slicer segmentation, in layers where they overlap."""
    data, header = nrrd.read(str(path))
    layers = data if data.ndim == 4 else data[None]
    assert (layers.shape[0] > 1) == bool(rules.overlapping)
    for index, (organ, mask) in enumerate(zip(rules.organs, masks, strict=True)):
        assert header[f"Segment{index}_Name"] == organ.name
        layer = layers[int(header[f"Segment{index}_Layer"])]
        value = int(header[f"Segment{index}_LabelValue"])
        assert np.array_equal(value == layer.T, mask), organ.name


def _check_report(
    output: Path, case: Case, rules: Challenge, masks: NDArray[np.bool_], grid: Grid
) -> None:
    report: dict[str, Any] = json.loads((output / "reports" / f"{case.name}.json").read_text())
    assert report["case"] == case.name
    assert report["challenge"] == rules.name
    assert set(report["inputs"]) == {socket.channel for socket in rules.sockets}
    assert list(report["volumes_cm3"]) == [organ.name for organ in rules.organs]
    for organ, mask in zip(rules.organs, masks, strict=True):
        volume = float(mask.sum()) * grid.voxel_volume_mm3 / 1000
        assert abs(report["volumes_cm3"][organ.name] - volume) < 1e-3
    assert (rules.notice in report["warnings"]) == bool(rules.notice)
    (record,) = json.loads((output / "results.json").read_text())
    assert record["error_messages"] == []
    assert [entry["filename"] for entry in record["outputs"]] == [label_path(case, rules).name]
