"""Everything that a GPU has to show, in one run of at most ten minutes, without a network.

    python bench/gpu_all.py --wheels wheels --out bench/results

A bare machine is enough: Python 3.12, torch and CuPy, and a folder of wheels (``make gpu-wheels``
on a machine with a network). This file uses nothing but Python itself. Each step is a process of
its own; one that fails or runs out of time is a row of the table and not the end, and the table is
written anew after every step.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_card import PREFIX, describe_card

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600.0
# For writing the tables, and for ending a step.
RESERVE_S = 10.0
NOTE_LINES = 8


@dataclass(frozen=True)
class Step:
    """One program.

    Attributes:
        command: its arguments.
        limit_s: the most that it may take.
        least_s: it is not begun if less is left.
        needs: a program that has to be there.
        reads: rows of ``bench/inference.py`` that the program writes.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    least_s: float = 5.0
    needs: str = ""
    reads: Path | None = None


def steps(device: str, site: Path, wheels: Path, out: Path) -> tuple[Step, ...]:
    """List what is run, the most telling first."""
    here, python, on = ROOT / "bench", sys.executable, ["--device", device]
    pip = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    found = sorted(str(path) for path in wheels.glob("*.whl"))

    def beside_nnunet(row: str, limit_s: float) -> Step:
        command = [
            python,
            str(here / "inference.py"),
            *on,
            "--redo",
            "--rounds",
            "1",
            "--out",
            str(out),
        ]
        reads = out / f"{datetime.date.today()}-inference-{device}-{row}.json"
        name = f"beside nnU-Net, {row}"
        return Step(name, [*command, "--rows", row], limit_s, 30, reads=reads)

    return (
        Step("install", [*pip, "--upgrade", "--target", str(site), *found], 120),
        Step("trial", [python, str(here / "gpu_trial.py"), *on], 90),
        beside_nnunet("small-shipped", 150),
        Step("case", [python, str(here / "gpu_case.py"), *on], 120, 30),
        Step("sweep", [python, str(here / "gpu_sweep.py"), *on, "--seconds", "130"], 160, 20),
        beside_nnunet("medium-toy", 150),
        Step("case, one sum", [python, str(here / "gpu_case.py"), *on, "--joint"], 90, 30),
        Step("container", ["env", "-u", "PYTHONPATH", "make", "gpu-test"], 300, 60, needs="docker"),
    )


