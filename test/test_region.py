import numpy as np
import pytest

from oarseg import challenge
from oarseg.phantom import PhantomSpec, make_phantom
from oarseg.region import MARGIN_MM, body_box
from oarseg.volume import Grid, Volume

GRID = Grid((30, 100, 120), (4.0, 2.0, 2.0))


def scan(*, couch: bool = True) -> Volume:
    """A block of tissue of 100×120 mm, 2 mm of couch below it, a shell 10 mm in front."""
    hu = np.full(GRID.shape, -1000, np.int16)
    hu[:, 20:70, 30:90] = 40
    if couch:
        hu[:, 90, :] = 200
        hu[:, 14, 20:100] = -150
    return Volume(hu, GRID)


@pytest.mark.parametrize("couch", [True, False])
def test_box_of_a_block_by_hand(couch: bool) -> None:
    z, y, x = body_box(scan(couch=couch))
    margin, coarse = int(MARGIN_MM / 2), 4  # voxels; the coarse grid may add one of its own
    assert z == (0, 30)
    assert 20 - margin - coarse <= y[0] <= 20 - margin + 1
    assert 70 + margin - 1 <= y[1] <= 70 + margin + coarse
    assert 30 - margin - coarse <= x[0] <= 30 - margin + 1
    assert 90 + margin - 1 <= x[1] <= 90 + margin + coarse


def test_air_keeps_the_whole_image() -> None:
    air = Volume(np.full(GRID.shape, -1000, np.int16), GRID)
    assert body_box(air) == ((0, 30), (0, 100), (0, 120))


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_every_structure_of_a_phantom_is_inside_and_the_couch_is_not(seed: int) -> None:
    phantom = make_phantom(PhantomSpec(seed, size="tiny"))
    box = tuple(slice(*interval) for interval in body_box(phantom.ct))
    inside = np.bincount(phantom.labels.array[box].ravel(), minlength=31)
    everywhere = np.bincount(phantom.labels.array.ravel(), minlength=31)
    assert np.array_equal(inside[1:], everywhere[1:])
    assert len(challenge.load("han_seg").structures) == 30
    kept = np.prod([s.stop - s.start for s in box]) / phantom.ct.array.size
    assert kept < 0.75
