"""Opens an ensemble on a CUDA GPU, if there is one that works."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from oarseg.errors import WeightsError
from oarseg.inference.device.gpu import Gpu, open_gpu
from oarseg.inference.device.probe import try_one_tile
from oarseg.inference.device.vram import tile_bytes
from oarseg.inference.engines.buffers import allocate_logits, allocate_tile
from oarseg.inference.engines.cuda_choice import CudaForm
from oarseg.inference.engines.forms import Networks
from oarseg.inference.engines.onnx_runtime import CUDA_PROVIDER, JoinedOnnxEngine, NoCudaError
from oarseg.inference.engines.protocol import first_line
from oarseg.model.bundle import Bundle
from oarseg.model.entries.networks import Precision
from oarseg.system.memory import gib

# Of the GPU's free memory: the rest is for tiles, sums and planes. Beyond it ONNX Runtime stops
# with an error that can be caught, and says what it wanted.
NETWORK_SHARE = 0.75


@dataclass(frozen=True)
class CudaFolds:
    """The ensemble on a GPU.

    Attributes:
        networks: all folds in one graph.
        gpu: where their tiles and logits lie.
    """

    networks: Networks
    gpu: Gpu


def open_cuda(bundle: Bundle, form: CudaForm, threads: int, *, mean: bool = False) -> CudaFolds:
    """Load every fold onto the GPU and segment one tile with them.

    Args:
        bundle: the weights.
        form: files and options.
        threads: CPU threads.
        mean: the folds' mean is enough.

    Raises:
        NoCudaError: there is no GPU, it does not work, or it is too small.
        WeightsError: a file does not fit the manifest.
    """
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise NoCudaError("this onnxruntime has no CUDA provider")
    _keep_kernels_in_memory()
    # Before CuPy is imported, which then finds the same libraries loaded.
    _attempt("the CUDA libraries cannot be loaded", onnxruntime.preload_dlls)
    xp: ModuleType = _attempt("CuPy cannot be loaded", lambda: importlib.import_module("cupy"))
    gpu: Gpu = _attempt("CuPy does not work", lambda: open_gpu(xp))
    free = _attempt("CuPy does not work", gpu.free_bytes)
    check_networks(bundle, form.precision, free)
    networks = _networks(bundle, form, threads, gpu, round(NETWORK_SHARE * free))
    _attempt(
        "a trial on one tile failed",
        lambda: try_one_tile(networks, bundle.manifest, gpu, mean=mean, threads=threads),
    )
    return CudaFolds(networks, gpu)


def check_networks(bundle: Bundle, precision: Precision, free: int) -> None:
    """Refuse networks that a GPU cannot hold, whatever the case.

    Raises:
        NoCudaError: their weights and one tile alone take more than is free.
    """
    manifest = bundle.manifest
    weights = [path.stat().st_size for path in bundle.paths(precision)]
    tile = tile_bytes(manifest, answers=len(weights))
    if sum(weights) + tile <= free:
        return
    fit = max(0, free - tile) // max(weights)
    hint = f"export {fit} of the {len(weights)} folds" if fit else "use the CPU"
    raise NoCudaError(
        f"the networks take at least {gib(sum(weights) + tile)} of its memory and {gib(free)} are "
        f"free: {hint}, or take a larger GPU"
    )


def _networks(bundle: Bundle, form: CudaForm, threads: int, gpu: Gpu, limit: int) -> Networks:
    """Describe the folds in one graph: one arena, one workspace and one wait a tile for all."""
    manifest, paths, xp = bundle.manifest, bundle.paths(form.precision), gpu.xp
    cuda = {
        "gpu_mem_limit": str(limit),
        # The default doubles what it takes each time.
        "arena_extend_strategy": "kSameAsRequested",
        **form.options,
        "user_compute_stream": str(gpu.stream.ptr),
    }

    def open_form(folds: int, mean: bool) -> list[JoinedOnnxEngine]:
        answers = 1 if mean else folds
        gpu.release()
        with gpu.stream:
            engine = JoinedOnnxEngine(
                paths[:folds],
                allocate_tile(manifest, xp),
                allocate_logits(manifest, answers, xp),
                threads=threads,
                mean=mean,
                lean=form.lean,
                cuda=cuda,
            )
        return [engine]

    return Networks(len(paths), open_form)


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
    except (NoCudaError, WeightsError):
        raise
    except Exception as error:
        raise NoCudaError(f"{failure}: {first_line(error)}") from error
