"""What a cohort of thousands costs beside its networks, and what more GPUs would bring.

    python bench/cohort.py costs --cases 3346
    python bench/cohort.py speed --cases 6
    python bench/cohort.py feeders
    python bench/cohort.py gpus

``costs`` plans empty files, lets nobody compute, and measures the plan, the status, the recording
of the first and the last case, and a run that has nothing to do. ``speed`` compares one and two
workers on two cores with ``oarseg segment``. ``feeders`` compares two feeders with none where the
network and the rest take equal seconds of sleep. ``gpus`` is a simulation, no measurement: cases of
equal length on workers that read, compute and write, with the steps' seconds given.
"""

from __future__ import annotations

import argparse
import heapq
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cases import ROOT
from cohort_fakes import coordinator_command, make_cohort

from oarseg.cohort.ledger import CohortLedger, Host, Outcome
from oarseg.cohort.manner import Manner
from oarseg.cohort.plan import read_plan
from oarseg.phantom import write_cases

MOST_WORKERS = (1, 2, 4, 8, 16, 32, 64)
RECORDED = 20


def main() -> None:
    """Measure or simulate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    costs = commands.add_parser("costs", help="of planning, of the status, of recording")
    costs.add_argument("--cases", type=int, default=3346)
    speed = commands.add_parser("speed", help="one and two workers, and segment")
    speed.add_argument("--cases", type=int, default=6)
    speed.add_argument("--size", default="tiny", help="of the phantoms (default: tiny)")
    speed.add_argument("--registration", default="rigid", help="default: rigid")
    feeders = commands.add_parser("feeders", help="two and none, where everything sleeps")
    feeders.add_argument("--seconds", default="2", help="that a case takes (default: 2)")
    gpus = commands.add_parser("gpus", help="cases an hour on 1 to 64 GPUs, simulated")
    gpus.add_argument("--cpu-seconds", type=float, default=15.0, help="of a case (default: 15)")
    gpus.add_argument("--gpu-seconds", type=float, default=5.0, help="of a case (default: 5)")
    gpus.add_argument("--cores", type=int, default=4, help="for a GPU (default: 4)")
    gpus.add_argument("--cases", type=int, default=3346)
    told = parser.parse_args()
    if told.command == "costs":
        with tempfile.TemporaryDirectory() as folder:
            measure_costs(Path(folder), told.cases)
    elif told.command == "speed":
        with tempfile.TemporaryDirectory() as folder:
            compare_speed(Path(folder), told.cases, told.size, told.registration)
    elif told.command == "feeders":
        with tempfile.TemporaryDirectory() as folder:
            compare_feeders(Path(folder), told.seconds)
    else:
        print(simulated_table(told.cpu_seconds, told.gpu_seconds, told.cores, told.cases))


def measure_costs(folder: Path, cases: int) -> None:
    """Measure on empty files, whose content nobody reads."""
    source, output = folder / "in" / "images" / "ct", folder / "out"
    source.mkdir(parents=True)
    for number in range(cases):
        (source / f"case_{number:04d}_CT.mha").touch()
    told = ("--input", str(folder / "in"), "--weights", str(ROOT / "weights"))
    seconds, mib = run_command("plan", *told, "--output", str(output))
    print(f"plan of {cases} cases: {seconds:.1f} s of CPU, {mib:.0f} MiB")
    ledger = CohortLedger(output, lease_s=60)
    ledger.prepare()
    (output / "images").mkdir()
    names = [case.name for case in read_plan(output).cases]
    first = record_seconds(ledger, names[:RECORDED])
    record_seconds(ledger, names[RECORDED:-RECORDED])
    last = record_seconds(ledger, names[-RECORDED:])
    print(f"taking and recording a case: first {first * 1e3:.2f} ms, last {last * 1e3:.2f} ms")
    seconds, mib = run_command("status", "--output", str(output))
    print(f"status of {cases} cases: {seconds:.1f} s of CPU, {mib:.0f} MiB")
    start = time.perf_counter()
    run_command("run", "--output", str(output), "--device", "cpu")
    print(f"run of {cases} cases that are done: {time.perf_counter() - start:.1f} s")


def compare_speed(folder: Path, cases: int, size: str, registration: str) -> None:
    """Compare ways to segment the same phantoms on two cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    source = folder / "in"
    write_cases(source, seeds=range(1, cases + 1), size=size, layout="platform")
    told = ["--input", str(source), "--device", "cpu", "--registration", registration]
    ways = {
        "segment": ["segment"],
        "one worker": ["cohort", "run", "--workers", "1"],
        "one worker, one thread": ["cohort", "run", "--workers", "1", "--threads", "1"],
        "two workers": ["cohort", "run", "--workers", "2"],
    }
    seconds = {}
    for name, words in ways.items():
        line = [sys.executable, "-m", "oarseg.cli", *words, *told]
        start = time.perf_counter()
        output = folder / name.replace(" ", "_")
        with open(folder / "log", "ab") as log:
            subprocess.run([*line, "--output", str(output)], check=True, stdout=log, stderr=log)
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.1f} s", flush=True)
    more = seconds["one worker"] - seconds["segment"]
    print(f"one worker: segment {more:+.1f} s")
    for other in ("one worker", "one worker, one thread"):
        print(f"two workers: {seconds['two workers'] / seconds[other]:.2f} of {other}")


