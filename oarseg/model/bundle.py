"""Opens a weights folder and checks every file in it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.errors import WeightsError
from oarseg.model.calibration import Calibration, read_calibration
from oarseg.model.entries.networks import ModelFile, Precision
from oarseg.model.manifest import Manifest, parse_manifest
from oarseg.model.model_folder import LARGEST_MANIFEST_BYTES, MANIFEST, describe_folder
from oarseg.model.network import check_network


@dataclass(frozen=True, config=STRICT)
class Bundle:
    """A weights folder whose files are complete and unchanged.

    Attributes:
        folder: where it lies.
        manifest: its contents.
        sha256: of the manifest.
        calibration: what Dice to expect by how far the folds agree; None without one.
        calibration_sha256: of its file.
    """

    folder: Path
    manifest: Manifest
    sha256: str
    calibration: Calibration | None = None
    calibration_sha256: str | None = None

    def paths(self, precision: Precision) -> tuple[Path, ...]:
        """List the ONNX files of one precision, one for each fold."""
        return tuple(self.folder / model.file for model in self.manifest.files(precision))

    @property
    def members(self) -> tuple[Bundle, ...]:
        """The networks whose probabilities are averaged, each as a folder of its own."""
        return tuple(replace(self, manifest=member) for member in self.manifest.members)

    @property
    def before(self) -> Bundle | None:
        """The stage before the first networks, if these are a cascade."""
        stage = self.manifest.before
        return None if stage is None else replace(self, manifest=stage)


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_bundle(folder: Path) -> Bundle:
    """Open a weights folder and check every file in it against the manifest.

    Each file must have the manifest's SHA-256 and hold a network of the manifest's channels,
    labels and patch (``network.check_network``). No network is run. A calibration beside the
    manifest must be of this model.

    Raises:
        WeightsError: no manifest, a broken one, or a file that is missing, changed or no
            network as ``oarseg export`` writes it; or a calibration that is damaged or of another
            model.
    """
    bundle = read_manifest(folder)
    for network in bundle.manifest.networks:
        for model in network.models:
            _check_file(folder, model)
            check_network(folder / model.file, network)
    found = read_calibration(folder, bundle.sha256)
    if found is None:
        return bundle
    calibration, text = found
    return replace(
        bundle, calibration=calibration, calibration_sha256=hashlib.sha256(text).hexdigest()
    )


def read_manifest(folder: Path) -> Bundle:
    """Read the manifest of a weights folder, and none of its other files.

    Raises:
        WeightsError: no manifest, or a broken one.
    """
    path = folder / MANIFEST
    try:
        if not path.is_file():
            raise WeightsError(describe_folder(folder))
        with path.open("rb") as stream:
            text = stream.read(LARGEST_MANIFEST_BYTES + 1)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    manifest = parse_manifest(text, source=str(path))
    return Bundle(folder, manifest, hashlib.sha256(text).hexdigest())


def _check_file(folder: Path, model: ModelFile) -> None:
    path = folder / model.file
    try:
        if not path.is_file():
            raise WeightsError(f"{path}: named by {MANIFEST} and not in the folder; export again")
        found = file_sha256(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if found != model.sha256:
        raise WeightsError(
            f"{path}: SHA-256 {found[:12]}… is not the manifest's {model.sha256[:12]}…; "
            "the file is damaged or of another export"
        )
