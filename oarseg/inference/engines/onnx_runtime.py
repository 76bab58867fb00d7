"""Runs a network on ONNX Runtime, on the CPU or on a CUDA GPU."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from oarseg.errors import DeviceError, WeightsError
from oarseg.inference.engines.protocol import (
    INPUT,
    OUTPUT,
    array_text,
    check_interface,
    first_line,
)

CUDA_PROVIDER = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_ELEMENTS = {"tensor(float)": "float32", "tensor(float16)": "float16"}
# ONNX Runtime's exceptions share no base class of their own.
_ORT_ERRORS = (
    _ort.Fail,
    _ort.InvalidArgument,
    _ort.InvalidGraph,
    _ort.InvalidProtobuf,
    _ort.NoSuchFile,
    _ort.NotImplemented,
    _ort.RuntimeException,
    _ort.EPFail,
    RuntimeError,
)


class NoCudaError(Exception):
    """CUDA cannot be used; the text says why."""


class OnnxEngine:
    """A network on ONNX Runtime, on the CPU or a CUDA GPU, with I/O binding."""

    def __init__(
        self, path: Path, tile: Any, logits: Any, *, threads: int, xp: ModuleType | None = None
    ) -> None:
        """Load a file.

        Args:
            path: the ONNX file.
            tile: an array of the input's shape.
            logits: the output buffer, on the network's device.
            threads: CPU threads.
            xp: CuPy, to run on the GPU; None runs on the CPU.

        Raises:
            WeightsError: the file cannot be loaded or has other types or shapes.
            NoCudaError: ONNX Runtime did not take the GPU.
        """
        self.name = path.name
        self._xp = xp
        self._session = _session(path, threads, xp is not None)
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        found = {n.name: array_text(_ELEMENTS.get(n.type, n.type), n.shape) for n in nodes}
        check_interface(path, found, tile, logits)
        self._logits = logits

    def __call__(self, tile: Any) -> Any:
        """See ``Engine``; on a GPU both arrays are CuPy's and are not copied."""
        try:
            self._run(tile)
        except _ORT_ERRORS as error:
            raise DeviceError(
                f"{self.name}: ONNX Runtime stopped: {first_line(error)}; use another --device "
                "or one with more memory"
            ) from error
        return self._logits

    def _run(self, tile: Any) -> None:
        binding = self._session.io_binding()
        if self._xp is None:
            binding.bind_cpu_input(INPUT, tile)
            value = onnxruntime.OrtValue.ortvalue_from_numpy(self._logits)
            binding.bind_ortvalue_output(OUTPUT, value)
            self._session.run_with_iobinding(binding)
            return
        source = self._xp.ascontiguousarray(tile)
        for name, array, bind in (
            (INPUT, source, binding.bind_input),
            (OUTPUT, self._logits, binding.bind_output),
        ):
            bind(name, "cuda", 0, np.float32, list(array.shape), array.data.ptr)
        # ONNX Runtime uses a stream of its own, so both sides wait for each other.
        self._xp.cuda.get_current_stream().synchronize()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()


def _session(path: Path, threads: int, cuda: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # An arena would keep the peak of every fold; freeing after each tile costs little.
    options.enable_cpu_mem_arena = cuda
    search = {"cudnn_conv_algo_search": "EXHAUSTIVE"}
    providers: list[Any] = [(CUDA_PROVIDER, search), _CPU] if cuda else [_CPU]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except _ORT_ERRORS as error:
        if cuda:
            raise NoCudaError(first_line(error)) from error
        raise WeightsError(f"{path}: not a usable ONNX file: {first_line(error)}") from error
    # ONNX Runtime falls back to the CPU and only logs it.
    if cuda and CUDA_PROVIDER not in session.get_providers():
        raise NoCudaError("ONNX Runtime could not start its CUDA provider")
    return session
