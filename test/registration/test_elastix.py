"""elastix is loaded without what this program does not need of ITK."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oarseg.errors import ResourceError
from oarseg.registration import elastix

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
import numpy as np
from oarseg.imaging.volume import Grid
from oarseg.registration import elastix

axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
grid = Grid((4, 5, 6), (3.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes)
image = elastix._to_itk_image(np.zeros(grid.shape, np.float32), grid)
print(tuple(image.GetLargestPossibleRegion().GetSize()))
elastix._itk_module("itkElastixRegistrationMethodPython").itkElastixRegistrationMethodIF3IF3_New()
sys.exit("torch" in sys.modules or "xarray" in sys.modules)
"""


@pytest.mark.parametrize("library", ["torch", "xarray"])
def test_a_broken_library_that_itk_could_use_does_no_harm(tmp_path: Path, library: str) -> None:
    """Installed, as its metadata says, and its import fails."""
    (tmp_path / f"{library}-9.9.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {library}\nVersion: 9.9\n"
    (tmp_path / f"{library}-9.9.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / f"{library}.py").write_text("raise OSError('libfoo.so: no such file')")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(6, 5, 4)\n"


LOADED = """
import sys
import numpy as np
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Volume
from oarseg.registration import elastix

elastix.begin_loading().result()
before = {name for name in sys.modules if name.startswith("itk")}
grid = Grid((24, 24, 24), (4.0, 4.0, 4.0))
blob = Volume(np.random.default_rng(0).random(grid.shape, np.float32), grid)
stage = elastix.ElastixStage(shrink=(1,), iterations=2, samples=500, max_step_mm=1.0)
elastix.refine_rigid(blob, np.ones(grid.shape, bool), blob, RigidTransform(), stage)
print(*{name for name in sys.modules if name.startswith("itk")} - before)
"""


def test_what_is_loaded_beforehand_is_all_that_a_registration_loads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


def test_elastix_that_cannot_be_loaded_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        raise ImportError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(
        ResourceError, match=r"itk-elastix cannot be loaded \(.*--registration none"
    ):
        elastix._to_parameter_object({})
