"""Files of labels: MetaImage, NRRD, NIfTI and Slicer's ``.seg.nrrd``.

MetaImage and NRRD are written here rather than by ITK, for exact headers, equal bytes
for equal data, and speed. Formats: https://teem.sourceforge.net/nrrd/format.html,
https://docs.itk.org (MetaIO); segment fields as 3D Slicer's vtkSegmentation module
writes them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.challenges.challenge import Code, Organ, Outline
from oarseg.imaging.volume import Grid, Vector, Volume, reversed_triple, to_sitk
from oarseg.labels.deflate import LEVEL, Box, Deflated, zlib_of

NIFTI_ENDINGS = (".nii", ".nii.gz")
EMPTY_EXTENT = "0 -1 0 -1 0 -1"
TERMINOLOGY = "Segmentation category and type - DICOM master list"
ANATOMY = "Anatomic codes - DICOM master list"
CATEGORY = Code("SCT", "123037004", "Anatomical Structure")
REPRESENTATION = "Binary labelmap"


def write_label_file(path: Path, labels: Volume, body: Deflated) -> None:
    """Write a label map in the format that the file's ending names.

    MetaImage reads back with the very doubles of the grid; so does NRRD for a grid that
    was read from NRRD, and for others to within 1e-15, because an NRRD reader computes
    the spacing. NIfTI holds its geometry in 32-bit floats: a grid that was read from
    NIfTI keeps its origin and spacing, and its directions to within 1e-7 (exactly when
    they lie along the axes); for others, all agree to within 1e-7 relative.

    Args:
        path: ends with .mha, .mhd, .nrrd, .nii or .nii.gz.
        labels: uint8.
        body: ``labels.array``, compressed.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """
    if path.name.lower().endswith(NIFTI_ENDINGS):
        _write_nifti(path, labels)
    elif path.suffix.lower() == ".nrrd":
        write_nrrd(path, labels.grid, body, {})
    else:
        stream = list(body.zlib())
        header = _meta_header(labels.grid, sum(len(piece) for piece in stream))
        _write(path, [header, *stream])


def write_channels(
    path: Path, grid: Grid, channels: Sequence[Deflated], *, identity_frame: bool
) -> None:
    """Write masks as one 4-D MetaImage, array (channels, z, y, x), uint8.

    Args:
        path: ends with .mha.
        grid: of every mask.
        channels: the masks, compressed; they are joined without being inflated.
        identity_frame: leave origin and direction at identity.
    """
    stream = list(zlib_of(channels))
    size = sum(len(piece) for piece in stream)
    header = _meta_header(grid, size, channels=len(channels), identity_frame=identity_frame)
    _write(path, [header, *stream])


def write_nrrd(
    path: Path, grid: Grid, body: Deflated, fields: Mapping[str, str], *, layers: int = 1
) -> None:
    """Write a uint8 NRRD with key/value fields; several layers make a list axis, the fastest."""
    _write(path, [_nrrd_header(grid, fields, layers), *body.gzip()])


def label_boxes(labels: NDArray[np.uint8], count: int) -> list[Box | None]:
    """The bounding box of each of the labels 1 … count; None for one without voxels."""
    planes = np.flatnonzero([plane.any() for plane in labels])
    if planes.size == 0:
        return [None] * count
    first, last = int(planes[0]), int(planes[-1]) + 1
    found = ndimage.find_objects(labels[first:last], max_label=count)
    return [_shifted(box, first) if box else None for box in found]


def box_round(boxes: Iterable[Box | None]) -> Box | None:
    """The box round several; None where there is none of them."""
    there = [box for box in boxes if box is not None]
    if not there:
        return None
    z, y, x = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*there, strict=True)
    )
    return z, y, x


@dataclass(frozen=True)
class Segment:
    """One segment of a Slicer segmentation.

    Attributes:
        outline: its name, colour and codes.
        box: round its voxels.
        value: of its voxels …
        layer: … in one of the layers, which hold what overlaps apart.
    """

    outline: Outline
    box: Box | None
    value: int = 1
    layer: int = 0


def layers_of(organs: Sequence[Organ]) -> list[int]:
    """The layer of each organ, the first that holds none which shares a label with it."""
    taken: list[set[int]] = []
    layers: list[int] = []
    for organ in organs:
        mine = set(organ.labels)
        layer = next((i for i, labels in enumerate(taken) if not labels & mine), len(taken))
        if layer == len(taken):
            taken.append(set())
        taken[layer] |= mine
        layers.append(layer)
    return layers


def segmentation_fields(segments: Sequence[Segment]) -> dict[str, str]:
    """Slicer's fields for the segments of one file."""
    fields = {
        "Segmentation_ContainedRepresentationNames": f"{REPRESENTATION}|",
        "Segmentation_MasterRepresentation": REPRESENTATION,
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        "Segmentation_SourceRepresentation": REPRESENTATION,
    }
    for number, segment in enumerate(segments):
        for key, text in _segment(segment).items():
            fields[f"Segment{number}_{key}"] = text
    return fields


