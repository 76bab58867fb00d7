"""What a user types: each command reads its options and calls one function below."""

from oarseg.cli.main import main

__all__ = ["main"]
