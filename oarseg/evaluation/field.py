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

from oarseg.cases import find_cases
from oarseg.challenge import Challenge
from oarseg.errors import InputError
from oarseg.evaluation.labels import read_grid
from oarseg.evaluation.surfaces import Mask
from oarseg.rigid import RigidTransform
from oarseg.volume import Grid, Vector

TRUTH = "_truth.json"
TRANSFORM = "_ct_to_mr.tfm"


@dataclass(frozen=True)
class Field:
    """A box in the MR's space, and the way there.

    Attributes:
        ct_to_box: CT world → the space of the box.
        low_mm, high_mm: the box's corners, x y z.
    """

    ct_to_box: RigidTransform
    low_mm: Vector
    high_mm: Vector

    def cut(self, mask: Mask, grid: Grid) -> Mask:
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
        return Mask(kept, mask.start)


@dataclass(frozen=True)
class Fields:
    """Where the fields of a data set's cases are told.

    Attributes:
        folder: searched, with its subfolders, for ``<case>_truth.json`` as phantoms have
            it; else for ``<case>_ct_to_mr.tfm``, an ITK transform from CT to MR, beside
            which, or in the same data set, the case's MR image lies.
    """

    folder: Path
    challenge: Challenge

    def of(self, case: str) -> Field:
        """The field of a case.

        Raises:
            InputError: neither file is there, or it cannot be used.
        """
        truth = self._find(f"{case}{TRUTH}")
        if truth:
            return read_truth(truth)
        transform = self._find(f"{case}{TRANSFORM}")
        if not transform:
            raise InputError(
                f"{self.folder}: expected {case}{TRUTH} or {case}{TRANSFORM} with the MR, found "
                "neither; give the folder that holds them with --mr-field"
            )
        return field_of(read_grid(self._mr(case)), RigidTransform.read(transform))

    def _find(self, name: str) -> Path | None:
        return next(iter(sorted(self.folder.rglob(name))), None)

    def _mr(self, case: str) -> Path:
        found = find_cases(self.folder, self.challenge)
        for known in found.cases:
            for channel, path in known.files.items():
                modality = self.challenge.socket(channel).modality
                if known.name.casefold() == case.casefold() and modality == "MR":
                    return path
        raise InputError(
            f"{self.folder}: expected the MR image of {case} beside its transform, found none; "
            "put CT and MR there as the data set does"
        )


def field_of(mr: Grid, ct_to_mr: RigidTransform) -> Field:
    """The field of an MR image: its voxels, to their outer faces.

    The box is kept in the MR's own axes, in mm from the corner of its first voxel.
    """
    rotation = np.asarray(mr.direction).T
    corner = mr.to_world(np.array([[-0.5, -0.5, -0.5]]))[0]
    to_axes = RigidTransform.from_arrays(rotation, -rotation @ corner)
    x, y, z = (n * s for n, s in zip(reversed(mr.shape), reversed(mr.spacing_mm), strict=True))
    return Field(to_axes.after(ct_to_mr), (0.0, 0.0, 0.0), (x, y, z))


def read_truth(path: Path) -> Field:
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
    return Field(transform, low, high)


def _vector(values: list[float]) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
