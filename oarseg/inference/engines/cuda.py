"""Opens an ensemble on a CUDA GPU, if there is one that works."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime

from oarseg.errors import DeviceError, ResourceError
from oarseg.inference.engines.buffers import allocate_logits, allocate_tile
from oarseg.inference.engines.forms import Networks
from oarseg.inference.engines.onnx_runtime import CUDA_PROVIDER, JoinedOnnxEngine, NoCudaError
from oarseg.inference.engines.protocol import first_line
from oarseg.model.bundle import Bundle
from oarseg.model.manifest import Precision


@dataclass(frozen=True)
class CudaFolds:
    """The ensemble on a GPU.

    Attributes:
        networks: all folds in one graph.
        xp: CuPy, the array module of their tiles and logits.
    """

    networks: Networks
    xp: ModuleType


def open_cuda(bundle: Bundle, precision: Precision, threads: int) -> CudaFolds:
    """Load every fold onto the GPU and run the first one on a tile.

    Raises:
        NoCudaError: there is no GPU, or it does not work.
        WeightsError: a file does not fit the manifest.
    """
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise NoCudaError("this onnxruntime has no CUDA provider")
    _keep_kernels_in_memory()
    xp: ModuleType = _attempt("CuPy cannot be loaded", lambda: importlib.import_module("cupy"))
    _attempt("the CUDA libraries cannot be loaded", onnxruntime.preload_dlls)
    _attempt("CuPy does not work", lambda: _run_kernel(xp))
    try:
        networks = _networks(bundle, precision, threads, xp)
        (engine,) = networks.take(networks.folds)
        engine(allocate_tile(bundle.manifest, xp))
    except _device_errors(xp) as error:
        raise NoCudaError(first_line(error)) from error
    return CudaFolds(networks, xp)


def _networks(bundle: Bundle, precision: Precision, threads: int, xp: ModuleType) -> Networks:
    """Describe the folds in one graph: one arena, one workspace and one wait a tile for all."""
    manifest, paths = bundle.manifest, bundle.paths(precision)

    def open_form(folds: int, mean: bool) -> list[JoinedOnnxEngine]:
        answers = 1 if mean else folds
        engine = JoinedOnnxEngine(
            paths[:folds],
            allocate_tile(manifest, xp),
            allocate_logits(manifest, answers, xp),
            threads=threads,
            mean=mean,
            cuda={"cudnn_conv_algo_search": "EXHAUSTIVE"},
            xp=xp,
        )
        return [engine]

    return Networks(len(paths), open_form)


def free_device_bytes(xp: ModuleType) -> int:
    """Return the memory that CuPy may still take on the GPU, with what its pool holds unused.

    Raises:
        DeviceError: the driver does not answer.
    """
    try:
        free, _ = xp.cuda.runtime.memGetInfo()
        return int(free) + int(xp.get_default_memory_pool().free_bytes())
    except xp.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"the GPU does not answer: {first_line(error)}") from error


def _keep_kernels_in_memory() -> None:
    """Make CuPy cache kernels in memory if its cache folder cannot be written."""
    folder = Path(os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache"))
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        os.environ.setdefault("CUPY_CACHE_IN_MEMORY", "1")


def _attempt(failure: str, step: Callable[[], Any]) -> Any:
    """Run a step that depends on optional libraries.

    Raises:
        NoCudaError: the step failed. Any exception counts: an import alone may look for a home
            folder, a temporary folder, a compiler or a driver.
    """
    try:
        return step()
    except Exception as error:
        raise NoCudaError(f"{failure}: {first_line(error)}") from error


def _run_kernel(xp: ModuleType) -> None:
    """Compile and run a kernel, as every case does."""
    if float((xp.ones(8, np.float32) + 1).sum()) != 16:
        raise NoCudaError("a sum came out wrong")


def _device_errors(xp: ModuleType) -> tuple[type[Exception], ...]:
    """The exceptions of a driver, a GPU or its memory that fails."""
    failed: type[Exception] = xp.cuda.runtime.CUDARuntimeError
    return (ResourceError, MemoryError, failed)
