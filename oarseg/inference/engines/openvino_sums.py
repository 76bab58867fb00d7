"""Adds a tile's logits to sums in half precision within the network's own OpenVINO graph.

A few classes' logits are weighted, added and rounded right after they are computed. Apart from the
graph, those of all classes are written to memory first and read again twice. The operations and
their order are those of ``OpenVinoArithmetic``, and so is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from oarseg.imaging.arrays import Half, Image
from oarseg.inference.engines.openvino import (
    OpenVinoEngine,
    compile_graph,
    infer,
    join_files,
    split_classes,
)
from oarseg.inference.engines.protocol import names_of
from oarseg.inference.half_precision import PlainArithmetic, consecutive, weighted_sum
from oarseg.model.entries.networks import Arithmetic


class OpenVinoSums:
    """One network, or the mean of several in one graph, that adds to sums.

    It can also give logits, by another graph. Only one of the two is there at a time, as each holds
    every weight.

    Attributes:
        name: see ``Engine``.
        answers: 1.
    """

    answers = 1

    def __init__(
        self,
        paths: Sequence[Path],
        tile: Image,
        logits: Image,
        sums: Sequence[Half],
        *,
        threads: int,
        precision: Arithmetic = "f32",
    ) -> None:
        """Load files; arguments and errors as for ``OpenVinoEngine``, whose mean this takes.

        Args:
            paths: the folds' files.
            tile, logits: see there; the logits are used by calls only.
            sums: two arrays (1, classes, *patch) through which the sums pass; engines of an
                ensemble may share them.
            threads, precision: see there.
        """
        self.name = names_of(paths)

        def open_sums() -> SumsGraph:
            graph = join_files(paths, tile, logits, mean=True)
            return SumsGraph(graph, self.name, sums, threads=threads, precision=precision)

        def open_logits() -> OpenVinoEngine:
            return OpenVinoEngine(
                paths, tile, logits, threads=threads, mean=True, precision=precision
            )

        self._open_sums, self._open_logits = open_sums, open_logits
        self._sums: SumsGraph | None = open_sums()
        self._logits: OpenVinoEngine | None = None

    def __call__(self, tile: Image) -> Image:
        """See ``Engine``."""
        if self._logits is None:
            self._sums = None
            self._logits = self._open_logits()
        return self._logits(tile)

    def run(self, tile: Image) -> None:
        """See ``AddsTiles``."""
        self._graph().run(tile)

    def add(self, tile: Image, totals: Sequence[Half], weights: Image, pool: Executor) -> bool:
        """See ``AddsTiles``."""
        return self._graph().add(tile, totals, weights, pool)

    def rest(self) -> None:
        """See ``Engine``."""
        for graph in (self._sums, self._logits):
            if graph is not None:
                graph.rest()

    def _graph(self) -> SumsGraph:
        if self._sums is None:
            self._logits = None
            self._sums = self._open_sums()
        return self._sums


class SumsGraph:
    """A compiled graph that takes an image, sums and weights, and gives the new sums."""

    def __init__(
        self,
        model: Any,
        name: str,
        sums: Sequence[Half],
        *,
        threads: int,
        precision: Arithmetic,
    ) -> None:
        """Compile; arguments as for ``OpenVinoSums``.

        Args:
            model: gives logits, in pieces of a few classes.
            name, sums, threads, precision: see there.
        """
        self._name = name
        self._compiled = compile_graph(_sums_graph(model), name, threads, precision)
        self._request = self._compiled.create_infer_request()
        self._before, self._after = sums
        self._last = len(self._compiled.inputs) - 1
        self._bind_sums()
        self._bind_weights(np.zeros(self._before.shape[2:], np.float32))

    def _bind_sums(self) -> None:
        """Bind each piece of classes to its part of both arrays."""
        from openvino import Tensor

        self._pieces: list[slice] = []
        first = 0
        for number in range(1, self._last):
            piece = slice(first, first + self._compiled.inputs[number].get_shape()[1])
            before, after = (
                Tensor(sums[:, piece], shared_memory=True) for sums in (self._before, self._after)
            )
            self._request.set_input_tensor(number, before)
            self._request.set_output_tensor(2 * number - 2, after)
            self._pieces.append(piece)
            first = piece.stop

    def _bind_weights(self, weights: Image) -> None:
        """Bind weights, and hold on to them: a request does not."""
        from openvino import Tensor

        self._weights = weights
        self._request.set_input_tensor(self._last, Tensor(weights[None, None], shared_memory=True))

    def run(self, tile: Image) -> None:
        """See ``AddsTiles``."""
        from openvino import Tensor

        self._request.set_input_tensor(0, Tensor(tile, shared_memory=True))
        infer(self._request, self._name)

    def add(self, tile: Image, totals: Sequence[Half], weights: Image, pool: Executor) -> bool:
        """See ``AddsTiles``."""

        def fill(piece: slice) -> None:
            for part, planes in consecutive(totals, axis=1):
                np.copyto(self._before[0, piece, planes], part[piece])

        def empty(piece: slice) -> None:
            for part, planes in consecutive(totals, axis=1):
                np.copyto(part[piece], self._after[0, piece, planes])

        if weights is not self._weights:
            self._bind_weights(weights)
        _each(fill, self._pieces, pool)
        self.run(tile)
        _each(empty, self._pieces, pool)
        checks = range(1, 2 * len(self._pieces), 2)
        return all(np.isfinite(self._request.get_output_tensor(n).data).all() for n in checks)

    def rest(self) -> None:
        """See ``Engine``."""
        self._compiled.release_memory()


def _each(work: Callable[[slice], None], pieces: Sequence[slice], pool: Executor) -> None:
    for _ in pool.map(work, pieces):
        pass


def _sums_graph(model: Any) -> Any:
    """Put sums behind each piece of a model's logits.

    Returns:
        A model of the image, each piece of sums (half precision) and the weights. Its outputs are,
        piece by piece, the new sums and the total of the logits, which is finite only if all are.
    """
    from openvino import Model, Type
    from openvino import opset13 as op

    pieces = [port.get_node().input_value(0) for port in model.outputs]
    before = [op.parameter(list(piece.get_shape()), Type.f16) for piece in pieces]
    # A parameter: OpenVINO would multiply constants into the layer before, and round otherwise.
    weights = op.parameter([1, 1, *pieces[0].get_shape()[2:]], Type.f32)
    axes = op.constant(np.arange(5, dtype=np.int64))
    outputs = []
    # In turns, or all checks would run at the end and every piece's logits would wait for them.
    for sums, logits in zip(before, pieces, strict=True):
        outputs += [weighted_sum(sums, logits, weights), op.reduce_sum(logits, axes)]
    return Model(outputs, [*model.get_parameters(), *before, weights])


@cache
def graph_rounds(precision: Arithmetic) -> bool:
    """Check that sums behind a layer are nnU-Net's to the bit on this CPU, in an arithmetic.

    The layer copies its input, whose numbers bfloat16 has too.
    """
    classes, shape = 9, (2, 3, 16)
    rng = np.random.default_rng(0)
    image = (rng.integers(-128, 128, (1, 1, *shape)) / 16).astype(np.float32)
    image[0, 0, 0, 0] = np.exp2(np.arange(-26, -10, dtype=np.float32)) * np.float32(1.5)
    weights = rng.random(shape, np.float32)
    weights[0, 0] = 1
    found = (rng.standard_normal((classes, *shape)) * 8).astype(np.float16)
    found[:, 0, 0] = 0
    expected = found.copy()
    buffers = [np.zeros((1, classes, *shape), np.float16) for _ in range(2)]
    graph = SumsGraph(_copies(classes, image.shape), "", buffers, threads=1, precision=precision)
    with ThreadPoolExecutor(1) as pool:
        graph.add(image, [found], weights, pool)
    logits = np.broadcast_to(image[0], expected.shape)
    PlainArithmetic().add([expected], logits, weights)
    return np.array_equal(found, expected)


def _copies(classes: int, shape: Sequence[int]) -> Any:
    """Build a network whose every class is its image, in pieces."""
    from openvino import Model, Type
    from openvino import opset13 as op

    image = op.parameter(list(shape), Type.f32)
    kernel = op.constant(np.ones((classes, 1, 1, 1, 1), np.float32))
    layer = op.convolution(image, kernel, [1] * 3, [0] * 3, [0] * 3, [1] * 3)
    biases = op.constant(np.zeros((1, classes, 1, 1, 1), np.float32))
    return split_classes(Model([op.add(layer, biases)], [image]))
