"""Write the list of ITK's files that a registration loads, which the image keeps.

python bench/itk_parts.py docker/itk.txt
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Volume
from oarseg.registration.elastix import ElastixStage, fit_bspline, refine_rigid

MAPS = Path("/proc/self/maps")


def main() -> None:
    """Register two small images and list what of ITK is then loaded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the list")
    out = parser.parse_args().out
    names = loaded_files()
    out.write_text("".join(f"{name}\n" for name in names), encoding="ascii")
    print(f"{out}: {len(names)} files")


def loaded_files() -> list[str]:
    """Register, and return the files of ITK that are loaded, relative to the packages' folder."""
    register()
    packages = Path(sys.modules["itk"].__path__[0]).parent
    named = (_file(module) for module in list(sys.modules.values()))
    # ITK's loader leaves "support/.." in the names.
    files = {Path(os.path.normpath(name)) for name in named if name}
    maps = (line.split() for line in MAPS.read_text(encoding="utf-8").splitlines())
    files |= {Path(words[5]) for words in maps if len(words) > 5 and ".so" in words[5]}
    inside = (path.relative_to(packages) for path in files if path.is_relative_to(packages))
    return sorted(str(path) for path in inside if path.parts[0].startswith("itk"))


def register() -> None:
    """Align a blob with itself, rigidly and by a spline."""
    grid = Grid((24, 24, 24), (4.0, 4.0, 4.0))
    axes = np.ogrid[-12:12, -12:12, -12:12]
    squares = sum(axis.astype(np.float32) ** 2 for axis in axes)
    blob = Volume(np.exp(-squares / 40).astype(np.float32) * 1000, grid)
    everywhere = np.ones(grid.shape, bool)
    still = RigidTransform.from_arrays(np.eye(3), np.zeros(3))
    stage = ElastixStage(shrink=(1,), iterations=4, samples=500, max_step_mm=1.0)
    refine_rigid(blob, everywhere, blob, still, stage)
    fit_bspline(blob, everywhere, blob, still, stage, knots_mm=32.0, stiffness=1.0)


def _file(module: ModuleType) -> str | None:
    return getattr(module, "__file__", None)


if __name__ == "__main__":
    main()
