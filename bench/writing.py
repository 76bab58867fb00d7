"""Seconds and memory of writing SegRap's 45 overlapping organs.

    python bench/writing.py [--enlarge 2 4 4]

A small phantom's labels, each voxel enlarged, stand for a large scan. The 4-D image, the
layered segmentation and the 45 masks are written as ``oarseg segment`` writes them.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from oarseg.cases.case import Case
from oarseg.challenges import catalogue
from oarseg.imaging.volume import Grid, Volume
from oarseg.phantom import PhantomSpec
from oarseg.phantom.profile import make_case
from oarseg.results.write_case import write_case
from oarseg.system.usage import _reset_peak, peak_mib


def main() -> None:
    """Write once and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--enlarge", type=int, nargs=3, default=(2, 4, 4), help="z, y, x")
    factors = parser.parse_args().enlarge
    rules = catalogue.load_challenge("segrap_oar")
    labels = make_case(PhantomSpec(201), rules).labels.array
    for axis, factor in enumerate(factors):
        labels = labels.repeat(factor, axis)
    size = (labels.shape[0], labels.shape[1], labels.shape[2])
    volume = Volume(np.ascontiguousarray(labels), Grid(size, (1.5, 0.45, 0.45)))
    case = Case("a", {"CT": Path("a.mha")})
    with tempfile.TemporaryDirectory() as folder:
        _reset_peak()
        before, start = _resident_mib(), time.perf_counter()
        files = write_case(Path(folder), case=case, challenge=rules, labels=volume, report={})
        seconds, peak = time.perf_counter() - start, peak_mib()
        megabytes = [file.stat().st_size / 1e6 for file in files]
    print(
        f"{' × '.join(map(str, size))}: {seconds:.1f} s; resident {before:.0f} MiB before, "
        f"peak {peak:.0f} MiB (one mask uncompressed: {labels.size / 2**20:.0f} MiB); "
        f"4-D image {megabytes[0]:.1f} MB, segmentation {megabytes[1]:.1f} MB"
    )


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
