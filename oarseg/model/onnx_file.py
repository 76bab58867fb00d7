"""Reads the graph of an ONNX file, without the ``onnx`` package, which the image does not hold.

The schema covers only what ``oarseg export`` writes: a graph of nodes without subgraphs, whose
weights are stored in the file itself. External data, functions, sparse and quantised tensors and
training information are refused. Field numbers are those of ``onnx.proto``
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from oarseg.errors import WeightsError
from oarseg.model.protobuf import (
    FieldBudget,
    MalformedMessageError,
    Message,
    Schema,
    Slot,
    read_message,
)

ElementType = Literal["float32", "float16"]
Attribute = int | float | str | tuple[int, ...]
TensorShape = tuple[int, ...]

# The operator sets that torch's exporters write for these networks. From 22 on ONNX Runtime has no
# CUDA kernel for their normalisation.
OPSETS: Final = range(17, 19)
TYPES: Final[dict[int, ElementType]] = {1: "float32", 10: "float16"}
BYTES: Final[dict[ElementType, int]] = {"float32": 4, "float16": 2}
# Beyond these a number is damaged: the largest patch along one axis, the largest layer.
MOST_DIMENSIONS, LONGEST_AXIS = 5, 1 << 25
_ATTRIBUTE_KINDS: Final = {1: "f", 2: "i", 3: "s", 7: "ints"}

_DIMENSION: Final[Schema] = {
    1: Slot("value", "int"),
    2: Slot("parameter", "skip"),
    3: Slot("denotation", "skip"),
}
_SHAPE: Final[Schema] = {1: Slot("dimensions", _DIMENSION, many=True)}
_TENSOR_TYPE: Final[Schema] = {1: Slot("element", "int"), 2: Slot("shape", _SHAPE)}
_TYPE: Final[Schema] = {1: Slot("tensor", _TENSOR_TYPE), 6: Slot("denotation", "skip")}
_VALUE: Final[Schema] = {
    1: Slot("name", "text"),
    2: Slot("type", _TYPE),
    3: Slot("doc_string", "skip"),
    4: Slot("metadata", "skip", many=True),
}
_TENSOR: Final[Schema] = {
    1: Slot("dimensions", "ints"),
    2: Slot("element", "int"),
    4: Slot("float_data", "floats"),
    8: Slot("name", "text"),
    9: Slot("raw_data", "bytes"),
    12: Slot("doc_string", "skip"),
    13: Slot("external_data", "skip", many=True),
    14: Slot("data_location", "int"),
    16: Slot("metadata", "skip", many=True),
}
_ATTRIBUTE: Final[Schema] = {
    1: Slot("name", "text"),
    2: Slot("f", "float"),
    3: Slot("i", "int"),
    4: Slot("s", "text"),
    5: Slot("t", "skip"),
    6: Slot("g", "skip"),
    8: Slot("ints", "ints"),
    13: Slot("doc_string", "skip"),
    20: Slot("type", "int"),
}
_NODE: Final[Schema] = {
    1: Slot("inputs", "text", many=True),
    2: Slot("outputs", "text", many=True),
    3: Slot("name", "skip"),
    4: Slot("op_type", "text"),
    5: Slot("attributes", _ATTRIBUTE, many=True),
    6: Slot("doc_string", "skip"),
    7: Slot("domain", "text"),
    8: Slot("overload", "text"),
    9: Slot("metadata", "skip", many=True),
}
_GRAPH: Final[Schema] = {
    1: Slot("nodes", _NODE, many=True),
    2: Slot("name", "skip"),
    5: Slot("weights", _TENSOR, many=True),
    10: Slot("doc_string", "skip"),
    11: Slot("inputs", _VALUE, many=True),
    12: Slot("outputs", _VALUE, many=True),
    13: Slot("values", _VALUE, many=True),
    16: Slot("metadata", "skip", many=True),
}
_OPSET: Final[Schema] = {1: Slot("domain", "text"), 2: Slot("version", "int")}
_MODEL: Final[Schema] = {
    1: Slot("ir_version", "int"),
    2: Slot("producer_name", "skip"),
    3: Slot("producer_version", "skip"),
    4: Slot("domain", "skip"),
    5: Slot("model_version", "skip"),
    6: Slot("doc_string", "skip"),
    7: Slot("graph", _GRAPH),
    8: Slot("opsets", _OPSET, many=True),
}


@dataclass(frozen=True)
class ArrayType:
    """Element type and static shape of an array."""

    element: ElementType
    shape: TensorShape

    def __str__(self) -> str:
        """As in messages: ``float32 1×2×32×64×64``."""
        return f"{self.element} {'×'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class Node:
    """An operator with the names of its inputs and outputs."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]


