"""The commands ``oarseg cohort …``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from oarseg.cli.commands.segment import add_segment_arguments
from oarseg.cli.options import (
    Subparsers,
    add_device,
    add_threads,
    number_within,
    whole_number,
)
from oarseg.errors import InputError
from oarseg.model.model_folder import default_weights
from oarseg.results.lock import lock_output
from oarseg.system.child import die_with_parent
from oarseg.system.cpus import available_cpus

if TYPE_CHECKING:
    from oarseg.cohort.ledger import CohortLedger
    from oarseg.cohort.plan import Plan

GPUS: Final = Path("/proc/driver/nvidia/gpus")
MOST_WORKERS: Final = 1000
MOST_FEEDERS: Final = 64
# Shorter ones are over before a busy machine renews them.
LEAST_LEASE_S: Final = 1.0
GPU_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"

logger = logging.getLogger(__name__)


def add_cohort(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg cohort``."""
    parser = commands.add_parser("cohort", help="segment thousands of cases, on several machines")
    inner = parser.add_subparsers(required=True, metavar="COMMAND", dest="cohort")
    plan = inner.add_parser("plan", help="pair the cases of a folder; no image is opened")
    _add_plan_arguments(plan)
    plan.set_defaults(command=_plan)
    run = inner.add_parser("run", help="work on a cohort, with workers of this machine")
    _add_plan_arguments(run)
    _add_manner(run)
    run.set_defaults(command=_run)
    join = inner.add_parser("join", help="work on a cohort whose run is on another machine")
    _add_output(join)
    _add_machine(join)
    join.set_defaults(command=_join)
    slurm = inner.add_parser("slurm", help="print a batch script for Slurm, and write nothing")
    _add_output(slurm)
    _add_machine(slurm)
    slurm.set_defaults(command=_slurm)
    status = inner.add_parser("status", help="tell how a cohort stands")
    _add_output(status)
    status.add_argument("--json", action="store_true", dest="as_json", help="one object a case")
    status.set_defaults(command=_status)
    summary = inner.add_parser("summary", help="write cohort.csv: volumes, verdicts, warnings")
    _add_output(summary)
    summary.add_argument(
        "--parquet",
        action="store_true",
        help="write cohort.parquet too; needs the extra oarseg[parquet]",
    )
    summary.set_defaults(command=_summary)
    for name, function in (("work", _work), ("compute", _compute)):
        hidden = inner.add_parser(name)
        _add_output(hidden)
        _add_machine(hidden)
        hidden.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
        if name == "compute":
            hidden.add_argument("answers", type=int, help=argparse.SUPPRESS)
        hidden.set_defaults(command=function)


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    add_segment_arguments(parser)
    parser.set_defaults(input=None, output=None)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, help="the cohort's folder")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    _add_workers(parser)
    add_device(parser)
    add_threads(parser)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=whole_number(1, MOST_WORKERS),
        help="processes that work at once on this machine, which share its cores (default: one "
        "a GPU, else one)",
    )


def _add_manner(parser: argparse.ArgumentParser) -> None:
    _add_workers(parser)
    parser.add_argument(
        "--feeders",
        type=_feeders,
        default="auto",
        help="cases that are read, registered or written beside the one in a network, or auto "
        "(default): measured on the first cases, as many as keep the network busy and fit",
    )
    parser.add_argument(
        "--attempts",
        type=whole_number(1, 100),
        default=3,
        help="at a case that kills what computes it (default: 3)",
    )
    parser.add_argument(
        "--lease",
        type=number_within(LEAST_LEASE_S, 10**6),
        default=60.0,
        help="seconds without a sign of life until a case is taken over (default: 60)",
    )
    parser.add_argument(
        "--retry-quarantined", action="store_true", help="try again the cases that were given up"
    )


def _feeders(text: str) -> int | str:
    return text if text == "auto" else whole_number(0, MOST_FEEDERS)(text)


def _plan(arguments: argparse.Namespace) -> int:
    if arguments.input is None or arguments.output is None:
        raise InputError("expected --input and --output")
    with lock_output(arguments.output):
        made = _make_plan(arguments, arguments.output)
        _keep_plan(made, arguments.output, retry_quarantined=False)
    problems = sum(bool(case.problem) for case in made.cases)
    print(f"{arguments.output}: {len(made.cases)} cases, {problems} of them cannot be read")
    return 0


