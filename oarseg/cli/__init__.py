"""The command line: each command parses its options and calls one function of a lower room."""

from oarseg.cli.interrupts import silence_spawned_worker
from oarseg.cli.main import main

silence_spawned_worker()

__all__ = ["main"]
