"""The commands of a page of the documentation, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def page_commands(page: Path) -> list[str]:
    """Return the lines of a page's first block of code."""
    return re.split(r"^```$", page.read_text(), flags=re.MULTILINE)[1].strip().splitlines()


def run_line(line: str, folder: Path, **more: str) -> str:
    """Run a command in a shell, where ``oarseg`` is the one of this environment.

    Args:
        line: the command.
        folder: where it runs.
        more: variables of its environment.

    Returns:
        What it printed; an AssertionError with that if it failed.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=os.environ | {"PATH": path} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}"
    return done.stdout
