"""What the card is and what is used of its memory, by ``nvidia-smi``; figures for the runner."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any

PREFIX = "FIGURES "
PACKAGES = (
    "oarseg",
    "onnxruntime-gpu",
    "onnxruntime",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "torch",
    "nnunetv2",
    "numpy",
)


def say(**figures: Any) -> None:
    """Print figures for the runner, which keeps them even if this program is then stopped."""
    print(PREFIX + json.dumps(figures), flush=True)


def query(*fields: str) -> list[str]:
    """Ask ``nvidia-smi`` about the first card."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return [field.strip() for field in done.stdout.splitlines()[0].split(",")]


def used_mib() -> int:
    """Return what all processes use of the card's memory."""
    return int(query("memory.used")[0])


def describe_card() -> dict[str, str]:
    """Name the card, its driver and its memory."""
    name, driver, memory, capability = query(
        "name", "driver_version", "memory.total", "compute_cap"
    )
    return {"name": name, "driver": driver, "memory_mib": memory, "compute": capability}


def found_versions() -> dict[str, str]:
    """List what computes, as far as it is there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class PeakMemory:
    """Watches the card's memory while a block runs; nothing else may use the card."""

    def __init__(self, ask: Callable[[], int] = used_mib, every_s: float = 0.2) -> None:
        """Note what is used before."""
        self._ask, self._every_s = ask, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before = ask()
        self.mib = 0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._note()

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            self._note()

    def _note(self) -> None:
        self.mib = max(self.mib, self._ask() - self._before)
