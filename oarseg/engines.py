"""One ONNX file on CUDA, OpenVINO or plain ONNX Runtime, behind one call.

A file has one input ``image`` (1, channels, *patch) and one output ``logits``
(1, classes, *patch), both float32 and static, whatever its inner precision.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from oarseg.bundle import Bundle, Precision
from oarseg.engine import INPUT, OUTPUT, Engine, Image, check_interface, first_line
from oarseg.errors import ResourceError, WeightsError
from oarseg.openvino_engine import OpenVinoEngine

Device = Literal["auto", "cuda", "cpu"]
Backend = Literal["auto", "cuda", "openvino", "onnxruntime"]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"

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

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceChoice:
    """Where the networks run, on what, and why there."""

    device: Literal["cuda", "cpu"]
    engine: Literal["cuda", "openvino", "onnxruntime"]
    reason: str


@dataclass(frozen=True)
class Engines:
    """The ensemble, one engine a fold, in the manifest's order."""

    choice: DeviceChoice
    folds: tuple[Engine, ...]


class _NoCudaError(Exception):
    """Why CUDA cannot be used."""


def available_cpus() -> int:
    """CPUs this process may use: its affinity, and the cgroup's quota if smaller."""
    cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs' worth of time the cgroup grants (version 2, then 1); None without a limit."""
    second, first = root / "cpu.max", root / "cpu" / "cpu.cfs_quota_us"
    if second.is_file():
        quota, period = second.read_text().split()
    elif first.is_file():
        quota = first.read_text().strip()
        period = first.with_name("cpu.cfs_period_us").read_text().strip()
    else:
        return None
    return None if quota in ("max", "-1") else float(quota) / float(period)


def open_engines(
    bundle: Bundle, *, device: Device = "auto", backend: Backend = "auto", threads: int = 0
) -> Engines:
    """Load every fold of an ensemble onto the best device there is.

    Args:
        bundle: the weights.
        device: ``auto`` takes CUDA if it truly works, else the CPU; ``cuda`` or ``cpu``
            takes that or fails.
        backend: pin the library (for tests and comparisons) instead of the fastest.
        threads: CPU threads; 0 means all this process may use.

    Raises:
        ResourceError: ``cuda`` was asked for and does not work.
        WeightsError: a file cannot be loaded or does not fit the manifest.
    """
    threads = threads or available_cpus()
    reason = "the CPU was asked for"
    if device != "cpu" and backend in ("auto", "cuda"):
        try:
            return _logged(_open_cuda(bundle, threads))
        except _NoCudaError as why:
            if device == "cuda" or backend == "cuda":
                raise ResourceError(
                    f"--device {device}: expected a working CUDA GPU, found none ({why}); "
                    "pass the GPU to the container or use --device cpu"
                ) from why
            reason = f"no GPU: {why}"
    return _logged(_open_cpu(bundle, backend, threads, reason))


def _logged(engines: Engines) -> Engines:
    choice = engines.choice
    log.info("device %s, engine %s: %s", choice.device, choice.engine, choice.reason)
    return engines


def _precision(bundle: Bundle, wanted: Precision) -> Precision:
    """``wanted`` if the ensemble has it, else the other."""
    if any(model.precision == wanted for model in bundle.manifest.models):
        return wanted
    return "fp32" if wanted == "fp16" else "fp16"


