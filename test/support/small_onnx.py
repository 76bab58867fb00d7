"""ONNX files of one convolution, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def pointwise(patch: Sequence[int], weights: Sequence[float], channels: int = 1) -> onnx.ModelProto:
    """logits[k] = weights[k] · sum of the channels + k."""
    kernel = np.repeat(np.float32(weights)[:, None], channels, axis=1)
    bias = np.arange(len(weights), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["logits"], kernel_shape=[1, 1, 1])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, channels, *patch))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, len(weights), *patch))],
        [
            numpy_helper.from_array(kernel.reshape(*kernel.shape, 1, 1, 1), "w"),
            numpy_helper.from_array(bias, "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def write_pointwise(
    path: Path, patch: Sequence[int], weights: Sequence[float] = (2.0, -1.0), channels: int = 1
) -> None:
    """Write ``pointwise``."""
    onnx.save(pointwise(patch, weights, channels), path)
