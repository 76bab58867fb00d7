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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from oarseg.cases.case import Case, output_paths
from oarseg.cases.places import page_path
from oarseg.challenges.challenge import Challenge
from oarseg.cohort.feeding import Company, MeasuredCase, NetworkTurn
from oarseg.cohort.inputs import UnchangedInputs, case_of
from oarseg.cohort.plan import Plan, plain_text
from oarseg.errors import DeviceError, InputError, OarsegError, OutputError, ResourceError
from oarseg.inference.engines.choice import Engines
from oarseg.model import bundle
from oarseg.model.agreement import challenge_of
from oarseg.results.space import DiskFullError
from oarseg.system.child import send_answer
from oarseg.system.cpus import available_cpus
from oarseg.system.memory import tightest_room
from oarseg.workflows.dicom_outputs import check_reference
from oarseg.workflows.review.report_pages import write_case_page
from oarseg.workflows.segment_case import segment_case
from oarseg.workflows.segment_folder import OpenNetworks
from oarseg.workflows.settings import RunDescription, describe_run

# What went wrong: the case's own fault; want of memory; the machine's, which stops the run; the
# GPU's.
Blame = Literal["case", "memory", "machine", "gpu"]

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
        self._company = Company()

    def segment(self, name: str, stage: Path) -> dict[str, Any]:
        """Segment one case into a folder of its own, and say how that ended.

        A case for which memory did not do beside others is computed once more when it is alone.
        """
        start = time.monotonic()
        with self._company.among_others():
            shared = self._company.is_shared
            answer = self._attempt(name, stage)
            shared |= self._company.is_shared
        if shared and answer.get("blame") == "memory":
            log.warning("%s: begun anew when no other case is in work", name)
            with self._company.alone():
                answer = self._attempt(name, stage)
        return answer | {"seconds": time.monotonic() - start}

    def _attempt(self, name: str, stage: Path) -> dict[str, Any]:
        planned, root = self._cases[name], Path(self._plan.input)
        answer: dict[str, Any] = {"case": name, "digests": {}}
        inputs = UnchangedInputs(planned.files, root)
        try:
            answer["digests"] = inputs.digests()
            case = case_of(name, planned.files, root)
            written = self._segment(case, stage)
            inputs.check()
            return answer | written
        except DeviceError as error:
            return answer | _failure("gpu", error)
        except (OutputError, DiskFullError) as error:
            return answer | _failure("machine", error)
        except (ResourceError, MemoryError) as error:
            return answer | _failure("memory", error)
        except OarsegError as error:
            return answer | _failure("case", error)
        except OSError as error:
            # A stale mount, a disk that is gone: no fault of the case.
            return answer | _failure("machine", error)
        except Exception as error:
            log.exception("%s", name)
            message = f"internal error ({type(error).__name__}: {error}); please report it"
            return answer | {"message": plain_text(message), "blame": "case"}

    def _segment(self, case: Case, stage: Path) -> dict[str, Any]:
        check_reference(case, self._run.challenge, self._run.settings)
        stage.mkdir(parents=True, exist_ok=True)
        start_s, turn = time.monotonic(), NetworkTurn(self._gate)
        done = segment_case(case, self._run, stage, engines=self._engines, gate=turn)
        beside_s = time.monotonic() - start_s - turn.held_s - turn.waited_s
        rules = self._run.challenge
        if self._run.settings.report_pages:
            _write_page(case, stage, rules)
        places = [*output_paths(case, rules), page_path(case.name)]
        return {
            "label_file": str(done.label_file.relative_to(stage)),
            "outputs": [str(path) for path in places if (stage / path).exists()],
            "measured": asdict(self._measured(turn, beside_s, done.memory_bytes)),
        }

    def _measured(self, turn: NetworkTurn, beside_s: float, memory_bytes: int) -> MeasuredCase:
        held_s = max(1e-3, turn.held_s)
        idle_cores = max(0.0, self._run.threads - turn.cpu_s / held_s)
        return MeasuredCase(held_s, beside_s, idle_cores, memory_bytes, tightest_room().left)


def _write_page(case: Case, stage: Path, rules: Challenge) -> None:
    """Write the page of a case, whose own faults undo nothing."""
    try:
        write_case_page(case, stage, rules)
    except OutputError:
        raise
    except (OarsegError, MemoryError) as error:
        log.warning("%s: no page written: %s", case.name, error)


def _failure(blame: Blame, error: BaseException) -> dict[str, str]:
    log.error("%s", error)
    if isinstance(error, MemoryError):
        return {"message": "not enough memory for this case", "blame": blame}
    return {"message": plain_text(str(error)), "blame": blame}


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
    # Long answers of two threads would run into each other.
    sending = threading.Lock()
    with ThreadPoolExecutor(feeders + 1) as pool:

        def send(done: Future[dict[str, Any]]) -> None:
            with sending:
                send_answer(answers, done.result())

        for line in requests:
            request = json.loads(line)
            future = pool.submit(segmenter.segment, request["case"], Path(request["stage"]))
            future.add_done_callback(send)
