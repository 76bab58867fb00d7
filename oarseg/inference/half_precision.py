"""Adds and divides in half precision, rounded as in nnU-Net."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, Protocol

import numpy as np

from oarseg.imaging.arrays import Half, Image
from oarseg.imaging.volume import Shape
from oarseg.inference.engines.openvino import openvino_fault


class HalfArithmetic(Protocol):
    """The two operations bound by memory traffic; both are thread-safe."""

    def add(self, totals: Sequence[Half], tile: Image, weights: Image) -> None:
        """``totals = half(float(totals) + tile · weights)``.

        ``tile`` (classes, planes, rows, columns) is contiguous, as is ``weights``, which has no
        classes; ``totals`` are views that follow one another along the planes.
        """

    def divide(self, totals: Sequence[Half], weights: Half, out: Image) -> None:
        """``out = float(mean of half(total / weights))``, (classes, rows, columns) each.

        The mean of several totals is their sum, one after the other, divided by their number,
        each step in half precision. ``weights`` has no classes.
        """


class PlainArithmetic:
    """The reference implementation."""

    def add(self, totals: Sequence[Half], tile: Image, weights: Image) -> None:
        """See ``HalfArithmetic``."""
        # Infinities are kept: the painter checks the finished planes.
        with np.errstate(over="ignore"):
            for part, planes in consecutive(totals, axis=1):
                part[...] = part.astype(np.float32) + tile[:, planes] * weights[planes]

    def divide(self, totals: Sequence[Half], weights: Half, out: Image) -> None:
        """See ``HalfArithmetic``."""
        mean = totals[0] / weights
        with np.errstate(over="ignore"):
            for total in totals[1:]:
                mean += total / weights
        if len(totals) > 1:
            mean /= np.float16(len(totals))
        out[...] = mean


class OpenVinoArithmetic:
    """Uses OpenVINO's element-wise kernels on contiguous copies of the blocks."""

    def __init__(self) -> None:
        from openvino import Tensor

        self._tensor = Tensor
        self._kernels: dict[tuple[str, Shape], _Kernel] = {}
        self._lock = Lock()

    def add(self, totals: Sequence[Half], tile: Image, weights: Image) -> None:
        """See ``HalfArithmetic``."""
        with self._kernel("add", tile.shape).request() as run:
            before = run.get_input_tensor(0).data
            for part, planes in consecutive(totals, axis=1):
                np.copyto(before[:, planes], part)
            run.set_input_tensor(1, self._tensor(tile, shared_memory=True))
            run.set_input_tensor(2, self._tensor(weights, shared_memory=True))
            run.infer()
            after = run.get_output_tensor(0).data
            for part, planes in consecutive(totals, axis=1):
                np.copyto(part, after[:, planes])

    def divide(self, totals: Sequence[Half], weights: Half, out: Image) -> None:
        """See ``HalfArithmetic``."""
        # In one graph OpenVINO would drop the rounding between the two conversions.
        with (
            self._kernel("divide", out.shape).request() as divide,
            self._kernel("widen", out.shape).request() as widen,
        ):
            quotient = _quotient(divide, totals[0], weights)
            if len(totals) > 1:
                with self._kernel("plus", out.shape).request() as plus:
                    total = plus.get_input_tensor(0).data
                    np.copyto(total, quotient)
                    for one in totals[1:]:
                        np.copyto(plus.get_input_tensor(1).data, _quotient(divide, one, weights))
                        plus.infer()
                        np.copyto(total, plus.get_output_tensor(0).data)
                    _quotient(divide, total, np.float16(len(totals)))
            widen.set_input_tensor(0, divide.get_output_tensor(0))
            widen.infer()
            np.copyto(out, widen.get_output_tensor(0).data)

    def _kernel(self, name: str, shape: Any) -> _Kernel:
        with self._lock:
            if (name, shape) not in self._kernels:
                self._kernels[name, shape] = _Kernel(_GRAPHS[name](shape))
            return self._kernels[name, shape]


