"""Contours: exact for every shape, a twentieth of a voxel inside, and never touching."""

from __future__ import annotations

import numpy as np
import pytest
from contour_shapes import SHAPES
from even_odd import fill_even_odd
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from skimage.draw import polygon

from oarseg.results.dicom import contours
from oarseg.results.dicom.contours import Contour, trace_contours


def traced(*rows: str) -> list[list[tuple[float, float]]]:
    """Contours of a plane drawn in text, # for the mask; (x, y) to two decimals."""
    mask = np.array([[mark == "#" for mark in row] for row in rows], np.uint8)
    return [
        [(round(x, 2), round(y, 2)) for x, y in contour.points.tolist()]
        for contour in trace_contours(mask[None], [1])
    ]


def filled(found: list[Contour], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    planes = range(shape[0])
    return np.stack(
        [fill_even_odd([c.points for c in found if c.plane == z], *shape[1:]) for z in planes]
    )


def test_one_voxel_is_a_square() -> None:
    assert traced("...", ".#.") == [[(0.55, 0.55), (1.45, 0.55), (1.45, 1.45), (0.55, 1.45)]]


def test_voxels_that_touch_at_a_corner_are_apart() -> None:
    first, second = traced("#.", ".#")
    assert first == [(-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (-0.45, 0.45)]
    assert second == [(0.55, 0.55), (1.45, 0.55), (1.45, 1.45), (0.55, 1.45)]


def test_an_inner_corner_is_inside_too() -> None:
    assert traced("##", "#.") == [
        [(-0.45, -0.45), (1.45, -0.45), (1.45, 0.45), (0.45, 0.45), (0.45, 1.45), (-0.45, 1.45)]
    ]


def test_a_hole_is_a_keyhole() -> None:
    # Down the cut a quarter voxel off the centre, round the hole the other way, and back up.
    down, back = [(1.75, -0.45), (1.75, 1.45)], [(1.75, 1.45), (1.75, -0.45)]
    hole = [(1.45, 1.45), (1.45, 2.55), (2.55, 2.55), (2.55, 1.45)]
    corners = [(4.45, -0.45), (4.45, 4.45), (-0.45, 4.45)]
    rows = ("#####", "#####", "##.##", "#####", "#####")
    assert traced(*rows) == [[(-0.45, -0.45), *down, *hole, *back, *corners]]


def test_what_is_one_voxel_thin_has_a_point_in_each_voxel() -> None:
    # On lower and right edges, a quarter voxel from the centre.
    down, back = [(0.75, -0.45), (0.75, 0.45)], [(0.75, 0.45), (0.75, -0.45)]
    hole = [(0.45, 0.45), (0.45, 1.25), (0.45, 1.55), (1.55, 1.55), (1.55, 0.45), (1.25, 0.45)]
    outer = [(2.45, -0.45), (2.45, 1.25), (2.45, 2.45), (1.25, 2.45), (-0.45, 2.45)]
    assert traced("###", "#.#", "###") == [[(-0.45, -0.45), *down, *hole, *back, *outer]]
    assert traced("####") == [
        [(-0.45, -0.45), (3.45, -0.45), (3.45, 0.45), (2.25, 0.45), (1.25, 0.45), (-0.45, 0.45)]
    ]


def test_an_island_in_a_hole_is_a_contour_of_its_own() -> None:
    found = traced("#####", "#...#", "#.#.#", "#...#", "#####")
    # Twelve as of any hole, and one in each of twelve voxels of the ring that are no corner.
    assert [len(contour) for contour in found] == [24, 4]


@settings(max_examples=200, deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans()))
def test_any_mask_comes_back_to_a_reader_that_rounds(mask: NDArray[np.bool_]) -> None:
    """As platipy reads: points rounded to voxels, filled by scikit-image, contours exclusive."""
    found = np.zeros(mask.shape, np.bool_)
    for contour in trace_contours(mask[None].view(np.uint8), [1]):
        x, y = np.round(contour.points).astype(int).T
        part = np.zeros(mask.shape, np.bool_)
        part[polygon(y, x, shape=mask.shape)] = True
        found ^= part
    assert np.array_equal(found, mask)


def test_nothing_has_no_contour() -> None:
    assert traced("...", "...") == []


def test_several_values_are_one_mask() -> None:
    labels = np.array([[[1, 2, 3]]], np.uint8)
    (found,) = trace_contours(labels, [1, 2])
    assert found.points[:, 0].max() == pytest.approx(1.45)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_come_back(name: str) -> None:
    mask = np.stack([SHAPES[name](), np.zeros_like(SHAPES[name]()), SHAPES[name]().T])
    found = list(trace_contours(mask.view(np.uint8), [1]))
    assert np.array_equal(filled(found, mask.shape), mask)
    assert all(len(contour.points) >= 4 for contour in found)


@settings(max_examples=200, deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.booleans()))
def test_any_mask_comes_back(mask: NDArray[np.bool_]) -> None:
    found = list(trace_contours(mask.view(np.uint8), [1]))
    assert np.array_equal(filled(found, mask.shape), mask)
    for contour in found:
        # Every point lies in a voxel of the mask, 0.05 from its edge or 0.25 from its centre.
        x, y = np.round(contour.points).astype(int).T
        assert mask[contour.plane, y, x].all()
        aside = np.abs(contour.points - np.round(contour.points))
        assert np.isclose(aside[..., None], [0.25, 0.45]).any(axis=2).all()


def test_planes_looked_at_in_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(3).integers(0, 2, (7, 12, 11), np.uint8)
    whole = list(trace_contours(mask, [1]))
    monkeypatch.setattr(contours, "TRACED_VOXELS", 2 * 12 * 11)
    pieces = list(trace_contours(mask, [1]))
    assert [c.plane for c in pieces] == [c.plane for c in whole]
    for ours, theirs in zip(pieces, whole, strict=True):
        assert np.array_equal(ours.points, theirs.points)
