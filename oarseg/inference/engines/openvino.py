"""Runs a network on the CPU with OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from oarseg.errors import DeviceError, WeightsError
from oarseg.imaging.arrays import Image
from oarseg.inference.engines.protocol import array_text, check_interface, first_line
from oarseg.model.manifest import Arithmetic

_ELEMENTS = {"f32": "float32", "f16": "float16"}
# From 16 channels on, OpenVINO's CPU plugin transposes its channels-last result in a scalar loop;
# for 8 channels the loop is vectorised.
_CHANNELS = 8


class OpenVinoEngine:
    """A network on OpenVINO, in float32 unless bfloat16 is requested."""

    def __init__(
        self,
        path: Path,
        tile: Image,
        logits: Image,
        *,
        threads: int,
        alone: bool,
        precision: Arithmetic = "f32",
    ) -> None:
        """Load a file; arguments and errors as for ``OnnxEngine``.

        Args:
            path, tile, logits, threads: see there.
            alone: keep the activations' memory between tiles, as there is no other fold.
            precision: ``f32`` or ``bf16``, of the arithmetic.
        """
        import openvino

        self.name = path.name
        core = openvino.Core()
        try:
            model = core.read_model(path)
            check_interface(path, _interface(model), tile, logits)
            self._compiled = core.compile_model(
                _split_classes(model), "CPU", _settings(threads, precision)
            )
        except RuntimeError as error:
            raise WeightsError(f"{path}: not a usable ONNX file: {first_line(error)}") from error
        self._request = self._compiled.create_infer_request()
        self._logits = logits
        self._alone = alone
        self._tensor = openvino.Tensor
        self._bind_outputs()

    def _bind_outputs(self) -> None:
        first = 0
        for number, port in enumerate(self._compiled.outputs):
            last = first + port.get_shape()[1]
            part = self._tensor(self._logits[:, first:last], shared_memory=True)
            self._request.set_output_tensor(number, part)
            first = last

    def __call__(self, tile: Image) -> Image:
        """See ``Engine``."""
        self._request.set_input_tensor(0, self._tensor(tile, shared_memory=True))
        try:
            self._request.infer()
        except RuntimeError as error:
            raise DeviceError(
                f"{self.name}: OpenVINO stopped: {first_line(error)}; give the process more memory"
            ) from error
        if not self._alone:
            self._compiled.release_memory()
        return self._logits


def openvino_fault() -> str | None:
    """Say why OpenVINO cannot be used although it is installed; None if it can.

    Its import may raise any exception, for instance if one of its libraries is missing.
    """
    try:
        import openvino

        openvino.Core()
    except Exception as error:
        return first_line(error)
    return None


def _interface(model: Any) -> dict[str, str]:
    """Describe the inputs and outputs of a model, by name."""
    found = {}
    for port in (*model.inputs, *model.outputs):
        element = port.get_element_type().get_type_name()
        shape = port.get_partial_shape()
        lengths = shape.to_shape() if shape.is_static else [shape]
        found[port.any_name] = array_text(_ELEMENTS.get(element, element), lengths)
    return found


def has_bf16() -> bool:
    """Tell whether this CPU computes in bfloat16."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _settings(threads: int, precision: Arithmetic) -> dict[str, Any]:
    """Configure one tile at a time on a fixed number of threads, with an explicit precision."""
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "CACHE_DIR": "",
    }


def _split_classes(model: Any) -> Any:
    """Split the last convolution of a model into several outputs of a few classes each.

    Every class is computed as before, to the bit. A model that does not end in a convolution with
    a bias is returned unchanged.
    """
    from openvino import Model
    from openvino import opset13 as op

    total = model.outputs[0].get_node().input_value(0).get_node()
    if total.get_type_name() != "Add":
        return model
    convolution, bias = (total.input_value(i) for i in range(2))
    node = convolution.get_node()
    classes = convolution.get_shape()[1]
    if node.get_type_name() != "Convolution" or list(bias.get_shape()) != [1, classes, 1, 1, 1]:
        return model
    how = node.get_attributes()

    def part(value: Any, first: int, last: int, axis: int) -> Any:
        bounds = (op.constant(np.array([n], np.int64)) for n in (first, last, 1, axis))
        return op.slice(value, *bounds)

    def piece(first: int, last: int) -> Any:
        one = op.convolution(
            node.input_value(0),
            part(node.input_value(1), first, last, 0),
            how["strides"],
            how["pads_begin"],
            how["pads_end"],
            how["dilations"],
            how["auto_pad"],
        )
        return op.add(one, part(bias, first, last, 1))

    starts = range(0, classes, _CHANNELS)
    pieces = [piece(first, min(first + _CHANNELS, classes)) for first in starts]
    return Model(pieces, model.get_parameters())
