"""What a user types: each command reads its options and calls one function below."""

from oarseg.cli.interrupts import silence_spawned_worker
from oarseg.cli.main import main

silence_spawned_worker()

__all__ = ["main"]
