"""The MR's field of view on the CT's grid.

The paper of the data set crops the CT to the MR's field of view before scoring. Here the
field is the MR's own box in its own orientation. A voxel is inside if its centre is.
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
    """A box in its own axes, with the transform from the CT to them.

    Attributes:
        ct_to_box: CT world → axes of the box.
        low_mm, high_mm: the box's corners, x y z.
    """

    ct_to_box: RigidTransform
    low_mm: Vector
    high_mm: Vector

    def cut(self, mask: CroppedMask, grid: Grid) -> CroppedMask:
        """Return the part of a mask inside the field.

        Args:
            mask: mask on ``grid``.
            grid: the CT's grid.
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
class MrFieldFinder:
    """Finds the MR's field of view for each case of a data set.

    Attributes:
        folders: searched recursively for a phantom's ``<case>_truth.json``; else for the
            transform from CT to MR (ITK's ``<case>_ct_to_mr.tfm`` or the container's
            ``reports/<case>.json``) and for the MR image in the data set's layout.
        challenge: its sockets identify the MR.
    """

    folders: tuple[Path, ...]
    challenge: Challenge

    def find(self, case: str) -> MrField:
        """Return the field of a case.

        Raises:
            InputError: none of the files exists, or it cannot be used.
        """
        truth = self._find_file(f"{case}{TRUTH}")
        if truth:
            return read_truth_field(truth)
        transform = self._find_file(f"{case}{TRANSFORM_SUFFIX}")
        if transform:
            return make_mr_field(read_grid(self._find_mr(case)), RigidTransform.read(transform))
        report = self._find_file(f"{REPORTS}/{case}.json")
        if report:
            return make_mr_field(read_grid(self._find_mr(case)), read_report_transform(report))
        raise InputError(
            f"{self._folder_names()}: expected {case}{TRUTH}, or {case}{TRANSFORM_SUFFIX} or "
            f"{REPORTS}/{case}.json with the MR, found none; give the folders that hold them "
            "with --mr-field"
        )

    def _find_file(self, name: str) -> Path | None:
        found = (path for folder in self.folders for path in sorted(folder.rglob(name)))
        return next(found, None)

    def _find_mr(self, case: str) -> Path:
        for folder in self.folders:
            for known in find_cases(folder, self.challenge).cases:
                for channel, path in known.files.items():
                    modality = self.challenge.socket(channel).modality
                    if known.name.casefold() == case.casefold() and modality == "MR":
                        return path
        raise InputError(
            f"{self._folder_names()}: expected the MR image of {case} beside its CT, found none; "
            "give the data set's folder with --mr-field too"
        )

    def _folder_names(self) -> str:
        return ", ".join(map(str, self.folders))


def make_mr_field(mr: Grid, ct_to_mr: RigidTransform) -> MrField:
    """Return the field of an MR image, up to the outer faces of its voxels.

    The box is in the MR's own axes, in mm from the corner of its first voxel.
    """
    rotation = np.asarray(mr.direction).T
    corner = mr.to_world(np.array([[-0.5, -0.5, -0.5]]))[0]
    to_axes = RigidTransform.from_arrays(rotation, -rotation @ corner)
    x, y, z = (n * s for n, s in zip(reversed(mr.shape), reversed(mr.spacing_mm), strict=True))
    return MrField(to_axes.after(ct_to_mr), (0.0, 0.0, 0.0), (x, y, z))


def read_truth_field(path: Path) -> MrField:
    """Read the field from a phantom's truth file.

    Raises:
        InputError: the file is not a phantom's truth file, or the phantom has no MR.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        low, high = (_to_vector(corner) for corner in record["mr_field_mm"])
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


def read_report_transform(path: Path) -> RigidTransform:
    """Read the transform from CT to MR from the container's report on a case.

    Raises:
        InputError: the file is not a report, or the registration failed.
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


def _to_vector(values: list[float]) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
