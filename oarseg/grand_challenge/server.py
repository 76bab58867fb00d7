"""The platform's ``invoke`` mode: a small HTTP server beside a worker that keeps its networks open.

``GET /health`` answers 200 once the networks are open, 503 before. ``POST /invoke`` segments
``/input`` into ``/output`` and answers 201, or 500 with the reason as text; while it does, another
POST is answered 409. Everything else is a 4xx without effect. The server itself opens no image
and no network, so that it outlives whatever kills the worker; the next invocation gets a new one.

Python's own HTTP server does: one client, two paths, no body. It needs no package, and its
threads answer ``/health`` while a case is computed.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from oarseg.errors import OutputError
from oarseg.results import staging
from oarseg.results.lock import lock_output
from oarseg.results.results_file import complete_results
from oarseg.system.child import AnsweringChild, ChildEndedError
from oarseg.workflows.supervisor import TimeLimit, explain_death, memory_kills

PORT = 4743
# The platform sends none; a client that does not know gets an answer all the same.
LARGEST_BODY = 1 << 16
# A connection on which nothing comes is closed.
QUIET_S = 10.0
MOST_CONNECTIONS = 16
# The platform kills after five seconds.
STOPPING_S = 3.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InvocationResult:
    """The outcome of an invocation: 0 and nothing, or the reason why not."""

    status: int
    message: str = ""


class Worker:
    """The process that computes.

    Args:
        command: starts it; the number of the answers' descriptor is appended.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._kills = memory_kills()
        self._child = AnsweringChild(command)

    def wait_until_ready(self) -> bool:
        """Wait until its networks are open; False if it ended instead."""
        try:
            self._child.answer()
        except ChildEndedError:
            return False
        return True

    def invoke(self, limit: TimeLimit | None) -> tuple[InvocationResult, bool]:
        """Segment once.

        Returns:
            The outcome, and whether the worker can be used again.
        """
        started_s = time.monotonic()
        try:
            self._child.ask({"waited_s": 0.0})
            found = self._child.answer(until_s=limit.end_s if limit else None)
        except TimeoutError:
            self.end()
            seconds = time.monotonic() - started_s
            reason = limit.passed(f"after {seconds:.0f} s of this invocation") if limit else ""
            return InvocationResult(1, reason), False
        except ChildEndedError as error:
            return InvocationResult(1, self._explain(error.status)), False
        return InvocationResult(found["status"], found["message"]), found["keep"]

    def end(self) -> None:
        """End the process, whatever it is in; whoever waits for its answer is told."""
        self._child.end()

    def _explain(self, status: int) -> str:
        if status >= 0:
            return f"the worker ended with status {status}; see the log"
        return explain_death(-status, out_of_memory=memory_kills() > self._kills)


class Service:
    """One invocation at a time, whatever happens to the worker.

    Args:
        command: starts a worker.
        output: the output folder.
        limit: makes the time limit of an invocation that begins now; None without one.
    """

    def __init__(
        self, command: Sequence[str], output: Path, limit: Callable[[], TimeLimit | None]
    ) -> None:
        self._command, self._output, self._limit = command, output, limit
        self._busy = threading.Lock()
        self._worker: Worker | None = None
        self._written: frozenset[Path] = frozenset()
        self._number = 0
        self.ready = threading.Event()

    def start(self) -> Worker | None:
        """Start a worker; None if its networks could not be opened."""
        worker = self._worker = Worker(self._command)
        if worker.wait_until_ready():
            self.ready.set()
            return worker
        self._worker = None
        return None

    def invoke(self) -> InvocationResult | None:
        """Segment the input folder; None if another invocation is being computed."""
        if not self._busy.acquire(blocking=False):
            return None
        try:
            return self._invoke()
        finally:
            self._busy.release()

    def stop(self) -> None:
        """End the worker and remove its unfinished files."""
        worker = self._worker
        if worker is not None:
            worker.end()
        # An invocation that was being computed has its answer then, and tidies up itself.
        if self._busy.acquire(timeout=STOPPING_S):
            self._tidy()

    def _invoke(self) -> InvocationResult:
        self._number += 1
        start = time.monotonic()
        log.info("invocation %d", self._number)
        self._reset_output()
        before = self._files()
        worker = self._worker or self.start()
        if worker is None:
            answer = InvocationResult(1, "the networks cannot be opened again; see the log")
        else:
            answer, keep = worker.invoke(self._limit())
            if not keep:
                worker.end()
                self._worker = None
                self._tidy()
        self._written = self._files() - before
        seconds = time.monotonic() - start
        log.info("invocation %d: status %d after %.1f s", self._number, answer.status, seconds)
        if answer.status:
            # The platform shows the last line of stderr.
            log.error("%s", answer.message)
        return answer

    def _files(self) -> frozenset[Path]:
        return frozenset(path for path in self._output.rglob("*") if not path.is_dir())

    def _reset_output(self) -> None:
        """Remove what the last invocation wrote, and nothing else."""
        for path in self._written:
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in self._written}, reverse=True):
            while folder != self._output and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
                folder = folder.parent

    def _tidy(self) -> None:
        """Remove what a worker that was killed left behind."""
        try:
            with lock_output(self._output):
                staging.recover_cases(self._output)
                complete_results(self._output)
        except OutputError as error:
            # The next invocation does it.
            log.error("%s", error)


