"""Streaming against a plain computation that holds every class of the whole volume."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from nnunet_oracle import CT, Recipe, images, manifest_of
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from numpy.typing import NDArray
from one_fold import OneFold

from oarseg.errors import InferenceError
from oarseg.inference.painting import Painter, close_calls, first_maximum
from oarseg.inference.preprocessing import NetworkInput, preprocess
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.ring import LogitPlane
from oarseg.inference.streaming import Effort, buffer_bytes, plan_tiles, segment_streaming
from oarseg.inference.tiling import cut_tile, gaussian_weights, lay_tiles
from oarseg.model.entries.channels import Normalisation
from oarseg.model.entries.networks import ModelFile, Resampling
from oarseg.model.manifest import Manifest

Image = NDArray[np.float32]
Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]

CLASSES = 4
PATCH = (6, 8, 10)
FILE = ModelFile("fold_0.onnx", "0" * 64, "0", "fp32")


class Steep(OneFold):
    """A network in one line: each class likes another intensity, and tiles do not agree.

    The ramp makes the answer depend on where in a tile a voxel lies, so that a tile in the
    wrong place or with wrong weights shows.
    """

    def __init__(self, slope: float = 1.0) -> None:
        ramp = np.arange(PATCH[0]).reshape(-1, 1, 1) + 0.5 * np.arange(PATCH[2])
        self._ramp = (0.02 * slope * ramp).astype(np.float32)

    def __call__(self, patch: Image) -> Image:
        levels = np.linspace(-1.2, 1.2, CLASSES, dtype=np.float32).reshape(-1, 1, 1, 1)
        return np.asarray(-5 * (patch[0, :1] + self._ramp - levels) ** 2, np.float32)[None]


def model(spacing: Spacing, **changes: Any) -> Manifest:
    labels = {"background": 0, **{f"s{k}": k for k in range(1, CLASSES)}}
    recipe = Recipe(spacing, patch=PATCH, channels=(CT,), labels=labels, **changes)
    return manifest_of(recipe, (FILE,))


def plain(net_input: NetworkInput, engines: list[Steep], manifest: Manifest) -> NDArray[Any]:
    """nnU-Net's way: all logits of the whole volume, resampled by nnU-Net itself."""
    place = net_input.placement
    window = lay_tiles(place.network_shape, PATCH)
    logits = np.zeros((CLASSES, *window.shape))
    norm = np.zeros(window.shape)
    patch = np.empty((1, 1, *PATCH), np.float32)
    for first in window.starts[0]:
        for start in window.row(first):
            cut_tile(net_input.data, window, start, patch[0])
            z, y, x = (slice(s, s + p) for s, p in zip(start, PATCH, strict=True))
            mean = sum(engine(patch)[0] for engine in engines) / len(engines)
            logits[:, z, y, x] += mean * gaussian_weights(PATCH).astype(float)
            norm[z, y, x] += gaussian_weights(PATCH)
    kept = (logits / norm)[(slice(None), *window.inside)]
    how = manifest.logits_resampling
    back = resample_data_or_seg_to_shape(
        kept,
        place.crop_shape,
        place.network_spacing_mm,
        place.crop_spacing_mm,
        order=how.order,
        order_z=how.order_z,
        force_separate_z=how.force_separate_z,
    )
    labels = np.zeros(place.shape, np.uint8)
    place.view(labels)[...] = back.argmax(0)
    return labels


