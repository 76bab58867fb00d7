"""The command line: each command parses its options and calls one function of a lower room."""

import os

# Before NumPy is imported: its BLAS would share out products of a few thousand numbers, and its
# threads spin while they wait. What takes long has threads of its own. It rounds the same.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from oarseg.cli.interrupts import silence_spawned_worker
from oarseg.cli.main import main

silence_spawned_worker()

__all__ = ["main"]
