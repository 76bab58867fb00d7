"""Where outputs lie below the output folder, and which names can be those of cases.

This module needs nothing but Python, so that a process without much memory can use it.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

INPUTS = "inputs.json"
IMAGES = "images"
RESULTS = "results.json"
MASKS = "oar_masks"
REPORTS = "reports"
EARLIER = "earlier"
# A run's own files; input folders' hidden entries are ignored, and no case may lie below it.
HIDDEN = ".oarseg"
# Linux file systems allow that many bytes for each part of a path.
NAME_BYTES = 255


def is_case_name(name: str) -> bool:
    """Whether a case, and so a file or folder of its own, can have this name."""
    allowed = name.isprintable() and "/" not in name and name not in ("", ".", "..")
    return allowed and len(name.encode()) <= NAME_BYTES


def segmentation_path(name: str) -> Path:
    """Where a case's Slicer segmentation lies, below the output folder."""
    return Path(MASKS, f"{name}.seg.nrrd")


def masks_path(name: str) -> Path:
    """The folder of a case's masks, below the output folder."""
    return Path(MASKS, name)


def report_path(name: str) -> Path:
    """Where a case's report lies, below the output folder."""
    return Path(REPORTS, f"{name}.json")


def fold_path(path: Path) -> Path:
    """A path as file systems see it that ignore case and the form of accents.

    Outputs are compared this way wherever they are written: a folder on Linux may be shared
    with, or copied to, Windows or macOS.
    """
    folded = unicodedata.normalize("NFD", str(path)).casefold()
    return Path(unicodedata.normalize("NFC", folded))


def safe_relative_path(text: object) -> Path | None:
    """A path that was read from a file, if it is relative and leads nowhere else."""
    if not isinstance(text, str) or not text.isprintable():
        return None
    path = Path(text)
    return None if path.is_absolute() or ".." in path.parts or not path.parts else path
