from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from nnunet_oracle import CT, ZSCORE, Recipe, dataset_of, images, manifest_of, plans_of
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.imaging.slabs import SLAB, HeldImage, Planes, constant_image, slab_slices
from oarseg.inference.preprocessing import Placement, nonzero_box, preprocess
from oarseg.model.entries.channels import Normalisation
from oarseg.model.entries.networks import ModelFile

Spacing = tuple[float, float, float]

MASKED = Normalisation(scheme="zscore", use_mask=True)
SPACING: Spacing = (2.2, 1.1, 0.9)
FILE = ModelFile("fold_0.onnx", "0" * 64, "0", "fp32")


def nnunets(recipe: Recipe, channels: list[NDArray[Any]], spacing: Spacing) -> NDArray[Any]:
    plans = PlansManager(plans_of(recipe))
    data, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        np.stack(channels),
        None,
        {"spacing": list(spacing)},
        plans,
        plans.get_configuration("3d_fullres"),
        dataset_of(recipe),
    )
    return np.asarray(data)


@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("spacing", [(2.2, 1.1, 0.9), (4.0, 1.0, 1.0), (1.5, 1.0, 0.8)])
def test_input_is_nnunets(spacing: Spacing, transpose: tuple[int, int, int], margin: int) -> None:
    recipe = Recipe((1.5, 1.0, 0.8), transpose=transpose)
    channels = images((17, 26, 23), 2, margin=margin)
    ours = preprocess(channels, spacing, manifest_of(recipe, (FILE,)), threads=2)
    theirs = nnunets(recipe, channels, spacing)
    assert ours.data.dtype == np.float32
    assert ours.data.shape == theirs.shape
    assert np.abs(ours.data - theirs).max() < 1e-5


@pytest.mark.parametrize(
    "how",
    [CT, ZSCORE, MASKED, Normalisation(scheme="none"), Normalisation(scheme="rescale_0_1")],
    ids=["ct", "zscore", "zscore-mask", "none", "rescale"],
)
def test_every_normalisation_is_nnunets(how: Normalisation) -> None:
    recipe = Recipe(SPACING, channels=(how, CT))
    channels = images((14, 20, 18), 2, margin=3)
    for channel in channels:
        channel[6:9, 7:12, 6:13] = 0  # a hole, which nnU-Net's mask fills
    ours = preprocess(channels, SPACING, manifest_of(recipe, (FILE,))).data
    assert np.allclose(ours, nnunets(recipe, channels, SPACING), rtol=1e-5, atol=1e-5)


def test_colour_is_divided_by_255_and_must_be_colour() -> None:
    manifest = manifest_of(Recipe(SPACING, channels=(Normalisation(scheme="rgb_0_1"),)), (FILE,))
    image = np.full((3, 4, 5), 51, np.int16)
    assert np.allclose(preprocess([image], SPACING, manifest).data, 0.2)
    image[0, 0, 0] = 300
    with pytest.raises(InputError, match=r"between 0 and 255, found 51 to 300"):
        preprocess([image], SPACING, manifest)


def test_inputs_are_left_as_they_were() -> None:
    channels = [image.astype(np.float32) for image in images((8, 9, 10), 2)]
    before = [channel.copy() for channel in channels]
    preprocess(channels, SPACING, manifest_of(Recipe(SPACING), (FILE,)))
    assert all(np.array_equal(a, b) for a, b in zip(channels, before, strict=True))


def test_nonzero_box_is_of_all_channels_and_whole_without_any() -> None:
    a, b = np.zeros((2, 5, 6, 7))
    both = [HeldImage(a), HeldImage(b)]
    assert nonzero_box(both) == ((0, 5), (0, 6), (0, 7))
    a[1, 2, 3] = -1
    b[3, 2, 6] = 5
    assert nonzero_box(both) == ((1, 4), (2, 3), (3, 7))


def test_what_fills_the_image_is_enough_to_know_its_box() -> None:
    class Untouched(HeldImage):
        def slabs(self) -> Iterator[Planes]:
            raise AssertionError("it was gone through")

    whole = HeldImage(np.ones((3, 4, 5)))
    assert nonzero_box([whole, Untouched(np.ones((3, 4, 5)))]) == ((0, 3), (0, 4), (0, 5))
    with pytest.raises(AssertionError):
        nonzero_box([HeldImage(np.zeros((3, 4, 5))), Untouched(np.ones((3, 4, 5)))])


