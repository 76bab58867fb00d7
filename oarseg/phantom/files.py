"""Volumes as files of a phantom."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from oarseg.errors import OutputError
from oarseg.imaging.volume import Volume, set_geometry


def save(volume: Volume, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a volume compressed, with NRRD header fields of one's own."""
    image = set_geometry(sitk.GetImageFromArray(volume.array), volume.grid)
    for key, value in (metadata or {}).items():
        image.SetMetaData(key, value)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OutputError(f"{path}: expected to write an image, could not: {error}") from error
