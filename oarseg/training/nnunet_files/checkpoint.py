"""Load a network's weights from one of nnU-Net's checkpoints without trusting the file."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch

import oarseg
from oarseg.errors import InputError
from oarseg.training.nnunet_files.architecture import create_network
from oarseg.training.nnunet_files.flat_plans import volume_weights
from oarseg.training.nnunet_files.json_file import shown_message
from oarseg.training.nnunet_files.results_folder import Results

# The child starts within a second, and reads at the speed of the disk.
LONGEST_S: Final = 60
SLOWEST_BYTES_PER_S: Final = 20 << 20
MOST_HEAD_BYTES: Final = 64 << 20
_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from oarseg.training.nnunet_files.checkpoint_child import write_answer
write_answer(Path(sys.argv[2]), int(sys.argv[3]))
"""


# What nnU-Net's logs need, under numpy's old and new name of the module.
_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]  # the name pickles refer to
_SAFE: Final[list[Any]] = [
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(t)) for t in (np.float16, np.float32, np.float64, np.int32, np.int64, bool)),
]


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint that inference needs.

    Attributes:
        path: the file, for messages.
        weights: the network's parameters by name; floating-point ones in float32.
        mirror_axes: the network's axes along which inference may mirror.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    mirror_axes: tuple[int, ...]


def read_checkpoint(path: Path, *, seconds: int = LONGEST_S) -> Checkpoint:
    """Read a checkpoint in a separate process, which runs no code named in the file.

    Args:
        path: a file of ``torch.save``, as nnU-Net's trainers write it.
        seconds: time limit of the process, to which time for the file's size is added.

    Raises:
        InputError: the file is not a checkpoint, is damaged or holds objects that do not
            belong in one; or reading it crashed, exhausted memory or took too long.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint of nnU-Net, found no file")
    with tempfile.TemporaryFile() as answer:
        _run_child(path, answer, seconds + path.stat().st_size // SLOWEST_BYTES_PER_S)
        answer.seek(0)
        head = json.loads(answer.readline(MOST_HEAD_BYTES))
        if "refused" in head:
            reason = shown_message(head["refused"])
            raise InputError(f"{path}: expected a checkpoint of nnU-Net, found {reason}")
        tensors = [_tensor(path, described, answer) for described in head["tensors"]]
    weights = {_plain_name(name): tensors[number] for name, number in head["names"].items()}
    return Checkpoint(path, weights, tuple(head["axes"]))


def _run_child(path: Path, answer: BinaryIO, seconds: int) -> None:
    """Run the child process, which writes its answer into a file.

    Raises:
        InputError: it did not end in time, or was killed.
    """
    root = str(Path(oarseg.__file__).resolve().parents[1])
    # -P: do not import from the working directory, which may hold anything.
    command = [sys.executable, "-P", "-c", _CHILD, root, str(path.resolve()), str(seconds)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{path}: expected a checkpoint of nnU-Net, found one that takes longer than "
            f"{seconds} s to read"
        ) from error
    refuse_ending(path, done.returncode)


def refuse_ending(path: Path, status: int) -> None:
    """Raise an error that says how the child process ended, unless it succeeded.

    Args:
        status: 0, or as ``subprocess`` gives it: negative for a signal.

    Raises:
        InputError: the status is not 0.
    """
    if status != 0:
        raise InputError(
            f"{path}: expected a checkpoint of nnU-Net, found one that ends its reader "
            f"({_ending(status)})"
        )


def _ending(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else "unknown"
    return f"signal {-status}, {name}{', as when memory runs out' if name == 'SIGKILL' else ''}"


def _tensor(path: Path, described: dict[str, Any], answer: BinaryIO) -> torch.Tensor:
    shape = tuple(described["shape"])
    array = np.fromfile(answer, np.dtype(described["dtype"]), math.prod(shape)).reshape(shape)
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise InputError(f"{path}: expected finite weights, found NaN or infinite ones")
    return torch.from_numpy(array)


def _plain_name(name: str) -> str:
    """Return a weight's name without the prefixes of distributed training and compilation."""
    return name.removeprefix("module.").removeprefix("_orig_mod.")


def build_network(results: Results, checkpoint: Checkpoint) -> torch.nn.Module:
    """Build the network of one checkpoint, ready for inference on the CPU.

    Raises:
        InputError: the checkpoint does not fit the network in the plans.
    """
    try:
        network = create_network(
            results.settings.architecture,
            channels=results.input_shape[0],
            classes=len(results.dataset.classes),
        )
    except ValueError as error:
        raise InputError(f"{results.folder / 'plans.json'}: {shown_message(str(error))}") from error
    if results.settings.flat:
        checkpoint = replace(checkpoint, weights=volume_weights(checkpoint.weights))
    load_weights(network, checkpoint, assign=True)
    return network.eval()


def load_weights(network: torch.nn.Module, checkpoint: Checkpoint, *, assign: bool = False) -> None:
    """Load the weights of a checkpoint into a network.

    Args:
        assign: use the tensors themselves instead of copying their values.

    Raises:
        InputError: the checkpoint does not fit the network.
    """
    try:
        network.load_state_dict(checkpoint.weights, assign=assign)
    except RuntimeError as error:
        reason = shown_message(str(error).splitlines()[1].strip())
        raise InputError(
            f"{checkpoint.path}: is of another network than the plans: {reason}"
        ) from error


@contextmanager
def only_plain_data() -> Iterator[None]:
    """Make ``torch.load`` refuse code, whatever arguments it is called with.

    nnU-Net resumes a training with ``torch.load(…, weights_only=False)``.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals(_SAFE):
            yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
