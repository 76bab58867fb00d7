"""What a raw dataset was prepared from, and how: recorded, and compared when it is continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.model.agreement import dataset_record
from oarseg.model.bundle import file_sha256
from oarseg.model.entries.channels import ChannelRecipe

ORIGIN = "oarseg_prepare.json"
DIFFERENCES_SHOWN = 5

Options = Mapping[str, Any]
Digests = Mapping[str, str]


def prepare_options(
    challenge: Challenge,
    recipes: Sequence[ChannelRecipe],
    *,
    transforms: str,
    registration: str,
    resample: bool,
) -> Options:
    """Collect what decides how a case is prepared, as JSON values."""
    return {
        **dataset_record(challenge),
        "channels": recipe_records(recipes),
        "transforms": transforms,
        "registration": registration,
        "resample": resample,
    }


def recipe_records(recipes: Sequence[ChannelRecipe]) -> list[Any]:
    """Return recipes as JSON values, as before there were windows where a channel has none."""
    records = TypeAdapter(tuple[ChannelRecipe, ...]).dump_python(
        tuple(recipes), mode="json", exclude_none=True
    )
    return list(records)


def digest_sources(files: Mapping[str, Path], rows: Mapping[str, Any]) -> dict[str, str]:
    """Hash what a case is made of.

    Args:
        files: what a file is for → the file.
        rows: what a table says of the case, by the table's name; JSON values.

    Raises:
        OSError: a file cannot be read.
    """
    return {name: file_sha256(path) for name, path in files.items()} | {
        name: hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()
        for name, row in rows.items()
    }


def check_options(out: Path, options: Options, *, begun: bool) -> None:
    """Record a dataset's options, or make sure that they are those it was begun with.

    Args:
        out: the dataset's folder.
        options: of this run.
        begun: whether the folder holds cases already.

    Raises:
        InputError: they are others, or nothing tells what they were.
    """
    path = out / ORIGIN
    if not begun:
        write_whole_text(path, json.dumps(options, indent=1))
        return
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        recorded = None
    if not isinstance(recorded, dict):
        raise InputError(
            f"{out}: expected a new folder, or a dataset that says in {ORIGIN} how it was "
            "prepared, found cases without that; pass another --out"
        )
    different = [key for key in {**recorded, **options} if recorded.get(key) != options.get(key)]
    if different:
        told = "; ".join(_difference(key, recorded.get(key), options.get(key)) for key in different)
        raise InputError(
            f"{out}: expected the options that its cases were prepared with, found {told}; "
            "pass the same options, or another --out"
        )


def _difference(key: str, recorded: Any, given: Any) -> str:
    if all(isinstance(value, str | bool) for value in (recorded, given)):
        return f"{key} {_shown(given)} in place of {_shown(recorded)}"
    return f"other facts under {key!r}"


def _shown(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value


def check_sources(out: Path, case: str, *, recorded: Digests, found: Digests) -> None:
    """Make sure that a finished case was made of the files that are there now.

    Raises:
        InputError: a file has changed, is new or is gone.
    """
    changed = [
        f"{name} ({'gone' if name not in found else 'changed' if name in recorded else 'new'})"
        for name in {**recorded, **found}
        if recorded.get(name) != found.get(name)
    ]
    if changed:
        raise InputError(
            f"{out}: case {case}: expected the files that it was prepared from, found others: "
            f"{_listed(changed)}; pass another --out, or remove the case's record in {out.name} "
            "to prepare it anew"
        )


def check_strays(out: Path, data: Path, *, there: Collection[str], usable: Collection[str]) -> None:
    """Make sure that a dataset holds no case but those of this data set.

    Args:
        out: the dataset's folder.
        data: the data set's folder.
        there: cases that the dataset has files of.
        usable: cases that can be prepared.

    Raises:
        InputError: it holds others; nnU-Net would train on them.
    """
    strays = sorted(set(there) - set(usable))
    if strays:
        raise InputError(
            f"{out}: expected only cases of {data}, found also {_listed(strays)}, which "
            f"{'is' if len(strays) == 1 else 'are'} not among its usable cases; pass another "
            "--out, or remove their files"
        )


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - DIFFERENCES_SHOWN
    return ", ".join(names[:DIFFERENCES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def write_whole_text(path: Path, text: str) -> None:
    """Write a file, or replace it, whole or not at all."""
    temporary = path.with_name(f"tmp-{path.name}")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)
