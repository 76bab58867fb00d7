"""The MR's field of view on the CT's grid.

The data set's paper crops the CT to the MR's field before it scores. Here the field is the
MR's own box, turned as the MR was, in which a voxel lies if its centre does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oarseg.cases.find_cases import find_cases
from oarseg.cases.places import REPORTS
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Vector
from oarseg.labels.mask import CroppedMask
from oarseg.labels.open_masks import read_grid

TRUTH = "_truth.json"
TRANSFORM_SUFFIX = "_ct_to_mr.tfm"


@dataclass(frozen=True)
class MrField:
    """A box in the MR's space, and the way there.

    Attributes:
        ct_to_box: CT world → the space of the box.
        low_mm, high_mm: the box's corners, x y z.
    """

    ct_to_box: RigidTransform
    low_mm: Vector
    high_mm: Vector

    def cut(self, mask: CroppedMask, grid: Grid) -> CroppedMask:
        """The part of a mask that lies in the field.

        Args:
            mask: on the CT's grid.
            grid: of the CT.
        """
        linear, offset = grid.index_to_world()
        rotation = np.asarray(self.ct_to_box.rotation)
        linear = rotation @ linear
        offset = rotation @ offset + np.asarray(self.ct_to_box.translation_mm)
        z, y, x = (np.arange(n) + s for n, s in zip(mask.array.shape, mask.start, strict=True))
        kept = mask.array.copy()
        for number, plane in enumerate(kept):
            if not plane.any():
                continue
            base = linear[:, 0] * z[number] + offset
            for axis in range(3):
                steps = linear[axis, 1] * y[:, None] + linear[axis, 2] * x[None, :]
                place = steps + base[axis]
                plane &= (place >= self.low_mm[axis]) & (place <= self.high_mm[axis])
        return CroppedMask(kept, mask.start)


@dataclass(frozen=True)
class Fields:
    """Where the fields of a data set's cases are told.

    Attributes:
        folders: searched, with their subfolders, for ``<case>_truth.json`` as phantoms have
            it; else for the way from CT to MR, in an ITK transform ``<case>_ct_to_mr.tfm``
            or in the container's own ``reports/<case>.json``, and for the case's MR image
            in the data set's layout.
    """

    folders: tuple[Path, ...]
    challenge: Challenge

    def of(self, case: str) -> MrField:
        """The field of a case.

        Raises:
            InputError: none of the files is there, or it cannot be used.
        """
        truth = self._find(f"{case}{TRUTH}")
        if truth:
            return read_truth(truth)
        transform = self._find(f"{case}{TRANSFORM_SUFFIX}")
        if transform:
            return field_of(read_grid(self._mr(case)), RigidTransform.read(transform))
        report = self._find(f"{REPORTS}/{case}.json")
        if report:
            return field_of(read_grid(self._mr(case)), read_report(report))
        raise InputError(
            f"{self._names()}: expected {case}{TRUTH}, or {case}{TRANSFORM_SUFFIX} or {REPORTS}/"
            f"{case}.json with the MR, found none; give the folders that hold them with --mr-field"
        )

    def _find(self, name: str) -> Path | None:
        found = (path for folder in self.folders for path in sorted(folder.rglob(name)))
        return next(found, None)

    def _mr(self, case: str) -> Path:
        for folder in self.folders:
            for known in find_cases(folder, self.challenge).cases:
                for channel, path in known.files.items():
                    modality = self.challenge.socket(channel).modality
                    if known.name.casefold() == case.casefold() and modality == "MR":
                        return path
        raise InputError(
            f"{self._names()}: expected the MR image of {case} beside its CT, found none; "
            "give the data set's folder with --mr-field too"
        )

    def _names(self) -> str:
        return ", ".join(map(str, self.folders))


def field_of(mr: Grid, ct_to_mr: RigidTransform) -> MrField:
    """The field of an MR image: its voxels, to their outer faces.

    The box is kept in the MR's own axes, in mm from the corner of its first voxel.
    """
    rotation = np.asarray(mr.direction).T
    corner = mr.to_world(np.array([[-0.5, -0.5, -0.5]]))[0]
    to_axes = RigidTransform.from_arrays(rotation, -rotation @ corner)
    x, y, z = (n * s for n, s in zip(reversed(mr.shape), reversed(mr.spacing_mm), strict=True))
    return MrField(to_axes.after(ct_to_mr), (0.0, 0.0, 0.0), (x, y, z))


def read_truth(path: Path) -> MrField:
    """The field that a phantom's truth tells.

    Raises:
        InputError: the file is not a phantom's truth, or the phantom has no MR.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        low, high = (_vector(corner) for corner in record["mr_field_mm"])
        rotation: NDArray[np.float64] = np.array(record["ct_to_mr"]["rotation"], float)
        transform = RigidTransform.from_arrays(
            rotation, np.array(record["ct_to_mr"]["translation_mm"], float)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected a phantom's truth with mr_field_mm and ct_to_mr, found something "
            "else; make the phantom with its MR"
        ) from error
    return MrField(transform, low, high)


def read_report(path: Path) -> RigidTransform:
    """The way from CT to MR that the container found, and called good or doubtful.

    Raises:
        InputError: the file is no report, or the registration failed.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["registration"]
        status = found["status"]
        transform = RigidTransform.from_arrays(
            np.array(found["rotation"], float), np.array(found["translation_mm"], float)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected a report with a registration, found something else; segment the "
            "case with its MR"
        ) from error
    if status == "failed":
        raise InputError(f"{path}: expected a registration that held, found a failed one")
    return transform


def _vector(values: list[float]) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