@dataclass(frozen=True)
class FilePart:
    """Some bytes of a file, or, without an offset, some that are in no file."""

    offset: int | None
    data: memoryview


@dataclass(frozen=True)
class Graph:
    """The graph of a network.

    Attributes:
        opset: the version of its operators.
        inputs, outputs: the network's interface, by name.
        weights: constant arrays, by name.
        declared: types that the file gives for intermediate arrays, by name.
        nodes: in the order of execution.
        values: the bytes of each weight where they lie in the file, in one piece or several.
    """

    opset: int
    inputs: dict[str, ArrayType]
    outputs: dict[str, ArrayType]
    weights: dict[str, ArrayType]
    declared: dict[str, ArrayType]
    nodes: tuple[Node, ...]
    values: dict[str, tuple[FilePart, ...]]


def read_graph(path: Path) -> Graph:
    """Read the graph of an ONNX file, without the values of its weights.

    Raises:
        WeightsError: the file is damaged, or has something that ``oarseg export`` does not write.
    """
    try:
        data = _map_file(path)
        return _graph(read_message(data, _MODEL, FieldBudget()), data)
    except MalformedMessageError as reason:
        raise WeightsError(
            f"{path}: not a usable ONNX file: expected a network as 'oarseg export' writes it, "
            f"found {reason}; export it again"
        ) from reason


def _map_file(path: Path) -> memoryview:
    """Map a file into memory."""
    try:
        with path.open("rb") as stream:
            if not stream.seek(0, os.SEEK_END):
                raise MalformedMessageError("an empty file")
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def quote(text: str, *, longest: int = 40) -> str:
    """Quote a name from a file for a message: short and printable."""
    return ascii(text) if len(text) <= longest else f"{text[:longest]!a}…"


def _graph(model: Message, data: memoryview) -> Graph:
    opset = _opset(model["opsets"])
    if "graph" not in model:
        raise MalformedMessageError("no graph")
    graph = model["graph"]
    return Graph(
        opset,
        _by_name((_name(value), _value_type(value)) for value in graph["inputs"]),
        _by_name((_name(value), _value_type(value)) for value in graph["outputs"]),
        _by_name((_name(weight), _weight_type(weight)) for weight in graph["weights"]),
        _by_name((_name(value), _value_type(value)) for value in graph["values"]),
        tuple(map(_node, graph["nodes"])),
        {_name(weight): _file_parts(weight, data) for weight in graph["weights"]},
    )


def _file_parts(weight: Message, file: memoryview) -> tuple[FilePart, ...]:
    """Find where a weight's bytes lie in the file."""
    pieces = [weight["raw_data"]] if "raw_data" in weight else weight["float_data"]
    return tuple(FilePart(_address(piece) - _address(file), piece) for piece in pieces)


def _address(data: memoryview) -> int:
    return np.frombuffer(data, np.uint8).ctypes.data if len(data) else 0


