import numpy as np
import pytest

from oarseg.challenges import catalogue
from oarseg.imaging.volume import Grid, Volume
from oarseg.inference.region.body import BOX_MARGIN_MM, MASK_MARGIN_MM, body_box, find_body
from oarseg.phantom import PhantomSpec, make_phantom

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
    z, y, x = body_box(find_body(scan(couch=couch)), GRID)
    margin, coarse = int(BOX_MARGIN_MM / 2), 4  # voxels; the coarse grid may add one of its own
    assert z == (0, 30)
    assert 20 - margin - coarse <= y[0] <= 20 - margin + 1
    assert 70 + margin - 1 <= y[1] <= 70 + margin + coarse
    assert 30 - margin - coarse <= x[0] <= 30 - margin + 1
    assert 90 + margin - 1 <= x[1] <= 90 + margin + coarse


def test_air_keeps_the_whole_image() -> None:
    air = Volume(np.full(GRID.shape, -1000, np.int16), GRID)
    assert body_box(find_body(air), GRID) == ((0, 30), (0, 100), (0, 120))


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_every_structure_of_a_phantom_is_inside_and_the_couch_is_not(seed: int) -> None:
    phantom = make_phantom(PhantomSpec(seed, size="tiny"))
    box = tuple(slice(*interval) for interval in body_box(find_body(phantom.ct), phantom.ct.grid))
    inside = np.bincount(phantom.labels.array[box].ravel(), minlength=31)
    everywhere = np.bincount(phantom.labels.array.ravel(), minlength=31)
    assert np.array_equal(inside[1:], everywhere[1:])
    assert len(catalogue.load_challenge("han_seg").structures) == 30
    kept = np.prod([s.stop - s.start for s in box]) / phantom.ct.array.size
    assert kept < 0.75


def solid(**pieces: tuple[slice, slice, slice]) -> Volume:
    hu = np.full(GRID.shape, -1000, np.int16)
    for where in pieces.values():
        hu[where] = 40
    return Volume(hu, GRID)


TRUNK = (slice(None), slice(20, 70), slice(35, 85))


def mask_of(ct: Volume) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    body = find_body(ct)
    assert body is not None
    return body.voxels()


def test_the_mask_is_the_block_and_its_margin() -> None:
    found = mask_of(scan())
    body = np.zeros(GRID.shape, bool)
    body[:, 20:70, 30:90] = True
    assert found[body].all()
    # 12 mm of margin and at most one block of 4 mm more; couch and shell are outside.
    margin = int(MASK_MARGIN_MM / 2) + 2
    assert not found[:, : 20 - margin].any()
    assert not found[:, 70 + margin :].any()
    assert not found[:, :, : 30 - margin].any()
    assert not found[:, :, 90 + margin :].any()


def test_arms_apart_from_the_trunk_are_kept() -> None:
    arm = (slice(None), slice(35, 55), slice(5, 20))
    ct = solid(trunk=TRUNK, arm=arm)
    assert mask_of(ct)[arm].all()
    assert body_box(find_body(ct), GRID)[2][0] == 0


def test_a_shell_and_a_board_are_not_kept() -> None:
    board = (slice(None), slice(88, 91), slice(None))
    wall = (slice(None), slice(10, 80), slice(2, 4))
    found = mask_of(solid(trunk=TRUNK, board=board, wall=wall))
    assert not found[:, 86:].any()
    assert not found[:, :, :10].any()


def test_what_is_enclosed_is_kept_whatever_its_value() -> None:
    ct = solid(trunk=TRUNK)
    ct.array[5:25, 40:50, 50:60] = -1000  # an airway
    ct.array[10:12, 30:60, 45:80] = -900  # the dark streak of metal
    ct.array[10:12, 30:33, 45:48] = 3000  # and the metal itself
    ct.array[:, 60:64, 60:64] = 400  # contrast
    assert mask_of(ct)[TRUNK].all()


def test_a_body_that_the_field_cuts_off_reaches_its_edge() -> None:
    ct = solid(trunk=(slice(None), slice(0, 60), slice(0, 120)))
    assert mask_of(ct)[:, :60].all()


@pytest.mark.parametrize("seed", [3, 4, 5, 6])
def test_the_mask_of_a_phantom_holds_every_structure_and_leaves_the_couch(seed: int) -> None:
    phantom = make_phantom(PhantomSpec(seed, size="tiny"))
    found = mask_of(phantom.ct)
    assert not (phantom.labels.array[~found] > 0).any()
    tissue = phantom.ct.array > -300
    assert found.mean() < 0.6
    assert not tissue[~found].mean() > 0.05  # couch and headrest are thin
