"""A child process that answers requests, a line of JSON each."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, cast

PR_SET_PDEATHSIG = 1
# Python then writes the stacks of all threads to stderr if a library crashes.
_SHOWS_CRASHES = {"PYTHONFAULTHANDLER": "1"}


class ChildEndedError(Exception):
    """The child has ended.

    Attributes:
        status: its exit status; minus the number of the signal that killed it.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the child ended with status {status}")
        self.status = status


class AnsweringChild:
    """A process that reads requests from its stdin, and writes answers to a pipe of its own.

    Its stdout and stderr stay this process's, for the log; a crash leaves its stacks there.

    Args:
        command: starts it; the number of the answers' descriptor is appended.
        environment: of the process; None for this process's.
    """

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> None:
        reading, writing = os.pipe()
        # Unbuffered, as select looks at the descriptor; closed once, whoever comes first.
        self._answers = os.fdopen(reading, "rb", buffering=0)
        self._rest = b""
        self._process = subprocess.Popen(
            [*command, str(writing)],
            stdin=subprocess.PIPE,
            pass_fds=[writing],
            env={**(os.environ if environment is None else environment), **_SHOWS_CRASHES},
        )
        os.close(writing)
        self._requests = cast(IO[bytes], self._process.stdin)

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def ask(self, request: Mapping[str, object]) -> None:
        """Send a request.

        Raises:
            ChildEndedError: nobody reads it.
        """
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError as error:
            raise ChildEndedError(self._wait()) from error

    def answer(self, *, until_s: float | None = None) -> dict[str, Any]:
        """Wait for the next answer.

        Args:
            until_s: on the ``time.monotonic`` clock; None waits for ever.

        Raises:
            TimeoutError: there is none by then.
            ChildEndedError: there will be none.
        """
        while b"\n" not in self._rest:
            left = None if until_s is None else max(0.0, until_s - time.monotonic())
            if not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError
            part = self._answers.read(1 << 16)
            if not part:
                raise ChildEndedError(self._wait())
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """Kill the process without waiting for its end, as a handler of signals may."""
        self._process.kill()

    def end(self) -> None:
        """End the process, whatever it is in; whoever waits for its answer is told."""
        self._process.kill()
        self._process.wait()

    def _wait(self) -> int:
        """Wait for the end of a process that went by itself, or was killed."""
        status = self._process.wait()
        self._answers.close()
        return status


def send_answer(descriptor: int, answer: Mapping[str, object]) -> None:
    """Write an answer, in the child."""
    os.write(descriptor, json.dumps(answer).encode() + b"\n")


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent is gone.

    Args:
        parent: its process number, as it was before this process was started.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