def _opset(opsets: list[Message]) -> int:
    found = [(opset.get("domain", ""), opset.get("version", 0)) for opset in opsets]
    if len(found) != 1 or found[0][0] not in ("", "ai.onnx") or found[0][1] not in OPSETS:
        text = ", ".join(f"{quote(domain)} {version}" for domain, version in found[:3])
        raise MalformedMessageError(
            f"operator sets {text or 'of no kind'} instead of ONNX's {OPSETS[0]} or {OPSETS[-1]}"
        )
    version: int = found[0][1]
    return version


def _by_name(pairs: Iterable[tuple[str, ArrayType]]) -> dict[str, ArrayType]:
    found: dict[str, ArrayType] = {}
    for name, array in pairs:
        if name in found:
            raise MalformedMessageError(f"two arrays of the name {quote(name)}")
        found[name] = array
    return found


def _name(message: Message) -> str:
    name: str = message.get("name", "")
    if not name:
        raise MalformedMessageError("an array without a name")
    return name


def _value_type(value: Message) -> ArrayType:
    """Read element type and static shape of an input, an output or an intermediate array."""
    tensor = value.get("type", {}).get("tensor")
    if tensor is None or "shape" not in tensor:
        raise MalformedMessageError(f"no shape for {quote(_name(value))}")
    shape = [
        0 if "parameter" in dimension else dimension.get("value", 0)
        for dimension in tensor["shape"]["dimensions"]
    ]
    return _array_type(_name(value), tensor.get("element", 0), shape)


def _weight_type(weight: Message) -> ArrayType:
    """Read element type and shape of a weight, whose data must be complete and in the file."""
    name = _name(weight)
    if weight["external_data"] or weight.get("data_location", 0):
        raise MalformedMessageError(f"weights {quote(name)} that lie in another file")
    array = _array_type(name, weight.get("element", 0), weight["dimensions"])
    stored = len(weight.get("raw_data", b"")) + sum(map(len, weight["float_data"]))
    expected = math.prod(array.shape) * BYTES[array.element]
    both = "raw_data" in weight and weight["float_data"]
    if stored != expected or both or (weight["float_data"] and array.element != "float32"):
        raise MalformedMessageError(
            f"{stored} bytes for the weights {quote(name)}, which are {array}"
        )
    return array


def _array_type(name: str, element: int, shape: Sequence[int]) -> ArrayType:
    if element not in TYPES:
        raise MalformedMessageError(
            f"{quote(name)} of element type {element} instead of float32 or float16"
        )
    if len(shape) > MOST_DIMENSIONS or any(not 0 < length <= LONGEST_AXIS for length in shape):
        raise MalformedMessageError(f"{quote(name)} of the shape {tuple(shape[:6])}")
    return ArrayType(TYPES[element], tuple(shape))


def _node(message: Message) -> Node:
    operator = message.get("op_type", "")
    named = f"the operator {quote(operator)}"
    if message.get("domain", "") not in ("", "ai.onnx") or message.get("overload", ""):
        raise MalformedMessageError(f"{named} of a domain of its own")
    attributes: dict[str, Attribute] = {}
    for attribute in message["attributes"]:
        name = attribute.get("name", "")
        if name in attributes:
            raise MalformedMessageError(f"{named} with two attributes {quote(name)}")
        attributes[name] = _attribute(attribute, named)
    return Node(operator, tuple(message["inputs"]), tuple(message["outputs"]), attributes)


def _attribute(message: Message, operator: str) -> Attribute:
    """Read an attribute's value, which must be the only one and of the declared kind."""
    kind = _ATTRIBUTE_KINDS.get(message.get("type", 0))
    given = {key for key in ("f", "i", "s", "t", "g", "ints") if message.get(key, []) != []}
    if kind is None or not given <= {kind}:
        name = quote(message.get("name", ""))
        raise MalformedMessageError(
            f"{operator} with the attribute {name} of a kind that export does not write"
        )
    if kind == "ints":
        return tuple(message["ints"])
    value: Attribute = message.get(kind, {"f": 0.0, "i": 0, "s": ""}[kind])
    return value
