"""Places of outputs below the output folder, and the names that a case can have.

This module imports only the standard library, so that a process with little memory can use it.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

INPUTS = "inputs.json"
# What is known of a cohort, in its output folder.
COHORT = "cohort"
IMAGES = "images"
RESULTS = "results.json"
MASKS = "oar_masks"
REPORTS = "reports"
EARLIER = "earlier"
# The run's own files. No case may lie below it; hidden entries of input folders are ignored.
HIDDEN = ".oarseg"
# Linux file systems allow this many bytes for each part of a path.
NAME_BYTES = 255


def is_case_name(name: str) -> bool:
    """Return whether a case can have this name, as files and folders are named after it."""
    allowed = name.isprintable() and "/" not in name and name not in ("", ".", "..")
    return allowed and len(name.encode()) <= NAME_BYTES


def segmentation_path(name: str) -> Path:
    """Return the path of a case's Slicer segmentation below the output folder."""
    return Path(MASKS, f"{name}.seg.nrrd")


def masks_path(name: str) -> Path:
    """Return the folder of a case's masks below the output folder."""
    return Path(MASKS, name)


def report_path(name: str) -> Path:
    """Return the path of a case's report below the output folder."""
    return Path(REPORTS, f"{name}.json")


def page_path(name: str) -> Path:
    """Return the path of a case's page below the output folder."""
    return Path(REPORTS, f"{name}.html")


def fold_path(path: Path) -> Path:
    """Fold a path as file systems do that ignore case and the form of accents.

    Outputs are compared this way on every file system: a folder on Linux may be shared with,
    or copied to, Windows or macOS.
    """
    folded = unicodedata.normalize("NFD", str(path)).casefold()
    return Path(unicodedata.normalize("NFC", folded))


def safe_relative_path(text: object) -> Path | None:
    """Return a path read from a file; None unless it is relative and stays in its folder."""
    if not isinstance(text, str) or not text.isprintable():
        return None
    path = Path(text)
    return None if path.is_absolute() or ".." in path.parts or not path.parts else path
