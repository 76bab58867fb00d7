"""Type aliases of arrays; images are (z, y, x)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Half = NDArray[np.float16]
Doubles = NDArray[np.float64]
# (n, 3) coordinates of the world in mm, x, y, z.
Points = NDArray[np.floating[Any]]
# Three whole numbers along z, y, x: an index, a size, a step.
Triple = tuple[int, int, int]
