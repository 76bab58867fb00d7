"""Adds a tile's logits to sums in half precision within the network's own OpenVINO graph.

The logits of a few classes are weighted, added and rounded while the cache still holds them; apart
from the graph they are written to memory and read again twice. The operations and their order are
those of ``OpenVinoArithmetic``, and so is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from oarseg.imaging.arrays import Half, Image
from oarseg.inference.engines.openvino import OpenVinoEngine, compile_graph, infer, join_files
from oarseg.inference.engines.protocol import names_of
from oarseg.inference.half_precision import consecutive, weighted_sum
from oarseg.model.entries.networks import Arithmetic


class OpenVinoSums:
    """One network, or the mean of several in one graph, that adds to sums.

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
        graph = _sums_graph(join_files(paths, tile, logits, mean=True))
        self._compiled = compile_graph(graph, self.name, threads, precision)
        self._request = self._compiled.create_infer_request()
        self._weights = len(self._compiled.inputs) - 1
        self._before, self._after = sums
        self._bind_sums()
        self._open: Callable[[], OpenVinoEngine] = lambda: OpenVinoEngine(
            paths, tile, logits, threads=threads, mean=True, precision=precision
        )
        self._plain: OpenVinoEngine | None = None

    def _bind_sums(self) -> None:
        """Bind each piece of classes to its part of both arrays."""
        from openvino import Tensor

        self._pieces: list[slice] = []
        first = 0
        for number in range(self._weights - 1):
            last = first + self._compiled.inputs[number + 1].get_shape()[1]
            piece = slice(first, last)
            before = Tensor(self._before[:, piece], shared_memory=True)
            self._request.set_input_tensor(number + 1, before)
            self._request.set_output_tensor(
                number, Tensor(self._after[:, piece], shared_memory=True)
            )
            self._pieces.append(piece)
            first = last

    def __call__(self, tile: Image) -> Image:
        """See ``Engine``; the graph for it is compiled when it is first asked for."""
        if self._plain is None:
            self._plain = self._open()
        return self._plain(tile)

    def run(self, tile: Image) -> None:
        """See ``AddsTiles``."""
        from openvino import Tensor

        self._request.set_input_tensor(0, Tensor(tile, shared_memory=True))
        infer(self._request, self.name)

    def add(self, tile: Image, totals: Sequence[Half], weights: Image, pool: Executor) -> bool:
        """See ``AddsTiles``."""
        from openvino import Tensor

        def fill(piece: slice) -> None:
            for part, planes in consecutive(totals, axis=1):
                np.copyto(self._before[0, piece, planes], part[piece])

        def empty(piece: slice) -> None:
            for part, planes in consecutive(totals, axis=1):
                np.copyto(part[piece], self._after[0, piece, planes])

        _each(fill, self._pieces, pool)
        weighting = Tensor(weights[None, None], shared_memory=True)
        self._request.set_input_tensor(self._weights, weighting)
        self.run(tile)
        _each(empty, self._pieces, pool)
        outputs = range(len(self._pieces), 2 * len(self._pieces))
        return all(np.isfinite(self._request.get_output_tensor(n).data).all() for n in outputs)

    def rest(self) -> None:
        """See ``Engine``."""
        self._compiled.release_memory()
        if self._plain is not None:
            self._plain.rest()


def _each(work: Callable[[slice], None], pieces: Sequence[slice], pool: Executor) -> None:
    for _ in pool.map(work, pieces):
        pass


def _sums_graph(model: Any) -> Any:
    """Put sums behind each piece of a model's logits.

    Returns:
        A model of the image, each piece of sums (half precision) and the weights; it gives the
        new sums, and then each piece's total of logits, which is finite only if all are.
    """
    from openvino import Model, Type
    from openvino import opset13 as op

    pieces = [port.get_node().input_value(0) for port in model.outputs]
    before = [op.parameter(list(piece.get_shape()), Type.f16) for piece in pieces]
    # A parameter: OpenVINO would multiply constants into the layer before, and round otherwise.
    weights = op.parameter([1, 1, *pieces[0].get_shape()[2:]], Type.f32)
    after = [
        weighted_sum(sums, logits, weights) for sums, logits in zip(before, pieces, strict=True)
    ]
    axes = op.constant(np.arange(5, dtype=np.int64))
    checks = [op.reduce_sum(logits, axes) for logits in pieces]
    return Model([*after, *checks], [*model.get_parameters(), *before, weights])
