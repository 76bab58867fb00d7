"""A picture of a case at a glance: three planes of the CT and of the moved MR, with outlines.

The planes pass through the middle of what was outlined. Patient left is on the right of
axial and coronal planes, the face is on the left of the sagittal one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oarseg import registration
from oarseg.cases.case import Case, label_path
from oarseg.challenges.challenge import Challenge, Socket, Structure
from oarseg.errors import InputError
from oarseg.imaging.files import read_scan
from oarseg.imaging.intensities import standardise_mr
from oarseg.imaging.regrid import resample_moving
from oarseg.imaging.volume import Grid, Volume, from_sitk, to_sitk

SOFT_TISSUE_WINDOW_HU = (-160.0, 240.0)
OUTLINE_OPACITY = 0.35
GAP = 8
PICTURE_MARGIN_MM = 25.0

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class PictureRow:
    """An image to draw, and its values shown as black and as white."""

    volume: Volume
    window: tuple[float, float]


def ct_row(ct: Volume) -> PictureRow:
    """Show the CT in a soft-tissue window."""
    return PictureRow(ct, SOFT_TISSUE_WINDOW_HU)


def mr_row(mr: Volume) -> PictureRow:
    """Show an MR that lies on the CT's grid and is zero where it is absent."""
    present = mr.array[mr.array > 0]
    top = float(np.percentile(present, 99)) if present.size else 1.0
    return PictureRow(mr, (0.0, top))


def other_row(image: Volume) -> PictureRow:
    """Show an image of unknown units between its 1st and its 99th percentile."""
    low, high = np.percentile(image.array, (1, 99))
    return PictureRow(image, (float(low), float(max(high, low + 1e-6))))


def draw_planes(rows: Sequence[PictureRow], labels: Volume, structures: Sequence[Structure]) -> Rgb:
    """Draw axial, coronal and sagittal planes, one row per image.

    Args:
        rows: images on the labels' grid.
        labels: label map.
        structures: give each label its colour.

    Returns:
        RGB picture (height, width, 3).

    Raises:
        ValueError: an image lies on another grid.
    """
    if any(not row.volume.grid.matches(labels.grid) for row in rows):
        raise ValueError("images and labels must lie on one grid")
    upright = _upright(labels)
    box = _box(upright)
    centre = _centre(upright.array)
    lines = []
    for row in rows:
        image = _upright(row.volume)
        panels = [
            _panel(image, upright, structures, row.window, axis=axis, index=centre[axis], box=box)
            for axis in range(3)
        ]
        lines.append(place_side_by_side(panels))
    return np.concatenate([_padded(line) for line in lines])


def write_png(picture: Rgb, path: Path) -> None:
    """Write a picture as PNG."""
    import SimpleITK as sitk

    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(path))


def case_picture(case: Case, output: Path, challenge: Challenge) -> Rgb:
    """Draw a segmented case from its images, label file and report.

    Args:
        case: its files.
        output: the folder that the case was written to.
        challenge: names the label file and gives the colours.

    Raises:
        InputError: the case has no report or label file there.
    """
    import SimpleITK as sitk

    reference = challenge.reference
    label_file = output / label_path(case, challenge)
    report_file = output / "reports" / f"{case.name}.json"
    for path in (label_file, report_file):
        if not path.is_file():
            raise InputError(f"{path}: expected the output of {case.name}, found none; segment it")
    ct = _reference_image(case, reference)
    rows = [ct_row(ct) if reference.modality == "CT" else other_row(ct)]
    found = json.loads(report_file.read_text(encoding="utf-8"))["registration"]
    others = [case.source(name) for name in case.files if name != reference.channel]
    if found and others:
        transform = registration.transform_of(found)
        mr = standardise_mr(read_scan.read_mr(others[0]))
        rows.append(mr_row(resample_moving(mr, transform, ct.grid, outside=0.0)))
    labels = from_sitk(sitk.ReadImage(str(label_file)))
    return draw_planes(rows, labels, challenge.structures)


def _reference_image(case: Case, socket: Socket) -> Volume:
    source = case.source(socket.channel)
    return read_scan.read_ct(source) if socket.modality == "CT" else read_scan.read_volume(source)


def _upright(volume: Volume) -> Volume:
    """Reorient a volume so that its axes lie as close to left, posterior, superior as they can."""
    import SimpleITK as sitk

    return from_sitk(sitk.DICOMOrient(to_sitk(volume), "LPS"))


def _centre(labels: NDArray[Any]) -> tuple[int, int, int]:
    found = np.argwhere(labels > 0)
    middle = found.mean(0) if len(found) else np.array(labels.shape) / 2
    z, y, x = (int(v) for v in middle)
    return z, y, x


def _box(labels: Volume) -> tuple[slice, slice, slice]:
    """Return the part to show: all labels and a margin."""
    found = ndimage.find_objects((labels.array > 0).astype(np.uint8))
    if not found:
        return slice(None), slice(None), slice(None)
    margins = [int(PICTURE_MARGIN_MM / spacing) for spacing in labels.grid.spacing_mm]
    z, y, x = (
        slice(max(s.start - m, 0), s.stop + m) for s, m in zip(found[0], margins, strict=True)
    )
    return z, y, x


def _panel(
    image: Volume,
    labels: Volume,
    structures: Sequence[Structure],
    window: tuple[float, float],
    *,
    axis: int,
    index: int,
    box: tuple[slice, slice, slice],
) -> Rgb:
    where: tuple[Any, ...] = tuple(index if i == axis else box[i] for i in range(3))
    scale = _scale(image.grid, axis)
    grey = ndimage.zoom(image.array[where].astype(np.float32), scale, order=1)
    marks = ndimage.zoom(labels.array[where], scale, order=0)
    if axis != 0:  # superior is up
        grey, marks = grey[::-1], marks[::-1]
    low, high = window
    shade = np.clip((grey - low) / (high - low), 0, 1)[..., None] * np.ones(3, np.float32)
    for structure in structures:
        inside = marks == structure.label
        colour = np.array(structure.colour, np.float32) / 255
        shade[inside] = (1 - OUTLINE_OPACITY) * shade[inside] + OUTLINE_OPACITY * colour
        shade[inside & ~ndimage.binary_erosion(inside)] = colour
    panel: Rgb = (shade * 255).astype(np.uint8)
    return panel


def _scale(grid: Grid, axis: int) -> tuple[float, float]:
    """Return the zoom of a plane's two axes that gives square pixels of 1 mm."""
    first, second = (spacing for i, spacing in enumerate(grid.spacing_mm) if i != axis)
    return first, second


def place_side_by_side(panels: Sequence[Rgb]) -> Rgb:
    """Join pictures in a row, the lower ones centred in its height."""
    height = max(len(panel) for panel in panels)
    parts = []
    for panel in panels:
        canvas = np.zeros((height, panel.shape[1] + GAP, 3), np.uint8)
        top = (height - len(panel)) // 2
        canvas[top : top + len(panel), : panel.shape[1]] = panel
        parts.append(canvas)
    return np.concatenate(parts, axis=1)


def _padded(line: Rgb) -> Rgb:
    return np.concatenate([line, np.zeros((GAP, line.shape[1], 3), np.uint8)])
