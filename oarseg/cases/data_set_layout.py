"""Find images laid out as in a challenge's data set, or as nnU-Net wants them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from oarseg.cases.admission import fault_message, is_no_image, not_an_image
from oarseg.cases.candidates import (
    Candidate,
    Listing,
    broken_links,
    list_below,
    list_input,
    make_candidate,
    suffix_length,
)
from oarseg.cases.case import file_stem
from oarseg.challenges.challenge import Challenge, Socket
from oarseg.imaging.files.locate import image_ending

# nnU-Net's numbers of channels, at the end of a file's stem.
CHANNEL_NUMBER = re.compile(r"_\d{4}$")


def read_data_set(input_dir: Path, challenge: Challenge) -> Listing:
    """Collect the images named with a socket's suffix, in the folder and its subfolders."""
    listing = Listing([], [], [])
    here = list_input(input_dir)
    listing.problems.extend(broken_links(here, input_dir))
    inside = [path for folder in here for path in list_below(folder, listing)]
    for path in [*here, *inside]:
        socket = _socket_by_file(path, challenge)
        if socket:
            listing.candidates.append(
                make_candidate(path, socket, input_dir, name=_folder_name(path))
            )
        elif socket := _socket_by_suffix(path, challenge):
            listing.candidates.append(make_candidate(path, socket, input_dir))
    listing.candidates.extend(_unknown_channels([*here, *inside], listing, challenge, input_dir))
    if not listing.candidates:
        _add_unmarked(listing, here, challenge, input_dir)
    _add_misnamed(listing, [*here, *inside], challenge, input_dir)
    return listing


def _unknown_channels(
    files: list[Path], listing: Listing, challenge: Challenge, input_dir: Path
) -> list[Candidate]:
    """Return the images numbered as a channel, beside a case, that the model has not.

    They say that the folder was made for another model; nnU-Net refuses such a case, too.
    """
    suffixes = [suffix for socket in challenge.sockets for suffix in socket.suffixes]
    numbers = [suffix for suffix in suffixes if CHANNEL_NUMBER.fullmatch(suffix)]
    known = {candidate.key for candidate in listing.candidates}
    strange = []
    for path in files if numbers else ():
        name = CHANNEL_NUMBER.sub("", file_stem(path))
        if name == file_stem(path) or _socket_by_suffix(path, challenge):
            continue
        if image_ending(path.name) is not None and name.casefold() in known:
            fault = fault_message(
                path,
                expected=f"the model's channels, {' '.join(numbers)}",
                found="one more",
                do="take the model with this channel, or remove the file",
            )
            found = make_candidate(path, challenge.reference, input_dir, name=name)
            strange.append(replace(found, fault=found.fault or fault))
    return strange


def _folder_name(path: Path) -> str:
    return path.absolute().parent.name


def _add_unmarked(
    listing: Listing, files: list[Path], challenge: Challenge, input_dir: Path
) -> None:
    """Add every image of a folder, if the challenge has a socket for images without a mark."""
    socket = next((socket for socket in challenge.sockets if socket.unmarked), None)
    if socket is None:
        return
    images = [path for path in files if image_ending(path.name)]
    listing.candidates.extend(make_candidate(path, socket, input_dir) for path in images)
    found = {candidate.key for candidate in listing.candidates}
    for path in files:
        if not os.path.isfile(path) or path in images:
            continue
        meant = Path(file_stem(path.with_suffix("")))
        if is_no_image(path, input_dir) or meant.name.casefold() in found:
            listing.ignored.append(path)
        else:
            named = make_candidate(path, socket, input_dir, name=meant.name)
            listing.candidates.append(replace(named, fault=named.fault or not_an_image(path)))


def _add_misnamed(
    listing: Listing, files: list[Path], challenge: Challenge, input_dir: Path
) -> None:
    """Add files that are named like an image of a case except for their ending.

    If the image itself is there too, the file is ignored as a preview, a copy or a note.
    """
    known = {candidate.path for candidate in listing.candidates}
    whole = {(candidate.key, candidate.socket.slug) for candidate in listing.candidates}
    for path in files:
        if image_ending(path.name) or os.path.isdir(path) or path in known:
            continue
        candidate = _misnamed(path, challenge, input_dir)
        if candidate is None:
            continue
        taken = (candidate.key, candidate.socket.slug) in whole
        if taken or is_no_image(path, input_dir):
            listing.ignored.append(path)
        else:
            listing.candidates.append(candidate)


def _misnamed(path: Path, challenge: Challenge, input_dir: Path) -> Candidate | None:
    """Return the image that a file is named after, once endings are removed from its name."""
    stem = path.name
    while stem:
        meant = path.with_name(f"{stem}.nrrd")
        socket = _socket_by_file(meant, challenge)
        name = _folder_name(path) if socket else ""
        socket = socket or _socket_by_suffix(meant, challenge)
        if socket:
            name = name or stem[: len(stem) - suffix_length(stem, socket)] or stem
            named = make_candidate(path, socket, input_dir, name=name)
            return replace(named, fault=named.fault or not_an_image(path))
        stem = stem.rpartition(".")[0]
    return None


def _socket_by_file(path: Path, challenge: Challenge) -> Socket | None:
    """Return the socket whose images have this name in every case's folder."""
    if image_ending(path.name) is None:
        return None
    stem = file_stem(path).lower()
    return next((s for s in challenge.sockets if s.file and s.file.lower() == stem), None)


def _socket_by_suffix(path: Path, challenge: Challenge) -> Socket | None:
    if image_ending(path.name) is None:
        return None
    matches = [(suffix_length(file_stem(path), socket), socket) for socket in challenge.sockets]
    length, socket = max(matches, key=lambda match: match[0])
    return socket if length else None
