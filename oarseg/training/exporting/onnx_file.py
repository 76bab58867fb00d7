"""Remove from ONNX files what the exporter records of the machine that wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx


def strip_metadata(path: Path) -> None:
    """Remove every metadata property and doc string of an ONNX file, in place.

    torch's exporter records a stack trace, with the machine's paths, for every node. Nodes,
    their attributes and initializers stay as they are.
    """
    model = onnx.load(str(path))
    for part in described_parts(model):
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
        part.ClearField("doc_string")
    onnx.save(model, str(path))


def described_parts(model: Any) -> Iterator[Any]:
    """Yield every part of a model that may hold metadata or a doc string."""
    yield model
    yield from _graph_parts(model.graph)
    for function in model.functions:
        yield function
        yield from function.value_info
        yield from _node_parts(function.node)


def _graph_parts(graph: Any) -> Iterator[Any]:
    yield graph
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        yield from values
    yield from _node_parts(graph.node)


def _node_parts(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield attribute
            if attribute.HasField("g"):
                yield from _graph_parts(attribute.g)
            for graph in attribute.graphs:
                yield from _graph_parts(graph)
