"""A reader of contours for tests: a voxel is inside where a ray to the left crosses oddly often."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from oarseg.imaging.files.dicom.series import DicomSeries


def fill_even_odd(
    polygons: Iterable[NDArray[np.float64]], rows: int, columns: int
) -> NDArray[np.bool_]:
    """Fill polygons, (n, 2) of x and y in voxels, together: their crossings are counted in one."""
    crossings = np.zeros((rows, columns + 1), np.int64)
    for polygon in polygons:
        begin, end = polygon, np.roll(polygon, -1, axis=0)
        low, high = np.minimum(begin[:, 1], end[:, 1]), np.maximum(begin[:, 1], end[:, 1])
        first = np.clip(np.ceil(low).astype(int), 0, rows)
        last = np.clip(np.ceil(high).astype(int), 0, rows)
        for edge in np.flatnonzero(last > first):
            y = np.arange(first[edge], last[edge])
            share = (y - begin[edge, 1]) / (end[edge, 1] - begin[edge, 1])
            x = begin[edge, 0] + share * (end[edge, 0] - begin[edge, 0])
            np.add.at(crossings, (y, np.clip(np.ceil(x).astype(int), 0, columns)), 1)
    return np.cumsum(crossings, axis=1)[:, :columns] % 2 == 1


def fill_roi(item: Dataset, series: DicomSeries) -> NDArray[np.bool_]:
    """Fill an ROI's contours by even-odd, each in the slice that it names."""
    inverse = np.linalg.inv(
        np.column_stack(
            [
                np.multiply(series.row_direction, series.pixel_spacing_mm[1]),
                np.multiply(series.column_direction, series.pixel_spacing_mm[0]),
                series.normal,
            ]
        )
    )
    planes: dict[int, list[NDArray[np.float64]]] = {}
    for contour in item.ContourSequence:
        uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        plane = series.sop_instance_uids.index(uid)
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        assert len(points) == contour.NumberOfContourPoints >= 3
        index = (points - series.positions_mm[plane]) @ inverse.T
        assert np.abs(index[:, 2]).max() < 0.01
        planes.setdefault(plane, []).append(index[:, :2])
    mask = np.zeros((len(series.files), series.rows, series.columns), np.bool_)
    for plane, polygons in planes.items():
        mask[plane] = fill_even_odd(polygons, series.rows, series.columns)
    return mask