class _Handler(BaseHTTPRequestHandler):
    """Answers the platform's two requests."""

    protocol_version = "HTTP/1.1"
    timeout = QUIET_S
    server: _Server

    def do_GET(self) -> None:
        """Answer whether invocations can be taken."""
        if self.path != "/health":
            self._refuse()
        elif self.server.service.ready.is_set():
            self._answer(HTTPStatus.OK, "ready")
        else:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "the networks are being opened")

    def do_POST(self) -> None:
        """Segment, unless another invocation is being computed."""
        if self.path != "/invoke":
            self._refuse()
        elif not self._takes_body():
            self._answer(HTTPStatus.BAD_REQUEST, f"expected at most {LARGEST_BODY} bytes of body")
        elif not self.server.service.ready.is_set():
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "the networks are being opened")
        else:
            answer = self.server.service.invoke()
            if answer is None:
                self._answer(HTTPStatus.CONFLICT, "another invocation is being computed")
            elif answer.status:
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, answer.message)
            else:
                self._answer(HTTPStatus.CREATED, "written")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what Python's server refuses; a method that it lacks is the client's mistake."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._refuse()
        else:
            super().send_error(code, message, explain)

    def _takes_body(self) -> bool:
        """Read the body away; False if there is more than a client may send."""
        text = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not text.isascii() or not text.isdigit():
            return False
        if int(text) > LARGEST_BODY:
            return False
        self.rfile.read(int(text))
        return True

    def _refuse(self) -> None:
        """Answer 405 for a path that has another method, 404 for one that there is none of."""
        known = self.path in ("/health", "/invoke")
        status = HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND
        self._answer(status, "expected GET /health or POST /invoke")

    def _answer(self, status: HTTPStatus, text: str) -> None:
        content = f"{text}\n".encode(errors="backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        # What a refused request still sends must not be read as the next one.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep requests out of the log but for debugging: /health comes often."""
        log.debug(format, *arguments)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], service: Service) -> None:
        super().__init__(address, _Handler)
        self.service = service
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or close the connection where there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for another connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note what a client did to its connection; a client that is gone is no fault of ours."""
        log.debug("%s", client_address, exc_info=True)


def serve(service: Service, *, host: str, port: int) -> int:
    """Answer until a signal comes, or until the networks turn out not to open.

    Args:
        service: computes.
        host: address to listen on.
        port: and port; 0 takes a free one, which the log names.

    Returns:
        128 plus the signal's number, or 1 if the model cannot be used.
    """
    ended: list[int] = []
    with _Server((host, port), service) as server:

        def end(number: int) -> None:
            ended.append(number)
            threading.Thread(target=server.shutdown).start()

        def open_networks() -> None:
            if service.start() is None:
                end(1)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: end(128 + number))
        log.info("listening on %s port %d", *server.server_address[:2])
        threading.Thread(target=open_networks, daemon=True).start()
        server.serve_forever(poll_interval=0.1)
    service.stop()
    return ended[0] if ended else 1
