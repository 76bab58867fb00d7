"""An opened GPU: CuPy, one stream for everything, and the compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Image
from oarseg.inference.device.faults import device_faults
from oarseg.inference.device.kernels import GpuKernels, compile_kernels


@dataclass(frozen=True, eq=False)
class Gpu:
    """A GPU that is ready.

    Networks, copies and kernels are queued on one stream, so that they wait for each other without
    the host. CuPy's current stream is that of a thread: whoever uses the GPU enters ``stream``.

    Attributes:
        xp: CuPy.
        stream: the one that everything runs on.
        kernels: compiled.
    """

    xp: ModuleType
    stream: Any
    kernels: GpuKernels

    def pinned(self, shape: tuple[int, ...]) -> Image:
        """Allocate a host array, float32, that the GPU reads without another copy."""
        count = int(np.prod(shape))
        memory = self.xp.cuda.alloc_pinned_memory(4 * count)
        array: Image = np.frombuffer(memory, np.float32, count).reshape(shape)
        return array

    def to_host(self, array: Any) -> NDArray[Any]:
        """Download an array; waits for everything before it."""
        host: NDArray[Any] = self.xp.asnumpy(array)
        return host

    def release(self) -> None:
        """Give back what CuPy's pool holds unused, which other libraries cannot see."""
        self.xp.get_default_memory_pool().free_all_blocks()

    def free_bytes(self) -> int:
        """Return the memory that CuPy may still take, with what its pool holds unused.

        Raises:
            DeviceError: the driver does not answer.
        """
        with device_faults("when asked for its memory"):
            free, _ = self.xp.cuda.runtime.memGetInfo()
            return int(free) + int(self.xp.get_default_memory_pool().free_bytes())


def open_gpu(xp: ModuleType) -> Gpu:
    """Make a stream and compile the kernels."""
    # Without a driver this fails first: a half-made stream would print a traceback when it goes.
    xp.cuda.runtime.memGetInfo()
    return Gpu(xp, xp.cuda.Stream(non_blocking=True), compile_kernels(xp))
