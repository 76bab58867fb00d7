import zlib

import numpy as np
import pytest

from oarseg.imaging.volume import Grid, Volume
from oarseg.results.page.greys import (
    CT_LEVELS_HU,
    Layer,
    PageView,
    ct_layer,
    fit_layers,
    other_layer,
)

GRID = Grid((3, 10, 14), (2.0, 1.0, 0.5), (5.0, 6.0, 7.0))


def decoded(layer: Layer) -> np.ndarray:
    steps = np.frombuffer(zlib.decompress(layer.packed), np.uint8).reshape(layer.shape)
    return np.array(layer.levels)[np.cumsum(steps, axis=2, dtype=np.uint8)]


def test_levels_rise_and_are_finest_in_soft_tissue() -> None:
    assert len(CT_LEVELS_HU) == 256
    steps = np.diff(CT_LEVELS_HU)
    assert (steps > 0).all()
    soft = (CT_LEVELS_HU[:-1] >= -200) & (CT_LEVELS_HU[1:] <= 300)
    assert steps[soft].max() == 4
    assert steps.max() <= 32


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_ct_comes_back_to_its_levels(dtype: type) -> None:
    values = np.random.default_rng(0).integers(-1024, 3000, GRID.shape).astype(dtype)
    layer = ct_layer("CT", Volume(values, GRID), PageView((0, 0, 0), GRID.shape))
    errors = np.abs(decoded(layer) - values)
    assert errors.max() <= 16
    assert errors[(values > -198) & (values < 300)].max() <= 2


def test_values_beyond_the_levels_are_the_outermost() -> None:
    values = np.full(GRID.shape, -3024, np.int16)
    values[1] = 20000
    layer = ct_layer("CT", Volume(values, GRID), PageView((0, 0, 0), GRID.shape))
    assert [decoded(layer)[z].max() for z in range(2)] == [-1024, 3000]


def test_blocks_are_averaged_and_the_last_one_is_of_what_there_is() -> None:
    values = np.zeros(GRID.shape, np.int16)
    values[1, 2:4, 3:5] = [[0, 40], [80, 120]]
    values[1, 8:, 13] = 200
    view = PageView((1, 2, 3), (2, 10, 14), 2)
    layer = ct_layer("CT", Volume(values, GRID), view)
    assert layer.shape == view.shape == (1, 4, 6)
    assert decoded(layer)[0, 0, 0] == 60
    assert decoded(layer)[0, 3, 5] == 200


def test_the_shrunk_grid_has_its_voxels_in_the_blocks_middles() -> None:
    view = PageView((1, 2, 3), (2, 10, 14), 2)
    small = view.grid(GRID)
    assert small.spacing_mm == (2.0, 2.0, 1.0)
    assert small.origin_mm == pytest.approx((5 + 3.5 * 0.5, 6 + 2.5, 7 + 2))


def test_an_image_of_other_units_spans_its_levels() -> None:
    values = np.linspace(0, 7, GRID.voxels, dtype=np.float32).reshape(GRID.shape)
    layer = other_layer("MR", "MR", Volume(values, GRID), PageView((0, 0, 0), GRID.shape))
    assert np.abs(decoded(layer) - values).max() < 7 / 127
    flat = other_layer("MR", "MR", Volume(values * 0, GRID), PageView((0, 0, 0), GRID.shape))
    assert decoded(flat).max() == 0


@pytest.mark.parametrize(("budget", "factor"), [(10**6, 1), (12000, 2), (1, 16)])
def test_images_are_shrunk_until_they_fit(budget: int, factor: int) -> None:
    shape = (4, 96, 96)
    noise = np.random.default_rng(0).integers(-1000, 3000, shape).astype(np.int16)
    volume = Volume(noise, Grid(shape, (1.0, 1.0, 1.0)))
    view, layers = fit_layers(
        PageView((0, 0, 0), shape), lambda part: [ct_layer("CT", volume, part)], budget=budget
    )
    assert view.factor == factor
    assert layers[0].shape == view.shape
    assert len(layers[0].packed) <= budget or factor == 16
