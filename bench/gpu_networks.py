"""Networks of nnU-Net's shape with random weights, written as ONNX without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, int, int]
# Half precision as the export writes it, and without the casts round normalisations.
Arithmetic = Literal["fp32", "fp16", "fp16-lean"]

# Below 22, for which ONNX Runtime's CUDA provider has no InstanceNormalization.
OPSET = 17
FEATURES = (32, 64, 128, 256, 320, 320)
# Convolutions of each stage of the encoder; the decoder has two a stage.
CONVOLUTIONS = {"30M": (2, 2, 2, 2, 2, 2), "100M": (2, 6, 8, 12, 12, 12)}
# nnU-Net stops halving an axis where fewer voxels would be left.
LEAST = 4


@dataclass(frozen=True)
class Plan:
    """A U-Net.

    Attributes:
        patch: its input, (z, y, x).
        convolutions: of each stage of the encoder.
        features: of each stage.
        channels, classes, batch: of input and output.
        arithmetic: of everything between input and output, which are float32.
    """

    patch: Shape
    convolutions: tuple[int, ...] = CONVOLUTIONS["30M"]
    features: tuple[int, ...] = FEATURES
    channels: int = 2
    classes: int = 31
    batch: int = 1
    arithmetic: Arithmetic = "fp32"

    @property
    def strides(self) -> tuple[Shape, ...]:
        """Of each stage; the first does not shrink."""
        left, found = list(self.patch), [(1, 1, 1)]
        for _ in self.features[1:]:
            halved = [n % 2 == 0 and n // 2 >= LEAST for n in left]
            left = [n // 2 if half else n for n, half in zip(left, halved, strict=True)]
            a, b, c = (2 if half else 1 for half in halved)
            found.append((a, b, c))
        return tuple(found)


def write_network(path: Path, plan: Plan, *, seed: int = 0) -> int:
    """Write a network; returns the number of its parameters."""
    writer = _Writer(plan, np.random.default_rng(seed))
    model = helper.make_model(
        writer.graph(), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
    )
    onnx.save(model, path)
    return writer.parameters


class _Writer:
    """The nodes and weights of one graph."""

    def __init__(self, plan: Plan, draw: np.random.Generator) -> None:
        self.parameters = 0
        self._plan = plan
        self._draw = draw
        self._half = plan.arithmetic != "fp32"
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._values = 0

    def graph(self) -> Any:
        plan = self._plan
        value = self._cast("image", TensorProto.FLOAT16) if self._half else "image"
        skipped: list[str] = []
        before = plan.channels
        for features, count, stride in zip(
            plan.features, plan.convolutions, plan.strides, strict=True
        ):
            for number in range(count):
                value = self._block(value, before, features, stride if number == 0 else (1, 1, 1))
                before = features
            skipped.append(value)
        skipped.pop()
        for stage in reversed(range(len(skipped))):
            features = plan.features[stage]
            value = self._upsample(value, before, features, plan.strides[stage + 1])
            value = self._node("Concat", [value, skipped[stage]], axis=1)
            value = self._block(value, 2 * features, features, (1, 1, 1))
            value = self._block(value, features, features, (1, 1, 1))
            before = features
        self._finish(self._convolution(value, before, plan.classes, 1, (1, 1, 1)))
        shapes = [(plan.batch, n, *plan.patch) for n in (plan.channels, plan.classes)]
        image, logits = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(("image", "logits"), shapes, strict=True)
        )
        return helper.make_graph(self._nodes, "network", [image], [logits], self._weights)

    def _finish(self, value: str) -> None:
        kind = "Cast" if self._half else "Identity"
        more = {"to": TensorProto.FLOAT} if self._half else {}
        self._nodes.append(helper.make_node(kind, [value], ["logits"], **more))

    def _block(self, value: str, before: int, features: int, stride: Shape) -> str:
        value = self._normalised(self._convolution(value, before, features, 3, stride), features)
        return self._node("LeakyRelu", [value], alpha=0.01)

    def _normalised(self, value: str, features: int) -> str:
        casts = self._plan.arithmetic == "fp16"
        value = self._cast(value, TensorProto.FLOAT) if casts else value
        wide = casts or not self._half
        scale = self._weight(np.ones(features), wide=wide)
        offset = self._weight(np.zeros(features), wide=wide)
        value = self._node("InstanceNormalization", [value, scale, offset], epsilon=1e-5)
        return self._cast(value, TensorProto.FLOAT16) if casts else value

    def _convolution(self, value: str, before: int, after: int, width: int, stride: Shape) -> str:
        fan_in = before * width**3
        kernel = self._draw.standard_normal((after, before, width, width, width))
        weight = self._weight(kernel * math.sqrt(2 / fan_in))
        offset = self._weight(np.zeros(after))
        pads = [width // 2] * 6
        return self._node("Conv", [value, weight, offset], strides=list(stride), pads=pads)

    def _upsample(self, value: str, before: int, after: int, stride: Shape) -> str:
        kernel = self._draw.standard_normal((before, after, *stride)) / math.sqrt(before)
        weight = self._weight(kernel)
        more = {"kernel_shape": list(stride), "strides": list(stride)}
        return self._node("ConvTranspose", [value, weight], **more)

    def _cast(self, value: str, to: int) -> str:
        return self._node("Cast", [value], to=to)

    def _weight(self, values: Any, *, wide: bool = False) -> str:
        kind = np.float32 if wide or not self._half else np.float16
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values.astype(kind), name))
        self.parameters += values.size
        return name

    def _node(self, kind: str, inputs: list[str], **more: Any) -> str:
        self._values += 1
        name = f"v{self._values}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **more))
        return name
