"""The container's entry point: segment every case of /input into /output."""

from __future__ import annotations

import sys

from oarseg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["segment", *sys.argv[1:]]))