def _make_plan(arguments: argparse.Namespace, output: Path) -> Plan:
    """Plan an input folder's cohort, which the output folder must be for.

    Raises:
        OarsegError: the folder is another run's, or is not to be written to.
    """
    from oarseg.cohort import plan

    weights = arguments.weights or default_weights()
    made = plan.make_plan(arguments.input, weights, _options(arguments))
    plan.check_folder(made, output)
    return made


def _options(arguments: argparse.Namespace) -> Any:
    from oarseg.cohort.plan import CohortOptions

    if arguments.time_limit is not None:
        raise InputError("--time-limit: a cohort does not take it, as it has no end to share out")
    return CohortOptions(
        challenge=arguments.challenge,
        region=arguments.region,
        precision=arguments.precision,
        mirroring=arguments.mirroring,
        resample=arguments.resample,
        assume_hu=arguments.assume_hu,
        max_voxels=arguments.max_voxels,
        max_gib=arguments.max_gib,
        registration=arguments.registration,
        repair=arguments.repair,
        report=arguments.report,
        rtstruct=arguments.rtstruct,
        dicom_seg=arguments.dicom_seg,
        series=tuple(arguments.series),
        mr_series=tuple(arguments.mr_series),
    )


def _keep_plan(made: Plan, output: Path, *, retry_quarantined: bool) -> None:
    """Write a plan, and open the cases again whose files have changed since the last one."""
    from oarseg.cohort import plan
    from oarseg.cohort.coordinate import record_problems, reopen_changed

    ledger = _ledger(output)
    ledger.prepare()
    if (output / plan.PLAN).is_file():
        old = plan.read_plan(output)
        again = reopen_changed(ledger, old, made, retry_quarantined=retry_quarantined)
        if again:
            logger.info("%d cases are computed again: %s", len(again), ", ".join(again[:5]))
    plan.write_plan(output, made)
    record_problems(ledger, made)
    ledger.close()


def _run(arguments: argparse.Namespace) -> int:
    from oarseg.cohort.coordinate import Coordinator
    from oarseg.cohort.manner import Manner, write_manner

    if arguments.output is None:
        raise InputError("expected --output, the cohort's folder")
    output = arguments.output.resolve()
    feeders = None if arguments.feeders == "auto" else arguments.feeders
    with lock_output(output):
        again = arguments.input is None
        made = _plan_again(arguments, output) if again else _make_plan(arguments, output)
        _keep_plan(made, output, retry_quarantined=arguments.retry_quarantined)
        write_manner(output, Manner(arguments.attempts, arguments.lease, feeders))
        command, environments = _workers(output, arguments)
        return Coordinator(_ledger(output), made, command, environments).run()


def _plan_again(arguments: argparse.Namespace, output: Path) -> Plan:
    """Plan a folder's cohort as it was planned.

    Raises:
        InputError: an option says otherwise.
    """
    from oarseg.cohort import plan

    old = plan.read_plan(output)
    told = plan.settled(_options(arguments))
    weights = arguments.weights or Path(old.weights)
    same = weights.resolve() == Path(old.weights)
    if not same or told not in (plan.CohortOptions(), old.options):
        raise InputError(
            f"{output}: expected the options of its plan, or none of them, found others; pass "
            "--input too to plan anew, into another --output"
        )
    made = plan.make_plan(Path(old.input), weights, old.options)
    plan.check_folder(made, output)
    return made


def _workers(
    output: Path, arguments: argparse.Namespace
) -> tuple[list[str], list[Mapping[str, str]]]:
    """Return what starts a worker of this process, and what each one's environment adds."""
    gpus = [] if arguments.device == "cpu" else _gpus()
    count = arguments.workers or max(1, len(gpus))
    parent = ("--parent", str(os.getpid()))
    command = _worker_command(output, arguments, *parent, "--workers", str(count), share=count)
    if not gpus:
        return command, [{}] * count
    return command, [{GPU_VARIABLE: gpus[number % len(gpus)]} for number in range(count)]


def _worker_command(
    output: Path, arguments: argparse.Namespace, *more: str, share: int = 1
) -> list[str]:
    """Return what starts a worker.

    Args:
        output: the cohort's folder.
        arguments: of the command that starts it.
        more: options of the worker.
        share: workers that share this machine's cores.
    """
    threads = arguments.threads or max(1, available_cpus() // share)
    return [
        *(sys.executable, "-m", "oarseg.cli", *_log_options(arguments), "cohort", "work"),
        *("--output", str(output), "--device", arguments.device, "--threads", str(threads)),
        *more,
    ]


def _log_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options by which another process logs as this one does."""
    return ["--log-format", arguments.log_format, *(["--verbose"] if arguments.verbose else [])]


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, as the variable for them names each."""
    told = os.environ.get(GPU_VARIABLE)
    if told is not None:
        return [name.strip() for name in told.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(os.listdir(GPUS)))] if GPUS.is_dir() else []


