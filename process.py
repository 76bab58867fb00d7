"""The container's entry point: segment every case of /input into /output, or serve invocations.

An image that was built with ``./build.sh --invoke`` serves; its label tells the platform so, and
the file ``api-method`` beside this one tells it here, since no environment variable reaches it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from oarseg.cli.main import main

METHOD = Path(__file__).with_name("api-method")
COMMANDS = {"exec": "segment", "invoke": "serve"}


def command() -> str:
    """Return the command that the image was built for."""
    method = METHOD.read_text(encoding="ascii").strip() if METHOD.is_file() else "exec"
    return COMMANDS[method]


if __name__ == "__main__":
    sys.exit(main([command(), *sys.argv[1:]]))
