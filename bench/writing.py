"""CPU time, memory and bytes of writing a case's labels, and of ways to deflate them.

    python bench/writing.py [--challenge segrap_oar] [--size median]
    python bench/writing.py rtstruct|segmentation [--challenge segrap_oar] [--size median]
    python bench/writing.py deflate [--rounds 5]

The first writes a phantom's case as ``oarseg segment`` does, the second one DICOM object alone,
in a process of its own if the peak is to count. The third compresses every mask
of it with our zero runs, with zlib and with ISA-L (``pip install isal``), in turns, so that a
busy machine slows all of them alike; CPU time is user and system of all threads.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from oarseg.cases.case import Case
from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.volume import Grid, Volume
from oarseg.labels import deflate
from oarseg.labels.boxes import enclosing_box, label_boxes
from oarseg.phantom import PhantomSpec, make_phantom
from oarseg.phantom.spec import CT_SIZES
from oarseg.results.dicom.segmentation import SegmentationForm
from oarseg.results.dicom.write_objects import DicomRequest, write_objects
from oarseg.results.write_case import write_case
from oarseg.system.usage import PeakWatch, resident_mib

SEED = 201
CACHE = Path(__file__).resolve().parent.parent / "build" / "bench"

Labels = NDArray[np.uint8]
Module = Any  # zlib, or isal's module of the same functions


@dataclass
class Cost:
    """What one way to compress took, a number a round."""

    cpu_s: list[float] = field(default_factory=list)
    size: int = 0

    @contextmanager
    def round(self) -> Iterator[None]:
        """Measure the body of a ``with`` block."""
        start = _cpu_s()
        yield
        self.cpu_s.append(_cpu_s() - start)

    def row(self, name: str) -> str:
        """As a row of a Markdown table."""
        least, middle = min(self.cpu_s), statistics.median(self.cpu_s)
        return f"| {name} | {least:.2f} | {middle:.2f} | {self.size / 1e6:.2f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = ("case", "rtstruct", "segmentation", "deflate")
    parser.add_argument("what", choices=what, nargs="?", default="case")
    parser.add_argument("--challenge", choices=catalogue.challenge_names(), default="han_seg")
    parser.add_argument("--size", choices=tuple(CT_SIZES), default="median", help="of the phantom")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of phantoms' labels")
    parser.add_argument("--rounds", type=int, default=5, help="of deflate")
    arguments = parser.parse_args()
    rules = catalogue.load_challenge(arguments.challenge)
    labels = _labels(arguments.cache, rules, arguments.size)
    if arguments.what == "case":
        _write(labels, rules)
    elif arguments.what in ("rtstruct", "segmentation"):
        _write_object(labels, rules, structure_set=arguments.what == "rtstruct")
    else:
        _compare(labels.array, rules, arguments.rounds)


def _labels(cache: Path, rules: Challenge, size: str) -> Volume:
    """The phantom's label map, kept: a large one takes minutes."""
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / f"labels-{rules.name}-{size}.npy"
    spec = PhantomSpec(SEED, size, with_mr=False)
    if not file.is_file():
        np.save(file, make_phantom(spec, rules).labels.array)
    array: Labels = np.load(file)
    return Volume(array, Grid((array.shape[0], array.shape[1], array.shape[2]), (2.0, 0.6, 0.6)))


def _write(labels: Volume, rules: Challenge) -> None:
    case = Case("a", {"CT": Path("a.mha")})
    cost = Cost()
    with tempfile.TemporaryDirectory() as folder:
        before, start = resident_mib(), time.perf_counter()
        with PeakWatch() as watch, cost.round():
            files = write_case(Path(folder), case=case, challenge=rules, labels=labels, report={})
        seconds, peak = time.perf_counter() - start, watch.mib
        megabytes = [file.stat().st_size / 1e6 for file in files]
    print(
        f"{' × '.join(map(str, labels.array.shape))}, {len(rules.organs)} organs: "
        f"{cost.cpu_s[0]:.1f} s of CPU, {seconds:.1f} s; resident {before:.0f} MiB before, "
        f"peak {peak:.0f} MiB (one mask uncompressed: {labels.array.size / 2**20:.0f} MiB); "
        f"label file {megabytes[0]:.1f} MB, segmentation {megabytes[1]:.1f} MB, "
        f"masks {sum(megabytes[2:-1]):.1f} MB"
    )


def _series(grid: Grid) -> DicomSeries:
    """A series without files on a grid whose axes are the patient's."""
    slices, rows, columns = grid.shape
    return DicomSeries(
        files=tuple(Path(str(index)) for index in range(slices)),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uids=tuple(f"2.25.{index + 1}" for index in range(slices)),
        series_uid="2.25.1000001",
        study_uid="2.25.1000002",
        frame_of_reference_uid="2.25.1000003",
        modality="CT",
        rows=rows,
        columns=columns,
        pixel_spacing_mm=grid.spacing_mm[1:],
        row_direction=(1.0, 0.0, 0.0),
        column_direction=(0.0, 1.0, 0.0),
        positions_mm=tuple((0.0, 0.0, index * grid.spacing_mm[0]) for index in range(slices)),
        spacing_mm=grid.spacing_mm[0],
        patient_attributes={},
    )


