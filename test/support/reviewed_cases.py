"""Cases as ``segment`` would have written them, with a phantom's labels or any others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oarseg.cases.case import Case, label_path
from oarseg.challenges.catalogue import load_challenge
from oarseg.challenges.challenge import Challenge
from oarseg.imaging.volume import Volume
from oarseg.phantom.case import Phantom
from oarseg.phantom.write_cases import write_volume
from oarseg.registration import Registration, Verdict, registration_record
from oarseg.results.results_file import Record, write_results
from oarseg.results.write_case import write_case
from oarseg.workflows.report import organ_volumes_cm3
from oarseg.workflows.review.judge_organs import check_organs

HAN_SEG = load_challenge("han_seg")
WARNING = "NOT FOR CLINICAL USE: made for a test."


def write_input(folder: Path, name: str, phantom: Phantom) -> Case:
    """Write a phantom's images as the platform would."""
    files = {}
    for channel, slug in (("CT", "ct"), ("MR_T1", "t1-mri")):
        if channel in phantom.images:
            path = folder / "images" / slug / f"{name}_{channel}.mha"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(phantom.images[channel], path)
            files[channel] = path
    return Case(name, files)


def write_reviewed(
    source: Path,
    output: Path,
    name: str,
    phantom: Phantom,
    *,
    challenge: Challenge = HAN_SEG,
    labels: Volume | None = None,
    change: Callable[[dict[str, Any]], None] = lambda report: None,
) -> Case:
    """Write a case's images, and results with these labels.

    Args:
        source, output: folders.
        name: of the case.
        phantom: images, labels and the true transform.
        challenge: of the results.
        labels: instead of the phantom's.
        change: changes the report before it is written.
    """
    case = write_input(source, name, phantom)
    labels = labels or phantom.labels
    found = None
    if phantom.mr is not None:
        verdict = Verdict("good", 0.5, 0.5, 0.5, 1.0, 0.0, ())
        found = registration_record(Registration(phantom.truth.ct_to_mr, verdict, 1.25))
    report: dict[str, Any] = {
        "case": name,
        "inputs": {channel: path.name for channel, path in case.files.items()},
        "label_file": str(label_path(case, challenge)),
        "challenge": challenge.name,
        "model": {
            "title": "A test's model",
            "warning": WARNING,
            "manifest_sha256": "0123456789abcdef" * 4,
            "folds": ["0", "1"],
        },
        "device": {"device": "cpu", "engine": "OpenVINO", "reason": "no GPU"},
        "precision": {"asked": "exact", "arithmetic": "float32"},
        "effort": {"left_out": []},
        "registration": found,
        "steps": [
            {"name": "reading", "seconds": 1.5, "peak_mib": 300},
            {"name": "segmentation", "seconds": 20.25, "peak_mib": 900},
        ],
        "volumes_cm3": organ_volumes_cm3(labels.array, challenge, labels.grid),
        "checks": check_organs(labels, challenge, phantom.ct),
        "repair": None,
        "warnings": [],
        "versions": {"oarseg": "0", "python": "3"},
    }
    change(report)
    written = write_case(output, case=case, challenge=challenge, labels=labels, report=report)
    record_case(output, Record(name, case.files, written[0]))
    return case


def record_case(output: Path, record: Record) -> None:
    """Add a record to ``results.json``."""
    path = output / "results.json"
    entries = json.loads(path.read_text()) if path.exists() else []
    output.mkdir(parents=True, exist_ok=True)
    write_results(output, [*entries, record.entry])