class _Kernel:
    """A compiled graph with one inference request for each concurrent thread."""

    def __init__(self, graph: Any) -> None:
        import openvino

        # One thread for each call, as calls run concurrently.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = openvino.Core().compile_model(graph, "CPU", settings)
        self._idle: SimpleQueue[Any] = SimpleQueue()

    @contextmanager
    def request(self) -> Iterator[Any]:
        """Lend a request whose buffers stay allocated."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.put(request)


def _quotient(divide: Any, total: Half, weights: Half | np.float16) -> Half:
    """Divide by the kernel of that name; the result is valid until its next run."""
    np.copyto(divide.get_input_tensor(0).data, total)
    np.copyto(divide.get_input_tensor(1).data, weights)
    divide.infer()
    quotient: Half = divide.get_output_tensor(0).data
    return quotient


def consecutive(arrays: Sequence[Half], *, axis: int) -> Iterator[tuple[Half, slice]]:
    """Pair each array with its slice of their concatenation along an axis."""
    start = 0
    for one in arrays:
        stop = start + one.shape[axis]
        yield one, slice(start, stop)
        start = stop


def _add_graph(shape: Shape) -> Any:
    from openvino import Model, Type
    from openvino import opset13 as op

    totals, tile = op.parameter(shape, Type.f16), op.parameter(shape, Type.f32)
    weights = op.parameter(shape[1:], Type.f32)
    return Model([weighted_sum(totals, tile, weights)], [totals, tile, weights])


def weighted_sum(totals: Any, logits: Any, weights: Any) -> Any:
    """Build ``half(float(totals) + logits · weights)`` of a graph's values.

    Args:
        totals: in half precision.
        logits, weights: in float32; the weights are no constant, or OpenVINO would multiply them
            into the layer before.
    """
    from openvino import opset13 as op

    # The maximum changes nothing, but keeps the product apart: fused with the sum it
    # would not be rounded, as nnU-Net's is.
    product = op.maximum(op.multiply(logits, weights), op.constant(np.finfo(np.float32).min))
    return op.convert(op.add(op.convert(totals, "f32"), product), "f16")


def _divide_graph(shape: Shape) -> Any:
    from openvino import Model, Type
    from openvino import opset13 as op

    totals, weights = op.parameter(shape, Type.f16), op.parameter(shape[1:], Type.f16)
    quotient = op.divide(op.convert(totals, "f32"), op.convert(weights, "f32"))
    return Model([op.convert(quotient, "f16")], [totals, weights])


def _plus_graph(shape: Shape) -> Any:
    from openvino import Model, Type
    from openvino import opset13 as op

    one, other = (op.parameter(shape, Type.f16) for _ in range(2))
    total = op.add(op.convert(one, "f32"), op.convert(other, "f32"))
    return Model([op.convert(total, "f16")], [one, other])


def _widen_graph(shape: Shape) -> Any:
    from openvino import Model, Type
    from openvino import opset13 as op

    totals = op.parameter(shape, Type.f16)
    return Model([op.convert(totals, "f32")], [totals])


_GRAPHS: dict[str, Callable[[Shape], Any]] = {
    "add": _add_graph,
    "divide": _divide_graph,
    "plus": _plus_graph,
    "widen": _widen_graph,
}


def half_arithmetic() -> HalfArithmetic:
    """Choose the fastest arithmetic that rounds as nnU-Net does."""
    installed = importlib.util.find_spec("openvino") is not None
    if installed and openvino_fault() is None and openvino_rounds():
        return OpenVinoArithmetic()
    return PlainArithmetic()


@cache
def openvino_rounds() -> bool:
    """Check that OpenVINO rounds the smallest halves to the nearest.

    Without AVX2 it converts in code of its own, which doubles subnormal values that round
    up to a power of two.
    """
    powers = np.exp2(np.arange(-24, -13, dtype=np.float32))
    tile = np.tile(powers * np.float32(1 - 2**-14), 16).reshape(1, 1, 1, -1)
    totals = np.zeros(tile.shape, np.float16)
    OpenVinoArithmetic().add([totals], tile, np.ones_like(tile[0]))
    return np.array_equal(totals, tile.astype(np.float16))
