"""Read the weights of one checkpoint in a process of its own.

    python -P -c '…' CHECKPOINT SECONDS

``read_checkpoint`` starts it, so that a file that crashes, fills memory or never ends costs
one sentence. On stdout: a line of JSON, then the tensors' bytes one after another. The line is
``{"refused": reason}`` where the file is not read. Neither torch nor nnU-Net is imported.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from oarseg.training.nnunet_files.pickle_data import RefusedPickleError, TensorView, read_pickle

MOST_PICKLE_BYTES: Final = 16 << 20
MOST_ENTRIES: Final = 100_000
MOST_TENSORS: Final = 50_000
LONGEST_NAME: Final = 500
SPARE_BYTES: Final = 1 << 30


def limit_process(file_bytes: int, seconds: int) -> None:
    """Bound the memory, CPU time and output of this process."""
    memory = SPARE_BYTES + 4 * file_bytes
    for kind, most in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, SPARE_BYTES + 2 * file_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, hard))


def read_archive(path: Path, out: BinaryIO) -> None:
    """Write the weights of a checkpoint as ``read_checkpoint`` expects them.

    Raises:
        RefusedPickleError: what the file holds instead of a checkpoint of nnU-Net.
        Exception: whatever a damaged archive or pickle raises.
    """
    if not zipfile.is_zipfile(path):
        raise RefusedPickleError("a file that is no archive of torch.save")
    with zipfile.ZipFile(path) as archive:
        entries = _stored_entries(archive)
        document = read_pickle(archive.read(_pickle_entry(entries)))
        views, names = _unique_views(document)
        head = {
            "names": names,
            "tensors": [{"dtype": _dtype(view).str, "shape": view.shape} for view in views],
            "axes": _mirror_axes(document),
        }
        _check_sizes(views, path.stat().st_size)
        out.write(json.dumps(head).encode() + b"\n")
        for view in views:
            out.write(_elements(view, archive, entries).data)


def _stored_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Entries by their name inside the one folder that torch writes, none compressed."""
    listed = archive.infolist()
    if len(listed) > MOST_ENTRIES:
        raise RefusedPickleError(f"an archive of {len(listed)} entries")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in listed):
        raise RefusedPickleError("a compressed archive, which torch.save does not write")
    entries = {entry.filename.partition("/")[2]: entry for entry in listed}
    if len(entries) != len(listed):
        raise RefusedPickleError("an archive with two entries of one name")
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise RefusedPickleError("tensors in big-endian byte order")
    return entries


def _pickle_entry(entries: dict[str, zipfile.ZipInfo]) -> zipfile.ZipInfo:
    if "data.pkl" not in entries:
        raise RefusedPickleError("an archive without data.pkl")
    if entries["data.pkl"].file_size > MOST_PICKLE_BYTES:
        raise RefusedPickleError(f"more than {MOST_PICKLE_BYTES >> 20} MiB beside the tensors")
    return entries["data.pkl"]


def _unique_views(document: Any) -> tuple[list[TensorView], dict[str, int]]:
    """Every tensor once (nnU-Net's networks name most of them several times), and its names."""
    weights = document.get("network_weights") if isinstance(document, dict) else None
    if not isinstance(weights, dict) or not 0 < len(weights) <= MOST_TENSORS:
        raise RefusedPickleError("no network_weights")
    numbers: dict[TensorView, int] = {}
    names: dict[str, int] = {}
    for name, view in weights.items():
        if not isinstance(name, str) or not name.isprintable() or len(name) > LONGEST_NAME:
            raise RefusedPickleError("a weight without a proper name")
        if not isinstance(view, TensorView):
            raise RefusedPickleError(f"no tensor under the name {name}")
        names[name] = numbers.setdefault(view, len(numbers))
    return list(numbers), names


def _mirror_axes(document: Any) -> list[int]:
    axes = document.get("inference_allowed_mirroring_axes") or ()
    if not isinstance(axes, (tuple, list)):
        raise RefusedPickleError("inference_allowed_mirroring_axes that are no axes")
    if any(type(axis) is not int or axis not in (0, 1, 2) for axis in axes):
        raise RefusedPickleError("inference_allowed_mirroring_axes that are no axes")
    return sorted(set(axes))


def _dtype(view: TensorView) -> np.dtype[Any]:
    """The type that is written; bfloat16, which numpy lacks, becomes float32."""
    return np.dtype("<f4" if view.storage.dtype == "bfloat16" else view.storage.dtype)


def _check_sizes(views: list[TensorView], file_bytes: int) -> None:
    """Refuse views beyond their storage, and more bytes than the file can hold."""
    total = 0
    for view in views:
        count = math.prod(view.shape)
        reach = sum((n - 1) * step for n, step in zip(view.shape, view.strides, strict=True))
        if count == 0 or count > view.storage.count or view.offset + reach >= view.storage.count:
            raise RefusedPickleError("a tensor that reaches beyond its storage")
        total += count * _dtype(view).itemsize
    if total > 2 * file_bytes:  # bfloat16 doubles
        raise RefusedPickleError("tensors of more bytes than the file has")


def _elements(
    view: TensorView, archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]
) -> NDArray[Any]:
    """A tensor's elements, contiguous."""
    entry = entries.get(f"data/{view.storage.key}")
    if entry is None:
        raise RefusedPickleError("a tensor whose storage is not in the archive")
    stored = np.dtype("<u2" if view.storage.dtype == "bfloat16" else view.storage.dtype)
    if entry.file_size != view.storage.count * stored.itemsize:
        raise RefusedPickleError("a storage of another size than its tensors say")
    flat = np.frombuffer(archive.read(entry), stored)
    if view.storage.dtype == "bfloat16":
        flat = (flat.astype("<u4") << 16).view("<f4")
    strides = tuple(step * flat.itemsize for step in view.strides)
    # In bounds: _check_sizes compared the reach with the count, this the count with the bytes.
    cut = np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, strides)
    return np.ascontiguousarray(cut)


def write_answer(path: Path, seconds: int, out: BinaryIO = sys.stdout.buffer) -> None:
    """Answer for one file.

    Args:
        out: a file that can be begun anew; what was written is dropped where it breaks off.
    """
    limit_process(path.stat().st_size, seconds)
    try:
        read_archive(path, out)
        return
    except RefusedPickleError as error:
        reason = str(error)
    except MemoryError:
        reason = "something that takes more memory than a checkpoint of its size needs"
    except Exception as error:  # whatever damage raises, in a process that only reads
        reason = f"a damaged file ({type(error).__name__})"
    out.seek(0)
    out.truncate()
    out.write(json.dumps({"refused": reason}).encode() + b"\n")
