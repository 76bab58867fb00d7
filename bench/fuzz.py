"""Read many broken files: what came of them, the slowest of them, and the memory it took.

    python bench/fuzz.py --files 100000
    python bench/fuzz.py --dicom --files 10000

File number N is the same on every machine (``test/support/fuzzing.py`` makes it from N, or
``dicom_fuzzing.py``, whose files are slices in the middle of a series). The run
ends with status 1 if a file gave anything but a sound image or an InputError; a file that
takes too long ends the process with a traceback, and lies in ``--folder`` all the same.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import ModuleType

import dicom_fuzzing
import fuzzing

ROOT = Path(__file__).resolve().parent.parent
# Of a clock that other work on the machine does not stop.
LONGEST_S = 60
MOST_BYTES = 1 << 30


@dataclass
class Tally:
    """What came of the files."""

    files: int = 0
    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest_file: int = -1
    slowest_bytes: int = 0
    cpu_s: float = 0.0
    peak_mib: float = 0.0


def main() -> int:
    """Run; 0 where no file broke the promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=1_000_000, help="number of the first file")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--dicom", action="store_true", help="slices of DICOM")
    parser.add_argument("--out", type=Path, help="folder for fuzz.json")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    tally = Tally()
    for number in range(arguments.first, arguments.first + arguments.files):
        _try(number, arguments.folder, tally, dicom_fuzzing if arguments.dicom else fuzzing)
    tally.cpu_s = round(time.process_time(), 1)
    tally.peak_mib = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    text = json.dumps(vars(tally), indent=1)
    print(text)
    print(
        f"slowest: file {tally.slowest_file}, {tally.slowest_bytes} bytes, {tally.slowest_s} s",
    )
    if arguments.out:
        (arguments.out / "fuzz.json").write_text(text + "\n")
    return 1 if tally.failures else 0


def _try(number: int, folder: Path, tally: Tally, fuzzer: ModuleType) -> None:
    file = fuzzer.make(Random(number))
    path = folder / f"current.{file.ending}"
    path.write_bytes(file.data)
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    start = time.process_time()
    try:
        outcome = tally.refused if fuzzer.check(path) is None else tally.read
        outcome[file.ending] += 1
    except Exception as error:  # whatever it is, it breaks the promise and is reported
        path.rename(folder / f"{number}.{file.ending}")
        tally.failures.append(f"{number}.{file.ending}: {type(error).__name__}: {error}")
    seconds = time.process_time() - start
    # Making the next file is not the reader's time.
    faulthandler.cancel_dump_traceback_later()
    tally.files += 1
    if seconds > tally.slowest_s:
        tally.slowest_s, tally.slowest_file = round(seconds, 4), number
        tally.slowest_bytes = len(file.data)


if __name__ == "__main__":
    sys.exit(main())