BRANCHES: dict[str, tuple[Spacing, Spacing, dict[str, Any]]] = {
    "same": ((2.0, 1.0, 1.0), (2.0, 1.0, 1.0), {}),
    "in-plane": ((2.0, 0.8, 0.9), (2.0, 1.0, 1.0), {}),
    "upsampled-back": ((3.0, 1.7, 1.7), (2.0, 1.0, 1.0), {}),
    "downsampled-back": ((1.3, 0.6, 0.7), (2.0, 1.0, 1.0), {}),
    "separate-z": ((4.0, 0.8, 0.8), (4.0, 1.0, 1.0), {}),
    "separate-z-finer": ((2.5, 0.8, 0.8), (4.0, 1.0, 1.0), {}),
    "separate-z-coarser": ((6.0, 1.2, 1.2), (4.0, 1.0, 1.0), {}),
    "separate-z-linear": (
        (2.5, 0.8, 0.8),
        (4.0, 1.0, 1.0),
        {"logits_resampling": Resampling(order=1, order_z=1)},
    ),
    "separate-last-axis": ((1.2, 1.1, 3.0), (1.0, 1.0, 4.0), {}),
    "forced-off": (
        (2.5, 0.8, 0.8),
        (4.0, 1.0, 1.0),
        {"logits_resampling": Resampling(order=1, force_separate_z=False)},
    ),
    "transposed": ((0.8, 3.0, 0.9), (2.0, 1.0, 1.0), {"transpose": (1, 0, 2)}),
    "transposed-separate-z": ((0.8, 0.8, 2.5), (4.0, 1.0, 1.0), {"transpose": (2, 1, 0)}),
}


@pytest.mark.parametrize("branch", BRANCHES)
def test_streaming_is_the_plain_computation(branch: str) -> None:
    spacing, grid, changes = BRANCHES[branch]
    manifest = model(spacing, **changes)
    net_input = preprocess(images((23, 19, 21), 1, margin=1), grid, manifest)
    assert lay_tiles(net_input.placement.network_shape, PATCH).starts[0][2:], (
        "several rows of tiles"
    )
    engines = [Steep(), Steep(-2.0)]
    labels = segment_streaming(net_input, engines, manifest, threads=2)
    expected = plain(net_input, engines, manifest)
    assert set(np.unique(expected)) == set(range(CLASSES))
    # Sums in half against sums in double: only near ties may differ, at borders or not.
    differ = labels != expected
    assert differ.mean() < 5e-4
    assert differ.mean(axis=(1, 2)).max() < 1e-2


@pytest.mark.parametrize(("rows", "grown"), [(150, 152), (150, 151), (152, 150)])
def test_an_axis_that_changes_by_a_voxel_or_two(rows: int, grown: int) -> None:
    # Long enough for bands of rows that have as many inputs as outputs.
    manifest = model((2.0, grown / rows, 1.0))
    net_input = preprocess(images((8, grown, 24), 1), (2.0, 1.0, 1.0), manifest)
    assert net_input.placement.network_shape == (8, rows, 24)
    labels = segment_streaming(net_input, [Steep()], manifest)
    assert np.mean(labels != plain(net_input, [Steep()], manifest)) < 5e-4


def test_image_smaller_than_a_patch() -> None:
    manifest = model((2.0, 1.0, 1.0))
    net_input = preprocess(images((3, 5, 21), 1), (2.0, 1.0, 1.0), manifest)
    labels = segment_streaming(net_input, [Steep()], manifest)
    assert np.array_equal(labels, plain(net_input, [Steep()], manifest))


