"""Checks that an ONNX file holds the network that a manifest describes, and nothing else.

The shape and element type of every array are inferred, in the order in which the nodes would run,
by the rules of the few operators that torch writes for nnU-Net's networks. Every other operator
is refused: ``Loop``, ``If`` and ``Scan`` may run without end, and others make arrays of any size
from a few bytes. As in every U-Net, no array may exceed the patch along any spatial axis.

Operators: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from oarseg.errors import WeightsError
from oarseg.model.manifest import Manifest
from oarseg.model.onnx_file import (
    TYPES,
    ArrayType,
    Attribute,
    Graph,
    Node,
    TensorShape,
    quote,
    read_graph,
)

INPUT, OUTPUT = "image", "logits"
# nnU-Net's largest networks have 64 features at full resolution.
MOST_CHANNELS_AT_FULL_SIZE: Final = 1024
LARGEST_STEP: Final = 64

Rule = Callable[[Node, tuple[ArrayType, ...]], ArrayType]


class UnexpectedGraphError(Exception):
    """The graph is not one that export writes; the message says why."""


def check_network(path: Path, manifest: Manifest) -> None:
    """Check that a file is a network of the manifest's channels, labels and patch.

    Raises:
        WeightsError: it is not, or it has an operator, an element type or a shape that export
            does not write.
    """
    graph = read_graph(path)
    patch = manifest.patch_size
    expected = (
        {INPUT: ArrayType("float32", (1, manifest.inputs, *patch))},
        {OUTPUT: ArrayType("float32", (1, len(manifest.labels), *patch))},
    )
    found = (graph.inputs, graph.outputs)
    try:
        if found != expected:
            raise UnexpectedGraphError(
                f"{_interface_text(*found)} where the manifest has {_interface_text(*expected)}"
            )
        infer_arrays(graph, patch)
    except UnexpectedGraphError as reason:
        raise WeightsError(
            f"{path}: expected a network as 'oarseg export' writes it, found {reason}; "
            "export it again"
        ) from reason


def _interface_text(inputs: dict[str, ArrayType], outputs: dict[str, ArrayType]) -> str:
    """Describe an interface by its first arrays."""

    def side(arrays: dict[str, ArrayType]) -> str:
        return ", ".join(f"{quote(name)} {array}" for name, array in list(arrays.items())[:3])

    return f"{side(inputs) or 'nothing'} → {side(outputs) or 'nothing'}"


def infer_arrays(graph: Graph, patch: TensorShape) -> dict[str, ArrayType]:
    """Infer every array in turn; each is computed once, before it is used.

    Returns:
        All arrays by name: inputs, weights and what the nodes make.

    Raises:
        UnexpectedGraphError: a node or an array is not as export writes it.
    """
    known = {**graph.weights, **graph.inputs}
    if len(known) != len(graph.weights) + len(graph.inputs):
        raise UnexpectedGraphError("an input that has a value already")
    for node in graph.nodes:
        array = _infer_array(node, known)
        (name,) = node.outputs
        if not name or name in known:
            raise UnexpectedGraphError(f"the array {quote(name)} made twice")
        _check_size(name, array, patch)
        known[name] = array
    for name, array in {**graph.declared, **graph.outputs}.items():
        if known.get(name, array) != array or (name in graph.outputs and name not in known):
            made = known.get(name, "made by nothing")
            raise UnexpectedGraphError(f"{quote(name)} {made} where it says {array}")
    if OUTPUT in graph.weights or OUTPUT in graph.inputs:
        raise UnexpectedGraphError("an answer that is not computed")
    return known


def _infer_array(node: Node, known: dict[str, ArrayType]) -> ArrayType:
    rule = RULES.get(node.operator)
    if rule is None:
        raise UnexpectedGraphError(
            f"the operator {quote(node.operator)}, where only {', '.join(RULES)} are known"
        )
    if len(node.outputs) != 1:
        raise UnexpectedGraphError(f"{node.operator} with {len(node.outputs)} answers")
    missing = [name for name in node.inputs if name not in known]
    if missing:
        raise UnexpectedGraphError(f"{node.operator} of {quote(missing[0])}, which is not there")
    arrays = tuple(known[name] for name in node.inputs)
    if len({array.element for array in arrays}) != 1:
        raise UnexpectedGraphError(f"{node.operator} of several element types, or of nothing")
    try:
        return rule(node, arrays)
    except (_NoShape, KeyError, ValueError, IndexError) as error:
        raise UnexpectedGraphError(
            f"{node.operator} of {', '.join(map(str, arrays[:3]))} {_attribute_text(node)}"
        ) from error


def _attribute_text(node: Node) -> str:
    pairs = [f"{name}={value}" for name, value in node.attributes.items()]
    return quote(", ".join(pairs), longest=150) if pairs else ""


def _check_size(name: str, array: ArrayType, patch: TensorShape) -> None:
    if len(array.shape) != len(patch) + 2:
        return  # a parameter, as large as it was in the file
    space = array.shape[2:]
    if any(length > limit for length, limit in zip(space, patch, strict=True)):
        raise UnexpectedGraphError(f"{quote(name)} {array}, larger than the patch")
    if math.prod(array.shape) > MOST_CHANNELS_AT_FULL_SIZE * math.prod(patch):
        raise UnexpectedGraphError(f"{quote(name)} {array}, too large for the patch")


class _NoShape(Exception):  # noqa: N818  # a signal within this module
    """A node's operator is not defined for its inputs and attributes."""


