"""Runs a network on the CPU with OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oarseg.errors import DeviceError
from oarseg.imaging.arrays import Image
from oarseg.inference.engines.protocol import (
    array_text,
    check_interface,
    first_line,
    names_of,
    unusable,
)
from oarseg.model.entries.networks import Arithmetic

_ELEMENTS = {"f32": "float32", "f16": "float16"}
# From 16 channels on, OpenVINO's CPU plugin transposes its channels-last result in a scalar loop;
# for 8 channels the loop is vectorised.
_CHANNELS = 8


class OpenVinoEngine:
    """One network on OpenVINO, or several in one graph; in float32 unless asked otherwise.

    Attributes:
        name: see ``Engine``.
        answers: one for each fold, or one of their mean.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        tile: Image,
        logits: Image,
        *,
        threads: int,
        mean: bool = False,
        precision: Arithmetic = "f32",
    ) -> None:
        """Load files; arguments and errors as for ``OnnxEngine``.

        Args:
            paths: the folds' files.
            tile, logits, threads: see there; as many logits as there are answers.
            mean: answer with the mean of the folds.
            precision: ``f32`` or ``bf16``, of the arithmetic.
        """
        import openvino

        self.name = names_of(paths)
        self.answers = 1 if mean else len(paths)
        graph = join_files(paths, tile, logits, mean=mean)
        self._compiled = compile_graph(graph, self.name, threads, precision)
        self._request = self._compiled.create_infer_request()
        self._logits = logits
        self._tensor = openvino.Tensor
        self._bind_outputs()

    def _bind_outputs(self) -> None:
        first, every = 0, self._logits.reshape(1, -1, *self._logits.shape[2:])
        for number, port in enumerate(self._compiled.outputs):
            last = first + port.get_shape()[1]
            part = self._tensor(every[:, first:last], shared_memory=True)
            self._request.set_output_tensor(number, part)
            first = last

    def __call__(self, tile: Image) -> Image:
        """See ``Engine``."""
        self._request.set_input_tensor(0, self._tensor(tile, shared_memory=True))
        infer(self._request, self.name)
        return self._logits

    def rest(self) -> None:
        """See ``Engine``."""
        self._compiled.release_memory()


def join_files(paths: Sequence[Path], tile: Image, logits: Image, *, mean: bool) -> Any:
    """Read folds and join them in one graph, whose outputs are pieces of a few classes.

    Args:
        paths: the folds' files.
        tile, logits: what they take and give.
        mean: give the folds' mean.

    Raises:
        WeightsError: a file cannot be loaded, or does not fit.
    """
    import openvino

    core = openvino.Core()
    return _join_models([_read_model(core, path, tile, logits[:1]) for path in paths], mean)


def compile_graph(graph: Any, name: str, threads: int, precision: Arithmetic) -> Any:
    """Compile a graph for this CPU.

    Raises:
        WeightsError: OpenVINO cannot; the message has the name.
    """
    import openvino

    try:
        return openvino.Core().compile_model(graph, "CPU", _settings(threads, precision))
    except RuntimeError as error:
        raise unusable(name, error) from error


def infer(request: Any, name: str) -> None:
    """Run a request.

    Raises:
        DeviceError: OpenVINO stopped; the message has the name.
    """
    try:
        request.infer()
    except RuntimeError as error:
        raise DeviceError(
            f"{name}: OpenVINO stopped: {first_line(error)}; give the process more memory"
        ) from error


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


def _read_model(core: Any, path: Path, tile: Image, logits: Image) -> Any:
    try:
        model = core.read_model(path)
        check_interface(path, _interface(model), tile, logits)
        return model
    except RuntimeError as error:
        raise unusable(path, error) from error


def _join_models(models: Sequence[Any], mean: bool) -> Any:
    """Split the classes of models that take the same image, and join these in one model."""
    from openvino import Model

    split = [split_classes(model) for model in models]
    # Pieces of a mean have to fit each other.
    alike = len({len(model.outputs) for model in split}) == 1
    used = split if alike else models
    (image,) = used[0].get_parameters()
    for model in used[1:]:
        (other,) = model.get_parameters()
        for reader in list(other.output(0).get_target_inputs()):
            reader.replace_source_output(image.output(0))
    folds = [[port.get_node().input_value(0) for port in model.outputs] for model in used]
    if mean and len(folds) > 1:
        folds = [[_mean(pieces) for pieces in zip(*folds, strict=True)]]
    return Model([piece for fold in folds for piece in fold], [image])


def _mean(pieces: Sequence[Any]) -> Any:
    """Add fold after fold, so that no more than one waits for the sum."""
    from openvino import opset13 as op

    total = pieces[0]
    for piece in pieces[1:]:
        total = op.add(total, piece).output(0)
    return op.multiply(total, op.constant(np.float32(1 / len(pieces)))).output(0)


def split_classes(model: Any) -> Any:
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
