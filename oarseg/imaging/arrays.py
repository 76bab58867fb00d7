"""Type aliases of arrays; image arrays are (z, y, x)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Half = NDArray[np.float16]
Doubles = NDArray[np.float64]
# (n, 3) world coordinates x, y, z in mm.
Points = NDArray[np.floating[Any]]
# Three integers along z, y, x: an index, a size, a step.
Triple = tuple[int, int, int]