def _require(condition: bool) -> None:
    if not condition:
        raise _NoShape


def _volume(array: ArrayType) -> tuple[int, TensorShape]:
    """Channels and spatial shape of an array (1, channels, z, y, x)."""
    _require(len(array.shape) == 5 and array.shape[0] == 1)
    return array.shape[1], array.shape[2:]


class _Options:
    """The attributes of a node; each is read once, and unread ones are refused."""

    def __init__(self, node: Node) -> None:
        self._left: dict[str, Attribute] = dict(node.attributes)

    def integer(self, name: str, default: int, allowed: range) -> int:
        value = self._left.pop(name, default)
        _require(isinstance(value, int) and value in allowed)
        return int(value)  # type: ignore[arg-type]  # just checked

    def number(self, name: str, default: float, low: float, high: float) -> None:
        value = self._left.pop(name, default)
        _require(isinstance(value, float) and low <= value <= high)

    def integers(self, name: str, default: TensorShape, allowed: range) -> TensorShape:
        value = self._left.pop(name, default)
        _require(isinstance(value, tuple) and len(value) == len(default))
        _require(all(number in allowed for number in value))  # type: ignore[union-attr]
        return value  # type: ignore[return-value]

    def finish(self) -> None:
        _require(self._left.pop("auto_pad", "NOTSET") == "NOTSET" and not self._left)


def _window(
    options: _Options, kernel: TensorShape, *, dilates: bool
) -> Iterator[tuple[int, int, int]]:
    """Yield stride, total padding and dilated kernel size for each axis."""
    steps = options.integers("strides", (1, 1, 1), range(1, LARGEST_STEP + 1))
    pads = options.integers("pads", (0,) * 6, range(LARGEST_STEP + 1))
    _require(options.integers("kernel_shape", kernel, range(1, LARGEST_STEP + 1)) == kernel)
    one = (1, 1, 1)
    spread = options.integers("dilations", one, range(1, LARGEST_STEP + 1)) if dilates else one
    for axis in range(3):
        extent = spread[axis] * (kernel[axis] - 1) + 1
        _require(max(pads[axis], pads[axis + 3]) <= extent)
        yield steps[axis], pads[axis] + pads[axis + 3], extent


def _window_count(space: TensorShape, windows: Iterator[tuple[int, int, int]]) -> TensorShape:
    sizes = tuple(
        (length + pad - extent) // step + 1
        for length, (step, pad, extent) in zip(space, windows, strict=True)
    )
    _require(min(sizes) > 0)
    return sizes


def _convolution(node: Node, arrays: tuple[ArrayType, ...]) -> ArrayType:
    (channels, space), kernel = _volume(arrays[0]), arrays[1].shape
    options = _Options(node)
    group = options.integer("group", 1, range(1, channels + 1))
    _require(len(kernel) == 5 and kernel[1] * group == channels and kernel[0] % group == 0)
    _require([array.shape for array in arrays[2:]] in ([], [(kernel[0],)]))
    space = _window_count(space, _window(options, kernel[2:], dilates=True))
    options.finish()
    return ArrayType(arrays[0].element, (1, kernel[0], *space))


