"""Where the slices of a series lie: on one line along their normal, evenly, one at each place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.files.dicom.slice_header import SliceHeader
from oarseg.imaging.files.pixels import printable_path, unusable_file

# Headers give positions with two decimals or more.
TOLERANCE_MM = 0.01
TOLERANCE_SHARE = 0.01
# What differences of positions add behind them is noise, and an image in another format has none.
SPACING_DIGITS = 9


def listed_numbers(values: Any) -> str:
    """List numbers for a message."""
    return ", ".join(f"{number:g}" for number in np.ravel(values))


def same_position(one: SliceHeader, other: SliceHeader) -> InputError:
    """Return the error for two different slices at one position."""
    return unusable_file(
        one.path,
        expected="one slice at each position",
        found=f"another one at the same position, {printable_path(str(other.path))}",
        do="keep one of them, or give each volume a series of its own",
    )


def check_positions(
    headers: Sequence[SliceHeader],
    positions: NDArray[np.float64],
    depth: NDArray[np.float64],
    normal: NDArray[np.float64],
) -> float:
    """Make sure that slices in order lie on one line along the normal, evenly; see ``_even``.

    Returns:
        The distance of neighbouring slices in mm.
    """
    if len(headers) < 2:
        raise unusable_file(
            headers[0].path,
            expected="a series of slices",
            found="one slice alone",
            do="give the whole scan",
        )
    gaps = np.diff(depth)
    usual = float(np.median(gaps))
    if gaps.min() < TOLERANCE_MM:
        index = int(gaps.argmin())
        raise same_position(headers[index], headers[index + 1])
    aside = positions - positions[0] - np.outer(depth - depth[0], normal)
    farthest = np.linalg.norm(aside, axis=1)
    if farthest.max() > max(TOLERANCE_MM, TOLERANCE_SHARE * usual):
        raise _tilted(headers[int(farthest.argmax())], farthest.max(), aside, depth)
    return _even(headers, depth, gaps, usual)


def _tilted(
    header: SliceHeader, farthest: float, aside: NDArray[np.float64], depth: NDArray[np.float64]
) -> InputError:
    steps = np.linalg.norm(np.diff(aside, axis=0), axis=1) / np.diff(depth)
    angle = math.degrees(math.atan(float(np.median(steps))))
    return unusable_file(
        header.path,
        expected="slices on one line along their normal",
        found=f"a tilt or shear of {angle:.2f}°, up to {farthest:.2f} mm aside",
        do="correct the gantry's tilt first: resample it to right angles, as dcm2niix does for "
        "the file that it names _Tilt",
    )


def _even(
    headers: Sequence[SliceHeader],
    depth: NDArray[np.float64],
    gaps: NDArray[np.float64],
    usual: float,
) -> float:
    tolerance = max(TOLERANCE_MM, TOLERANCE_SHARE * usual)
    wrong = np.flatnonzero(np.abs(gaps - usual) > tolerance)
    if len(wrong):
        raise _uneven(headers, int(wrong[0]), usual, float(gaps[wrong[0]]))
    spacing = round(float((depth[-1] - depth[0]) / (len(depth) - 1)), SPACING_DIGITS)
    drift = np.abs(depth - depth[0] - spacing * np.arange(len(depth)))
    if drift.max() > tolerance:
        worst = int(np.abs(gaps - spacing).argmax())
        raise _uneven(headers, worst, spacing, float(gaps[worst]))
    return spacing


def _uneven(
    headers: Sequence[SliceHeader], index: int, expected_mm: float, found_mm: float
) -> InputError:
    following = headers[index + 1]
    missing = round(found_mm / expected_mm) - 1
    lacks = f", so that {missing} may be missing" if missing > 0 else ""
    return unusable_file(
        following.path,
        expected=f"slices {expected_mm:.3f} mm apart",
        found=f"{found_mm:.3f} mm between {printable_path(headers[index].path.name)} and it, at "
        f"{listed_numbers(following.position_mm)} mm{lacks}",
        do="export the whole series, or resample it",
    )
