"""Ours and nnUNetPredictor on the same networks and the same phantoms, in turns.

    python bench/inference.py --list
    python bench/inference.py --out bench/results
    python bench/inference.py --rows small-shipped --rounds 5 --out bench/results

Each program runs in a process of its own, in float32 unless a row says otherwise. Its seconds are
those from channels on the CT's grid to a label map; its peak memory is that process's. All programs
of a row run one after the other, then all once more (``--rounds``); the table has the median of the
rounds, and of the ratios within each. The same work is the same crop for both: the body's box, or
the whole image. nnU-Net's networks are rebuilt from the ONNX files' own parameters, and the bench
stops if their logits differ from ONNX Runtime's. A ``whole`` run is ``oarseg segment`` from files
to written masks, registration included. What was measured is kept in ``build/bench/runs``, round by
round, and not measured again unless ``--redo`` is given or the project's code has changed since, so
a bench that was broken off goes on where it was. The networks of 30 and 100 million parameters have
random weights: they take as long as trained ones, and their labels, which many ties decide, say
nothing about agreement.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cases
import numpy as np
from machine import instruction_sets, machine, versions

from oarseg.imaging.volume import Grid, Volume
from oarseg.inference.region.body import find_body
from oarseg.labels.dice import dice_by_label
from oarseg.model import bundle
from oarseg.phantom.spec import CT_SIZES
from oarseg.system.cpus import available_cpus

HERE = Path(__file__).resolve().parent
RUNS = cases.CACHE / "runs"
MIN_VOXELS = 200
TITLES = {
    "body": "oarseg, region body",
    "body-fast": "oarseg, region body, `--precision fast`",
    "full": "oarseg, region full",
    "whole": "oarseg segment, files to masks",
    "torch": "oarseg, region full, with nnU-Net's own torch networks",
    "peer": "nnUNetPredictor",
    "peer-body": "nnUNetPredictor, given the same crop",
}
# Who does the same work.
SAME_WORK = {"body": "peer-body", "body-fast": "peer-body", "full": "peer", "torch": "peer"}
ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """One case and one set of networks.

    Attributes:
        size: of the phantom.
        networks: "shipped"; "toy", small ones of the tests' own; or one of ``cases.LARGE``.
        runs: which programs, in their order.
        toy_mm: spacing of other networks than the shipped ones; None for the phantom's.
        peer_gib, peer_s: what the peer may take.
        rounds: how often, if more than that are asked for; None for as often as that.
        default: whether it runs without being named.
    """

    name: str
    size: str
    networks: str
    runs: tuple[str, ...]
    toy_mm: tuple[float, float, float] | None = None
    peer_gib: float = 20.0
    peer_s: int = 900
    rounds: int | None = None
    default: bool = True


SAME_CROP = ("body", "body-fast", "peer-body")
ROWS = (
    Row("small-shipped", "small", "shipped", (*SAME_CROP, "full", "peer")),
    Row("small-30m", "small", "30m", SAME_CROP),
    Row("small-100m", "small", "100m", SAME_CROP),
    Row("medium-toy", "medium", "toy", ("body", "full", "torch", "peer", "peer-body"), rounds=1),
    Row("medium-shipped", "medium", "shipped", (*SAME_CROP, "full", "peer"), rounds=1),
    Row("median-shipped", "median", "shipped", ("whole",)),
    Row("median-toy", "median", "toy", ("body", "peer"), peer_gib=16.0, peer_s=240, rounds=1),
    Row("maximum-shipped", "maximum", "shipped", ("whole",), rounds=1),
    Row("maximum-toy", "maximum", "toy", ("body", "peer"), (2.0, 0.5, 0.5), peer_s=240, rounds=1),
    Row("median-whole-toy", "median", "toy", ("whole",), rounds=1, default=False),
    Row(
        "maximum-whole-toy", "maximum", "toy", ("whole",), (2.0, 0.5, 0.5), rounds=1, default=False
    ),
    # For the bench's own test.
    Row("tiny-toy", "tiny", "toy", ("body", "peer-body"), default=False),
)


def main() -> None:
    """Run the rows and write Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS])
    parser.add_argument("--list", action="store_true", help="say what rows there are")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at most, of each row")
    parser.add_argument("--redo", action="store_true", help="measure again")
    parser.add_argument("--weights", type=Path, default=cases.ROOT / "weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--peer-gib", type=float, help="instead of each row's own")
    parser.add_argument("--peer-seconds", type=int, help="instead of each row's own")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    chosen = [r for r in ROWS if r.name in (arguments.rows or [q.name for q in ROWS if q.default])]
    if arguments.list:
        for row in ROWS:
            print(f"{row.name}: {', '.join(row.runs)}{'' if row.default else ' (only by name)'}")
        return
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    RUNS.mkdir(parents=True, exist_ok=True)
    found = {row.name: measure(row, arguments) for row in chosen}
    text = "\n\n".join([header(arguments), *(table(r, found[r.name], arguments) for r in chosen)])
    print(text)
    if arguments.out:
        name = "-".join([f"{datetime.date.today()}-inference-{arguments.device}"]
                        + (arguments.rows or []))  # fmt: skip
        (arguments.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        document = {
            "machine": machine(),
            "instruction_sets": instruction_sets(),
            "versions": versions(),
            "rows": {row: without_paths(runs) for row, runs in found.items()},
        }
        (arguments.out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def measure(row: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every run of a row: the medians of the rounds, and how the answers agree."""
    rounds = min(arguments.rounds, row.rounds or arguments.rounds)
    weights = weights_of(row, arguments)
    made_by = f"{arguments.device}-{bundle.load_bundle(weights).sha256[:8]}-{code_digest()}"
    made = [one_round(row, number, made_by, weights, arguments) for number in range(rounds)]
    found = {who: median_run([one[who] for one in made]) for who in row.runs}
    for who in found:
        peer = SAME_WORK.get(who, "")
        if usable(found, who) and usable(found, peer):
            pairs = [one[peer]["seconds"] / one[who]["seconds"] for one in made]
            found[who]["times_as_fast"] = [round(ratio, 3) for ratio in pairs]
            if who != "body-fast":
                found[who]["agreement"] = agreement(row, found[who], found[peer])
    return found


def one_round(
    row: Row, number: int, made_by: str, weights: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """All programs of a row one after the other; all anew unless all were kept."""
    stems = {who: RUNS / f"{row.name}-{who}-{made_by}-{number}" for who in row.runs}
    kept = all(stem.with_suffix(".json").is_file() for stem in stems.values())
    found = {}
    for who, stem in stems.items():
        file = stem.with_suffix(".json")
        if arguments.redo or not kept:
            print(f"{row.name}, round {number + 1}: {TITLES[who]} …", file=sys.stderr, flush=True)
            load = os.getloadavg()[0]
            figures = run(row, who, weights, stem, arguments) | {"load_before": round(load, 2)}
            file.write_text(json.dumps(figures))
        found[who] = json.loads(file.read_text()) | {"labels": str(stem.with_suffix(".npy"))}
    return found


def without_paths(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A row's figures without label maps and tracebacks, whose paths are this machine's own."""
    own = ("labels", "stderr")
    return {
        who: {key: value for key, value in one.items() if key not in own}
        for who, one in runs.items()
    }


def median_run(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The round of the median seconds, with all seconds and the largest peak; or a failed one."""
    for one in rounds:
        if "failed" in one:
            return one
    middle = sorted(rounds, key=lambda one: float(one["seconds"]))[len(rounds) // 2]
    seconds = [float(one["seconds"]) for one in rounds]
    return middle | {
        "seconds": round(statistics.median(seconds), 2),
        "all_seconds": seconds,
        "peak_mib": max(one["peak_mib"] for one in rounds),
        "load_before": max(one["load_before"] for one in rounds),
    }


def code_digest() -> str:
    """Of the project's modules: figures of other code are not this code's."""
    digest = hashlib.sha256()
    for path in sorted((cases.ROOT / "oarseg").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def usable(found: dict[str, Any], who: str) -> bool:
    """Whether a run gave an answer."""
    return who in found and "failed" not in found[who]


def weights_of(row: Row, arguments: argparse.Namespace) -> Path:
    """A row's networks."""
    if row.networks == "shipped":
        return Path(arguments.weights)
    spacing_mm = row.toy_mm or cases.spacing_mm(row.size)
    return cases.toy(spacing_mm) if row.networks == "toy" else cases.large(row.networks, spacing_mm)


def run(
    row: Row, who: str, weights: Path, stem: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One program; what it says of itself, or how it ended."""
    if who == "whole":
        return whole(row, weights, arguments)
    is_peer = who.startswith("peer")
    command = [sys.executable, str(HERE / "worker.py"), "peer" if is_peer else "ours"]
    command += ["--case", str(cases.case(row.size)), "--weights", str(weights)]
    command += ["--region", "body" if "body" in who else "full", "--networks", row.networks]
    command += ["--device", arguments.device, "--threads", str(arguments.threads)]
    command += ["--labels", str(stem.with_suffix(".npy"))]
    command += ["--torch"] * (who == "torch") + ["--fast"] * who.endswith("-fast")
    seconds, gib = arguments.peer_seconds or row.peer_s, arguments.peer_gib or row.peer_gib
    if is_peer:
        command += ["--memory-gib", str(gib)]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    if not is_peer:
        # As our command does for itself.
        environment["OPENBLAS_NUM_THREADS"] = "1"
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds if is_peer else None,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {seconds} s"}
    if done.returncode:
        return {"failed": reason(done, gib), "stderr": done.stderr[-2000:]}
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def reason(done: subprocess.CompletedProcess[str], gib: float) -> str:
    """How a run ended that gave no answer."""
    text = done.stderr.lower()
    memory = (
        "memoryerror",
        "can't allocate memory",
        "cannot allocate memory",
        "unable to allocate",
    )
    if done.returncode == -9 or any(word in text for word in memory):
        return f"out of memory at {gib:g} GiB"
    return f"ended with status {done.returncode}"


def whole(row: Row, weights: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """``oarseg segment`` on files, with the steps of its own report."""
    source, output = cases.folder(row.size), RUNS / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, str(cases.ROOT / "process.py"), "--input", str(source)]
    command += ["--output", str(output), "--weights", str(weights)]
    command += ["--device", arguments.device, "--threads", str(arguments.threads)]
    start = time.perf_counter()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        return {"failed": f"ended with status {done.returncode}", "stderr": done.stderr[-2000:]}
    report = json.loads(next((output / "reports").glob("*.json")).read_text())
    steps = [[s["name"], s["seconds"], s["peak_mib"]] for s in report["steps"]]
    peak_mib = report["peak_mib"]
    return {
        "seconds": round(seconds, 2),
        "peak_mib": round(peak_mib),
        "steps": steps,
    }


def agreement(row: Row, mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Voxels equal, everywhere and in the body; each structure's Dice."""
    ours, peer = np.load(mine["labels"]), np.load(theirs["labels"])
    folder = cases.case(row.size)
    ct = np.load(folder / "ct.npy")
    grid = Grid(ct.shape, tuple(json.loads((folder / "spacing.json").read_text())))
    body = find_body(Volume(ct, grid))
    inside = np.ones(ct.shape, bool) if body is None else body.voxels()
    differ = ours != peer
    peer = np.where(inside, peer, 0).astype(np.uint8)
    dice = dice_by_label(ours, peer, labels=30)
    large = np.bincount(peer.ravel(), minlength=31)[1:] >= MIN_VOXELS
    return {
        "equal": 1 - float(differ.mean()),
        "equal_in_body": 1 - float(differ[inside].mean()),
        "differ_in_body": int(np.count_nonzero(differ[inside])),
        "dice": {str(k + 1): round(float(dice[k]), 5) for k in np.flatnonzero(large)},
    }


def header(arguments: argparse.Namespace) -> str:
    """When, where, with what."""
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    arithmetic = "float32" if arguments.device == "cpu" else "half precision where files have it"
    called = " ".join(["python", "bench/inference.py", *sys.argv[1:]])
    return (
        f"# Inference, {datetime.date.today()}\n\n{machine()}; {instruction_sets()}.\n\n"
        f"{arguments.threads} threads, device {arguments.device}, {arithmetic} where nothing else "
        f"is said; {named}.\n\nBy `{called}`. Seconds from channels on the CT's grid to a label "
        "map (whole: from files to written masks, start of the process and registration "
        "included), median of the rounds, least and most in brackets; largest peak of resident "
        "memory. Programs take turns, and a ratio is the median of the rounds' own: how many times "
        "as long nnUNetPredictor takes for the same work in the same round. Load: the machine's "
        "largest load average before a run."
    )


def table(row: Row, found: dict[str, Any], arguments: argparse.Namespace) -> str:
    """One row's runs in Markdown."""
    manifest = bundle.load_bundle(weights_of(row, arguments)).manifest
    folds = f"shipped ensemble, {len(manifest.folds)} folds"
    kind = {"shipped": folds, "toy": "toy network"}.get(row.networks, f"network {row.networks}")
    shape = "×".join(str(n) for n in reversed(CT_SIZES[row.size].shape))
    mm = "×".join(f"{n:g}" for n in reversed(manifest.spacing_mm))
    rounds = max(len(one.get("all_seconds", ())) for one in found.values())
    lines = [
        f"## {row.name}: {shape}, {len(manifest.labels)} classes, {kind} at {mm} mm; "
        f"rounds: {rounds}",
        "",
        "| | seconds | nnU-Net, same work | nnU-Net, whole image | peak, MiB | load "
        "| steps: seconds (MiB) | equal in the body | worst Dice |",
        "|---|---|---|---|---|---|---|---|---|",
        *(line(who, found) for who in row.runs),
    ]
    return "\n".join(lines)


def line(who: str, found: dict[str, Any]) -> str:
    """One run."""
    run = found[who]
    if "failed" in run:
        return f"| {TITLES[who]} | {run['failed']} | | | | | | | |"
    steps = ", ".join(f"{name} {seconds:.1f} ({mib})" for name, seconds, mib in run["steps"])
    gpu = f" + {run['gpu_mib']} on the GPU" if "gpu_mib" in run else ""
    whole = ""
    if not who.startswith("peer") and usable(found, "peer"):
        whole = f"{found['peer']['seconds'] / run['seconds']:.2f} ×"
    cells = (
        TITLES[who],
        spread(run["all_seconds"], ".1f"),
        f"{spread(run['times_as_fast'], '.2f')} ×" if "times_as_fast" in run else "",
        whole,
        f"{run['peak_mib']}{gpu}",
        f"{run['load_before']:.1f}",
        steps,
        *agreement_cells(run.get("agreement")),
    )
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], form: str) -> str:
    """The median, with least and most where there are several."""
    middle = format(statistics.median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):{form}}–{max(values):{form}})"


def agreement_cells(found: dict[str, Any] | None) -> Iterator[str]:
    """Two cells."""
    if found is None:
        yield from ("", "")
        return
    yield f"{100 * found['equal_in_body']:.4f} % ({found['differ_in_body']} differ)"
    dice = found["dice"]
    worst = min(dice, key=dice.get)
    yield f"{dice[worst]:.4f} (label {worst}, of {len(dice)} with ≥ {MIN_VOXELS} voxels)"


if __name__ == "__main__":
    main()