class OnnxEngine:
    """A network on ONNX Runtime, on the CPU or a CUDA GPU, with IO binding."""

    def __init__(self, path: Path, tile: Image, logits: Image, *, threads: int, cuda: bool) -> None:
        """Load a file.

        Args:
            path: the ONNX file.
            tile: an array of the input's shape.
            logits: the buffer that answers are written to.
            threads: CPU threads.
            cuda: run on the GPU.

        Raises:
            WeightsError: the file cannot be loaded or has other shapes.
            _NoCudaError: ONNX Runtime did not take the GPU.
        """
        self.name = path.name
        self._session = _session(path, threads, cuda)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_interface(
            path,
            {node.name: tuple(node.shape) for node in (*inputs, *outputs)},
            {INPUT: tile.shape, OUTPUT: logits.shape},
        )
        self._logits = logits
        self._on_device = _device_values(tile, logits) if cuda else None

    def __call__(self, tile: Image) -> Image:
        """See ``Engine``."""
        binding = self._session.io_binding()
        if self._on_device is None:
            binding.bind_cpu_input(INPUT, tile)
            value = onnxruntime.OrtValue.ortvalue_from_numpy(self._logits)
            binding.bind_ortvalue_output(OUTPUT, value)
            self._session.run_with_iobinding(binding)
            return self._logits
        source, target = self._on_device
        source.update_inplace(tile)
        binding.bind_ortvalue_input(INPUT, source)
        binding.bind_ortvalue_output(OUTPUT, target)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        np.copyto(self._logits, target.numpy())
        return self._logits


def _device_values(tile: Image, logits: Image) -> tuple[Any, Any]:
    make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    return (
        make(list(tile.shape), np.float32, "cuda", 0),
        make(list(logits.shape), np.float32, "cuda", 0),
    )


def _session(path: Path, threads: int, cuda: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # An arena would keep every fold's peak; freeing after each tile costs little.
    options.enable_cpu_mem_arena = cuda
    search = {"cudnn_conv_algo_search": "EXHAUSTIVE"}
    providers: list[Any] = [(_CUDA, search), _CPU] if cuda else [_CPU]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except _ORT_ERRORS as error:
        if cuda:
            raise _NoCudaError(first_line(error)) from error
        raise WeightsError(f"{path}: not a usable ONNX file: {first_line(error)}") from error
    # ONNX Runtime falls back to the CPU with no more than a log line.
    if cuda and _CUDA not in session.get_providers():
        raise _NoCudaError("ONNX Runtime could not start its CUDA provider")
    return session


@dataclass(frozen=True, eq=False)
class _Buffers:
    """One tile and its logits, shared by the folds."""

    tile: Image
    logits: Image


def _buffers(bundle: Bundle) -> _Buffers:
    manifest = bundle.manifest
    return _Buffers(
        np.zeros((1, len(manifest.channels), *manifest.patch_size), np.float32),
        np.empty((1, len(manifest.labels), *manifest.patch_size), np.float32),
    )


def _open_cpu(bundle: Bundle, backend: Backend, threads: int, reason: str) -> Engines:
    paths = bundle.paths(_precision(bundle, "fp32"))
    shared = _buffers(bundle)
    reason = f"{reason}; {threads} thread(s)"
    installed = importlib.util.find_spec("openvino") is not None
    if backend == "openvino" or (backend == "auto" and installed):
        choice = DeviceChoice("cpu", "openvino", reason)
        return Engines(
            choice,
            tuple(
                OpenVinoEngine(
                    p, shared.tile, shared.logits, threads=threads, alone=len(paths) == 1
                )
                for p in paths
            ),
        )
    choice = DeviceChoice("cpu", "onnxruntime", reason)
    return Engines(
        choice,
        tuple(
            OnnxEngine(p, shared.tile, shared.logits, threads=threads, cuda=False) for p in paths
        ),
    )


def _open_cuda(bundle: Bundle, threads: int) -> Engines:
    """Every fold on the GPU, the first one tried on a tile.

    Raises:
        _NoCudaError: it does not work.
    """
    if _CUDA not in onnxruntime.get_available_providers():
        raise _NoCudaError("this onnxruntime has no CUDA provider")
    onnxruntime.preload_dlls()
    precision = _precision(bundle, "fp16")
    shared = _buffers(bundle)
    folds = tuple(
        OnnxEngine(path, shared.tile, shared.logits, threads=threads, cuda=True)
        for path in bundle.paths(precision)
    )
    try:
        folds[0](shared.tile)
    except _ORT_ERRORS as error:
        raise _NoCudaError(first_line(error)) from error
    return Engines(DeviceChoice("cuda", "cuda", f"the GPU works; {precision}"), folds)
