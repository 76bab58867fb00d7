"""Put a finished export in the place of an earlier one."""

from __future__ import annotations

import shutil
from pathlib import Path

from oarseg.errors import WeightsError
from oarseg.model.calibration import CALIBRATION
from oarseg.model.manifest import Manifest, parse_manifest
from oarseg.model.model_folder import MANIFEST


def install_files(scratch: Path, out: Path, manifest: Manifest) -> None:
    """Move a finished export into place and remove what an earlier one left there.

    Files that no manifest there names may be anything, and stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep = _all_files(manifest)
    # Of the model that was there, which stays whole where this cannot be removed.
    (out / CALIBRATION).unlink(missing_ok=True)
    for name in _named_files(out):
        (out / name).unlink(missing_ok=True)
    for name in [*sorted(keep), MANIFEST]:
        shutil.move(scratch / name, out / name)


def _named_files(out: Path) -> list[str]:
    """The ONNX files of an earlier export; none where its manifest cannot be read."""
    try:
        text = (out / MANIFEST).read_bytes()
        manifest = parse_manifest(text, source=str(out))
    except (OSError, WeightsError):
        return []
    return sorted(_all_files(manifest))


def _all_files(manifest: Manifest) -> set[str]:
    return {model.file for network in manifest.networks for model in network.models}
