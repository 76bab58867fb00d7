"""Damaged plans, data set files and checkpoints, made from whole ones by their number.

``bench/fuzz_export.py`` and ``test_export_fuzz.py`` use the same: number N is the same file on
every machine. A mutation knows its format: it replaces a value deep inside a JSON file, a
constructor or an operation of a pickle, an entry of an archive.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import signal
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import IO, Any

import nnunet_oracle as oracle
import numpy as np
import torch

from oarseg.challenges import catalogue, challenge
from oarseg.challenges.plausibility import Plausibility
from oarseg.errors import OarsegError
from oarseg.training.exporting.manifest_entries import Card
from oarseg.training.exporting.read_model import read_model
from oarseg.training.nnunet_files import checkpoint, checkpoint_child
from oarseg.training.nnunet_files.architecture import create_network
from oarseg.training.nnunet_files.plans import read_plans

KINDS = ("plans.json", "dataset.json", "checkpoint_final.pth")
FOLDER = "T__nnUNetPlans__3d_fullres"
CARD = Card("title", "warning", "random weights", "CC0-1.0")
RECIPE = oracle.Recipe((3.0, 1.0, 1.0))
MOST_MUTATIONS = 3
SMALL_PATCH = 1 << 16

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 10**6, 2**31, 2**63, 10**400, 0.5, 1e-9, 1e308, -2.5,
    float("nan"), float("inf"), "", "0", "-1", "1e3", "x", "\x1b[31m", "é" * 300,
    "../../etc/passwd", "subprocess.getoutput", "os.system", "torch.load", "torch.nn.Conv2d",
    "torch.nn.Softmax",
    "torch.nn.BatchNorm3d", "evil.PlainConvUNet", "PlainConvUNet", "3d_fullres", "CTNormalization",
    [], [[]], [0], [1, 1], [1, 2, 2], [0, 0, 0], [1] * 1000, [None], {}, {"0": "CT"},
    {"a": {"b": {}}}, {"cmd": "touch intruder"}, {"background": 0},
)  # fmt: skip
KEYS = (
    "nonlin", "inherits_from", "previous_stage", "UNet_class_name", "cmd", "block", "ignore",
    "regions_class_order", "oarseg", "challenge", "own_challenge", "channels", "modality", "",
)  # fmt: skip
GLOBALS = (
    "os system", "builtins eval", "numpy ndarray", "numpy dtype", "_codecs encode",
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage",
    "numpy._core.multiarray scalar", "numpy.core.multiarray _reconstruct", "torch Size",
)  # fmt: skip


@dataclass(frozen=True)
class Damaged:
    """A file of a results folder with something wrong, or by chance nothing."""

    kind: str
    data: bytes


def whole_file(kind: str) -> Damaged:
    """A file with nothing wrong."""
    return Damaged(kind, whole_files()[kind])


@cache
def whole_files() -> dict[str, bytes]:
    """A results folder that can be exported, as names and contents."""
    plans, dataset = oracle.plans_of(RECIPE), oracle.dataset_of(RECIPE)
    return {
        "plans.json": json.dumps(plans).encode(),
        "dataset.json": json.dumps(dataset).encode(),
        "checkpoint_final.pth": _checkpoint(plans),
    }


def _checkpoint(plans: dict[str, Any]) -> bytes:
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    torch.manual_seed(0)
    network = oracle.get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        len(RECIPE.channels),
        len(RECIPE.labels),
        deep_supervision=False,
    )
    document = {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
        "logging": {"losses": [np.float32(-0.1), np.float64(0.5)], "all": np.zeros(3)},
        "init_args": {"fold": 0, "device": torch.device("cpu")},
        "inference_allowed_mirroring_axes": (0, 1),
    }
    stream = io.BytesIO()
    torch.save(document, stream)
    return stream.getvalue()


def five_structures() -> challenge.Challenge:
    """A challenge with the channels and labels of the recipe."""
    han_seg = catalogue.load_challenge("han_seg")
    return replace(
        han_seg,
        evaluation=challenge.Evaluation(),
        plausibility=Plausibility(),
        sockets=tuple(
            replace(socket, channel=f"c{number}") for number, socket in enumerate(han_seg.sockets)
        ),
        structures=tuple(
            replace(structure, name=f"s{label}", label=label)
            for label, structure in enumerate(han_seg.structures[:5], start=1)
        ),
    )


def make_folder(parent: Path) -> Path:
    """Write the whole results folder."""
    folder = parent / FOLDER
    (folder / "fold_0").mkdir(parents=True)
    for kind, data in whole_files().items():
        place_file(folder, Damaged(kind, data))
    return folder


def place_file(folder: Path, file: Damaged) -> None:
    """Put a file into its place in a results folder."""
    below = folder / "fold_0" if file.kind.endswith(".pth") else folder
    (below / file.kind).write_bytes(file.data)


def make_damaged(number: int) -> Damaged:
    """The file of a number: plans, a data set file or a checkpoint in turn."""
    random, kind = Random(number), KINDS[number % len(KINDS)]
    data = whole_files()[kind]
    for _ in range(random.randint(1, MOST_MUTATIONS)):
        if random.random() < 0.1:
            data = random.choice((_flipped, _cut, _replaced))(data, random)
        else:
            data = (_archive if kind.endswith(".pth") else _json)(data, random)
    return Damaged(kind, data)


def try_export(folder: Path) -> str | None:
    """Go as far as ``export`` goes before its long work; the refusal, or None where it reads.

    Raises:
        AssertionError: the refusal is no short, printable sentence, or the network that was
            read gives no logits of the patch's shape.
        Exception: whatever else the reader raised.
    """
    try:
        model = read_model(folder, folds=["0"], challenge=five_structures(), card=CARD)
    except OarsegError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) < len(str(folder)) + 700, message
        return message
    shape = model.results.input_shape
    if int(np.prod(shape[1:])) <= SMALL_PATCH:
        architecture = read_plans(folder / "plans.json", "3d_fullres").settings.architecture
        network = create_network(architecture, channels=shape[0], classes=6)
        logits = network(torch.zeros((1, *shape), device="meta"))
        assert tuple(logits.shape) == (1, 6, *shape[1:])
    return None


def _json(data: bytes, random: Random) -> bytes:
    """Change one value, key or length somewhere inside."""
    try:
        document = json.loads(data)
    except ValueError:
        return _flipped(data, random)
    places = list(_places(document))
    if not places:
        return json.dumps(random.choice(VALUES)).encode()
    holder, key = random.choice(places)
    change = random.randrange(6)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[random.choice(KEYS)] = holder.pop(key)
    elif change == 2 and isinstance(holder, dict):
        holder[random.choice(KEYS)] = copy.deepcopy(random.choice(VALUES))
    elif change == 3 and isinstance(holder[key], list):
        holder[key] = holder[key] * random.choice((0, 2, 5))
    else:
        holder[key] = copy.deepcopy(random.choice(VALUES))
    return json.dumps(document).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        pairs: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return []
    return [(value, key) for key, _ in pairs] + [p for _, v in pairs for p in _places(v)]


def _archive(data: bytes, random: Random) -> bytes:
    """Change one entry of a checkpoint's archive, mostly the pickle."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError):
        return _flipped(data, random)
    picked = random.randrange(len(entries))
    pickled = next((i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl")), picked)
    change = random.randrange(10)
    if change == 0:
        del entries[picked]
    elif change == 1:
        entries[picked] = (entries[picked][0], random.choice(BYTES)(entries[picked][1], random))
    elif change == 2:
        entries[picked] = (random.choice(("a/data.pkl", "x", "a/data/0")), entries[picked][1])
    else:
        name, content = entries[pickled]
        entries[pickled] = (name, random.choice(PICKLES)(content, random))
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if random.random() < 0.03 else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in dict(entries).items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def _other_global(data: bytes, random: Random) -> bytes:
    """Let one constructor be another."""
    parts = data.split(b"c", random.randint(1, 12))
    module, _, rest = parts[-1].partition(b"\n")
    if not module or b"\n" not in rest:
        return _flipped(data, random)
    new = random.choice(GLOBALS).replace(" ", "\n").encode()
    return b"c".join(parts[:-1]) + b"c" + new + b"\n" + rest.split(b"\n", 1)[1]


def _other_number(data: bytes, random: Random) -> bytes:
    """Replace a small number by a large or negative one."""
    at = data.find(b"K", random.randrange(len(data) or 1))
    if at < 0:
        return data
    number = random.choice((-1, 0, 5, 2**31 - 1, -(2**31))).to_bytes(4, "little", signed=True)
    return data[:at] + b"J" + number + data[at + 2 :]


def _other_operation(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) or 1)
    operations = b"R}]()t\x85\x86\x87Nb.0eausQh\x81cK\x88\x93\x94\x95i\x8a2"
    return data[:at] + bytes([random.choice(operations)]) + data[at + 1 :]


def _other_pickle(_: bytes, random: Random) -> bytes:
    documents: tuple[Any, ...] = (
        None, [], {}, {"network_weights": None}, {"network_weights": {}}, "x", np.zeros(2),
        {"network_weights": {"a": 1}}, {"network_weights": {1: 1}}, 2**4000,
    )  # fmt: skip
    if random.random() < 0.3:
        # A dictionary key of tuples in tuples, which takes 2 to this power steps to hash.
        nested = b"h\x00h\x00\x86q\x00" * random.choice((3, 60, 900))
        return b"\x80\x02}q\x01)q\x00" + nested + b"h\x01h\x00K\x01s."
    return pickle.dumps(random.choice(documents), random.choice((0, 2, 4)))


def _flipped(data: bytes, random: Random) -> bytes:
    if not data:
        return b"x"
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))]


def _replaced(data: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.randbytes(random.randint(0, 12)) + data[at + random.randint(0, 12) :]


Mutation = Callable[[bytes, Random], bytes]
BYTES: tuple[Mutation, ...] = (_flipped, _cut, _replaced)
PICKLES: tuple[Mutation, ...] = (
    *BYTES, _other_global, _other_global, _other_number, _other_number, _other_operation,
    _other_pickle,
)  # fmt: skip


def fork_readers() -> None:
    """Let the readers of checkpoints be forks of this process, which start at once.

    They are bounded and end as the started ones do; only Python and numpy are there already.
    """
    checkpoint._run_child = run_fork


def run_fork(path: Path, answer: IO[bytes], seconds: int) -> None:
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)  # ends the fork, as the time limit ends a started reader
        try:
            checkpoint_child.write_answer(path, seconds, answer)
            answer.flush()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    checkpoint.refuse_ending(path, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
