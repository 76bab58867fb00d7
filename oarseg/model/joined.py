"""Joins the networks of an ensemble in one graph, whose weights stay in the folds' own files.

A runtime that is given one graph plans one set of buffers for all folds. The graph is made when
the ensemble is opened: written by the export it would hold every weight a second time, could not be
larger than protobuf's 2 GiB, and a run that leaves out a fold could not use it.

Field numbers are those of ``onnx.proto``
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from oarseg.model.lean import without_casts
from oarseg.model.network import INPUT, OUTPUT
from oarseg.model.onnx_file import (
    TYPES,
    ArrayType,
    Attribute,
    FilePart,
    Graph,
    Node,
    TensorShape,
    read_graph,
)
from oarseg.model.wire_format import block, blocks, integer, real

# The version of the file format that has all of this; operators have versions of their own.
_IR_VERSION: Final = 8
_SHARE = "share"
_ELEMENT_NUMBERS: Final = {element: number for number, element in TYPES.items()}
# Smaller weights are copied: there are many, and some are made here.
_COPIED_BYTES: Final = 4096
_EXTERNAL: Final = 1


@dataclass(frozen=True)
class JoinedNetwork:
    """One graph of several networks.

    Attributes:
        model: an ONNX model that names its large weights by file and offset.
        folder: where these names lead from.
        paths: the networks' files.
        outputs: the logits of each network, or their mean alone.
        interfaces: what each network takes and gives, by name.
    """

    model: bytes
    folder: Path
    paths: tuple[Path, ...]
    outputs: tuple[str, ...]
    interfaces: tuple[dict[str, ArrayType], ...]


def join_networks(
    paths: Sequence[Path], patch: TensorShape, *, mean: bool = False, lean: bool = False
) -> JoinedNetwork:
    """Join networks that take the same image.

    Args:
        paths: the folds' files, accepted by ``check_network``.
        patch: the shape of the networks' input.
        mean: give the mean of the logits instead of each network's.
        lean: normalise in half precision where the files convert to float32 and back
            (``lean.without_casts``).

    Raises:
        WeightsError: a file has changed since it was checked.
    """
    graphs = [read_graph(path) for path in paths]
    if lean:
        graphs = [without_casts(graph, patch) for graph in graphs]
    # ONNX Runtime follows no link out of the folder.
    real = [path.resolve() for path in paths]
    folder = Path(os.path.commonpath([path.parent for path in real]))
    parts = [
        _Renamed(graph, str(path.relative_to(folder)), f"{number}/")
        for number, (graph, path) in enumerate(zip(graphs, real, strict=True))
    ]
    outputs = tuple(part.name(OUTPUT) for part in parts)
    nodes = [node for part in parts for node in part.nodes()]
    weights = [weight for part in parts for weight in part.weights()]
    answer = graphs[0].outputs[OUTPUT]
    if mean and len(parts) > 1:
        nodes += map(_node, _mean_nodes(outputs))
        share = memoryview(np.float32(1 / len(parts)).tobytes())
        weights.append(_copied(_SHARE, ArrayType("float32", ()), [FilePart(None, share)]))
        outputs = (OUTPUT,)
    graph = (
        blocks(1, nodes)
        + block(2, "ensemble")
        + blocks(5, weights)
        + block(11, _value(INPUT, graphs[0].inputs[INPUT]))
        + blocks(12, (_value(name, answer) for name in outputs))
    )
    opset = max(graph.opset for graph in graphs)
    model = integer(1, _IR_VERSION) + block(7, graph) + block(8, integer(2, opset))
    interfaces = tuple({**graph.inputs, **graph.outputs} for graph in graphs)
    return JoinedNetwork(model, folder, tuple(paths), outputs, interfaces)


def _mean_nodes(outputs: Sequence[str]) -> Iterator[Node]:
    """Add networks up as they are done, so that no more than two have to be held."""
    total = outputs[0]
    for name in outputs[1:]:
        yield Node("Add", (total, name), (f"{name}/total",), {})
        total = f"{name}/total"
    yield Node("Mul", (total, _SHARE), (OUTPUT,), {})


@dataclass(frozen=True)
class _Renamed:
    """A network whose names, all but the input's, are its own in the joined graph."""

    graph: Graph
    file: str
    prefix: str

    def name(self, name: str) -> str:
        return name if name in (INPUT, "") else self.prefix + name

    def nodes(self) -> Iterator[bytes]:
        for node in self.graph.nodes:
            inputs, outputs = (tuple(map(self.name, side)) for side in (node.inputs, node.outputs))
            yield _node(replace(node, inputs=inputs, outputs=outputs))

    def weights(self) -> Iterator[bytes]:
        for name, array in self.graph.weights.items():
            parts = self.graph.values[name]
            size = sum(len(part.data) for part in parts)
            if len(parts) == 1 and parts[0].offset is not None and size > _COPIED_BYTES:
                yield _referred(self.name(name), array, self.file, parts[0].offset, size)
            else:
                yield _copied(self.name(name), array, parts)


def _node(node: Node) -> bytes:
    return (
        blocks(1, node.inputs)
        + blocks(2, node.outputs)
        + block(4, node.operator)
        + blocks(5, (_attribute(name, value) for name, value in node.attributes.items()))
    )


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, float):
        kind, content = 1, real(2, value)
    elif isinstance(value, int):
        kind, content = 2, integer(3, value)
    elif isinstance(value, str):
        kind, content = 3, block(4, value)
    else:
        kind, content = 7, b"".join(integer(8, number) for number in value)
    return block(1, name) + content + integer(20, kind)


def _value(name: str, array: ArrayType) -> bytes:
    lengths = blocks(1, (integer(1, length) for length in array.shape))
    tensor = integer(1, _ELEMENT_NUMBERS[array.element]) + block(2, lengths)
    return block(1, name) + block(2, block(1, tensor))


def _weight(name: str, array: ArrayType) -> bytes:
    lengths = b"".join(integer(1, length) for length in array.shape)
    return lengths + integer(2, _ELEMENT_NUMBERS[array.element]) + block(8, name)


def _copied(name: str, array: ArrayType, parts: Sequence[FilePart]) -> bytes:
    return _weight(name, array) + block(9, b"".join(part.data for part in parts))


def _referred(name: str, array: ArrayType, file: str, offset: int, size: int) -> bytes:
    where = {"location": file, "offset": str(offset), "length": str(size)}
    entries = blocks(13, (block(1, key) + block(2, value) for key, value in where.items()))
    return _weight(name, array) + entries + integer(14, _EXTERNAL)
