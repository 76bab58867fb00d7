"""Versions of what computes a result."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from oarseg import __version__

PACKAGES = (
    "numpy",
    "scipy",
    "SimpleITK",
    "itk-elastix",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
)
# Extras: DICOM objects, training.
MORE_PACKAGES = ("pydicom", "highdicom", "cupy-cuda12x", "onnx", "torch", "nnunetv2")


def package_versions(*, more: bool = False) -> dict[str, str]:
    """Return the versions of this package, Python, and what of its dependencies is installed.

    Args:
        more: of the extras too.
    """
    found = {"oarseg": __version__, "python": platform.python_version()}
    for name in (*PACKAGES, *(MORE_PACKAGES if more else ())):
        with suppress(PackageNotFoundError):  # onnxruntime comes under one of two names
            found[name] = version(name)
    return found
