"""Measure the page of a case: its size, and the seconds and memory that it takes.

    python bench/page.py --out bench/results

Each size in a process of its own; labels are a phantom's truth, the MR lies as its header says.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from reviewed_cases import HAN_SEG, write_reviewed

from oarseg.cases.case import Case
from oarseg.phantom.case import make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.workflows.review.report_pages import write_case_page

SIZES = ("small", "medium", "median", "maximum")
SEED = 203


def write(folder: Path, size: str) -> str:
    """Write a case; return its CT's size in words."""
    phantom = make_phantom(PhantomSpec(SEED, size))
    write_reviewed(folder / "in", folder / "out", "case", phantom)
    return phantom.ct.grid.size_text


def measure(folder: Path) -> dict[str, float]:
    """Write the page of a case that is in place, and measure this process."""
    files = {"CT": folder / "in/images/ct/case_CT.mha"}
    files["MR_T1"] = folder / "in/images/t1-mri/case_MR_T1.mha"
    before, start = time.process_time(), time.perf_counter()
    write_case_page(Case("case", files), folder / "out", HAN_SEG)
    return {
        "mib": (folder / "out/reports/case.html").stat().st_size / 2**20,
        "cpu_s": time.process_time() - before,
        "wall_s": time.perf_counter() - start,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def row(size: str) -> str:
    """Measure one size; return its row of the table."""
    with tempfile.TemporaryDirectory() as name:
        words = write(Path(name), size)
        child = [sys.executable, __file__, "--folder", name]
        found = json.loads(subprocess.run(child, capture_output=True, check=True, text=True).stdout)
    return (
        f"| {size}, {words} | {found['mib']:.1f} | {found['cpu_s']:.1f} | {found['wall_s']:.1f} "
        f"| {found['peak_mib']:.0f} |\n"
    )


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=SIZES[:3], choices=SIZES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        print(json.dumps(measure(arguments.folder)))
        return
    text = "| phantom, CT and MR | page, MiB | CPU, s | wall, s | peak memory, MiB |\n"
    text += "|---|---|---|---|---|\n"
    for size in arguments.sizes:
        text += row(size)
        print(text.splitlines()[-1], flush=True)
    if arguments.out is not None:
        path = arguments.out / f"{date.today()}-page.md"
        path.write_text(f"# The page of a case\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
