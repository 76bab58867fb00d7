"""Give many damaged results folders to ``export``: what came of them, and the slowest.

    python bench/fuzz_export.py --files 5000

File number N is the same on every machine (``test/support/export_fuzzing.py`` makes it from N):
plans, a data set file or a checkpoint, the rest of the folder whole. Each goes as far as
``oarseg export`` goes before it compares networks. The run ends with status 1 if one gave
anything but a model or one sentence; such files are kept in ``--folder``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "test" / "support")]

import export_fuzzing  # noqa: E402


@dataclass
class Tally:
    """What came of the files."""

    files: int = 0
    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    other: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest_file: int = -1


def main() -> int:
    """Run; 0 where no file broke the promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fuzz_export")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    export_fuzzing.fork_readers()
    tally = Tally()
    with TemporaryDirectory() as scratch:
        results = export_fuzzing.make_folder(Path(scratch))
        for number in range(arguments.first, arguments.first + arguments.files):
            _try(number, results, arguments.folder, tally)
            if tally.files % 250 == 0:
                print(json.dumps(vars(tally)), file=sys.stderr, flush=True)
    print(json.dumps(vars(tally), indent=1))
    return 1 if tally.other else 0


def _try(number: int, results: Path, kept: Path, tally: Tally) -> None:
    file = export_fuzzing.make_damaged(number)
    export_fuzzing.place_file(results, file)
    start = time.monotonic()
    try:
        outcome = tally.read if export_fuzzing.try_export(results) is None else tally.refused
        outcome[file.kind] += 1
    except Exception as error:  # whatever it is, it breaks the promise and is reported
        (kept / f"{number}.{file.kind}").write_bytes(file.data)
        tally.other.append(f"{number}.{file.kind}: {type(error).__name__}: {error}")
    seconds = time.monotonic() - start
    export_fuzzing.place_file(results, export_fuzzing.whole_file(file.kind))
    tally.files += 1
    if seconds > tally.slowest_s:
        tally.slowest_s, tally.slowest_file = round(seconds, 3), number


if __name__ == "__main__":
    sys.exit(main())
