"""Segment one invocation after the other in a process that keeps its networks open.

The server (``server``) starts it, writes a line to its stdin for each invocation, and reads an
answer as a line of JSON from a pipe.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import replace

from oarseg.errors import OarsegError
from oarseg.model import bundle
from oarseg.model.agreement import challenge_of
from oarseg.system.cpus import available_cpus
from oarseg.workflows.segment_folder import OpenNetworks, segment_folder
from oarseg.workflows.settings import Settings, describe_run

log = logging.getLogger(__name__)


def serve_invocations(settings: Settings, requests: Iterable[str], answers: int) -> int:
    """Open the networks, then segment the input folder once for each line of the requests.

    Args:
        settings: of every invocation; the clock starts anew with each.
        requests: lines with the time that has passed since the invocation arrived, in seconds.
        answers: descriptor for the answers: ``{"ready": true}``, then one of ``Answer``'s form
            for each request.

    Raises:
        OarsegError: the model cannot be used.
    """
    networks = open_networks(settings)
    _send(answers, {"ready": True})
    for line in requests:
        started_s = time.monotonic() - float(line)
        status, message = _segment(replace(settings, started_s=started_s), networks)
        _send(answers, {"status": status, "message": message, "keep": networks.usable})
        if not networks.usable:
            break
    return 0


def open_networks(settings: Settings) -> OpenNetworks:
    """Open the networks before the first case.

    Raises:
        OarsegError: the model cannot be used.
    """
    weights = bundle.load_bundle(settings.weights)
    rules = challenge_of(weights, settings.challenge)
    threads = settings.threads or available_cpus()
    networks = OpenNetworks()
    networks.open(describe_run(settings, weights, rules, threads=threads), settings.device)
    return networks


def _segment(settings: Settings, networks: OpenNetworks) -> tuple[int, str]:
    try:
        failures = segment_folder(settings, networks=networks)
    except OarsegError as error:
        log.error("%s", error)
        return 1, str(error)
    if failures:
        message = failures[-1].one_line(failed=len(failures))
        log.error("%s", message)
        return 1, message
    return 0, ""


def _send(answers: int, answer: dict[str, object]) -> None:
    os.write(answers, json.dumps(answer).encode() + b"\n")
