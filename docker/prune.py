"""Remove from a folder of installed packages what no run loads.

    python docker/prune.py /opt/venv/lib/python3.11/site-packages

ITK's Python packages have 1.6 GB, of which one registration loads an eighth. ``itk.txt`` beside
this file lists what it loads; ``python bench/itk_parts.py`` writes it anew. Of CUDA, a library
stays if another names it in its table of needed libraries (``readelf --dynamic``), used or not:
ONNX Runtime would not load without it. Of those that are opened by name on demand, the ones that no
operator of ours asks for go; ``test/container/test_libraries.py`` calls each function that ONNX
Runtime calls. The build of the image runs this; nothing is imported.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

# Devices and formats of models that are never asked for.
OPENVINO = (
    "libopenvino_intel_gpu_plugin.so*",
    "libopenvino_intel_npu_plugin.so*",
    "cache.json",
    "libopenvino_gguf_frontend.so*",
    "libopenvino_jax_frontend.so*",
    "libopenvino_paddle_frontend.so*",
    "libopenvino_pytorch_frontend.so*",
    "libopenvino_tensorflow_frontend.so*",
    "libopenvino_tensorflow_lite_frontend.so*",
)
# What of Python would open them.
OPENVINO_PYTHON = (
    "jax/*.so",
    "paddle/*.so",
    "pytorch/*.so",
    "tensorflow/*.so",
)
CUDA = (
    # BLAS for R and FFTW's interface; nobody links to them.
    "cublas/lib/libnvblas.so*",
    "cufft/lib/libcufftw.so*",
    # NVRTC's other build, which its own users choose.
    "cuda_nvrtc/lib/libnvrtc*.alt.so*",
    # Recurrent networks and attention: libcudnn.so opens it when one of their functions is called.
    "cudnn/lib/libcudnn_adv.so*",
)
WHOLE = (
    # libcufft.so opens it for a plan of a Fourier transform, which no network of ours has.
    "nvidia/nvjitlink",
    "nvidia_nvjitlink_cu12-*",
    # Would fail the import of OpenVINO for a uid without a home folder.
    "openvino_telemetry*",
)


def main() -> None:
    """Prune the folder that is given."""
    packages = Path(sys.argv[1])
    kept = (Path(__file__).parent / "itk.txt").read_text(encoding="ascii").split()
    before = size(packages)
    prune_itk(packages, frozenset(kept))
    prune_files(packages / "openvino" / "libs", OPENVINO)
    prune_files(packages / "openvino" / "frontend", OPENVINO_PYTHON)
    prune_files(packages / "nvidia", CUDA)
    prune_folders(packages, WHOLE)
    print(f"{packages}: {(before - size(packages)) >> 20} MiB of {before >> 20} removed")


def prune_itk(packages: Path, kept: frozenset[str]) -> None:
    """Remove all files of ITK that are not listed, relative to the folder of packages."""
    for folder in (packages / "itk", *packages.glob("itk_*.libs")):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and str(path.relative_to(packages)) not in kept:
                path.unlink()


def prune_files(folder: Path, patterns: Iterable[str]) -> None:
    """Remove the files of a folder that match one of the patterns."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def prune_folders(folder: Path, patterns: Iterable[str]) -> None:
    """Remove the folders below a folder that match one of the patterns."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
