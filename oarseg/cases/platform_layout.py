"""Find images in the platform's listing: a folder for each socket, listed in ``inputs.json``.

The list names each socket by its slug and says where its files lie (``relative_path``), which
need not be named alike: the platform's ``ct-image`` lies in ``images/ct``. A challenge's slug is
found under either. Sockets of other kinds, and values, are left alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oarseg.cases.admission import (
    fault_message,
    find_file_fault,
    is_no_image,
    not_an_image,
)
from oarseg.cases.candidates import Candidate, Listing, broken_links, list_below, make_candidate
from oarseg.cases.case import CaseProblem
from oarseg.cases.places import IMAGES, INPUTS, safe_relative_path
from oarseg.challenges.challenge import Challenge, Socket
from oarseg.errors import InputError
from oarseg.imaging.files.locate import image_ending
from oarseg.imaging.files.pixels import open_plain_file, printable_path

# The platform's list has a few KiB; a much larger file is not one.
INPUTS_BYTES = 1 << 20


@dataclass(frozen=True)
class _Entry:
    """An entry of ``inputs.json`` that has an image.

    Attributes:
        slug: the platform's name of the socket.
        path: where its files lie below the input folder; None if that is not said.
    """

    slug: str
    path: Path | None

    @property
    def text(self) -> str:
        """The entry in words: slug and path."""
        path = f" in {printable_path(str(self.path))}" if self.path else ""
        return printable_path(self.slug) + path

    def is_for(self, socket: Socket) -> bool:
        """Return whether the entry is a challenge's socket."""
        return socket.slug in (self.slug, self.path.name if self.path else self.slug)


def uses_sockets(input_dir: Path, challenge: Challenge) -> bool:
    """Return whether the folder has the platform's layout rather than the data set's."""
    slugs = (socket.slug for socket in challenge.sockets)
    # A broken link counts as present, so that it is reported.
    listed = os.path.lexists(input_dir / INPUTS)
    return listed or any(os.path.lexists(input_dir / IMAGES / slug) for slug in slugs)


def socket_folders(input_dir: Path, challenge: Challenge) -> dict[str, Path]:
    """Return the folders of the sockets, those that ``inputs.json`` lists if it is there.

    Raises:
        InputError: the list is broken, or has no image of the challenge.
    """
    listed = input_dir / INPUTS
    if not os.path.lexists(listed):
        return {socket.slug: input_dir / IMAGES / socket.slug for socket in challenge.sockets}
    entries = _read_entries(listed)
    folders: dict[str, Path] = {}
    for socket in challenge.sockets:
        meant = [entry for entry in entries if entry.is_for(socket)]
        if len(meant) > 1:
            raise InputError(
                f"{listed}: expected one image for the socket {socket.slug}, found "
                f"{' and '.join(entry.text for entry in meant)}; remove one"
            )
        for entry in meant:
            folders[socket.slug] = input_dir / (entry.path or Path(IMAGES, socket.slug))
    if not folders:
        wanted = ", ".join(sorted(socket.slug for socket in challenge.sockets))
        found = ", ".join(sorted({entry.text for entry in entries})) or "none"
        raise InputError(
            f"{listed}: expected images of the sockets {wanted}, found {found}; give the job "
            "these inputs"
        )
    return folders


def read_sockets(input_dir: Path, challenge: Challenge) -> Listing:
    """Collect the images in the sockets' folders.

    Raises:
        InputError: see ``socket_folders``.
    """
    folders = socket_folders(input_dir, challenge)
    listing = Listing([], [], [])
    listing.problems.extend(broken_links(folders.values(), input_dir))
    listed = os.path.lexists(input_dir / INPUTS)
    for socket in challenge.sockets:
        if socket.slug in folders:
            folder = folders[socket.slug]
            paths = [folder] if os.path.isfile(folder) else list_below(folder, listing)
            _add_files(listing, paths, socket, input_dir)
            if listed and not paths and not os.path.islink(folder):
                listing.candidates.append(_nothing_there(folder, socket))
    return listing


def _add_files(listing: Listing, paths: list[Path], socket: Socket, input_dir: Path) -> None:
    for path in paths:
        if image_ending(path.name) is not None:
            listing.candidates.append(make_candidate(path, socket, input_dir))
        elif is_no_image(path, input_dir):
            listing.ignored.append(path)
        else:
            name = printable_path(path.name)
            listing.problems.append(CaseProblem(name, not_an_image(path)))


def _nothing_there(folder: Path, socket: Socket) -> Candidate:
    """Stand for the image that is listed and missing: without it, it would be left out."""
    fault = fault_message(
        folder,
        expected=f"the image of the socket {socket.slug}, which {INPUTS} lists",
        found="none",
        do="put it there, or correct the list",
    )
    return Candidate(socket, folder, printable_path(folder.name), fault)


def _read_entries(listed: Path) -> list[_Entry]:
    """Read the entries that have an image."""
    return [
        _Entry(slug, _path(item, slug, listed))
        for item in _read_list(listed)
        if (slug := _text(item, "slug")) is not None and _gives_image(item)
    ]


def _read_list(listed: Path) -> list[Any]:
    refused = find_file_fault(listed, listed.parent)
    if refused:
        raise InputError(refused)
    with open_plain_file(listed) as stream:
        content = stream.read(INPUTS_BYTES + 1)
    if len(content) > INPUTS_BYTES:
        raise InputError(
            f"{listed}: expected the platform's JSON list of inputs, at most "
            f"{INPUTS_BYTES >> 20} MiB, found more; correct it or remove it"
        )
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{listed}: expected the platform's JSON list of inputs, found a file that cannot "
            f"be read ({error}); correct it or remove it"
        ) from error
    if not isinstance(document, list):
        raise InputError(
            f"{listed}: expected a JSON list of inputs, found {type(document).__name__}; "
            "correct it or remove it"
        )
    return document


def _text(item: Any, key: str) -> str | None:
    """Return a text of an entry's socket; the platform used to call sockets interfaces."""
    if not isinstance(item, dict):
        return None
    socket = item.get("socket") or item.get("interface")
    text = socket.get(key) if isinstance(socket, dict) else None
    return text if isinstance(text, str) else None


def _path(item: Any, slug: str, listed: Path) -> Path | None:
    text = _text(item, "relative_path")
    path = safe_relative_path(text)
    if text is not None and path is None:
        raise InputError(
            f"{listed}: socket {printable_path(slug)}: expected a relative_path inside the input "
            f"folder, found {text!a}; correct it"
        )
    return path


def _gives_image(item: Any) -> bool:
    """Return whether an entry has an image: ``image`` or ``file`` is set, or both are missing."""
    given = [item[key] for key in ("image", "file") if key in item]
    return any(value is not None for value in given) if given else "value" not in item