def _write_object(labels: Volume, rules: Challenge, *, structure_set: bool) -> None:
    by_label = label_boxes(labels.array, len(rules.structures))
    boxes = [enclosing_box(by_label[n - 1] for n in organ.labels) for organ in rules.organs]
    form: SegmentationForm | None = None if structure_set else "binary"
    request = DicomRequest(_series(labels.grid), "bench", "0" * 64, "", structure_set, form)
    cost = Cost()
    with tempfile.TemporaryDirectory() as folder:
        before, start = resident_mib(), time.perf_counter()
        with PeakWatch() as watch, cost.round():
            (name,) = write_objects(
                Path(folder),
                "a",
                labels=labels.array,
                organs=rules.organs,
                boxes=boxes,
                request=request,
            )
        seconds, peak = time.perf_counter() - start, watch.mib
        megabytes = Path(folder, name).stat().st_size / 1e6
    print(
        f"{' × '.join(map(str, labels.array.shape))}, {len(rules.organs)} organs: "
        f"{cost.cpu_s[0]:.1f} s of CPU, {seconds:.1f} s; resident {before:.0f} MiB before, "
        f"peak {peak:.0f} MiB; {name}: {megabytes:.1f} MB"
    )


def _compare(labels: Labels, rules: Challenge, rounds: int) -> None:
    """Print a table of the ways to compress all masks, and the label map itself."""
    ways = _ways(labels, rules)
    costs = {name: Cost() for name in ways}
    for _ in range(rounds):
        for name, compress in ways.items():
            with costs[name].round():
                costs[name].size = compress()
    masks = f"{len(rules.organs)} masks of {' × '.join(map(str, labels.shape))}"
    print(f"| {masks} | CPU s, least | median | MB |\n|---|---|---|---|")
    for name, cost in costs.items():
        print(cost.row(name))


def _ways(labels: Labels, rules: Challenge) -> dict[str, Callable[[], int]]:
    modules: dict[str, tuple[Module, int]] = {"zlib": (zlib, deflate.LEVEL)}
    try:
        from isal import isal_zlib
    except ImportError:
        print("isal is not installed: zlib alone")
    else:
        modules |= {"isal, level 0": (isal_zlib, 0), "isal, level 1": (isal_zlib, 1)}
    ways: dict[str, Callable[[], int]] = {}
    for name, (module, level) in modules.items():
        ways[f"masks: zero runs, {name}"] = partial(_zero_runs, labels, rules, module, level)
        ways[f"masks: whole, {name}"] = partial(_whole, labels, rules, module, level)
        ways[f"label map: {name}"] = partial(_label_map, labels, module, level)
    return dict(sorted(ways.items()))


def _zero_runs(labels: Labels, rules: Challenge, module: Module, level: int) -> int:
    """All masks as the package writes them, with this module for what is not zero."""
    with _deflating_with(module, level):
        zeros = deflate.Zeros(labels.shape[2])
        by_label = label_boxes(labels, len(rules.structures))
        boxes = [enclosing_box(by_label[n - 1] for n in organ.labels) for organ in rules.organs]
        return sum(
            _size(deflate.deflate_mask(labels, organ.labels, box=box, zeros=zeros).gzip())
            for organ, box in zip(rules.organs, boxes, strict=True)
        )


def _whole(labels: Labels, rules: Challenge, module: Module, level: int) -> int:
    """All masks, each compressed from its first byte to its last as one gzip file."""
    size = 0
    for organ in rules.organs:
        table = np.zeros(256, np.uint8)
        table[list(organ.labels)] = 1
        compressor = module.compressobj(level, module.DEFLATED, 16 + module.MAX_WBITS)
        for plane in labels:
            mask = (plane == organ.labels[0]) if len(organ.labels) == 1 else table[plane]
            size += len(compressor.compress(mask.view(np.uint8).data))
        size += len(compressor.flush())
    return size


def _label_map(labels: Labels, module: Module, level: int) -> int:
    with _deflating_with(module, level), ThreadPoolExecutor(1) as pool:
        return _size(deflate.deflate_array(labels, pool).gzip())


@contextmanager
def _deflating_with(module: Module, level: int) -> Iterator[None]:
    with patch.object(deflate, "zlib", module), patch.object(deflate, "LEVEL", level):
        yield


def _size(pieces: Iterable[bytes]) -> int:
    return sum(len(piece) for piece in pieces)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
