"""The kernels' own text, run thread by thread, against NumPy's arithmetic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_source import KernelFaultError, parse_kernels
from fake_device import fake_gpu

from oarseg.inference.device.kernels import SOURCE, compile_kernels, lengths
from oarseg.inference.half_precision import PlainArithmetic

KERNELS = parse_kernels(SOURCE)


def values(shape: tuple[int, ...], scale: float, seed: int) -> Any:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def run(name: str, threads: int, *arguments: Any) -> None:
    """With blocks of 7, so that the last one has threads to spare."""
    KERNELS[name].run(-(-threads // 7), 7, arguments)


@pytest.mark.parametrize("scale", [1e-6, 0.1, 20.0, 9000.0])
def test_sums_of_tiles_are_the_hosts_to_the_last_bit(scale: float) -> None:
    classes, depth, rows, columns, patch = 3, 4, 6, 7, (4, 5, 6)
    logits, share = values((classes, *patch), scale, 0), np.abs(values(patch, 5, 1))
    gaussian = share.astype(np.float16)
    sums = values((classes, depth, rows, columns), scale, 2).astype(np.float16)
    weights = np.zeros((depth, rows, columns), np.float16)
    fault = np.zeros(1, np.int32)
    expected = sums.copy()
    start = (6, 1, 1)  # slots 2, 3, 0, 1
    parts = [expected[:, 2:, 1:, 1:], expected[:, :2, 1:, 1:]]
    PlainArithmetic().add(parts, logits, share)
    shape = lengths((classes, *patch, rows, columns, *start))
    arrays = logits, share, gaussian, sums, weights, fault
    run("add_tile", gaussian.size, *arrays, *shape, np.int32(1), np.int32(5))
    assert np.array_equal(sums, expected)
    assert np.array_equal(weights[:, 1:, 1:], np.roll(gaussian, 2, axis=0))
    assert not weights[:, 0].any()
    assert not weights[:, :, 0].any()
    assert fault == 0
    run("add_tile", gaussian.size, *arrays, *shape, np.int32(0), np.int32(5))
    assert np.array_equal(weights[:, 1:, 1:], np.roll(gaussian, 2, axis=0)), "weighed once a tile"


def test_a_product_is_rounded_before_it_is_added() -> None:
    """A fused operation would keep digits of the product that make the sum another half."""
    logit, share = np.float32(1 + 2**-5 + 2**-20 + 2**-23), np.float32(1 + 2**-5)
    total = np.float16(-(1 + 2**-4 + 2**-10))
    sums = np.full((1, 1, 1, 1), total)
    one = np.ones((1, 1, 1), np.float16)
    arrays = np.full((1, 1, 1, 1), logit), np.full((1, 1, 1), share), one, sums, one.copy()
    shape = lengths((1, 1, 1, 1, 1, 1, 0, 0, 0))
    run("add_tile", 1, *arrays, np.zeros(1, np.int32), *shape, np.int32(0), np.int32(1))
    fused = np.float16(np.float64(logit) * np.float64(share) + np.float64(total))
    assert sums.item() == 18 * 2**-24
    assert fused == 19 * 2**-24


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_tile_that_is_not_finite_is_noted(value: float) -> None:
    fault = np.zeros(1, np.int32)
    for number, bad in enumerate((False, True, True), 1):
        logits = values((2, 1, 2, 2), 1, number)
        logits[1, 0, 1, 1] = value if bad else 0
        ring = np.zeros((2, 1, 2, 2), np.float16), np.zeros((1, 2, 2), np.float16)
        weights = np.ones((1, 2, 2), np.float32), np.ones((1, 2, 2), np.float16)
        shape = lengths((2, 1, 2, 2, 2, 2, 0, 0, 0))
        run("add_tile", 4, logits, *weights, *ring, fault, *shape, np.int32(1), np.int32(number))
    assert fault == 2


@pytest.mark.parametrize("folds", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 20.0, 9000.0])
def test_means_are_the_hosts_to_the_last_bit(folds: int, scale: float) -> None:
    classes, depth, rows, columns, slot = 3, 2, 6, 7, 1
    sums = values((folds, classes, depth, rows, columns), scale, 0).astype(np.float16)
    weights = (np.abs(values((depth, rows, columns), 5, 1)) + 1).astype(np.float16)
    weights[slot, 2, 3] = 0
    sums[:, :, slot, 2, 3] = 0
    divisor = np.where(weights[slot] == 0, np.float16(1), weights[slot])
    expected = np.empty((classes, rows, columns), np.float32)
    PlainArithmetic().divide(list(sums[:, :, slot]), divisor, expected)
    plane, fault = np.full((classes, 4, 3), 7, np.float16), np.zeros(1, np.int32)
    kept = sums[:, :, 0].copy(), weights[0].copy()
    shape = lengths((folds, classes, depth, rows, columns, slot, 1, 2, 4, 3))
    run("finish_plane", rows * columns, sums, weights, plane, fault, *shape, np.int32(9))
    assert np.array_equal(plane, expected[:, 1:5, 2:5].astype(np.float16))
    assert not sums[:, :, slot].any()
    assert not weights[slot].any()
    assert np.array_equal(sums[:, :, 0], kept[0])
    assert np.array_equal(weights[0], kept[1])
    assert fault == (0 if np.isfinite(plane).all() else 9)


def test_padding_is_cleared_and_not_painted() -> None:
    sums, weights = np.ones((1, 1, 1, 2, 2), np.float16), np.ones((1, 2, 2), np.float16)
    plane, fault = np.full((1, 2, 2), 7, np.float16), np.zeros(1, np.int32)
    shape = lengths((1, 1, 1, 2, 2, 0, 0, 0, 2, 2))
    run("finish_plane", 4, sums, weights, plane, fault, *shape, np.int32(0))
    assert not sums.any()
    assert (plane == 7).all()


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_mirrored_logits_are_averaged(axes: tuple[int, ...]) -> None:
    logits, total = values((2, 3, 4, 5), 3, 0), np.full((2, 3, 4, 5), np.nan, np.float32)
    shape = lengths(logits.shape)
    flips = [np.int32(axis in axes) for axis in range(3)]
    no, yes = np.int32(0), np.int32(1)
    run("add_logits", logits.size, logits, total, *shape, no, no, no, yes, yes)
    run("add_logits", logits.size, logits, total, *shape, *flips, no, np.int32(3))
    mirrored = np.flip(logits, [axis + 1 for axis in axes])
    assert np.array_equal(total, (logits + mirrored) / np.float32(3))


def test_kernels_are_launched_for_every_element() -> None:
    grids: list[Any] = []
    module = SimpleNamespace(get_function=lambda _: lambda *given: grids.append(given))
    kernels = compile_kernels(SimpleNamespace(RawModule=lambda code: module))  # type: ignore[arg-type]
    kernels.add_tile(513, "arguments")
    assert grids == [((3,), (256,), ("arguments",))]


# What runs the text has to notice what a GPU would do wrong.
FAULTS = {
    "outside": "array[thread + 1] = 1;",
    "read outside": "array[0] = array[thread + 1];",
    "a race": "array[thread / 2] = 1;",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_kernel_is_seen(fault: str) -> None:
    head = 'extern "C" __global__ void kernel(int *array) { long long thread = threadIdx.x; '
    kernel = parse_kernels(head + FAULTS[fault] + "}")["kernel"]
    with pytest.raises(KernelFaultError):
        kernel.run(1, 4, [np.zeros(4, np.int32)])


@pytest.mark.parametrize(
    "text", ["float x = 1.0f; x = x * x + x;", "double y = 1.0; y = __dadd_rn(y, 1.0f);"]
)
def test_arithmetic_that_could_be_fused_or_widened_is_refused(text: str) -> None:
    kernel = parse_kernels(f'extern "C" __global__ void kernel(int *array) {{ {text} }}')["kernel"]
    with pytest.raises(AssertionError):
        kernel.run(1, 1, [np.zeros(1, np.int32)])


def test_host_and_device_do_not_mix() -> None:
    device, gpu = fake_gpu()
    with gpu.stream:
        array = device.zeros(3, np.float32)
        with pytest.raises(TypeError, match="Implicit conversion"):
            np.asarray(array)
        with pytest.raises(TypeError):
            np.ones(3, np.float32) + array
        with pytest.raises(AssertionError, match="an array of the host"):
            gpu.kernels.add_logits(1, np.ones(1, np.float32), array)
    assert device.uploaded == device.downloaded == 0
