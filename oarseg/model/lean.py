"""Takes the conversions round normalisations out of a network in half precision.

``oarseg export`` writes files that convert to float32 before each normalisation and back after it:
sums of squares over a patch exceed half precision. CUDA's normalisation sums in float32 whatever
it is given, so that there the conversions cost time only. ONNX Runtime has none in half precision
for a CPU, and converts by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from oarseg.model.network import infer_arrays
from oarseg.model.onnx_file import ArrayType, FilePart, Graph, Node, TensorShape

_FLOAT32, _FLOAT16 = 1, 10


def without_casts(graph: Graph, patch: TensorShape) -> Graph:
    """Normalise in half precision, where a graph converts to float32 for it and back.

    A normalisation stays as it is if its result is used in float32 too, or if one of its
    parameters is no number of half precision.

    Args:
        graph: accepted by ``network.check_network``.
        patch: the shape of the network's input.
    """
    arrays = infer_arrays(graph, patch)
    found = list(_normalisations(graph, arrays))
    if not found:
        return graph
    halves = {name: _half(graph, name) for one in found for name in one.norm.inputs[1:]}
    changed = {one.norm.outputs[0]: one.in_half for one in found}
    renamed = {node.outputs[0]: one.norm.outputs[0] for one in found for node in one.back}
    nodes = [
        replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        for node in (changed.get(node.outputs[0], node) for node in graph.nodes)
        if node.outputs[0] not in renamed
    ]
    weights = dict(graph.weights)
    values = dict(graph.values)
    for name, half in halves.items():
        weights[_in_half(name)] = ArrayType("float16", graph.weights[name].shape)
        values[_in_half(name)] = (FilePart(None, memoryview(half.tobytes())),)
    return _without_unread(replace(graph, nodes=tuple(nodes), weights=weights, values=values))


@dataclass(frozen=True)
class _Normalisation:
    """A normalisation, the array of half precision that it is of, and what converts its result."""

    norm: Node
    source: str
    back: tuple[Node, ...]

    @property
    def in_half(self) -> Node:
        parameters = map(_in_half, self.norm.inputs[1:])
        return replace(self.norm, inputs=(self.source, *parameters))


def _normalisations(graph: Graph, arrays: dict[str, ArrayType]) -> Iterator[_Normalisation]:
    """Find normalisations with a conversion on either side and nothing else."""
    makers = {node.outputs[0]: node for node in graph.nodes}
    readers: dict[str, list[Node]] = {name: [] for name in arrays}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].append(node)
    for norm in graph.nodes:
        if norm.operator != "InstanceNormalization":
            continue
        before, back = makers.get(norm.inputs[0]), tuple(readers[norm.outputs[0]])
        results = {norm.outputs[0], *(node.outputs[0] for node in back)}
        if (
            before is not None
            and _converts(before, _FLOAT32)
            and arrays[before.inputs[0]].element == "float16"
            and back
            and all(_converts(node, _FLOAT16) for node in back)
            and results.isdisjoint(graph.outputs)
            and all(_is_half(graph, name) for name in norm.inputs[1:])
        ):
            yield _Normalisation(norm, before.inputs[0], back)


def _converts(node: Node, element: int) -> bool:
    return node.operator == "Cast" and node.attributes.get("to") == element


def _in_half(name: str) -> str:
    return f"{name}/half"


def _half(graph: Graph, name: str) -> np.ndarray[tuple[int], np.dtype[np.float16]]:
    with np.errstate(over="ignore"):
        return _numbers(graph, name).astype(np.float16)


def _is_half(graph: Graph, name: str) -> bool:
    """Tell whether a weight is of float32 and holds numbers of half precision only."""
    if name not in graph.weights or graph.weights[name].element != "float32":
        return False
    return np.array_equal(_half(graph, name).astype(np.float32), _numbers(graph, name))


def _numbers(graph: Graph, name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.frombuffer(b"".join(part.data for part in graph.values[name]), np.float32)


def _without_unread(graph: Graph) -> Graph:
    """Drop conversions and weights whose result nothing reads any more."""
    read = {name for node in graph.nodes for name in node.inputs} | set(graph.outputs)
    nodes = tuple(n for n in graph.nodes if n.operator != "Cast" or n.outputs[0] in read)
    read = {name for node in nodes for name in node.inputs}
    return replace(
        graph,
        nodes=nodes,
        weights={name: array for name, array in graph.weights.items() if name in read},
        values={name: parts for name, parts in graph.values.items() if name in read},
        declared={},
    )