def test_a_given_box_changes_what_is_kept_but_no_value() -> None:
    # The model's spacing is the image's: the axes change places, nothing is resampled.
    manifest = manifest_of(Recipe((1.1, 2.2, 0.9), transpose=(1, 0, 2)), (FILE,))
    channels = images((14, 20, 18), 2)
    whole = preprocess(channels, SPACING, manifest)
    boxed = preprocess(channels, SPACING, manifest, box=((2, 12), (5, 15), (0, 9)))
    assert boxed.placement.box == ((5, 15), (2, 12), (0, 9))
    assert np.array_equal(boxed.data, whole.data[:, 5:15, 2:12, 0:9])


def test_the_view_of_a_placement_leads_back() -> None:
    place = Placement(
        shape=(4, 5, 6),
        spacing_mm=(3.0, 2.0, 1.0),
        transpose=(2, 0, 1),
        box=((1, 4), (0, 2), (3, 5)),
        network_shape=(3, 2, 2),
        network_spacing_mm=(1.0, 3.0, 2.0),
    )
    grid = np.zeros((4, 5, 6), int)
    place.view(grid)[2, 1, 0] = 7
    # Network axes are x, z, y: x = 1 + 2, z = 0 + 1, y = 3 + 0.
    assert np.argwhere(grid == 7).tolist() == [[1, 3, 3]]
    assert place.crop_shape == (3, 2, 2)
    assert place.crop_spacing_mm == (1.0, 3.0, 2.0)


@pytest.mark.parametrize(
    ("shapes", "box", "message"),
    [
        ([(4, 5, 6)], None, r"expected the images c0, c1, found 1 image"),
        ([(4, 5, 6), (4, 5, 7)], None, r"on one grid, found shapes"),
        ([(4, 5, 6)] * 2, ((0, 4), (2, 2), (0, 6)), r"empty or outside the image"),
        ([(4, 5, 6)] * 2, ((0, 4), (0, 5), (0, 7)), r"empty or outside the image"),
    ],
)
def test_unfit_input_is_refused(shapes: Any, box: Any, message: str) -> None:
    manifest = manifest_of(Recipe(SPACING), (FILE,))
    with pytest.raises(InputError, match=message):
        preprocess([np.ones(shape) for shape in shapes], SPACING, manifest, box=box)


@dataclass(frozen=True, eq=False)
class Made:
    """An image whose slabs are made anew, in memory that the next one takes."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def slabs(self) -> Iterator[Planes]:
        slab = np.empty((SLAB, *self.array.shape[1:]), self.array.dtype)
        # A first slab of another thickness, as the field of an MR begins anywhere.
        for planes in (slice(0, 5), *slab_slices(5, len(self.array))):
            values = slab[: planes.stop - planes.start]
            values[...] = self.array[planes]
            yield planes, values
            slab[...] = 99


@pytest.mark.parametrize("box", [None, ((2, 30), (5, 15), (0, 9))])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("spacing", [(2.2, 1.1, 0.9), (6.0, 1.0, 1.0), (1.5, 1.0, 6.0)])
@pytest.mark.parametrize("how", [ZSCORE, MASKED, Normalisation(scheme="rescale_0_1"), CT])
def test_an_image_that_comes_in_slabs_gives_the_same_values(
    how: Normalisation, spacing: Spacing, transpose: tuple[int, int, int], box: Any
) -> None:
    recipe = Recipe((1.5, 1.0, 0.8), transpose=transpose, channels=(CT, how))
    manifest = manifest_of(recipe, (FILE,))
    ct, mr = images((37, 20, 18), 2, margin=2)
    whole = preprocess([ct, mr], spacing, manifest, box=box, threads=2)
    slabs = preprocess([ct, Made(mr)], spacing, manifest, box=box, threads=2)
    assert whole.placement == slabs.placement
    assert np.array_equal(whole.data, slabs.data)


def test_no_whole_copy_is_made_of_an_image() -> None:
    manifest = manifest_of(Recipe((4.0, 4.0, 4.0), channels=(CT, ZSCORE)), (FILE,))
    shape = (192, 96, 96)
    images = np.ones(shape, np.int16), constant_image(shape, 2.0)
    preprocess(images, (1.0, 1.0, 1.0), manifest)  # operators are kept
    tracemalloc.start()
    try:
        preprocess(images, (1.0, 1.0, 1.0), manifest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 192 * 96 * 96 * 4 / 2
