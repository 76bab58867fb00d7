"""NumPy under another name, for code that takes the array module as a parameter."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class FakeDevice(ModuleType):
    """Everything of NumPy, and the few functions that CuPy has besides.

    Its arrays are NumPy's; that they came back through ``asnumpy`` is counted, as on a GPU
    every other way fails.
    """

    def __init__(self) -> None:
        super().__init__("cupy")
        self.copies = 0
        stream = SimpleNamespace(synchronize=lambda: None)
        self.free_bytes = 1 << 34
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(
                CUDARuntimeError=OSError, memGetInfo=lambda: (self.free_bytes, 1 << 34)
            ),
            get_current_stream=lambda: stream,
        )

    def get_default_memory_pool(self) -> Any:
        """CuPy's pool, which holds nothing back."""
        return SimpleNamespace(free_bytes=lambda: 0)

    def asnumpy(self, array: Any) -> Any:
        """From the device to the host."""
        self.copies += 1
        return array.copy()

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)
