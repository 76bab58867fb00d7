"""A copy of this checkout, as somebody else's clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from docker_engine import ROOT


def copy_checkout(folder: Path) -> Path:
    """Copy what is tracked, as a clone has it, with this environment as its own."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    environment = folder / ".venv"
    environment.mkdir()
    (environment / "bin").symlink_to(Path(sys.prefix, "bin"))
    # Newer than pyproject.toml, so that make installs nothing.
    for name in ("pyvenv.cfg", "run.stamp", "dev.stamp"):
        (environment / name).touch()
    return folder
