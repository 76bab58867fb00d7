"""Checkpoints from anywhere: read without running, crashing or filling anything."""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export_fuzzing as fuzzing
import numpy as np
import pytest
import torch

from oarseg.errors import InputError
from oarseg.training.nnunet_files import checkpoint, checkpoint_child
from oarseg.training.nnunet_files.checkpoint import read_checkpoint


def archive(pickled: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """A file of ``torch.save`` with a pickle of our own."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for key, data in (storages or {}).items():
            file.writestr(f"archive/data/{key}", data)
    return stream.getvalue()


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected a checkpoint of nnU-Net, found ")
    assert message.isprintable()
    return message.removeprefix(f"{path}: expected a checkpoint of nnU-Net, found ")


def weight(*parts: bytes) -> bytes:
    """A pickle of {'network_weights': {'a': …}}."""
    start = b"\x80\x02}X\x0f\x00\x00\x00network_weights}X\x01\x00\x00\x00a"
    return start + b"".join(parts) + b"ss."


# A dictionary key of tuples in tuples, which takes 2^60 steps to hash.
HASHED = b"\x80\x02}q\x01)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"h\x01h\x00K\x01s."


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], count: int) -> bytes:
    def sizes(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(number(value) for value in values) + b"t"

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(count) + b"tQ" + number(offset)
        + sizes(shape) + sizes(strides) + b"\x89}tR"
    )  # fmt: skip


def saved(path: Path, **more: Any) -> None:
    torch.save({"network_weights": {"a": torch.arange(6.0).reshape(2, 3).T}} | more, path)


def test_strided_half_and_bfloat16_tensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    values = torch.linspace(-3, 3, 12).reshape(3, 4)
    tensors = {
        "module.a": values.T,
        "b": values.half(),
        "c": values.bfloat16(),
        "d": torch.tensor(7),
        "e": values[1:, ::2],
    }
    torch.save({"network_weights": tensors, "inference_allowed_mirroring_axes": (2, 0)}, path)
    found = read_checkpoint(path)
    assert found.mirror_axes == (0, 2)
    for name, wanted in tensors.items():
        got = found.weights[name.removeprefix("module.")]
        assert torch.equal(got, wanted.float() if wanted.is_floating_point() else wanted)


def test_numpy_1_named_its_scalars_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    saved(path, logging={"losses": [np.float32(0.5)]}, _best_ema=np.float64(1.5))
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    assert b"numpy._core.multiarray" in entries[pickled]
    entries[pickled] = entries[pickled].replace(b"numpy._core", b"numpy.core")
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
    assert read_checkpoint(path).weights["a"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_arrays_beside_the_weights_are_dropped_unread(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    saved(path, logging={"all": np.arange(4)}, init_args={"device": torch.device("cpu")})
    assert list(read_checkpoint(path).weights) == ["a"]


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (weight(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R"), "not allowed in a checkpoint: os.sy"),
        (
            weight(
                b"cnumpy\nndarray\n(K\x01\x85cnumpy\ndtype\nX\x01\x00\x00\x00O\x85RU\x08AAAAAAAAtR"
            ),
            "the numpy type 'O'",
        ),
        (
            weight(b"cnumpy\nndarray\nK\x01\x85\x85R"),
            "a call of what cannot be called",
        ),
        (weight(b"ctorch\nFloatStorage\nK\x01\x85R"), "a call of what cannot be called"),
        (weight(b"K\x01"), "no tensor under the name a"),
        (b"\x80\x02}.", "no network_weights"),
        (HASHED, "a dictionary key"),
        (b"\x80\x02" + b"(" * 1000, "a damaged file"),
        (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.", "the pickle operation FRAME"),
    ],
    ids=[
        "a command", "an array of objects", "an array by its class", "a storage by its class",
        "no tensor", "nothing", "a key that hashes for ever", "cut", "another protocol",
    ],
)  # fmt: skip
def test_pickles_that_are_programs(tmp_path: Path, pickled: bytes, message: str) -> None:
    assert message in refusal(tmp_path / "c.pth", archive(pickled))


@pytest.mark.parametrize(
    ("given", "storage", "message"),
    [
        (tensor(0, (4,), (1,), 2), bytes(8), "beyond its storage"),
        (tensor(1 << 40, (1,), (1,), 2), bytes(8), "beyond its storage"),
        (tensor(0, (10**12,), (0,), 2), bytes(8), "beyond its storage"),
        (tensor(0, (2,), (-1,), 2), bytes(8), "no natural number"),
        (tensor(0, (1 << 40,), (1,), 1 << 40), bytes(8), "more bytes than the file has"),
        (tensor(0, (2,), (1,), 2), bytes(7), "another size"),
        (tensor(0, (1,) * 40, (1,) * 40, 2), bytes(8), "no plain shape"),
    ],
    ids=["too long", "too far", "stride 0", "backwards", "huge", "short", "dimensions"],
)
def test_tensors_that_reach_beyond_their_bytes(
    tmp_path: Path, given: bytes, storage: bytes, message: str
) -> None:
    assert message in refusal(tmp_path / "c.pth", archive(weight(given), {"0": storage}))


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    saved(path, network_weights={"a": torch.tensor([1.0, float("nan")])})
    with pytest.raises(InputError, match="expected finite weights"):
        read_checkpoint(path)


def test_a_compressed_archive_is_no_checkpoint(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10_000_000))
    assert "a compressed archive" in refusal(tmp_path / "c.pth", stream.getvalue())


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def take_memory() -> None:
    bytearray(1 << 45)


def never_end() -> None:
    signal.pause()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (crash, r"ends its reader \(signal 11, SIGSEGV\)"),
        (take_memory, "takes more memory"),
        (never_end, "takes longer than 3 s to read"),
    ],
    ids=["crash", "memory", "hang"],
)
def test_what_ends_the_reader_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[], None], message: str
) -> None:
    path = tmp_path / "c.pth"
    saved(path)
    (tmp_path / "fault.py").write_text(
        f"import sys\nsys.path[:0] = {sys.path!r}\n"
        "from oarseg.training.nnunet_files import checkpoint_child\n"
        f"from test_foreign_checkpoint import {fault.__name__}\n"
        f"checkpoint_child.read_archive = lambda *_: {fault.__name__}()\n"
    )
    child = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport fault\n{checkpoint._CHILD}"
    monkeypatch.setattr(checkpoint, "_CHILD", child)
    # Coverage would need memory at the end of the child, where none is left.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)
    # The hang must outlast the start of the reader, and nothing else is timed.
    seconds = 3 if fault is never_end else 600
    with pytest.raises(InputError, match=message):
        read_checkpoint(path, seconds=seconds)


def test_the_reader_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pth"
    saved(path)
    for name in ("numpy", "zipfile", "json", "pickletools"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert read_checkpoint(path).weights


def test_the_reader_imports_neither_torch_nor_nnunet() -> None:
    """It would start in seconds, and hold code that a pickle can name."""
    source = Path(checkpoint_child.__file__).read_text()
    source += Path(checkpoint_child.__file__).with_name("pickle_data.py").read_text()
    assert "import torch" not in source
    assert "nnunetv2" not in source


def test_damaged_files_give_a_model_or_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small part of ``make fuzz-export``."""
    monkeypatch.setattr(checkpoint, "_run_child", fuzzing.run_fork)
    folder = fuzzing.make_folder(tmp_path)
    assert fuzzing.try_export(folder) is None
    refused = 0
    for number in range(240):
        file = fuzzing.make_damaged(number)
        fuzzing.place_file(folder, file)
        refused += fuzzing.try_export(folder) is not None
        fuzzing.place_file(folder, fuzzing.whole_file(file.kind))
    assert 120 < refused < 240
