"""Runs networks on ONNX Runtime, on the CPU or on a CUDA GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oarseg.errors import DeviceError
from oarseg.inference.engines.protocol import (
    INPUT,
    OUTPUT,
    array_text,
    check_interface,
    first_line,
    names_of,
    unusable,
)
from oarseg.model.joined import JoinedNetwork, join_networks

CUDA_PROVIDER = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_ELEMENTS = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class NoCudaError(Exception):
    """CUDA cannot be used; the text says why."""


class OnnxEngine:
    """The network of a fold on ONNX Runtime's CPU provider."""

    answers = 1

    def __init__(self, path: Path, tile: Any, logits: Any, *, threads: int) -> None:
        """Load a file.

        Args:
            path: the ONNX file.
            tile: an array of the input's shape.
            logits: the output buffer.
            threads: CPU threads.

        Raises:
            WeightsError: the file cannot be loaded or has other types or shapes.
        """
        self.name = path.name
        try:
            self._session = _session(str(path), _options(threads), [_CPU])
        except _ort_errors() as error:
            raise unusable(path, error) from error
        check_interface(path, _interface(self._session), tile, logits)
        self._logits = logits

    def __call__(self, tile: Any) -> Any:
        """See ``Engine``."""
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        binding.bind_cpu_input(INPUT, tile)
        value = OrtValue.ortvalue_from_numpy(self._logits)
        binding.bind_ortvalue_output(OUTPUT, value)
        _run(self._session, binding, self.name)
        return self._logits

    def rest(self) -> None:
        """See ``Engine``."""


class JoinedOnnxEngine:
    """All folds in one graph on ONNX Runtime, on the provider that is given.

    Attributes:
        answers: one for each fold, or one of their mean.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        tile: Any,
        logits: Any,
        *,
        threads: int,
        mean: bool = False,
        lean: bool = False,
        cuda: Mapping[str, str] | None = None,
    ) -> None:
        """Load files.

        Args:
            paths: the folds' ONNX files.
            tile: an array of the input's shape.
            logits: the output buffer (answers, classes, *patch), on the networks' device.
            threads: CPU threads.
            mean: answer with the mean of the folds.
            lean: see ``join_networks``.
            cuda: options of the CUDA provider, with the stream that both arrays are used on;
                None runs on the CPU.

        Raises:
            WeightsError: a file cannot be loaded or has other types or shapes.
            NoCudaError: ONNX Runtime did not take the GPU.
        """
        self.name = names_of(paths)
        joined = join_networks(paths, tile.shape[2:], mean=mean, lean=lean)
        for path, interface in zip(joined.paths, joined.interfaces, strict=True):
            found = {name: str(array) for name, array in interface.items()}
            check_interface(path, found, tile, logits[:1])
        self.answers = len(joined.outputs)
        self._session = open_session(joined, threads=threads, cuda=cuda)
        self._device = "cpu" if cuda is None else "cuda"
        self._logits = logits
        self._binding = self._session.io_binding()
        for number, name in enumerate(joined.outputs):
            self._bind(self._binding.bind_output, name, logits[number : number + 1])
        self._bound: Any = None

    def _bind(self, bind: Any, name: str, array: Any) -> None:
        address = array.data.ptr if self._device == "cuda" else array.ctypes.data
        bind(name, self._device, 0, np.float32, list(array.shape), address)

    def __call__(self, tile: Any) -> Any:
        """See ``Engine``; both arrays are the provider's and are not copied."""
        # Bound once where the caller's tile stays where it is; kept, so that it does.
        if self._bound is not tile:
            self._bind(self._binding.bind_input, INPUT, tile)
            self._bound = tile
        # On a GPU, ONNX Runtime queues on the stream that it was given, behind the tile's copy, and
        # waits for it once, at the end of the run.
        _run(self._session, self._binding, self.name)
        return self._logits

    def rest(self) -> None:
        """See ``Engine``; there is no other that needs the room."""


def open_session(joined: JoinedNetwork, *, threads: int, cuda: Mapping[str, str] | None) -> Any:
    """Load one graph of several networks; arguments and errors as for ``JoinedOnnxEngine``."""
    options = _options(threads, arena=True)
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(joined.folder))
    providers: list[Any] = [_CPU] if cuda is None else [(CUDA_PROVIDER, dict(cuda)), _CPU]
    try:
        session = _session(joined.model, options, providers)
    except _ort_errors() as error:
        if cuda is not None:
            raise NoCudaError(first_line(error)) from error
        raise unusable(names_of(joined.paths), error) from error
    # ONNX Runtime falls back to the CPU and only logs it.
    if cuda is not None and CUDA_PROVIDER not in session.get_providers():
        raise NoCudaError("ONNX Runtime could not start its CUDA provider")
    return session


def _run(session: Any, binding: Any, name: str) -> None:
    try:
        session.run_with_iobinding(binding)
    except _ort_errors() as error:
        raise DeviceError(
            f"{name}: ONNX Runtime stopped: {first_line(error)}; use another --device "
            "or one with more memory"
        ) from error


def _interface(session: Any) -> dict[str, str]:
    nodes = (*session.get_inputs(), *session.get_outputs())
    return {n.name: array_text(_ELEMENTS.get(n.type, n.type), n.shape) for n in nodes}


def _options(threads: int, *, arena: bool = False) -> Any:
    from onnxruntime import SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = arena
    return options


def _session(model: str | bytes, options: Any, providers: Sequence[Any]) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(model, options, providers=list(providers))


def _ort_errors() -> tuple[type[Exception], ...]:
    """List ONNX Runtime's exceptions, which share no base class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    return (
        ort.Fail,
        ort.InvalidArgument,
        ort.InvalidGraph,
        ort.InvalidProtobuf,
        ort.NoSuchFile,
        ort.NotImplemented,
        ort.RuntimeException,
        ort.EPFail,
        RuntimeError,
    )