def _segment(segment: Segment) -> dict[str, str]:
    outline = segment.outline
    return {
        "Color": " ".join(f"{part / 255:.6f}" for part in outline.colour),
        "ColorAutoGenerated": "0",
        "Extent": _extent(segment.box),
        "ID": outline.name,
        "LabelValue": str(segment.value),
        "Layer": str(segment.layer),
        "Name": outline.name,
        "NameAutoGenerated": "0",
        "Tags": _tags(outline),
    }


def _tags(outline: Outline) -> str:
    type_codes = [CATEGORY, outline.code(), outline.side_code()]
    parts = [TERMINOLOGY, *(_coded(code) for code in type_codes), ANATOMY, "^^", "^^"]
    return "TerminologyEntry:" + "~".join(parts) + "|"


def _coded(code: Code | None) -> str:
    return f"{code.scheme}^{code.value}^{code.meaning}" if code else "^^"


def _extent(box: Box | None) -> str:
    if box is None:
        return EMPTY_EXTENT
    return " ".join(f"{axis.start} {axis.stop - 1}" for axis in reversed(box))


def _shifted(box: Box, planes: int) -> Box:
    return slice(box[0].start + planes, box[0].stop + planes), box[1], box[2]


def _numbers(values: Iterable[float]) -> str:
    """Shortest decimal texts that read back as the same doubles."""
    return " ".join(repr(float(value)) for value in values)


def _column(grid: Grid, axis: int) -> Vector:
    return cast(Vector, tuple(row[axis] for row in grid.direction))


def _meta_header(
    grid: Grid, compressed_size: int, *, channels: int = 0, identity_frame: bool = False
) -> bytes:
    """The header of a volume, or with channels of a 4-D image whose last axis they are."""
    extra = 1 if channels else 0
    axes = 3 + extra
    # One row an index axis: ITK's direction matrix, transposed.
    matrix = np.eye(axes)
    origin = np.zeros(axes)
    if not identity_frame:
        matrix[:3, :3] = np.asarray(grid.direction).T
        origin[:3] = grid.origin_mm
    spacing = (*reversed_triple(grid.spacing_mm), *([1.0] * extra))
    size = (*reversed_triple(grid.shape), *([channels] * extra))
    lines = [
        "ObjectType = Image",
        f"NDims = {axes}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {compressed_size}",
        f"TransformMatrix = {_numbers(matrix.flat)}",
        f"Offset = {_numbers(origin)}",
        f"CenterOfRotation = {' '.join('0' * axes)}",
        f"ElementSpacing = {_numbers(spacing)}",
        f"DimSize = {' '.join(str(n) for n in size)}",
        "ElementType = MET_UCHAR",
        "ElementDataFile = LOCAL",
    ]
    return ("\n".join(lines) + "\n").encode("ascii")


def _nrrd_header(grid: Grid, fields: Mapping[str, str], layers: int) -> bytes:
    spacing = reversed_triple(grid.spacing_mm)
    vectors = [
        _bracketed(_space_direction(_column(grid, axis), spacing[axis])) for axis in range(3)
    ]
    sizes, kinds = [str(n) for n in reversed_triple(grid.shape)], ["domain"] * 3
    if layers > 1:
        sizes, vectors, kinds = [str(layers), *sizes], ["none", *vectors], ["list", *kinds]
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(sizes)}",
        f"space directions: {' '.join(vectors)}",
        f"kinds: {' '.join(kinds)}",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_bracketed(grid.origin_mm)}",
        *(f"{key}:={text}" for key, text in fields.items()),
    ]
    return ("\n".join(lines) + "\n\n").encode("utf-8")


def _bracketed(vector: Vector) -> str:
    return f"({','.join(repr(float(value)) for value in vector)})"


def _space_direction(direction: Vector, spacing: float) -> Vector:
    """The vector that an NRRD reader splits into just this direction and spacing.

    A reader takes the norm as spacing and divides by it, so direction × spacing comes
    back a bit off where rounding goes the wrong way; one of its neighbours does not.
    """
    product_mm = cast(Vector, tuple(part * spacing for part in direction))
    for candidate in product(*(_neighbours(value) for value in product_mm)):
        norm = math.sqrt(sum(value * value for value in candidate))
        scale = 1.0 / norm
        if norm == spacing and tuple(value * scale for value in candidate) == direction:
            return cast(Vector, candidate)
    return product_mm


def _neighbours(value: float) -> tuple[float, ...]:
    if value == 0.0:
        return (value,)
    above = math.nextafter(value, math.inf)
    below = math.nextafter(value, -math.inf)
    further = (math.nextafter(above, math.inf), math.nextafter(below, -math.inf))
    return (value, above, below, *further)


def _write_nifti(path: Path, labels: Volume) -> None:
    try:
        sitk.WriteImage(to_sitk(labels), str(path), useCompression=True, compressionLevel=LEVEL)
    except RuntimeError as error:
        raise OSError(f"ITK could not write it: {str(error).strip().splitlines()[-1]}") from error
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _write(path: Path, parts: Iterable[bytes]) -> None:
    with path.open("wb") as stream:
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())