def _join(arguments: argparse.Namespace) -> int:
    """Start workers beside those of the run, which alone writes what there is once a cohort."""
    from oarseg.cohort import plan
    from oarseg.cohort.coordinate import Coordinator

    output = arguments.output.resolve()
    made, ledger = plan.read_plan(output), _ledger(output)
    command, environments = _workers(output, arguments)
    try:
        return Coordinator(ledger, made, command, environments).join()
    finally:
        ledger.close()


def _work(arguments: argparse.Namespace) -> int:
    """Be one worker."""
    from oarseg.cohort import plan
    from oarseg.cohort.coordinate import catch_signals
    from oarseg.cohort.manner import read_manner
    from oarseg.cohort.worker import CohortWorker, RunStoppedError

    if arguments.parent:
        die_with_parent(arguments.parent)
    made, how = plan.read_plan(arguments.output), read_manner(arguments.output)
    command = [
        *(sys.executable, "-m", "oarseg.cli", *_log_options(arguments), "cohort", "compute"),
        *("--output", str(arguments.output), "--device", arguments.device),
        *("--threads", str(arguments.threads), "--parent", str(os.getpid())),
    ]
    ledger = _ledger(arguments.output)
    worker = CohortWorker(ledger, made, how, command, workers=arguments.workers or 1)
    ended: list[int] = []

    def end(number: int, _frame: object) -> None:
        ended.append(number)
        worker.stop()

    catch_signals(end)
    try:
        worker.run()
    except RunStoppedError as error:
        logger.error("%s", error)
        return 1
    return 128 + ended[0] if ended else 0


def _compute(arguments: argparse.Namespace) -> int:
    """Be the process that computes, for one worker."""
    from oarseg.cohort import plan, segmenter
    from oarseg.cohort.coordinate import ENDING_SIGNALS
    from oarseg.cohort.feeding import MOST_CHOSEN
    from oarseg.cohort.manner import read_manner

    die_with_parent(arguments.parent)
    # A terminal and Slurm send them to all processes; the worker decides, and kills this one.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    opened = segmenter.open_segmenter(
        plan.read_plan(arguments.output), device=arguments.device, threads=arguments.threads
    )
    feeders = read_manner(arguments.output).feeders
    most = MOST_CHOSEN if feeders is None else feeders
    segmenter.answer_requests(opened, sys.stdin, arguments.answers, feeders=most)
    return 0


def _ledger(output: Path) -> CohortLedger:
    from oarseg.cohort.ledger import CohortLedger
    from oarseg.cohort.manner import read_manner

    return CohortLedger(output, lease_s=read_manner(output).lease_s)


def _slurm(arguments: argparse.Namespace) -> int:
    from oarseg.cohort import plan
    from oarseg.cohort.slurm import batch_script

    output = arguments.output.resolve()
    plan.read_plan(output)
    workers, cpus = arguments.workers or 1, arguments.threads or available_cpus()
    arguments.threads = cpus
    print(batch_script(output, _worker_command(output, arguments), workers=workers, cpus=cpus))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from oarseg.cohort import plan, summary

    made = plan.read_plan(arguments.output)
    ledger = _ledger(arguments.output)
    objects = summary.case_objects(made, ledger)
    ledger.close()
    if arguments.as_json:
        for found in objects:
            print(json.dumps(found))
    totals = summary.totals(objects)
    print(json.dumps({"totals": totals}) if arguments.as_json else _totals_text(totals))
    return 0 if totals.get("done", 0) == len(objects) else 1


def _totals_text(totals: Mapping[str, Any]) -> str:
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in totals.items())


def _summary(arguments: argparse.Namespace) -> int:
    from oarseg.cohort import plan, summary

    made = plan.read_plan(arguments.output)
    ledger = _ledger(arguments.output)
    files = summary.write_summary(made, ledger, parquet=arguments.parquet)
    ledger.close()
    for file in files:
        print(f"{file}: {len(made.cases)} cases")
    return 0