def compare_feeders(folder: Path, case_seconds: str) -> None:
    """Compare one worker with two feeders and without, from the first case's begin to the end."""
    seconds = {}
    for feeders in (0, 2):
        root = folder / str(feeders)
        root.mkdir()
        _, output = make_cohort(root, cases=12, manner=Manner(3, 600.0, feeders))
        notes = root / "notes"
        environment = {"FAKE_SECONDS": case_seconds, "FAKE_NOTES": str(notes)}
        command = coordinator_command(output, 1)
        subprocess.run(command, check=True, env=os.environ | environment)
        times = [float(line.split()[-1]) for line in notes.read_text().splitlines()]
        seconds[feeders] = times[-1] - times[0]
    print(f"two feeders: {seconds[2] / seconds[0]:.2f} of none ({seconds[0]:.1f} s)")


def record_seconds(ledger: CohortLedger, names: list[str]) -> float:
    """Return the mean seconds that taking and recording a case takes."""
    start = time.perf_counter()
    for name in names:
        attempt = ledger.take(name, most=3)
        if attempt is None:
            raise SystemExit(f"{name}: somebody else has taken it")
        label_file = f"images/{name}.mha"
        (ledger.output / label_file).touch()
        outcome = Outcome(case=name, attempt=1, worker=Host("bench", 1), label_file=label_file)
        ledger.record("done", outcome)
    return (time.perf_counter() - start) / len(names)


def run_command(*arguments: str) -> tuple[float, float]:
    """Run a command of ``oarseg cohort``; returns its CPU seconds and the largest peak in MiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [sys.executable, "-m", "oarseg.cli", "cohort", *arguments]
    subprocess.run(line, check=False, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, after.ru_maxrss / 1024


def simulated_table(cpu_s: float, gpu_s: float, cores: int, cases: int) -> str:
    """Return cases an hour without and with feeders, as Markdown."""
    lines = [
        f"Simulated: {cases} cases, {cpu_s:g} s of CPU and {gpu_s:g} s of GPU each, {cores} cores "
        "a GPU, a folder that keeps up",
        "",
        "| GPUs | cases an hour, one after the other | with feeders | hours for all |",
        "|---:|---:|---:|---:|",
    ]
    for gpus in MOST_WORKERS:
        plain = simulate(gpus, cpu_s, gpu_s, feeders=0, cores=cores, cases=cases)
        fed = simulate(gpus, cpu_s, gpu_s, feeders=2, cores=cores, cases=cases)
        hourly = [3600 * cases / seconds for seconds in (plain, fed)]
        lines.append(f"| {gpus} | {hourly[0]:.0f} | {hourly[1]:.0f} | {fed / 3600:.1f} |")
    return "\n".join(lines)


def simulate(
    gpus: int, cpu_s: float, gpu_s: float, *, feeders: int, cores: int, cases: int
) -> float:
    """Return the seconds until the last of the cases is written.

    Half of the CPU's part comes before the network, half after it; a worker has ``feeders`` + 1
    cases in work, on as many of its cores as there are.
    """
    slots = [(0.0, worker, slot) for worker in range(gpus) for slot in range(feeders + 1)]
    heapq.heapify(slots)
    slower = max(1.0, (feeders + 1) / cores)
    free = [0.0] * gpus
    last = 0.0
    for _ in range(cases):
        start, worker, slot = heapq.heappop(slots)
        ready = start + slower * cpu_s / 2
        free[worker] = max(free[worker], ready) + gpu_s
        end = free[worker] + slower * cpu_s / 2
        last = max(last, end)
        heapq.heappush(slots, (end, worker, slot))
    return last


if __name__ == "__main__":
    main()
