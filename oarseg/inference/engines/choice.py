"""One ONNX file on CUDA, OpenVINO or plain ONNX Runtime, behind one call.

A file has one input ``image`` (1, channels, *patch) and one output ``logits``
(1, classes, *patch), both float32 and static, whatever its inner precision.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from oarseg.errors import DeviceError, ResourceError, WeightsError
from oarseg.inference.engines.openvino import OpenVinoEngine, has_bf16
from oarseg.inference.engines.protocol import INPUT, OUTPUT, Engine, check_interface, first_line
from oarseg.model.manifest import Arithmetic, Bundle, Manifest, Precision
from oarseg.system.usage import peak_mib, reset_peak, resident_mib

Device = Literal["auto", "cuda", "cpu"]
Backend = Literal["auto", "cuda", "openvino", "onnxruntime"]

# The least Dice to float32, of the worst class, at which bfloat16 is taken.
BF16_MIN_DICE = 0.995
# What a runtime's float32 must reach against torch to be taken.
F32_MIN_AGREEMENT, F32_MIN_DICE = 0.9999, 0.999
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
    """The ensemble, one engine a fold, in the manifest's order.

    Attributes:
        choice: what they run on.
        folds: the engines.
        xp: the array module of their tiles and logits.
    """

    choice: DeviceChoice
    folds: tuple[Engine, ...]
    xp: ModuleType = np


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


def activation_bytes(engines: Engines, manifest: Manifest) -> int:
    """What a network takes in the host's memory while it runs, and gives back.

    The first fold is run on an empty tile: what it keeps shows in the process's size.
    """
    reset_peak()
    tile = engines.xp.zeros((1, len(manifest.channels), *manifest.patch_size), np.float32)
    engines.folds[0](tile)
    return max(0, round((peak_mib() - resident_mib()) * 2**20))


def _precision(bundle: Bundle, wanted: Precision) -> Precision:
    """``wanted`` if the ensemble has it, else the other."""
    if any(model.precision == wanted for model in bundle.manifest.models):
        return wanted
    return "fp32" if wanted == "fp16" else "fp16"


class OnnxEngine:
    """A network on ONNX Runtime, on the CPU or a CUDA GPU, with IO binding."""

    def __init__(
        self, path: Path, tile: Any, logits: Any, *, threads: int, xp: ModuleType | None = None
    ) -> None:
        """Load a file.

        Args:
            path: the ONNX file.
            tile: an array of the input's shape.
            logits: the buffer that answers are written to, on the network's own device.
            threads: CPU threads.
            xp: CuPy, to run on the GPU; None runs on the CPU.

        Raises:
            WeightsError: the file cannot be loaded or has other shapes.
            _NoCudaError: ONNX Runtime did not take the GPU.
        """
        self.name = path.name
        self._xp = xp
        self._session = _session(path, threads, xp is not None)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_interface(
            path,
            {node.name: tuple(node.shape) for node in (*inputs, *outputs)},
            {INPUT: tuple(tile.shape), OUTPUT: tuple(logits.shape)},
        )
        self._logits = logits

    def __call__(self, tile: Any) -> Any:
        """See ``Engine``; on a GPU both arrays are CuPy's, and nothing is copied."""
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
        # ONNX Runtime has a stream of its own: it must not start before the tile is there,
        # nor we before the logits are.
        self._xp.cuda.get_current_stream().synchronize()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()


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

    tile: Any
    logits: Any


def _buffers(bundle: Bundle, xp: ModuleType = np) -> _Buffers:
    manifest = bundle.manifest
    return _Buffers(
        xp.zeros((1, len(manifest.channels), *manifest.patch_size), np.float32),
        xp.zeros((1, len(manifest.labels), *manifest.patch_size), np.float32),
    )


def cpu_arithmetic(manifest: Manifest) -> Arithmetic:
    """bfloat16 where the CPU has it and every fold was found good enough in it, else float32."""
    files = {model.file for model in manifest.models if model.precision == "fp32"}
    good = {
        parity.file
        for parity in manifest.parity
        if parity.arithmetic == "bf16" and parity.min_dice >= BF16_MIN_DICE
    }
    return "bf16" if files and files <= good and has_bf16() else "f32"


def openvino_answers(manifest: Manifest) -> bool:
    """Whether OpenVINO's float32 was found to give torch's answer, or was not compared."""
    return all(
        parity.argmax_agreement >= F32_MIN_AGREEMENT and parity.min_dice >= F32_MIN_DICE
        for parity in manifest.parity
        if parity.runtime == "openvino" and parity.arithmetic == "f32"
    )


def _open_cpu(bundle: Bundle, backend: Backend, threads: int, reason: str) -> Engines:
    paths = bundle.paths(_precision(bundle, "fp32"))
    shared = _buffers(bundle)
    reason = f"{reason}; {threads} thread(s)"
    installed = importlib.util.find_spec("openvino") is not None
    usable = installed and openvino_answers(bundle.manifest)
    if backend == "openvino" or (backend == "auto" and usable):
        precision = cpu_arithmetic(bundle.manifest)
        choice = DeviceChoice("cpu", "openvino", f"{reason}; {precision}")
        return Engines(
            choice,
            tuple(
                OpenVinoEngine(
                    p,
                    shared.tile,
                    shared.logits,
                    threads=threads,
                    alone=len(paths) == 1,
                    precision=precision,
                )
                for p in paths
            ),
        )
    if installed and not usable:
        reason += "; the export found OpenVINO to differ from torch"
    choice = DeviceChoice("cpu", "onnxruntime", reason)
    return Engines(
        choice,
        tuple(OnnxEngine(p, shared.tile, shared.logits, threads=threads) for p in paths),
    )


def _open_cuda(bundle: Bundle, threads: int) -> Engines:
    """Every fold on the GPU, the first one tried on a tile.

    Raises:
        _NoCudaError: it does not work.
    """
    if _CUDA not in onnxruntime.get_available_providers():
        raise _NoCudaError("this onnxruntime has no CUDA provider")
    try:
        xp = importlib.import_module("cupy")
    except ImportError as error:
        raise _NoCudaError(f"CuPy cannot be loaded: {first_line(error)}") from error
    onnxruntime.preload_dlls()
    precision = _precision(bundle, "fp16")
    try:
        shared = _buffers(bundle, xp)
        folds = tuple(
            OnnxEngine(path, shared.tile, shared.logits, threads=threads, xp=xp)
            for path in bundle.paths(precision)
        )
        folds[0](shared.tile)
    except _device_errors(xp) as error:
        raise _NoCudaError(first_line(error)) from error
    return Engines(DeviceChoice("cuda", "cuda", f"the GPU works; {precision}"), folds, xp)


def _device_errors(xp: ModuleType) -> tuple[type[Exception], ...]:
    """What is raised where the driver, the GPU or its memory fails."""
    failed: type[Exception] = xp.cuda.runtime.CUDARuntimeError
    return (DeviceError, MemoryError, failed)
