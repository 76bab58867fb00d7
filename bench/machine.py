"""What a benchmark ran on and with, so that a stranger can judge and repeat it."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from oarseg import __version__

CPUINFO = Path("/proc/cpuinfo")
# What decides how fast networks run, and how floats are rounded, in the order they came to x86.
TELLING_SETS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    # Arm's.
    "asimd",
    "sve",
    "bf16",
)
COMPUTES = ("nnunetv2", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy")
# What makes the libraries use less than the CPU has.
LIMITING = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE")


def machine(cpuinfo: Path = CPUINFO) -> str:
    """Describe the processor as the kernel names it, how many there are, memory and kernel."""
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    name = _first(text, "model name") or platform.processor() or platform.machine()
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = f"{platform.system()} {platform.release()}"
    return f"{name}, {os.cpu_count()} CPUs, {gib:.0f} GiB, {kernel}"


def instruction_sets(cpuinfo: Path = CPUINFO) -> str:
    """List the instruction sets that matter, and what limits their use."""
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    flags = (_first(text, "flags") or _first(text, "Features")).split()
    found = " ".join(name for name in TELLING_SETS if name in flags) or "none known"
    limits = [f"{name}={os.environ[name]}" for name in LIMITING if name in os.environ]
    return f"{found}; limited by {', '.join(limits)}" if limits else found


def versions() -> dict[str, str]:
    """Return the versions of what computes, and of Python."""
    found = {"oarseg": __version__, "python": platform.python_version()}
    for name in COMPUTES:
        with suppress(PackageNotFoundError):  # not all of them are on every machine
            found[name] = version(name)
    return found


def _first(text: str, key: str) -> str:
    """Return the value of the first line ``key : value``; empty without one."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
