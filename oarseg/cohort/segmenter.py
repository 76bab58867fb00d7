"""Segment the cases of a cohort that are asked for, in a process that keeps its networks open.

A worker (``worker``) starts it. Several cases are in work at once, each in a thread: while one
uses the network, the others read, register, preprocess and write.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from oarseg.cases.case import Case, output_paths
from oarseg.cohort.plan import Plan, PlannedCase
from oarseg.errors import DeviceError, InputError, OarsegError, OutputError, ResourceError
from oarseg.inference.engines.choice import Engines
from oarseg.model import bundle
from oarseg.model.agreement import challenge_of
from oarseg.model.bundle import file_sha256
from oarseg.results.space import DiskFullError
from oarseg.system.child import send_answer
from oarseg.system.cpus import available_cpus
from oarseg.workflows.segment_case import segment_case
from oarseg.workflows.segment_folder import OpenNetworks
from oarseg.workflows.settings import RunDescription, describe_run

# What went wrong: the case's own fault; the machine's, which stops the run; the GPU's.
Blame = Literal["case", "machine", "gpu"]

log = logging.getLogger(__name__)


class Segmenter:
    """The networks, and the gate in front of them.

    Args:
        plan: of the cohort.
        run: what is the same for every case.
        engines: the open networks.
    """

    def __init__(self, plan: Plan, run: RunDescription, engines: Engines) -> None:
        self._plan, self._run, self._engines = plan, run, engines
        self._cases = {case.name: case for case in plan.cases}
        self._gate = threading.Lock()

    def segment(self, name: str, stage: Path) -> dict[str, Any]:
        """Segment one case into a folder of its own, and say how that ended."""
        start = time.monotonic()
        planned, source = self._cases[name], Path(self._plan.input)
        answer: dict[str, Any] = {"case": name, "digests": {}}
        try:
            answer["digests"] = digests(planned, source)
            answer |= self._segment(planned.case(source), stage)
        except DeviceError as error:
            answer |= _failure("gpu", error)
        except (OutputError, DiskFullError) as error:
            answer |= _failure("machine", error)
        except (OarsegError, MemoryError) as error:
            answer |= _failure("case", error)
        except OSError as error:
            # A stale mount, a disk that is gone: no fault of the case.
            answer |= _failure("machine", error)
        except Exception as error:
            log.exception("%s", name)
            message = f"internal error ({type(error).__name__}: {error}); please report it"
            answer |= {"message": message, "blame": "case"}
        return answer | {"seconds": time.monotonic() - start}

    def _segment(self, case: Case, stage: Path) -> dict[str, Any]:
        stage.mkdir(parents=True, exist_ok=True)
        done = segment_case(case, self._run, stage, engines=self._engines, gate=self._gate)
        rules = self._run.challenge
        outputs = [str(path) for path in output_paths(case, rules) if (stage / path).exists()]
        return {"label_file": str(done.label_file), "outputs": outputs}


def _failure(blame: Blame, error: BaseException) -> dict[str, str]:
    log.error("%s", error)
    if isinstance(error, MemoryError) and not isinstance(error, ResourceError):
        return {"message": "not enough memory for this case", "blame": blame}
    return {"message": str(error), "blame": blame}


def digests(planned: PlannedCase, root: Path) -> dict[str, str]:
    """Hash the files of a case, which may not change meanwhile.

    Raises:
        InputError: one is not there, or is being written.
    """
    found = {}
    for channel, file in planned.files.items():
        path = root / file.path
        try:
            before = path.stat()
            found[channel] = file_sha256(path)
            after = path.stat()
        except (FileNotFoundError, PermissionError) as error:
            raise InputError(
                f"{path}: expected the file of the plan, cannot read it ({error.strerror})"
            ) from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise InputError(f"{path}: expected a whole file, found one that is being written")
    return found


def open_segmenter(plan: Plan, *, device: Any, threads: int) -> Segmenter:
    """Open the model of a plan.

    Raises:
        OarsegError: it cannot be used, or is no longer the plan's.
    """
    weights = bundle.load_bundle(Path(plan.weights))
    if weights.sha256 != plan.manifest:
        raise InputError(
            f"{plan.weights}: expected the weights of the plan ({plan.manifest[:12]}), found "
            f"others ({weights.sha256[:12]}); put them back, or plan another cohort"
        )
    rules = challenge_of(weights, plan.options.challenge)
    settings = plan.settings(Path("unused"), device=device, threads=threads)
    run = describe_run(settings, weights, rules, threads=threads or available_cpus())
    networks = OpenNetworks()
    engines = networks.open(run, device)
    # A GPU that fails is left by ending this process, which the worker then starts anew.
    run = replace(run, activations=networks.activations, supervised=True)
    return Segmenter(plan, run, engines)


def answer_requests(
    segmenter: Segmenter, requests: Iterable[str], answers: int, *, feeders: int
) -> None:
    """Segment what is asked for, some cases at once, until there are no more requests.

    Args:
        segmenter: the model.
        requests: lines of JSON with ``case`` and ``stage``.
        answers: descriptor for the answers: ``{"ready": true}``, then one for each case.
        feeders: cases that may be in work beside the one in the network.
    """
    send_answer(answers, {"ready": True})
    with ThreadPoolExecutor(feeders + 1) as pool:

        def send(done: Future[dict[str, Any]]) -> None:
            send_answer(answers, done.result())

        for line in requests:
            request = json.loads(line)
            future = pool.submit(segmenter.segment, request["case"], Path(request["stage"]))
            future.add_done_callback(send)