def _transposed_convolution(node: Node, arrays: tuple[ArrayType, ...]) -> ArrayType:
    (channels, space), kernel = _volume(arrays[0]), arrays[1].shape
    options = _Options(node)
    group = options.integer("group", 1, range(1, channels + 1))
    _require(len(kernel) == 5 and kernel[0] == channels and channels % group == 0)
    _require([array.shape for array in arrays[2:]] in ([], [(kernel[1] * group,)]))
    more = options.integers("output_padding", (0, 0, 0), range(LARGEST_STEP))
    windows = list(_window(options, kernel[2:], dilates=True))
    options.finish()
    sizes = tuple(
        step * (length - 1) + extra + extent - pad
        for length, extra, (step, pad, extent) in zip(space, more, windows, strict=True)
    )
    _require(min(sizes) > 0 and all(e < w[0] for e, w in zip(more, windows, strict=True)))
    return ArrayType(arrays[0].element, (1, kernel[1] * group, *sizes))


def _pooling(node: Node, arrays: tuple[ArrayType, ...]) -> ArrayType:
    (array,) = arrays
    channels, space = _volume(array)
    kernel = node.attributes["kernel_shape"]
    if not isinstance(kernel, tuple) or len(kernel) != 3:
        raise _NoShape
    options = _Options(node)
    options.integer("ceil_mode", 0, range(1))
    options.integer("count_include_pad", 0, range(2))
    space = _window_count(space, _window(options, kernel, dilates=False))
    options.finish()
    return ArrayType(array.element, (1, channels, *space))


def _instance_norm(node: Node, arrays: tuple[ArrayType, ...]) -> ArrayType:
    options = _Options(node)
    options.number("epsilon", 1e-5, 0.0, 1.0)
    options.finish()
    return _normalised(arrays, 2)


def _batch_norm(node: Node, arrays: tuple[ArrayType, ...]) -> ArrayType:
    options = _Options(node)
    options.number("epsilon", 1e-5, 0.0, 1.0)
    options.number("momentum", 0.9, 0.0, 1.0)
    options.integer("training_mode", 0, range(1))
    options.finish()
    return _normalised(arrays, 4)


def _normalised(arrays: tuple[ArrayType, ...], parameters: int) -> ArrayType:
    channels, _ = _volume(arrays[0])
    _require([array.shape for array in arrays[1:]] == [(channels,)] * parameters)
    return arrays[0]


def _leaky_relu(node: Node, arrays: tuple[ArrayType, ...]) -> ArrayType:
    options = _Options(node)
    options.number("alpha", 0.01, 0.0, 1.0)
    options.finish()
    (array,) = arrays
    return array


def _elementwise(node: Node, arrays: tuple[ArrayType, ...]) -> ArrayType:
    _Options(node).finish()
    (array,) = arrays
    return array


def _sum(node: Node, arrays: tuple[ArrayType, ...]) -> ArrayType:
    _Options(node).finish()
    first, second = arrays
    _require(first == second)
    return first


def _concatenation(node: Node, arrays: tuple[ArrayType, ...]) -> ArrayType:
    options = _Options(node)
    options.integer("axis", 0, range(1, 2))
    options.finish()
    parts = [_volume(array) for array in arrays]
    _require(len({space for _, space in parts}) == 1)
    return ArrayType(arrays[0].element, (1, sum(c for c, _ in parts), *parts[0][1]))


def _cast(node: Node, arrays: tuple[ArrayType, ...]) -> ArrayType:
    options = _Options(node)
    element = options.integer("to", 0, range(11))
    options.finish()
    (array,) = arrays
    return ArrayType(TYPES[element], array.shape)


# The operators that torch writes for PlainConvUNet and ResidualEncoderUNet in float32 and half
# precision. Its older exporter adds Identity where two layers share a parameter.
RULES: Final[dict[str, Rule]] = {
    "Add": _sum,
    "AveragePool": _pooling,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concatenation,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Identity": _elementwise,
    "InstanceNormalization": _instance_norm,
    "LeakyRelu": _leaky_relu,
    "Relu": _elementwise,
}
