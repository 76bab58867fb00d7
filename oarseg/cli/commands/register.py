"""The command ``oarseg register``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from oarseg.cli.options import (
    add_registration_argument,
    add_series,
    add_threads,
)

if TYPE_CHECKING:
    from oarseg.workflows.register_pair import Registered


def add_register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``oarseg register``."""
    parser = commands.add_parser(
        "register",
        help="register one MR to one CT, and judge the result",
        description="Writes the moved MR, the transform (ITK, CT to MR), the verdict (JSON) and "
        "a picture. The exit status is 1 if the registration failed.",
    )
    parser.add_argument("ct", type=Path, metavar="CT", help="a file, or a folder of DICOM")
    parser.add_argument("mr", type=Path, metavar="MR", help="a file, or a folder of DICOM")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    add_registration_argument(parser)
    add_series(parser)
    parser.add_argument(
        "--landmarks",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="measure the error at landmarks: a CSV (name,ct_x,ct_y,ct_z,mr_x,mr_y,mr_z; mm, LPS), "
        "a phantom's _truth.json, or two .mrk.json files of 3D Slicer, the CT's first (default: "
        "none)",
    )
    parser.add_argument(
        "--assume-hu", action="store_true", help="accept the CT's values as HU without a check"
    )
    add_threads(parser)
    parser.set_defaults(command=run_register)


def run_register(arguments: argparse.Namespace) -> int:
    """Register and print the result; a failed registration is an error."""
    from oarseg.workflows.register_pair import register_files, require_usable

    result = register_files(
        arguments.ct,
        arguments.mr,
        arguments.out,
        method=arguments.registration,
        landmarks=arguments.landmarks,
        threads=arguments.threads,
        assume_hu=arguments.assume_hu,
        series=(arguments.series, arguments.mr_series),
    )
    print("\n".join(report_lines(result)))
    require_usable(result.found)
    return 0


def report_lines(result: Registered) -> list[str]:
    """Return the lines to print: verdict, B-spline, landmarks, files."""
    from oarseg.registration import TG132_MAX_MM, TG132_MEAN_MM

    verdict, refinement = result.found.verdict, result.found.refinement
    reasons = f": {'; '.join(verdict.reasons)}" if verdict.reasons else ""
    lines = [f"{verdict.status}{reasons}"]
    if refinement:
        kept = f"up to {refinement.farthest_mm:.1f} mm, no fold"
        lines.append(f"B-spline: {kept if refinement.kept else 'not kept, ' + refinement.reason}")
    if result.landmarks is not None and result.accuracy is not None:
        names, accuracy = result.landmarks.names, result.accuracy
        lines += [f"{e:6.2f} mm  {n}" for n, e in zip(names, result.errors_mm, strict=True)]
        met = "met" if accuracy.meets_tg132 else "not met"
        lines.append(
            f"mean {accuracy.mean_mm:.2f}, SD {accuracy.sd_mm:.2f}, max {accuracy.max_mm:.2f} mm; "
            f"TG-132 (mean < {TG132_MEAN_MM:g}, max < {TG132_MAX_MM:g}) {met}"
        )
    return [*lines, *map(str, result.files)]
