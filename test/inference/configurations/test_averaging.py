"""Probabilities of several configurations, averaged in blocks, against nnU-Net's own functions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_oracle import CT, Recipe, manifest_of
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.errors import InferenceError
from oarseg.imaging.arrays import Image
from oarseg.imaging.orientation import for_networks
from oarseg.imaging.volume import Grid
from oarseg.inference.confidence.probabilities import Probabilities
from oarseg.inference.configurations.averaging import AveragePainter, probabilities
from oarseg.inference.configurations.plane_feed import PlaneFeed
from oarseg.inference.preprocessing import Placement, network_placement
from oarseg.inference.region.footprint import BlockMask, Footprint
from oarseg.inference.ring import LogitPlane
from oarseg.model.entries.networks import ModelFile
from oarseg.model.manifest import Manifest

SHAPE, SPACING_MM = (14, 41, 37), (2.0, 1.0, 1.0)
# A network at the image's spacing, one coarser, one finer, and one of slices.
SPACINGS = [(2.0, 1.0, 1.0), (3.1, 1.7, 1.6), (1.5, 0.8, 0.9), (None, 0.8, 0.9)]
FILE = ModelFile("fold_0.onnx", "0" * 64, "0", "fp32")
REGIONS = {"background": 0, "all": [1, 2, 3], "middle": [2, 3], "core": 3}
BOX = ((1, 13), (3, 41), (0, 35))


def model(spacing: Any, regions: bool) -> Manifest:
    labels: dict[str, Any] = {"background": 0, **{f"s{k}": k for k in range(1, 6)}}
    patch = (1 if spacing[0] is None else 4, 8, 8)
    if regions:
        recipe = Recipe(spacing, patch, (CT,), REGIONS, region_order=(1, 2, 3))
    else:
        recipe = Recipe(spacing, patch, (CT,), labels)
    return manifest_of(recipe, (FILE,))


def logits_of(manifest: Manifest, place: Placement, seed: int) -> Image:
    """Logits in half precision, smooth, steep where classes meet."""
    draw = np.random.default_rng(seed).standard_normal((len(manifest.labels), *place.network_shape))
    smooth = ndimage.gaussian_filter(draw, (0, 1.5, 2, 2))
    return (smooth / smooth.std() * 4).astype(np.float16).astype(np.float32)


def planes(logits: Image) -> Iterator[LogitPlane]:
    """Give planes in one buffer, as a ring does."""
    buffer = np.empty_like(logits[:, 0])
    for index in range(logits.shape[1]):
        buffer[...] = logits[:, index]
        yield LogitPlane(index, buffer, slice(None), slice(None))


def nnunets_average(
    manifests: list[Manifest], places: list[Placement], logits: list[Image]
) -> NDArray[Any]:
    """All probabilities of the part that is kept, resampled and averaged as nnU-Net does."""
    total: Any = None
    regions = manifests[0].regions
    for place, values in zip(places, logits, strict=True):
        back = resample_data_or_seg_to_shape(
            values.astype(np.float16),
            place.crop_shape,
            place.network_spacing_mm,
            place.crop_spacing_mm,
            order=1,
            order_z=0,
            force_separate_z=None,
        )
        wide = torch.from_numpy(back).float()
        one = (torch.sigmoid(wide) if regions else torch.softmax(wide, 0)).numpy()
        total = one if total is None else total + one
    total /= len(logits)
    return np.asarray(total)


def nnunets(
    manifests: list[Manifest], places: list[Placement], logits: list[Image]
) -> NDArray[Any]:
    """Label the whole image as nnU-Net does."""
    total, regions = nnunets_average(manifests, places, logits), manifests[0].regions
    labels = np.zeros(SHAPE, np.uint8)
    view = places[0].view(labels)
    if not regions:
        view[...] = total.argmax(0)
    for value, region in enumerate(total, 1):
        if regions:
            view[region > 0.5] = value
    return labels


@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_planes_are_labelled_as_nnunet_labels_the_volume(count: int, regions: bool) -> None:
    manifests = [model(spacing, regions) for spacing in SPACINGS[:count]]
    places = [network_placement(SHAPE, SPACING_MM, one, BOX) for one in manifests]
    values = [
        logits_of(*pair, seed) for seed, pair in enumerate(zip(manifests, places, strict=True))
    ]
    wanted = nnunets(manifests, places, values)
    found = painted(manifests, places, values)
    assert len(np.unique(wanted)) > 3
    assert np.array_equal(found, wanted)
    assert any(
        not np.array_equal(found, nnunets([one], [place], [value]))
        for one, place, value in zip(manifests, places, values, strict=True)
    )


def painted(
    manifests: list[Manifest],
    places: list[Placement],
    values: list[Image],
    mask: Footprint | None = None,
    chances: Probabilities | None = None,
) -> NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    feeds = [
        PlaneFeed(place, one, planes(value))
        for one, place, value in zip(manifests, places, values, strict=True)
    ]
    with ThreadPoolExecutor(2) as pool:
        painter = AveragePainter(
            places[0], manifests[0], labels, feeds, mask=mask, pool=pool, chances=chances
        )
        for target in range(places[0].crop_shape[0]):
            painter.paint(target)
    return labels


def test_what_lies_outside_a_mask_is_background() -> None:
    manifests = [model(spacing, False) for spacing in SPACINGS[:2]]
    places = [network_placement(SHAPE, SPACING_MM, one, BOX) for one in manifests]
    values = [logits_of(*pair, 7) for pair in zip(manifests, places, strict=True)]
    blocks = np.zeros((4, 11, 10), bool)
    blocks[1:3, 2:7, 4:9] = True
    mask = BlockMask(blocks, (4, 4, 4), SHAPE)
    found = painted(manifests, places, values, Footprint.of(mask, places[0]))
    whole = painted(manifests, places, values)
    assert np.array_equal(found, np.where(mask.voxels(), whole, 0))
    assert found.any()


def test_the_average_of_an_organ_is_kept(tmp_path: Path) -> None:
    manifests = [model(spacing, False) for spacing in SPACINGS[:2]]
    places = [network_placement(SHAPE, SPACING_MM, one, BOX) for one in manifests]
    values = [logits_of(*pair, 3) for pair in zip(manifests, places, strict=True)]
    chances = Probabilities(places[0], manifests[0], {"both": (1, 4)}, tmp_path)
    painted(manifests, places, values, chances=chances)
    turn = for_networks(Grid(SHAPE, SPACING_MM), "stored")
    found = np.stack(list(chances.planes("both", turn))).astype(np.float32)
    wanted = np.zeros(SHAPE, np.float32)
    places[0].view(wanted)[...] = nnunets_average(manifests, places, values)[[1, 4]].sum(axis=0)
    # Half precision, and logits whose last digit is rounded otherwise.
    np.testing.assert_allclose(found, wanted, atol=0.004)
    assert np.mean(np.abs(found - wanted) < 0.0006) > 0.99
    chances.close()


def test_probabilities_are_torchs_to_the_last_digits() -> None:
    logits = np.random.default_rng(0).normal(0, 9, (31, 4, 500)).astype(np.float32)
    wide = torch.from_numpy(logits.copy())
    found = probabilities(logits.copy(), regions=False)
    np.testing.assert_allclose(found, torch.softmax(wide, 0).numpy(), rtol=1e-6)
    found = probabilities(logits.copy(), regions=True)
    np.testing.assert_allclose(found, torch.sigmoid(wide).numpy(), rtol=1e-6)
    saturated = probabilities(np.array([[200.0], [-200.0]], np.float32), regions=True)
    assert saturated.ravel().tolist() == [1.0, 0.0]


def test_sums_beyond_half_precision_are_refused() -> None:
    manifest = model(SPACINGS[1], False)
    place = network_placement(SHAPE, SPACING_MM, manifest, BOX)
    values = logits_of(manifest, place, 1)
    values[0, 3, 5, 5] = np.inf
    with pytest.raises(InferenceError, match="plane 3: logits summed over tiles are beyond half"):
        painted([manifest, manifest], [place, place], [values, values])
