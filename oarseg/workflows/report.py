"""What a case's report gathers on the way, and says in the end."""

from __future__ import annotations

import logging
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg import __version__
from oarseg.cases.case import Case, label_path
from oarseg.challenges.challenge import Challenge
from oarseg.imaging.volume import Grid
from oarseg.inference.engines.choice import Engines
from oarseg.inference.streaming import Effort
from oarseg.model.bundle import Bundle
from oarseg.system.usage import Steps

log = logging.getLogger(__name__)

PACKAGES = (
    "numpy",
    "scipy",
    "SimpleITK",
    "itk-elastix",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
)


@dataclass
class Notes:
    """What a case's report gathers on the way."""

    steps: Steps = field(default_factory=Steps)
    warnings: list[str] = field(default_factory=list)
    registration: dict[str, Any] | None = None
    effort: Effort = field(default_factory=Effort)
    given_up: tuple[str, ...] = ()

    def warn(self, message: str) -> None:
        """Log a warning and keep it for the report."""
        log.warning("%s", message)
        self.warnings.append(message)


def organ_volumes_cm3(
    labels: NDArray[np.uint8], challenge: Challenge, grid: Grid
) -> dict[str, float]:
    """Volume of each organ, by name."""
    # Plane by plane: counting makes 8 bytes of every voxel.
    count = np.zeros(256, np.int64)
    for plane in labels:
        count += np.bincount(plane.ravel(), minlength=256)
    return {
        organ.name: round(float(count[list(organ.labels)].sum()) * grid.voxel_volume_mm3 / 1000, 3)
        for organ in challenge.organs
    }


def warn_of_empty(volumes_cm3: dict[str, float], notes: Notes) -> None:
    """Warn of structures without a voxel."""
    empty = [name for name, volume in volumes_cm3.items() if volume == 0]
    if empty:
        notes.warn(f"not found in the images: {', '.join(empty)}")


@dataclass(frozen=True)
class Setting:
    """What is the same for every case of a run."""

    weights: Bundle
    challenge: Challenge
    engines: Engines
    threads: int
    region: str
    assume_hu: bool


def case_report(
    case: Case, setting: Setting, notes: Notes, volumes_cm3: dict[str, float]
) -> dict[str, Any]:
    """The whole report, ready for JSON."""
    manifest = setting.weights.manifest
    return {
        "case": case.name,
        "inputs": {name: path.name for name, path in case.files.items()},
        "label_file": str(label_path(case, setting.challenge)),
        "challenge": setting.challenge.name,
        "model": {
            "title": manifest.title,
            "warning": manifest.warning,
            "manifest_sha256": setting.weights.sha256,
            "folds": manifest.folds,
        },
        "device": asdict(setting.engines.choice),
        "threads": setting.threads,
        "region": setting.region,
        "assume_hu": setting.assume_hu,
        "effort": {
            "folds": len(manifest.folds[: notes.effort.folds]),
            "mirroring": notes.effort.mirror,
            "step": notes.effort.step,
            "left_out": notes.given_up,
        },
        "registration": notes.registration,
        "steps": [
            {"name": s.name, "seconds": round(s.seconds, 2), "peak_mib": round(s.peak_mib)}
            for s in notes.steps.done
        ],
        "volumes_cm3": volumes_cm3,
        "warnings": notes.warnings,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"oarseg": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # onnxruntime comes under one of two names
            found[name] = version(name)
    return found
