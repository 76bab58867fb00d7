"""The experiment of a first look: where it finds organs, the labels are the body's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunet_oracle import Recipe, manifest_of
from numpy.typing import NDArray
from one_fold import OneFold

from oarseg.inference.preprocessing import NetworkInput, preprocess
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.streaming import plan_tiles, segment_streaming
from oarseg.model.entries.channels import Normalisation
from oarseg.model.entries.networks import ModelFile
from oarseg.model.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import first_look  # noqa: E402
from first_look import OrganRegion, find_organ_region  # noqa: E402

Shape = tuple[int, int, int]
SHAPE: Shape = (120, 40, 36)
BLOCK: Shape = (4, 4, 4)
FILE = ModelFile("fold_0.onnx", "0" * 64, "0", "fp32")
GRID_MM = (3.0, 2.0, 2.0)


class Levels(OneFold):
    """A network that reads the label off the intensity."""

    def __call__(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        levels = np.arange(4, dtype=np.float32).reshape(-1, 1, 1, 1)
        return np.asarray(-((patch[0, :1] - levels) ** 2), np.float32)[None]


def model(transpose: Shape = (0, 1, 2), spacing_mm: Any = (3.0, 2.0, 2.0)) -> Manifest:
    labels = {"background": 0, "a": 1, "b": 2, "c": 3}
    recipe = Recipe(
        spacing_mm, patch=(16, 16, 16), channels=(Normalisation("none"),), labels=labels,
        transpose=transpose,
    )  # fmt: skip
    return manifest_of(recipe, (FILE,))


def image(**organs: Any) -> NDArray[np.float32]:
    """An image with boxes of the given labels' intensities; nnU-Net would crop zeros."""
    made = np.full(SHAPE, 0.1, np.float32)
    for label, name in enumerate(("a", "b", "c"), start=1):
        for box in organs.get(name, ()):
            made[tuple(slice(*side) for side in box)] = label
    return made


def body() -> BlockMask:
    """All of the image but its first rows."""
    blocks = np.ones((30, 10, 9), bool)
    blocks[:, 0] = False
    return BlockMask(blocks, BLOCK, SHAPE)


def case(manifest: Manifest, array: NDArray[np.float32]) -> NetworkInput:
    return preprocess([array], GRID_MM, manifest)


def look(array: NDArray[np.float32], manifest: Manifest | None = None) -> OrganRegion:
    manifest = manifest or model()
    found = find_organ_region(case(manifest, array), Levels(), manifest, body())
    assert found is not None
    return found


HEAD = ((20, 34), (12, 24), (10, 22))


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("spacing_mm", [GRID_MM, (5.0, 3.0, 2.6)])
def test_labels_are_those_of_the_body_with_fewer_tiles(transpose: Shape, spacing_mm: Any) -> None:
    spacing_mm = tuple(spacing_mm[axis] for axis in transpose)  # along the network's axes
    manifest = model(transpose, spacing_mm)
    net_input = case(manifest, image(a=[HEAD], b=[((36, 40), (12, 20), (12, 20))]))
    found = find_organ_region(net_input, Levels(), manifest, body())
    assert found is not None
    every = plan_tiles(net_input.placement, manifest, mask=body()).count
    assert found.tiles < 0.8 * every
    whole, part = (
        segment_streaming(net_input, [Levels()], manifest, mask=mask)
        for mask in (body(), found.mask)
    )
    assert set(np.unique(whole)) == {0, 1, 2}
    assert np.array_equal(part, whole)


def test_the_look_is_short() -> None:
    """An eighth of the tiles, but for those at the image's ends."""
    manifest, seen = model(), image(a=[HEAD])
    every = plan_tiles(case(manifest, seen).placement, manifest, mask=body()).count
    assert look(seen).look_tiles <= every / 3


def test_the_margin_goes_all_the_way_round() -> None:
    found = look(image(a=[HEAD])).mask.voxels()
    (z0, z1), (y0, y1), (x0, x1) = HEAD
    z, y, x = (int(first_look.MARGIN_MM / mm) for mm in GRID_MM)
    near = (slice(z0 - z, z1 + z), slice(max(4, y0 - y), y1 + y), slice(max(0, x0 - x), x1 + x))
    assert found[z0 - z : z1 + z, (y0 + y1) // 2, (x0 + x1) // 2].all()
    assert found[(z0 + z1) // 2, max(4, y0 - y) : y1 + y, (x0 + x1) // 2].all()
    assert found[(z0 + z1) // 2, (y0 + y1) // 2, max(0, x0 - x) : x1 + x].all()
    assert not found[near[0].stop + 12 :].any()
    assert not found[:, :4].any()  # no body


CRUMB = ((100, 102), (20, 22), (20, 22))


def test_crumbs_far_from_the_organ_are_taken_for_false() -> None:
    found = look(image(a=[HEAD, CRUMB]))
    assert found.left_out >= 8  # twice where two tiles saw it
    assert not found.mask.voxels()[90:].any()


def test_a_small_organ_apart_from_all_others_counts() -> None:
    found = look(image(a=[HEAD], c=[CRUMB]))
    assert found.left_out == 0
    assert found.mask.voxels()[tuple(slice(*side) for side in CRUMB)].all()


def test_a_large_part_apart_from_its_other_counts() -> None:
    found = look(image(a=[HEAD, ((80, 86), (12, 20), (12, 20))]))
    assert found.left_out == 0
    assert found.mask.voxels()[80:86, 12:20, 12:20].all()


def test_nothing_found_is_no_region() -> None:
    manifest = model()
    assert find_organ_region(case(manifest, image()), Levels(), manifest, body()) is None
