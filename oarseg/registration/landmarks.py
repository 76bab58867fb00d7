"""Read landmarks that were marked in both images.

They come from one file, a CSV table with the columns ``name, ct_x, ct_y, ct_z, mr_x, mr_y,
mr_z`` (mm, LPS) or a phantom's ``_read_phantom_truth.json``; or from two 3D Slicer markups
(``.mrk.json``), the CT's and the MR's, paired by label.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.volume import Vector

LANDMARK_COLUMNS = ("name", "ct_x", "ct_y", "ct_z", "mr_x", "mr_y", "mr_z")
# Older markups write the coordinate system as a number.
TO_LPS = {"LPS": (1, 1, 1), "RAS": (-1, -1, 1), "0": (-1, -1, 1), "1": (1, 1, 1)}

LandmarkPoints = Mapping[str, Vector]


@dataclass(frozen=True)
class Landmarks:
    """Named points (n, 3) in CT world and MR world, x y z in mm, LPS."""

    names: tuple[str, ...]
    ct_mm: NDArray[np.float64]
    mr_mm: NDArray[np.float64]


def read_landmarks(files: Sequence[Path]) -> Landmarks:
    """Read one file with the points of both images, or the CT's file and the MR's.

    Raises:
        InputError: a file of another kind, or points without a counterpart.
    """
    if len(files) == 2:
        ct, mr = (_read_markups(path) for path in files)
    elif len(files) == 1:
        ct, mr = (
            _read_table(files[0]) if files[0].suffix == ".csv" else _read_phantom_truth(files[0])
        )
    else:
        raise InputError(f"landmarks: expected one file or two, found {len(files)}")
    if not ct or set(ct) != set(mr):
        odd = ", ".join(sorted(set(ct) ^ set(mr))) or "no point at all"
        raise InputError(f"{files[0]}: expected every point in CT and in MR, found {odd}")
    names = tuple(ct)
    return Landmarks(names, *(np.array([where[n] for n in names], float) for where in (ct, mr)))


def _read_table(path: Path) -> tuple[LandmarkPoints, LandmarkPoints]:
    with _open_landmarks(path) as file:
        rows = list(csv.DictReader(file))
    ct: dict[str, Vector] = {}
    mr: dict[str, Vector] = {}
    try:
        for row in rows:
            name, *numbers = (row[column] for column in LANDMARK_COLUMNS)
            x, y, z, u, v, w = (float(number) for number in numbers)
            ct[name], mr[name] = (x, y, z), (u, v, w)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected the columns {', '.join(LANDMARK_COLUMNS)} with numbers, "
            f"found {error}"
        ) from error
    return ct, mr


def _read_phantom_truth(path: Path) -> tuple[LandmarkPoints, LandmarkPoints]:
    document = _load_json(path)
    try:
        return tuple(
            {name: _to_vector(point) for name, point in document[key].items()}
            for key in ("landmarks_ct", "landmarks_mr")
        )  # type: ignore[return-value]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected landmarks_ct and landmarks_mr, or a .csv table, found neither"
        ) from error


def _read_markups(path: Path) -> LandmarkPoints:
    document = _load_json(path)
    try:
        (markup,) = document["markups"]
        signs = np.array(TO_LPS[str(markup["coordinateSystem"])])
        points = markup["controlPoints"]
        return {p["label"]: _to_vector((signs * p["position"]).tolist()) for p in points}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected one list of points as 3D Slicer writes it (.mrk.json), found "
            "something else"
        ) from error


def _to_vector(point: Sequence[float]) -> Vector:
    x, y, z = (float(value) for value in point)
    return x, y, z


def _load_json(path: Path) -> Any:
    with _open_landmarks(path) as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise InputError(f"{path}: expected JSON, could not read it: {error}") from error


def _open_landmarks(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"{path}: expected landmarks, could not open it") from error
