"""Finds the folder of the model to run, and describes a folder that holds no model.

An uploaded model is never ignored. A folder that is not empty and has no manifest ends the run,
and the message says what was found and how to correct it. The supervisor imports this module, so
it stays small.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from oarseg.errors import WeightsError

MANIFEST: Final = "manifest.json"
# The shipped one has 6 KiB; a challenge of 255 structures of its own adds 64.
LARGEST_MANIFEST_BYTES: Final = 1 << 18
# Thirty years, which every system timer can count.
LONGEST_RUN_S: Final = 1e9

PLATFORM_WEIGHTS = Path("/opt/ml/model")
SHIPPED_WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

# Of the file system: it is on a mount that was never written to.
_NO_CONTENT = {"lost+found"}
_NNUNET_FILES = ("plans.json", "dataset.json", "dataset_fingerprint.json")
_MOST_ENTRIES, _NAMED = 2000, 4


def default_weights() -> Path:
    """Return the platform's model folder when there is anything in it, else the shipped weights.

    Raises:
        WeightsError: what is in it is no model, or there is none at all.
    """
    return find_model(PLATFORM_WEIGHTS, SHIPPED_WEIGHTS)


def time_limit_of(folder: Path) -> float | None:
    """Read the time limit in seconds that a model brings; None without one.

    A manifest that cannot be read has none here: what is wrong with it is said where it is
    read in full.
    """
    try:
        with (folder / MANIFEST).open("rb") as stream:
            document = json.loads(stream.read(LARGEST_MANIFEST_BYTES))
        seconds = document["run"]["time_limit_s"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return float(seconds) if known and 0 < seconds <= LONGEST_RUN_S else None


def find_model(platform: Path, shipped: Path) -> Path:
    """Find the folder of the model to run: an uploaded one, else the image's own.

    Args:
        platform: the folder for an uploaded model.
        shipped: the folder of the weights in checkout and image; a wheel has none, nor has an
            image that was built without.

    Raises:
        WeightsError: ``platform`` holds something that is no model, or both folders are empty.
    """
    if _has_manifest(platform):
        return platform
    if _entries(platform):
        raise WeightsError(describe_folder(platform))
    if _has_manifest(shipped):
        return shipped
    raise WeightsError(
        f"{platform}: expected a model, found none, and none in {shipped}, as in a wheel or an "
        "image built without weights; upload the archive of './export.sh weights' as the model, or "
        "pass --weights"
    )


def describe_folder(folder: Path) -> str:
    """Say in one sentence what a folder without a manifest holds, and what to do."""
    return f"{folder}: expected a model with {MANIFEST}, found {_describe_content(folder)}"


def _describe_content(folder: Path) -> str:
    if not folder.is_dir():
        return "no folder; make a model with 'oarseg export', or pass --weights"
    names = _entries(folder)
    if not names:
        return "an empty folder; make a model with 'oarseg export', or pass --weights"
    inside = [name for name in names if _has_manifest(folder / name)]
    if inside:
        return (
            f"it in the folder {_quoted(inside[0])}; pack that folder's contents, not the folder "
            "itself"
        )
    text = ", ".join(map(_quoted, names[:_NAMED])) + (", …" if len(names) > _NAMED else "")
    if any(map(_is_of_nnunet, _walk(folder))):
        return f"results of nnU-Net ({text}); make a model of them with 'oarseg export'"
    return f"only {text}; make a model with 'oarseg export' and put its contents there"


def _has_manifest(folder: Path) -> bool:
    """Tell whether a folder has a manifest.

    Raises:
        WeightsError: the folder cannot be read.
    """
    try:
        return (folder / MANIFEST).is_file()
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"{folder}: expected a folder that can be read, found {error.strerror}; check its mode"
    )


def _entries(folder: Path) -> list[str]:
    """List a folder without hidden names and those of a file system; empty if it does not exist.

    Raises:
        WeightsError: the folder cannot be listed, so that it may hold a model.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(name for name in names if name[:1] != "." and name not in _NO_CONTENT)


def _walk(folder: Path) -> Iterator[str]:
    """Yield the names of files in a folder and below, ``_MOST_ENTRIES`` at most."""
    count = 0
    for _, _, files in os.walk(folder):
        for name in files:
            yield name
            count += 1
            if count >= _MOST_ENTRIES:
                return


def _is_of_nnunet(name: str) -> bool:
    return name in _NNUNET_FILES or (name.startswith("checkpoint_") and name.endswith(".pth"))


def _quoted(name: str) -> str:
    short = name if len(name) <= 60 else f"{name[:60]}…"
    return f"'{short}'" if short.isprintable() else ascii(short)
