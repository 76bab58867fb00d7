import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.imaging.volume import Grid, Volume, from_sitk, to_sitk

OBLIQUE = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))


def test_index_and_world_agree_with_itk() -> None:
    grid = Grid((4, 5, 6), (3.0, 2.0, 1.0), (10.0, 20.0, 30.0), OBLIQUE)
    image = to_sitk(Volume(np.zeros(grid.shape, np.uint8), grid))
    z, y, x = 3, 2, 5
    expected = image.TransformIndexToPhysicalPoint((x, y, z))
    found = grid.to_world(np.array([[z, y, x]]))
    np.testing.assert_allclose(found[0], expected)
    np.testing.assert_allclose(grid.to_index(found), [[z, y, x]], atol=1e-12)
    # x index 5 at 1 mm runs along world y, y index 2 at 2 mm along −x.
    np.testing.assert_allclose(expected, (10 - 4, 20 + 5, 30 + 9))


def test_text_tells_grids_apart_that_differ_in_direction_alone() -> None:
    plain = Grid((4, 5, 6), (3.0, 2.0, 1.0))
    turned = Grid((4, 5, 6), (3.0, 2.0, 1.0), direction=OBLIQUE)
    assert plain.text == "6×5×4 voxels of 1×2×3 mm from (0, 0, 0)"
    assert turned.text == f"{plain.text} in direction (0 -1 0 1 0 0 0 0 1)"


def test_round_trip_keeps_array_and_grid() -> None:
    grid = Grid((2, 3, 4), (3.0, 0.7, 0.5), (-1.5, 2.25, 1e3), OBLIQUE)
    array = np.arange(24, dtype=np.int16).reshape(grid.shape)
    back = from_sitk(to_sitk(Volume(array, grid)))
    assert back.grid == grid
    assert np.array_equal(back.array, array)
    assert back.array.dtype == np.int16


def test_volume_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Volume(np.zeros((2, 2, 2)), Grid((2, 2, 3), (1, 1, 1)))


def test_matches_sees_shift_and_shape() -> None:
    grid = Grid((2, 3, 4), (1.0, 1.0, 1.0))
    assert grid.matches(Grid((2, 3, 4), (1.0, 1.0, 1.0), (5e-4, 0, 0)))
    assert not grid.matches(Grid((2, 3, 4), (1.0, 1.0, 1.0), (5e-3, 0, 0)))
    assert not grid.matches(Grid((2, 3, 4), (1.0, 1.0, 1.01)))
    assert not grid.matches(Grid((2, 3, 5), (1.0, 1.0, 1.0)))


def test_array_order_is_reverse_of_itk() -> None:
    image = sitk.Image(4, 3, 2, sitk.sitkUInt8)
    image[3, 2, 1] = 7
    assert from_sitk(image).array[1, 2, 3] == 7