def main() -> int:
    """Run all steps; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, default=ROOT / "wheels", help="folder of wheels")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=LIMIT_S, help="for all (default: 600)")
    parser.add_argument("--only", nargs="+", metavar="STEP")
    arguments = parser.parse_args()
    # An exception, so that a step does not outlive this program.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    start = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    site = ROOT / "build/gpu/site"
    chosen = [
        step
        for step in steps(arguments.device, site, arguments.wheels, arguments.out)
        if not arguments.only or step.name in arguments.only
    ]
    done = run_steps(
        chosen,
        end_s=start + arguments.seconds - RESERVE_S,
        environment=environment(site),
        document=heading(arguments.seconds),
        stem=arguments.out / f"{datetime.date.today()}-gpu-{arguments.device}",
    )
    return 0 if all(row["status"] in ("done", "skipped") for row in done["steps"]) else 1


def environment(site: Path) -> dict[str, str]:
    """Find the wheels' packages before the machine's own, and the tests' helpers."""
    paths = [str(site), str(ROOT), str(ROOT / "test/support"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
    }


def heading(limit_s: float) -> dict[str, Any]:
    """Say when and where."""
    try:
        card: dict[str, str] = describe_card()
    except (OSError, subprocess.SubprocessError, IndexError, ValueError) as error:
        card = {"name": f"no card: {type(error).__name__}"}
    return {
        "date": str(datetime.date.today()),
        "card": card,
        "python": platform.python_version(),
        "limit_s": limit_s,
        "steps": [],
    }


def run_steps(
    chosen: Sequence[Step],
    *,
    end_s: float,
    environment: dict[str, str],
    document: dict[str, Any],
    stem: Path,
) -> dict[str, Any]:
    """Run steps one after the other, and write the tables after each.

    Args:
        chosen: the steps.
        end_s: when the last one is over, by ``time.monotonic``.
        environment: of the programs.
        document: what the rows are added to.
        stem: of the files, without their endings.
    """
    for step in chosen:
        print(f"{step.name} …", flush=True)
        row = run_step(step, end_s - time.monotonic(), environment)
        document["steps"].append(row)
        write_tables(document, stem)
        print(f"{step.name}: {row['status']} after {row['seconds']} s", flush=True)
    return document


def run_step(step: Step, left_s: float, environment: dict[str, str]) -> dict[str, Any]:
    """Run one program in its own group of processes, which ends with it."""
    row: dict[str, Any] = {"name": step.name, "status": "skipped", "seconds": 0.0}
    if step.needs and shutil.which(step.needs) is None:
        return row | {"note": f"{step.needs} is not there", "figures": {}}
    if left_s < step.least_s:
        return row | {"status": "not begun in time", "note": "", "figures": {}}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        status = _ended(step.command, min(step.limit_s, left_s), environment, output)
        output.seek(0)
        lines = output.read().splitlines()
    figures = _inference_figures(step.reads) if step.reads else {}
    for line in lines:
        if line.startswith(PREFIX):
            figures |= json.loads(line.removeprefix(PREFIX))
    said = [line for line in lines if line.strip() and not line.startswith(PREFIX)]
    return row | {
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "figures": figures,
        "note": "\n".join(said[-NOTE_LINES:]),
    }


def _inference_figures(path: Path) -> dict[str, Any]:
    """Pick figures out of a table of ``bench/inference.py``, if it got that far."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = {}
    for row, runs in json.loads(path.read_text(encoding="utf-8"))["rows"].items():
        for who, run in runs.items():
            figures = run | run.get("agreement", {})
            wanted = ("failed", "seconds", "peak_mib", "gpu_mib", "equal", "differ_in_body")
            found |= {f"{row}: {who}: {n}": figures[n] for n in wanted if n in figures}
    return found


def _ended(command: Sequence[str], limit_s: float, environment: dict[str, str], out: Any) -> str:
    """Run a command to its end or its limit; how that was, in words."""
    try:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        print(error, file=out, flush=True)
        return "failed"
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        _end_group(process)
        return f"out of time at {limit_s:.0f} s"
    except BaseException:
        _end_group(process)
        raise
    return "done" if code == 0 else f"failed with status {code}"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write_tables(document: dict[str, Any], stem: Path) -> None:
    """Write JSON, for comparisons, and Markdown; each complete or not at all."""
    for ending, text in ((".json", json.dumps(document, indent=1)), (".md", markdown(document))):
        draft = stem.with_name(f"{stem.name}{ending}.draft")
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(stem.with_name(f"{stem.name}{ending}"))


def markdown(document: dict[str, Any]) -> str:
    """Write the tables for people."""
    card = ", ".join(f"{name} {value}" for name, value in document["card"].items())
    known = [s["figures"]["versions"] for s in document["steps"] if "versions" in s["figures"]]
    named = ", ".join(f"{name} {value}" for found in known for name, value in found.items())
    lines = [
        f"# GPU, {document['date']}",
        "",
        f"By `make gpu-all`; {card}; Python {document['python']}; {named or 'no versions known'}.",
        "",
        "| step | status | seconds |",
        "|---|---|---|",
        *(f"| {s['name']} | {s['status']} | {s['seconds']} |" for s in document["steps"]),
    ]
    for step in document["steps"]:
        lines += _details(step)
    return "\n".join(lines)


def _details(step: dict[str, Any]) -> list[str]:
    figures = {name: value for name, value in step["figures"].items() if name != "versions"}
    lines = ["", f"## {step['name']}", ""] if figures or step["status"] != "done" else []
    if figures:
        lines += [
            "| figure | value |",
            "|---|---|",
            *(f"| {n} | {v} |" for n, v in figures.items()),
        ]
    if step["status"] != "done" and step["note"]:
        lines += ["", "```", step["note"], "```"]
    return lines


if __name__ == "__main__":
    sys.exit(main())
