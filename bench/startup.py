"""Time a run from the start of its process to the first tile of its first case, part by part.

    python bench/startup.py
    python bench/startup.py --weights DIR --input DIR --precision fast --runs 9 --out bench/results

A part ends where the next begins. ``beyond reading`` is what is left of the whole without the parts
that grow with the images: reading, registration and preprocessing. Seconds are those on the wall,
from the start that the kernel tells; processor seconds, of supervisor and worker, bear other work
on the machine better. The run is the program's own (``oarseg segment``), ended at its first tile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import machine

from oarseg.system import usage

ROOT = Path(__file__).resolve().parents[1]
# Steps of a case that grow with its images.
OF_THE_CASE = ("reading", "registration", "preprocessing")
PARTS = {
    "command line": "interpreter and the supervisor's imports",
    "imports": "the rest of the program, in the worker",
    "model": "hashes and structure of the weights",
    "networks": "cases found, networks opened, their memory on an empty tile",
    **dict.fromkeys(OF_THE_CASE, "of the case"),
    "tile": "choice of the arithmetic, sums, tiles planned",
    "whole": "",
    "beyond reading": "whole without what is of the case",
}


@dataclass(frozen=True)
class Mark:
    """The end of a part: seconds since the run began, on the wall and of processors."""

    part: str
    wall_s: float
    cpu_s: float


class Marks:
    """Collects marks in a process and, once it has forked, in its worker."""

    def __init__(self) -> None:
        self._supervisor, self._before_s = os.getpid(), 0.0
        self._age_s, self._begun = usage.process_age_s(), os.times()
        self.done: list[Mark] = []

    def end(self, part: str) -> None:
        """Note that a part has ended."""
        now = os.times()
        spent = now.user + now.system
        if os.getpid() == self._supervisor:
            self._before_s = spent
        else:
            spent += self._before_s
        wall_s = self._age_s + now.elapsed - self._begun.elapsed
        self.done.append(Mark(part, wall_s, spent))


def main() -> None:
    """Run, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, default=ROOT / "test")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--precision", choices=("exact", "fast"), default="exact")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder for the table")
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trace is not None:
        trace(arguments)
    runs = [one_run(arguments) for _ in range(arguments.runs + 1)][1:]  # the first fills caches
    text = "\n".join([header(arguments), *table(runs)])
    print(text)
    if arguments.out is not None:
        name = f"{datetime.date.today().isoformat()}-startup.md"
        (arguments.out / name).write_text(text + "\n", encoding="utf-8")


def one_run(arguments: argparse.Namespace) -> dict[str, Mark]:
    """Run up to the first tile in a process of its own; returns what each part took."""
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder) / "marks.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--trace", str(marks)]
        command += ["--input", str(arguments.input), "--weights", str(arguments.weights)]
        command += ["--precision", arguments.precision]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return parts_of([Mark(*values) for values in json.loads(marks.read_text())])


def parts_of(marks: Sequence[Mark]) -> dict[str, Mark]:
    """Return what each part took, the whole, and what is left without the case's own steps."""
    last = Mark("", 0.0, 0.0)
    found: dict[str, Mark] = {}
    for mark in marks:
        before = found.get(mark.part, Mark(mark.part, 0.0, 0.0))
        wall_s = before.wall_s + mark.wall_s - last.wall_s
        found[mark.part] = Mark(mark.part, wall_s, before.cpu_s + mark.cpu_s - last.cpu_s)
        last = mark
    own = [found[part] for part in OF_THE_CASE if part in found]
    found["whole"] = last
    found["beyond reading"] = Mark(
        "beyond reading",
        last.wall_s - sum(mark.wall_s for mark in own),
        last.cpu_s - sum(mark.cpu_s for mark in own),
    )
    return found


def header(arguments: argparse.Namespace) -> str:
    """What was run, and on what."""
    versions = ", ".join(f"{name} {text}" for name, text in machine.versions().items())
    return (
        f"`python bench/startup.py --precision {arguments.precision} --runs {arguments.runs}`, "
        f"weights {arguments.weights.name}, {arguments.input.name}\n\n{machine.machine()}; "
        f"{machine.instruction_sets()}; {versions}\n\n"
        f"Medians of {arguments.runs} runs after one that is not counted; in brackets the least "
        "and the most.\n"
    )


def table(runs: Sequence[dict[str, Mark]]) -> Iterator[str]:
    """One row a part."""
    yield "| part | s | processor s | what |\n|---|---|---|---|"
    for part, what in PARTS.items():
        marks = [run[part] for run in runs if part in run]
        if marks:
            wall, cpu = ([mark.wall_s for mark in marks], [mark.cpu_s for mark in marks])
            yield f"| {part} | {spread(wall)} | {spread(cpu)} | {what} |"


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def trace(arguments: argparse.Namespace) -> NoReturn:
    """Run ``oarseg segment`` in this process, and end it at the first tile with its marks written.

    Only what the command line imports anyway is imported here, so that the run begins as it does
    otherwise; the rest is met where the run itself has imported it.
    """
    marks = Marks()
    from oarseg.cli.commands import segment
    from oarseg.cli.main import main as run_command

    after(segment, "lock_output", lambda: marks.end("command line"))
    after(segment, "segment_settings", lambda: follow_model(marks))
    real = usage.Steps.step

    @contextmanager
    def step(self: usage.Steps, name: str) -> Iterator[None]:
        if name == "reading":
            marks.end("networks")
        elif name == "segmentation":
            stop_at_first_tile(marks, arguments.trace)
        with real(self, name):
            yield
        marks.end(name)

    usage.Steps.step = step  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as output:
        line = ["segment", "--input", str(arguments.input), "--output", output]
        line += ["--weights", str(arguments.weights), "--precision", arguments.precision]
        sys.exit(run_command(line))


def follow_model(marks: Marks) -> None:
    """Note that all is imported, and the moment at which the model is checked."""
    from oarseg.model import bundle

    marks.end("imports")
    after(bundle, "load_bundle", lambda: marks.end("model"))


def stop_at_first_tile(marks: Marks, path: Path) -> None:
    """End the process when a tile is cut out of a case."""
    from oarseg.inference.preprocessing import NetworkInput

    def stop(*_: object) -> NoReturn:
        marks.end("tile")
        rows = [(mark.part, mark.wall_s, mark.cpu_s) for mark in marks.done]
        path.write_text(json.dumps(rows), encoding="utf-8")
        os._exit(0)

    NetworkInput.cut = stop  # type: ignore[assignment,method-assign]


def after(module: Any, name: str, do: Callable[[], None]) -> None:
    """Do something whenever a function of a module has returned."""
    real = getattr(module, name)

    def wrapped(*given: Any, **options: Any) -> Any:
        found = real(*given, **options)
        do()
        return found

    setattr(module, name, wrapped)


if __name__ == "__main__":
    main()
