"""Collect what happens to a case, and build its report."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.cases.case import Case, label_path, probability_name
from oarseg.challenges.challenge import Challenge
from oarseg.imaging.volume import Grid
from oarseg.inference.confidence.agreement import FoldAgreement
from oarseg.inference.engines.choice import Engines
from oarseg.inference.streaming import Effort
from oarseg.model.calibration import ExpectedDice, HowCompared
from oarseg.model.manifest import Manifest
from oarseg.system.usage import Steps, peak_mib, resident_mib
from oarseg.system.versions import package_versions
from oarseg.workflows.computation.sums import SumsPlace
from oarseg.workflows.dicom_outputs import dicom_record
from oarseg.workflows.settings import RunDescription

log = logging.getLogger(__name__)


@dataclass
class Notes:
    """Collect the facts of one case for its report.

    Attributes:
        steps: seconds and peak memory of each step.
        warnings: in their order.
        registration: a ``registration_record``; None without an MR.
        effort: how much of the full computation was done.
        given_up: what was left out to meet the time limit, in words.
        comparison: how bfloat16 agreed with float32 on this case; empty if it was not asked.
        sums: where sums of logits lay, and whether the folds shared one because each fold's own
            would not fit into memory.
        checks: what was measured of the organs and found implausible; None without.
        expected_dice: what the model's calibration expects of each organ; None without one.
        agreement: how far the folds agree on each organ; None where they were not compared.
        sides: how left and right were told apart; None where the model tells them.
        repair: what was repaired; None if that was not asked for.
        postprocessing: what the model's own postprocessing removed; None if it has none.
    """

    steps: Steps = field(default_factory=Steps)
    warnings: list[str] = field(default_factory=list)
    registration: dict[str, Any] | None = None
    effort: Effort = field(default_factory=Effort)
    given_up: tuple[str, ...] = ()
    comparison: str = ""
    checks: dict[str, Any] | None = None
    repair: dict[str, Any] | None = None
    postprocessing: dict[str, Any] | None = None
    agreement: dict[str, Any] | None = None
    expected_dice: dict[str, Any] | None = None
    sides: dict[str, Any] | None = None
    sums: SumsPlace = field(default_factory=SumsPlace)

    def warn(self, message: str) -> None:
        """Log a warning and keep it for the report."""
        log.warning("%s", message)
        self.warnings.append(message)


def organ_volumes_cm3(
    labels: NDArray[np.uint8], challenge: Challenge, grid: Grid
) -> dict[str, float]:
    """Compute the volume of each organ, by name."""
    # Plane by plane: bincount converts every voxel to 8 bytes.
    count = np.zeros(256, np.int64)
    for plane in labels:
        count += np.bincount(plane.ravel(), minlength=256)
    return {
        organ.name: round(float(count[list(organ.labels)].sum()) * grid.voxel_volume_mm3 / 1000, 3)
        for organ in challenge.organs
    }


def agreement_record(
    agreement: FoldAgreement,
    challenge: Challenge,
    folds: int,
    pairs: Sequence[tuple[int, int]] = (),
) -> dict[str, Any] | None:
    """Describe how far the folds agree on each organ; None where they were not compared."""
    if not agreement.pairs:
        return None
    # A class that holds both organs of a pair is compared as a whole.
    painted = {right: left for left, right in pairs}
    dice = {
        organ.name: agreement.dice({painted.get(label, label) for label in organ.labels})
        for organ in challenge.organs
    }
    return {
        "folds": folds,
        "mean_pairwise_dice": {
            name: None if value is None else round(value, 4) for name, value in dice.items()
        },
    }


def expected_dice_record(
    run: RunDescription,
    agreement: dict[str, Any] | None,
    effort: Effort,
    volumes_cm3: Mapping[str, float],
) -> dict[str, Any] | None:
    """Describe the Dice that the model's calibration expects of each organ.

    Of an organ that single folds found and the result does not have, nothing is expected: if it
    is there, its Dice is 0.

    Args:
        run: the model, with its calibration, and what is segmented.
        agreement: an ``agreement_record``.
        effort: how the folds were run.
        volumes_cm3: of each organ in the result, by name.

    Returns:
        None without a calibration, where the folds were not compared, or where they were run
        otherwise than for the calibration.
    """
    weights = run.weights
    if weights.calibration is None or agreement is None:
        return None
    compared = HowCompared(
        agreement["folds"], effort.mirror, effort.step, run.region, run.settings.repair
    )
    found = weights.calibration.expected_dice(agreement["mean_pairwise_dice"], compared)
    if found is None:
        return None
    return {
        "calibration_sha256": weights.calibration_sha256,
        "organs": {
            name: _rounded(expected) if expected and volumes_cm3.get(name) else None
            for name, expected in found.items()
        },
    }


def _rounded(expected: ExpectedDice) -> dict[str, Any]:
    values = {"dice": expected.dice, "error": expected.error}
    return {
        **{name: None if value is None else round(value, 3) for name, value in values.items()},
        "beyond": expected.beyond,
    }


def warn_of_empty(volumes_cm3: dict[str, float], notes: Notes) -> None:
    """Warn about organs without a single voxel."""
    empty = [name for name, volume in volumes_cm3.items() if volume == 0]
    if empty:
        notes.warn(f"not found in the images: {', '.join(empty)}")


def case_report(
    case: Case,
    run: RunDescription,
    engines: Engines,
    notes: Notes,
    volumes_cm3: dict[str, float],
) -> dict[str, Any]:
    """Build a case's report, ready for JSON.

    Args:
        case: names the files.
        run: what is the same for every case.
        engines: those that computed this case.
        notes: collected on the way.
        volumes_cm3: of each organ, by name.
    """
    manifest = run.weights.manifest
    return {
        "case": case.name,
        "inputs": {name: path.name for name, path in case.files.items()},
        "label_file": str(label_path(case, run.challenge)),
        "challenge": run.challenge.name,
        "model": {
            "title": manifest.title,
            "warning": manifest.warning,
            "manifest_sha256": run.weights.sha256,
            "folds": manifest.folds,
            **_configurations(manifest),
            "cross_validation": (manifest.cross_validation and manifest.cross_validation.record()),
        },
        "device": asdict(engines.choice),
        "threads": run.threads,
        "region": run.region,
        "precision": {
            "asked": run.precision,
            "arithmetic": engines.choice.arithmetic,
            "fold_sums": "joint" if notes.sums.joint else "separate",
            "sums_on": notes.sums.where,
            "comparison": notes.comparison,
        },
        "assume_hu": run.settings.assume_hu,
        "effort": {
            "folds": len(manifest.folds[: notes.effort.folds]),
            "mirroring": notes.effort.mirror,
            "step": notes.effort.step,
            "left_out": notes.given_up,
        },
        "registration": notes.registration,
        "dicom": dicom_record(case, run, volumes_cm3),
        "steps": [
            {"name": s.name, "seconds": round(s.seconds, 2), "peak_mib": round(s.peak_mib)}
            for s in notes.steps.done
        ],
        "peak_mib": round(_run_peak_mib(supervised=run.supervised)),
        "volumes_cm3": volumes_cm3,
        "probabilities": {name: probability_name(case.name, name) for name in run.probabilities},
        "fold_agreement": notes.agreement,
        "expected_dice": notes.expected_dice,
        "sides": notes.sides,
        "checks": notes.checks,
        "repair": notes.repair,
        "postprocessing": notes.postprocessing,
        "warnings": notes.warnings,
        "versions": package_versions(),
    }


def _configurations(manifest: Manifest) -> dict[str, Any]:
    """Say what runs, in order, where a model has more than one configuration."""
    if len(manifest.networks) == 1:
        return {}
    return {
        "configurations": [
            {"name": network.configuration, "folds": network.folds} for network in manifest.networks
        ]
    }


def _run_peak_mib(*, supervised: bool) -> float:
    """Return the most that this process has held since its start, and its supervisor with it."""
    return peak_mib() + (resident_mib(os.getppid()) if supervised else 0.0)