def corner(shape: Shape) -> BlockMask:
    """A slanted piece of an image in blocks of (2, 3, 4), so that no axis is alike."""
    blocks = np.zeros([max(1, n // k) for n, k in zip(shape, (2, 3, 4), strict=True)], bool)
    for number, plane in enumerate(blocks[: len(blocks) // 2]):
        plane[number % 3 : number % 3 + 2, : max(1, plane.shape[1] // 3)] = True
    return BlockMask(blocks, (2, 3, 4), shape)


@pytest.mark.parametrize("branch", BRANCHES)
def test_within_a_mask_labels_are_those_of_every_tile(branch: str) -> None:
    spacing, grid, changes = BRANCHES[branch]
    manifest = model(spacing, **changes)
    net_input = preprocess(images((46, 38, 42), 1), grid, manifest)
    mask = corner((46, 38, 42))
    inside = mask.voxels()
    every = segment_streaming(net_input, [Steep()], manifest)
    seen: list[int] = []
    found = segment_streaming(
        net_input, [Steep()], manifest, mask=mask, progress=lambda _, of: seen.append(of)
    )
    assert np.array_equal(found, np.where(inside, every, 0))
    place = net_input.placement
    assert len(seen) == seen[0] == plan_tiles(place, manifest, mask=mask).count
    assert seen[0] < 0.7 * plan_tiles(place, manifest).count


def test_every_tile_of_a_mask_is_needed() -> None:
    """Leaving one more tile out would change a label: the choice is not too generous."""
    manifest = model((2.0, 1.0, 1.0))
    net_input = preprocess(images((24, 24, 30), 1), (2.0, 1.0, 1.0), manifest)
    window = lay_tiles((24, 24, 30), PATCH)
    for voxel in ((0, 0, 0), (7, 12, 13), (23, 23, 29)):
        blocks = np.zeros((24, 24, 30), bool)
        blocks[voxel] = True
        work = plan_tiles(
            net_input.placement, manifest, mask=BlockMask(blocks, (1, 1, 1), blocks.shape)
        )
        covering = [
            start
            for first in window.starts[0]
            for start in window.row(first)
            if all(s <= v < s + p for s, v, p in zip(start, voxel, PATCH, strict=True))
        ]
        assert list(work.tiles()) == covering


def test_an_empty_mask_runs_no_network() -> None:
    manifest = model((2.0, 1.0, 1.0))
    net_input = preprocess(images((12, 16, 20), 1), (2.0, 1.0, 1.0), manifest)
    nothing = BlockMask(np.zeros((3, 4, 5), bool), (4, 4, 4), (12, 16, 20))

    def never(_: Image) -> Image:
        raise AssertionError("a tile was computed")

    assert not segment_streaming(net_input, [never], manifest, mask=nothing).any()  # type: ignore[list-item]


def test_regions_are_painted_in_order_where_positive() -> None:
    labels = {"background": 0, "whole": [4, 9], "core": 9}
    recipe = Recipe((1.0, 1.0, 1.0), (1, 1, 4), (RAW,), labels, region_order=(4, 9))
    manifest = manifest_of(recipe, (FILE,))

    class Two(OneFold):
        def __call__(self, patch: Image) -> Image:
            return np.concatenate([patch - 1, patch - 2], axis=1)

    image = np.array([[[0.5, 1.0, 1.5, 2.5]]], np.float32)
    found = segment_streaming(preprocess([image], (1.0, 1.0, 1.0), manifest), [Two()], manifest)
    assert found.tolist() == [[[0, 0, 4, 9]]]


RAW = Normalisation(scheme="none")


def test_mirroring_averages_the_flips() -> None:
    labels = {"background": 0, "s1": 1}
    recipe = Recipe((1.0, 1.0, 1.0), (1, 1, 4), (RAW,), labels, mirror_axes=(2,))
    manifest = manifest_of(recipe, (FILE,))

    class Left(OneFold):
        """Class 1 at the first two voxels, more so at the very first."""

        def __call__(self, patch: Image) -> Image:
            first = np.array([3, 1, -2, -2], np.float32) + 0 * patch
            return np.concatenate([0 * patch, first], axis=1)

    net_input = preprocess([np.ones((1, 1, 4), np.float32)], (1.0, 1.0, 1.0), manifest)
    assert segment_streaming(net_input, [Left()], manifest).tolist() == [[[1, 1, 0, 0]]]
    # Averaged with its mirror image: (3−2)/2 outside, (1−2)/2 inside.
    assert segment_streaming(
        net_input, [Left()], manifest, effort=Effort(mirror=True)
    ).tolist() == [[[1, 0, 0, 1]]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_unusable_logits_name_the_file_and_the_tile(value: float) -> None:
    manifest = model((2.0, 1.0, 1.0))
    net_input = preprocess(images((6, 8, 20), 1), (2.0, 1.0, 1.0), manifest)

    class Broken(Steep):
        name = "fold_3.onnx"
        calls = 0

        def __call__(self, patch: Image) -> Image:
            logits = super().__call__(patch)
            self.calls += 1
            if self.calls == 2:
                logits[0, 1, 2, 3, 4] = value
            return logits

    with pytest.raises(InferenceError, match=r"fold_3\.onnx: .* tile at \(0, 0, 5\)"):
        segment_streaming(net_input, [Steep(), Broken()], manifest)


def test_sums_beyond_half_are_refused() -> None:
    manifest = model((2.0, 1.0, 1.0))
    net_input = preprocess(images((6, 8, 10), 1), (2.0, 1.0, 1.0), manifest)

    class Huge(Steep):
        def __call__(self, patch: Image) -> Image:
            return super().__call__(patch) + np.float32(1e5)

    with pytest.raises(InferenceError, match="beyond half precision"):
        segment_streaming(net_input, [Huge()], manifest)


class Counted(Steep):
    """Notes in which order it runs and frees its buffers."""

    def __init__(self, slope: float, seen: list[str]) -> None:
        super().__init__(slope)
        self._slope, self._seen = slope, seen

    def __call__(self, patch: Image) -> Image:
        self._seen.append(f"run {self._slope:g}")
        return super().__call__(patch)

    def rest(self) -> None:
        self._seen.append(f"rest {self._slope:g}")


class Joined(Steep):
    """Two networks in one graph."""

    answers = 2

    def __init__(self) -> None:
        self._folds = (Steep(), Steep(-2.0))

    def __call__(self, patch: Image) -> Image:
        return np.concatenate([fold(patch) for fold in self._folds])


def test_folds_take_turns_row_by_row_and_free_their_buffers_in_between() -> None:
    manifest = model((2.0, 1.0, 1.0))
    net_input = preprocess(images((12, 8, 15), 1), (2.0, 1.0, 1.0), manifest)
    work, seen = plan_tiles(net_input.placement, manifest), list[str]()
    assert (len(work.rows), work.count) == (3, 6)
    segment_streaming(net_input, [Counted(1.0, seen), Counted(2.0, seen)], manifest)
    turns = ["run 1", "run 1", "rest 1", "run 2", "run 2", "rest 2"]
    assert seen == 3 * turns
    seen.clear()
    # The sum of a tile's folds has to be known before the next tile.
    pair = [Counted(1.0, seen), Counted(2.0, seen)]
    segment_streaming(net_input, pair, manifest, joint=True)
    assert seen == 6 * ["run 1", "rest 1", "run 2", "rest 2"]
    seen.clear()
    segment_streaming(net_input, [Counted(1.0, seen)], manifest)
    assert seen == 6 * ["run 1"]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_folds_in_one_graph_give_the_labels_of_folds_apart(joint: bool, mirror: bool) -> None:
    manifest = model((2.5, 0.8, 0.8), mirror_axes=(0, 2))
    net_input = preprocess(images((23, 19, 21), 1), (4.0, 1.0, 1.0), manifest)
    effort, seen = Effort(mirror=mirror), list[tuple[int, int]]()
    apart, one = (
        segment_streaming(
            net_input,
            engines,
            manifest,
            effort=effort,
            joint=joint,
            progress=lambda done, of: seen.append((done, of)),
        )
        for engines in ([Steep(), Steep(-2.0)], [Joined()])
    )
    assert np.array_equal(apart, one)
    assert len(set(np.unique(one))) == CLASSES
    count = plan_tiles(net_input.placement, manifest).count
    assert seen == 2 * [(n, count) for n in range(1, count + 1)]


def test_an_effort_of_fewer_folds_leaves_out_the_last() -> None:
    manifest = model((2.0, 1.0, 1.0))
    net_input = preprocess(images((12, 8, 15), 1), (2.0, 1.0, 1.0), manifest)
    first = segment_streaming(net_input, [Steep()], manifest)
    both = [Steep(), Steep(-2.0)]
    assert np.array_equal(segment_streaming(net_input, both, manifest, effort=Effort(1)), first)
    with pytest.raises(ValueError, match="more folds than the 1 that are asked for"):
        segment_streaming(net_input, [Joined()], manifest, effort=Effort(1))


def test_progress_counts_every_tile() -> None:
    manifest = model((2.0, 1.0, 1.0))
    net_input = preprocess(images((12, 8, 20), 1), (2.0, 1.0, 1.0), manifest)
    seen: list[tuple[int, int]] = []
    segment_streaming(
        net_input, [Steep()], manifest, progress=lambda done, of: seen.append((done, of))
    )
    assert seen == [(n, 9) for n in range(1, 10)]


def test_two_runs_are_identical() -> None:
    manifest = model((2.5, 0.8, 0.8))
    net_input = preprocess(images((23, 19, 21), 1), (4.0, 1.0, 1.0), manifest)
    first, second = (segment_streaming(net_input, [Steep()], manifest, threads=n) for n in (1, 2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("depth", [30, 120])
@pytest.mark.parametrize(("folds", "joint"), [(1, False), (5, False), (5, True)])
def test_memory_does_not_hold_all_classes_of_the_volume(
    depth: int, folds: int, joint: bool
) -> None:
    manifest = model((2.0, 1.0, 1.0))
    net_input = preprocess(images((depth, 40, 40), 1), (2.0, 1.2, 1.2), manifest)
    shape = net_input.placement.network_shape
    segment_streaming(net_input, [Steep()] * folds, manifest, joint=joint)
    tracemalloc.start()
    labels = segment_streaming(net_input, [Steep()] * folds, manifest, joint=joint)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sums = 1 if joint else folds
    # Room for small things; the whole volume in half would take 20 to 80 times this.
    assert peak < labels.nbytes + buffer_bytes(shape, manifest, sums=sums) + 150_000


def test_a_close_call_has_a_rival_within_two_halves() -> None:
    # Around 1 a half is 1/1024 below 2 and 1/2048 below 1; class 0 is the largest.
    step = 1 / 1024
    rivals = np.float32([1.25 - 1.9 * step, 1.25 - 2.1 * step, 1.25, -3.0])
    logits = np.stack([np.full(4, 1.25, np.float32), rivals, np.zeros(4, np.float32)])
    (found,) = close_calls(logits)
    assert list(found) == [0, 2]


@pytest.mark.parametrize("spacing_mm", [(2.0, 1.2, 1.3), (3.1, 1.0, 1.0), (5.0, 1.2, 1.3)])
def test_close_calls_are_decided_in_float64(spacing_mm: tuple[float, float, float]) -> None:
    """Logits so much alike that float32's last digit decides in thousands of voxels."""
    manifest = model((2.0, 1.0, 1.0))
    place = preprocess(images((20, 30, 28), 1), spacing_mm, manifest).placement
    draw = np.random.default_rng(0)
    halves = (0.3 + 2e-3 * draw.standard_normal((CLASSES, *place.network_shape))).astype(np.float16)
    painted = np.zeros(place.shape, np.uint8)
    with ThreadPoolExecutor(2) as pool:
        painter = Painter(place, manifest, painted, mask=None, pool=pool)
        for index in range(place.network_shape[0]):
            whole = (slice(0, n) for n in place.network_shape[1:])
            painter.take(LogitPlane(index, halves[:, index].astype(np.float32), *whole))
    expected = resample_data_or_seg_to_shape(
        halves,
        list(place.crop_shape),
        list(place.network_spacing_mm),
        list(place.crop_spacing_mm),
        is_seg=False,
        order=1,
        order_z=0,
        force_separate_z=None,
    )
    assert expected.dtype == np.float16
    assert np.array_equal(place.view(painted), expected.argmax(axis=0))


def test_first_maximum_is_the_argmax_of_the_rounded_logits() -> None:
    draw = np.random.default_rng(0)
    for scale in (1e-7, 1e-4, 1.0, 300.0):
        close = draw.standard_normal((1, 60_000)) + 1e-3 * draw.standard_normal((7, 60_000))
        logits = (close * scale).astype(np.float32)
        rounded = logits.astype(np.float16)
        assert (np.sort(rounded, axis=0)[-1] == np.sort(rounded, axis=0)[-2]).mean() > 0.1
        assert np.array_equal(first_maximum(logits), rounded.argmax(axis=0))


def test_first_maximum_at_the_very_boundaries_of_rounding() -> None:
    half = np.arange(0x0001, 0x7BFF, dtype=np.uint16).view(np.float16)
    signed = np.concatenate([half, -half, np.zeros(1, np.float16)])
    above = np.nextafter(signed, np.float16(np.inf)).astype(np.float32)
    below = np.nextafter(signed, np.float16(-np.inf)).astype(np.float32)
    top = signed.astype(np.float32)
    for middle in ((top + below) / 2, (top + above) / 2):
        nudged = (np.nextafter(middle, np.float32(s)) for s in (-np.inf, np.inf))
        for other in (middle, *nudged):
            logits = np.stack([other, top])
            assert np.array_equal(first_maximum(logits), logits.astype(np.float16).argmax(axis=0))
