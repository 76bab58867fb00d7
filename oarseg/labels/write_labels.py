"""Write label files: MetaImage, NRRD, NIfTI and Slicer's ``.seg.nrrd``.

Colours and codes come with each outline (``challenges.structures``).

They are written here rather than by ITK, for exact headers, equal bytes
for equal data, and speed. Formats: https://teem.sourceforge.net/nrrd/format.html,
https://docs.itk.org (MetaIO); segment fields as 3D Slicer's vtkSegmentation module
writes them.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np

from oarseg.challenges.challenge import Code, Organ, Outline
from oarseg.imaging.files.nifti_geometry import describe_placement
from oarseg.imaging.nifti_placement import pack_placement
from oarseg.imaging.volume import Grid, Vector, Volume, reversed_triple
from oarseg.labels.boxes import Box
from oarseg.labels.deflate import Deflated, join_deflated, zlib_of

NIFTI_ENDINGS = (".nii", ".nii.gz")
NIFTI_START = 352
NIFTI_UINT8 = 2
EMPTY_EXTENT = "0 -1 0 -1 0 -1"
TERMINOLOGY = "Segmentation category and type - DICOM master list"
ANATOMY = "Anatomic codes - DICOM master list"
CATEGORY = Code("SCT", "123037004", "Anatomical Structure")
REPRESENTATION = "Binary labelmap"


def write_label_file(path: Path, labels: Volume, body: Deflated) -> None:
    """Write a label map in the format that the file's ending names.

    MetaImage reads back with the very doubles of the grid; so does NRRD for a grid that
    was read from NRRD, and for others to within 1e-15, because an NRRD reader computes
    the spacing. NIfTI gets the very fields of the header that the grid was read from, so
    that every reader places both images alike; a grid that was read from another format
    is held in 32-bit floats, all to within 1e-7 relative.

    Args:
        path: ends with .mha, .mhd, .nrrd, .nii or .nii.gz.
        labels: uint8.
        body: ``labels.array``, compressed.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """
    if path.name.lower().endswith(NIFTI_ENDINGS):
        header = _nifti_header(labels.grid)
        if path.suffix.lower() == ".gz":
            _write(path, join_deflated(header, body).gzip())
        else:
            _write(path, [header, *(np.ascontiguousarray(plane).data for plane in labels.array)])
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
    _write(path, [nrrd_header(grid, fields, layers=layers), *body.gzip()])


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


def nrrd_header(
    grid: Grid, fields: Mapping[str, str], *, layers: int = 1, kind: str = "unsigned char"
) -> bytes:
    """Compose the header of a NRRD in gzip, of values of a kind, little endian."""
    spacing = reversed_triple(grid.spacing_mm)
    vectors = [
        _bracketed(_space_direction(_column(grid, axis), spacing[axis])) for axis in range(3)
    ]
    sizes, kinds = [str(n) for n in reversed_triple(grid.shape)], ["domain"] * 3
    if layers > 1:
        sizes, vectors, kinds = [str(layers), *sizes], ["none", *vectors], ["list", *kinds]
    lines = [
        "NRRD0004",
        f"type: {kind}",
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
        # As the reader adds them up; since Python 3.12, sum() of floats rounds only once.
        x, y, z = candidate
        norm = math.sqrt(x * x + y * y + z * z)
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


def _nifti_header(grid: Grid) -> bytes:
    """The header of a uint8 volume, to where its voxels begin."""
    header = bytearray(NIFTI_START)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *reversed_triple(grid.shape), 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, NIFTI_UINT8, 8)
    struct.pack_into("<4f", header, 92, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into("<f", header, 108, NIFTI_START)
    struct.pack_into("<f", header, 112, 1.0)
    struct.pack_into("4s", header, 344, b"n+1")
    pack_placement(header, describe_placement(grid))
    return bytes(header)


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    # Exclusively: what lies there, a link for one, is not written through.
    with path.open("xb") as stream:
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())
