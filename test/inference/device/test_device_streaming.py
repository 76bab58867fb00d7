"""A case on a GPU that is not there: the host's labels, and what they cost in calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_device import CUDA_RUNTIME, OUT_OF_MEMORY, FakeDevice, FakeGpuEngine, fake_gpu
from nnunet_oracle import CT, Recipe, images, manifest_of
from numpy.typing import NDArray
from one_fold import OneFold

from oarseg.errors import DeviceError, InferenceError
from oarseg.inference.device.gpu import Gpu
from oarseg.inference.device.hosted_engine import HostedEngine
from oarseg.inference.device.vram import case_bytes
from oarseg.inference.preprocessing import NetworkInput, preprocess
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.streaming import Effort, plan_tiles, segment_streaming
from oarseg.model.entries.networks import ModelFile, Resampling
from oarseg.model.manifest import Manifest

Image = NDArray[np.float32]
Triple = tuple[float, float, float]

CLASSES, PATCH = 4, (6, 8, 10)
FILE = ModelFile("fold_0.onnx", "0" * 64, "0", "fp32")


class Steep(OneFold):
    """Each class likes another intensity, and where in a tile a voxel lies matters."""

    def __init__(self, *slopes: float) -> None:
        self.name = ", ".join(f"fold_{n}.onnx" for n in range(len(slopes)))
        self.answers = len(slopes)
        ramp = np.arange(PATCH[0]).reshape(-1, 1, 1) + 0.5 * np.arange(PATCH[2])
        self._ramps = [(0.02 * slope * ramp).astype(np.float32) for slope in slopes]

    def __call__(self, patch: Image) -> Image:
        levels = np.linspace(-1.2, 1.2, CLASSES, dtype=np.float32).reshape(-1, 1, 1, 1)
        folds = [-5 * (patch[0, :1] + ramp - levels) ** 2 for ramp in self._ramps]
        return np.asarray(folds, np.float32)


def model(spacing_mm: Triple, **changes: Any) -> Manifest:
    labels = {"background": 0, **{f"s{k}": k for k in range(1, CLASSES)}}
    recipe = Recipe(spacing_mm, patch=PATCH, channels=(CT,), labels=labels, **changes)
    return manifest_of(recipe, (FILE,))


def case(
    spacing_mm: Triple = (2.0, 1.0, 1.0), grid_mm: Triple = (2.0, 1.0, 1.0), **changes: Any
) -> tuple[NetworkInput, Manifest]:
    manifest = model(spacing_mm, **changes)
    return preprocess(images((12, 14, 15), 1, margin=1), grid_mm, manifest), manifest


def on_gpu(
    net_input: NetworkInput, engines: list[Any], manifest: Manifest, gpu: Gpu, **options: Any
) -> NDArray[np.uint8]:
    device: Any = gpu.xp
    there = [FakeGpuEngine(engine, device) for engine in engines]
    return segment_streaming(net_input, there, manifest, gpu=gpu, **options)


def part(shape: tuple[int, int, int]) -> BlockMask:
    blocks = np.zeros((6, 5, 4), bool)
    blocks[1:4, 1:3, :2] = True
    return BlockMask(blocks, (2, 3, 4), shape)


BRANCHES: dict[str, tuple[Triple, Triple, dict[str, Any]]] = {
    "same": ((2.0, 1.0, 1.0), (2.0, 1.0, 1.0), {}),
    "all axes": ((1.7, 0.9, 0.8), (2.0, 1.0, 1.0), {}),
    "fewer voxels": ((2.6, 1.2, 1.3), (2.0, 1.0, 1.0), {}),
    "separate z": ((2.9, 0.8, 0.8), (4.0, 1.0, 1.0), {}),
    "linear z": (
        (2.9, 0.9, 0.8),
        (4.0, 1.0, 1.0),
        {"logits_resampling": Resampling(order=1, order_z=1)},
    ),
    "transposed": ((0.8, 2.1, 0.9), (2.0, 1.0, 1.0), {"transpose": (1, 0, 2)}),
}


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("masked", [False, True])
def test_labels_are_the_hosts(branch: str, masked: bool) -> None:
    spacing, grid, changes = BRANCHES[branch]
    net_input, manifest = case(spacing, grid, **changes)
    engines = [Steep(1.0, -0.5)]
    mask = part((12, 14, 15)) if masked else None
    found = on_gpu(net_input, engines, manifest, fake_gpu()[1], mask=mask)
    expected = segment_streaming(net_input, engines, manifest, mask=mask)
    assert len(np.unique(expected)) == CLASSES
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("engines", "options"),
    [
        ([Steep(1.0), Steep(-0.5), Steep(0.3)], {}),  # folds in turns
        ([Steep(1.0), Steep(-0.5)], {"joint": True}),
        ([Steep(1.0, -0.5, 0.3)], {"joint": True}),
        ([Steep(1.0)], {"joint": True}),
        ([Steep(1.0, -0.5)], {"effort": Effort(mirror=True)}),
        ([Steep(1.0), Steep(-0.5)], {"effort": Effort(mirror=True), "joint": True}),
    ],
)
def test_every_form_of_an_ensemble_gives_the_hosts_labels(
    engines: list[Any], options: dict[str, Any]
) -> None:
    net_input, manifest = case(mirror_axes=(0, 2))
    seen: list[tuple[int, int]] = []
    found = on_gpu(
        net_input,
        engines,
        manifest,
        fake_gpu()[1],
        progress=lambda *done: seen.append(done),
        **options,
    )
    assert np.array_equal(found, segment_streaming(net_input, engines, manifest, **options))
    tiles = plan_tiles(net_input.placement, manifest).count
    assert seen == [(number, tiles) for number in range(1, tiles + 1)]


def test_regions_are_painted_in_order_where_positive() -> None:
    labels = {"background": 0, "whole": [4, 9], "core": 9}
    recipe = Recipe((2.0, 1.0, 1.0), PATCH, (CT,), labels, region_order=(4, 9))
    manifest = manifest_of(recipe, (FILE,))

    class Two(OneFold):
        def __call__(self, patch: Image) -> Image:
            return np.concatenate([patch, patch - 0.5], axis=1)

    net_input = preprocess(images((12, 14, 15), 1), (2.2, 1.1, 1.2), manifest)
    found = on_gpu(net_input, [Two()], manifest, fake_gpu()[1])
    assert set(np.unique(found)) == {0, 4, 9}
    assert np.array_equal(found, segment_streaming(net_input, [Two()], manifest))


@pytest.mark.parametrize("folds", [1, 5])
def test_calls_of_a_tile_and_of_a_plane(folds: int) -> None:
    """The most: a tile 12 launches and one wait, a plane 8 launches and one copy back."""
    counted = []
    for grid_mm in ((2.0, 1.0, 1.0), (2.6, 1.2, 1.3)):
        net_input, manifest = case((2.6, 1.2, 1.3), grid_mm)
        device, gpu = fake_gpu()
        on_gpu(net_input, [Steep(*range(folds))], manifest, gpu)
        work, place = plan_tiles(net_input.placement, manifest), net_input.placement
        planes, painted = place.network_shape[0], place.crop_shape[0]
        assert device.count("launch") == folds * work.count + planes + painted
        # The last copy is that of the faults, if there was nothing to paint.
        assert device.count("download") == painted + 1
        assert device.count("synchronise") == device.count("run") == work.count
        counted.append((device.count("upload") - work.count, device.count("allocate")))
    # Weights, Gaussian and mask go up once; nothing is allocated while tiles are computed.
    assert counted[0] == counted[1]
    assert counted[0][0] <= 12


def test_a_mirrored_tile_takes_one_more_launch_for_each_run() -> None:
    net_input, manifest = case(mirror_axes=(0, 1, 2))
    device, gpu = fake_gpu()
    on_gpu(net_input, [Steep(1.0, 2.0)], manifest, gpu, effort=Effort(mirror=True))
    work, depth = plan_tiles(net_input.placement, manifest), net_input.placement.network_shape[0]
    assert device.count("run") == device.count("synchronise") == 8 * work.count
    assert device.count("launch") == (8 + 2) * work.count + 2 * depth


def test_bytes_both_ways() -> None:
    """A tile goes up for each run, a plane of labels comes down: no logits, no weights."""
    net_input, manifest = case((2.6, 1.2, 1.3))
    device, gpu = fake_gpu()
    on_gpu(net_input, [Steep(1.0, 2.0)], manifest, gpu)
    work, place = plan_tiles(net_input.placement, manifest), net_input.placement
    rows, columns = place.crop_shape[1:]
    faults = 4 * 3
    padded = -(-rows * columns // 4) * 4
    assert device.downloaded == (place.crop_shape[0] + 1) * (padded + faults)
    tile = 4 * int(np.prod(PATCH))
    taps = (8 + 8) * 2 * (rows + columns)
    blocks = 1 + 8 * (rows + columns)
    gaussian = (2 + 4) * int(np.prod(PATCH))
    assert device.uploaded == work.count * tile + taps + blocks + gaussian + CLASSES


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_forecast_is_what_a_case_takes(joint: bool, mirror: bool) -> None:
    net_input, manifest = case((2.6, 1.2, 1.3), mirror_axes=(0,))
    device, gpu = fake_gpu()
    slopes = (1.0,) if joint else (1.0, 2.0, 3.0)
    on_gpu(net_input, [Steep(*slopes)], manifest, gpu, effort=Effort(mirror=mirror), joint=joint)
    forecast = case_bytes(net_input.placement, manifest, folds=3, joint=joint, mirror=mirror)
    logits = 4 * len(slopes) * CLASSES * int(np.prod(PATCH))  # the engine's own, beside it
    assert forecast <= device.peak - logits < forecast + 5_000
    assert device.held == 0, "what a case took is free again"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_unusable_logits_name_the_file_and_the_tile(value: float) -> None:
    net_input, manifest = case()

    class Broken(Steep):
        calls = 0

        def __call__(self, patch: Image) -> Image:
            logits = super().__call__(patch)
            self.calls += 1
            if self.calls in (2, 3):
                logits[1, 1, 2, 3, 4] = value
            return logits

    second = list(plan_tiles(net_input.placement, manifest).tiles())[1]
    with pytest.raises(InferenceError) as refusal:
        on_gpu(net_input, [Broken(1.0, 2.0)], manifest, fake_gpu()[1])
    assert str(refusal.value) == (
        f"fold_1.onnx: expected finite logits, found NaN or infinity in the tile at {second}; "
        "check the image's intensities or use the fp32 model"
    )


def test_a_fault_in_a_plane_that_nothing_is_painted_of_is_seen() -> None:
    net_input, manifest = case()
    nothing_at_the_end = BlockMask(np.array([[[True]], [[False]]]), (6, 14, 15), (12, 14, 15))

    class Broken(Steep):
        def __call__(self, patch: Image) -> Image:
            logits = super().__call__(patch)
            logits[0, 0, -1] = np.nan  # the last plane of every tile
            return logits

    with pytest.raises(InferenceError, match="tile at"):
        on_gpu(net_input, [Broken(1.0)], manifest, fake_gpu()[1], mask=nothing_at_the_end)


def test_sums_beyond_half_are_refused() -> None:
    net_input, manifest = case()

    class Huge(Steep):
        def __call__(self, patch: Image) -> Image:
            return super().__call__(patch) + np.float32(1e5)

    with pytest.raises(InferenceError, match=r"plane 0: .* beyond half precision"):
        on_gpu(net_input, [Huge(1.0)], manifest, fake_gpu()[1])


def test_networks_on_a_gpu_with_sums_on_the_host() -> None:
    net_input, manifest = case((2.6, 1.2, 1.3))
    device, gpu = fake_gpu()
    engine = Steep(1.0, -0.5)
    hosted = HostedEngine(FakeGpuEngine(engine, device), gpu)
    found = segment_streaming(net_input, [hosted], manifest)
    assert np.array_equal(found, segment_streaming(net_input, [engine], manifest))
    assert device.count("launch") == 0
    device.fail_at = len(device.calls) + 3
    with pytest.raises(DeviceError, match=r"while it ran a network: .*cudaErrorIllegalAddress"):
        segment_streaming(net_input, [hosted], manifest)


def small_case() -> tuple[NetworkInput, Manifest]:
    net_input, manifest = case()
    small = preprocess(images((7, 8, 10), 1), (2.0, 1.0, 1.0), manifest)
    return replace(net_input, data=small.data, placement=small.placement), manifest


@pytest.mark.parametrize("fault", [CUDA_RUNTIME, OUT_OF_MEMORY], ids=lambda kind: kind.__name__)
def test_whichever_call_fails_one_sentence_says_so(fault: type[Exception]) -> None:
    """Every call of a case, from the first to the last."""
    net_input, manifest = small_case()
    engines = [Steep(1.0, -0.5)]
    device, gpu = fake_gpu()
    expected = segment_streaming(net_input, engines, manifest)
    assert np.array_equal(on_gpu(net_input, engines, manifest, gpu), expected)
    calls = len(device.calls)
    assert calls > 40
    for number in range(1, calls + 1):
        device, gpu = fake_gpu()
        device.fail_at, device.fault = number, fault("something broke\nin detail")
        with pytest.raises(DeviceError) as failure:
            on_gpu(net_input, engines, manifest, gpu)
        assert str(failure.value).startswith("the GPU failed while it segmented: ")
        assert "\n" not in str(failure.value)
        assert not device.streams, "the stream was left"


def test_a_gpu_without_room_is_a_failing_gpu() -> None:
    net_input, manifest = small_case()
    _, gpu = fake_gpu(memory=8_000)
    with pytest.raises(DeviceError, match="Out of memory allocating"):
        on_gpu(net_input, [Steep(1.0)], manifest, gpu)


def test_the_device_is_used_on_its_stream_only() -> None:
    device: FakeDevice = fake_gpu()[0]
    with pytest.raises(AssertionError, match="on the default stream"):
        device.asarray(np.zeros(3, np.float32))
