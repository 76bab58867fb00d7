"""Which files of the input folder make a case.

Three layouts are known, and the first that is there counts:

1. ``inputs.json`` as Grand Challenge writes it, naming sockets whose image files lie
   in ``images/<slug>/``;
2. the folders ``images/<slug>/`` alone;
3. the data set's own: ``case_01/case_01_IMG_CT.nrrd`` or, where the challenge's images
   are called alike in every case, ``1/data.nii.gz``; one such folder itself; and a folder
   of plain images, where the challenge has one input and says so.

Files pair by case key: the name without the socket's suffix and without regard to
case. Never by their order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oarseg.cases.admission import fault_message, find_file_fault, not_an_image, printable_path
from oarseg.cases.case import IMAGES, INPUTS, Case, CaseProblem, _stem, label_path
from oarseg.challenges.challenge import Challenge, Socket
from oarseg.errors import InputError
from oarseg.imaging.files.locate import image_ending


@dataclass(frozen=True)
class Found:
    """What the input holds, both parts in the order of their names."""

    cases: tuple[Case, ...]
    problems: tuple[CaseProblem, ...]


@dataclass(frozen=True)
class _Candidate:
    """A file that stands for one socket of one case, and what is wrong with it, if anything."""

    socket: Socket
    path: Path
    name: str
    fault: str | None

    @property
    def key(self) -> str:
        return self.name.casefold()


def find_cases(
    input_dir: Path, challenge: Challenge, *, required: frozenset[str] | None = None
) -> Found:
    """Find the cases in an input folder, and what keeps other files from being one.

    Args:
        input_dir: the folder.
        challenge: tells sockets and suffixes.
        required: channels that no case may lack; None means all. The reference
            channel is required in any case.

    Raises:
        InputError: no such folder, a broken ``inputs.json``, or nothing in it that could
            be a case.
    """
    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: expected a folder with images, found none; pass --input")
    by_socket = _uses_sockets(input_dir, challenge)
    candidates, problems = (
        _in_sockets(input_dir, challenge) if by_socket else (_in_data_set(input_dir, challenge), [])
    )
    if not candidates and not problems:
        folders = " and ".join(f"{IMAGES}/{socket.slug}" for socket in challenge.sockets)
        raise InputError(
            f"{input_dir}: expected images in {folders} or case folders as in the data set, "
            f"found no case; put the images there or pass another --input"
        )
    channels = {socket.channel for socket in challenge.sockets}
    needed = (channels if required is None else set(required)) | {challenge.reference.channel}
    cases: list[Case] = []
    for group in _groups(candidates, single=by_socket):
        made = _case(group, challenge, needed, candidates)
        if isinstance(made, Case):
            cases.append(made)
        else:
            problems.append(made)
    distinct, clashes = _distinct(cases, challenge)
    problems = sorted([*problems, *clashes], key=lambda problem: problem.name)
    return Found(tuple(sorted(distinct, key=lambda case: case.name)), tuple(problems))


def _uses_sockets(input_dir: Path, challenge: Challenge) -> bool:
    """Whether the platform's layout is there rather than the data set's."""
    slugs = (socket.slug for socket in challenge.sockets)
    return (input_dir / INPUTS).exists() or any((input_dir / IMAGES / s).exists() for s in slugs)


def _in_sockets(
    input_dir: Path, challenge: Challenge
) -> tuple[list[_Candidate], list[CaseProblem]]:
    listed = input_dir / INPUTS
    folders = {socket.slug: input_dir / IMAGES / socket.slug for socket in challenge.sockets}
    if listed.exists():
        slugs = _listed_slugs(listed, challenge)
        folders = {slug: folder for slug, folder in folders.items() if slug in slugs}
    candidates: list[_Candidate] = []
    problems: list[CaseProblem] = []
    for socket in challenge.sockets:
        for path in _visible(folders[socket.slug]) if socket.slug in folders else ():
            if image_ending(path.name) is None:
                problems.append(CaseProblem(printable_path(path.name), not_an_image(path)))
            else:
                candidates.append(_candidate(path, socket, input_dir))
    return candidates, problems


def _listed_slugs(listed: Path, challenge: Challenge) -> set[str]:
    """The challenge's sockets that ``inputs.json`` lists with an image."""
    items = _read_list(listed)
    slugs = {_slug(item) for item in items if _gives_image(item)}
    wanted = {socket.slug for socket in challenge.sockets}
    if not slugs & wanted:
        raise InputError(
            f"{listed}: expected images of the sockets {', '.join(sorted(wanted))}, found "
            f"{', '.join(sorted(filter(None, slugs))) or 'none'}; give the job these inputs"
        )
    return {socket.slug for socket in challenge.sockets if socket.slug in slugs}


def _read_list(listed: Path) -> list[Any]:
    refused = find_file_fault(listed, listed.parent)
    if refused:
        raise InputError(refused)
    try:
        document = json.loads(listed.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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


def _slug(item: Any) -> str | None:
    """The socket an entry belongs to; the platform called sockets interfaces before."""
    if not isinstance(item, dict):
        return None
    socket = item.get("socket") or item.get("interface")
    slug = socket.get("slug") if isinstance(socket, dict) else None
    return slug if isinstance(slug, str) else None


def _gives_image(item: Any) -> bool:
    """Whether an entry carries an image: ``image``, ``file``, or neither of the keys."""
    if not isinstance(item, dict):
        return False
    given = [item[key] for key in ("image", "file") if key in item]
    return not given or any(value is not None for value in given)


def _in_data_set(input_dir: Path, challenge: Challenge) -> list[_Candidate]:
    """Images named with a socket's suffix, in the folder and its subfolders."""
    here = _visible(input_dir)
    inside = [path for folder in here if folder.is_dir() for path in _visible(folder)]
    found: list[_Candidate] = []
    for path in [*here, *inside]:
        socket = _socket_by_file(path, challenge)
        if socket:
            found.append(_candidate(path, socket, input_dir, name=path.absolute().parent.name))
        elif socket := _socket_by_suffix(path, challenge):
            found.append(_candidate(path, socket, input_dir))
    return found or _unmarked(here, challenge, input_dir)


def _unmarked(files: list[Path], challenge: Challenge, input_dir: Path) -> list[_Candidate]:
    """Every image of a folder, where the challenge has a socket for what nothing marks."""
    sockets = [socket for socket in challenge.sockets if socket.unmarked]
    return [
        _candidate(path, socket, input_dir)
        for socket in sockets
        for path in files
        if image_ending(path.name)
    ]


def _socket_by_file(path: Path, challenge: Challenge) -> Socket | None:
    """The socket whose images have this name in every case's folder."""
    if image_ending(path.name) is None:
        return None
    stem = _stem(path).lower()
    return next((s for s in challenge.sockets if s.file and s.file.lower() == stem), None)


def _socket_by_suffix(path: Path, challenge: Challenge) -> Socket | None:
    if image_ending(path.name) is None:
        return None
    matches = [(_suffix(_stem(path), socket), socket) for socket in challenge.sockets]
    length, socket = max(matches, key=lambda match: match[0])
    return socket if length else None


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _candidate(path: Path, socket: Socket, input_dir: Path, name: str = "") -> _Candidate:
    stem = _stem(path)
    # A file that is called nothing but its suffix keeps its whole stem.
    name = name or stem[: len(stem) - _suffix(stem, socket)] or stem
    return _Candidate(socket, path, printable_path(name), find_file_fault(path, input_dir))


def _suffix(stem: str, socket: Socket) -> int:
    """Length of the longest suffix of the socket that the stem ends with; 0 for none."""
    lower = stem.lower()
    return max((len(s) for s in socket.suffixes if lower.endswith(s.lower())), default=0)


def _groups(candidates: list[_Candidate], *, single: bool) -> list[list[_Candidate]]:
    """Candidates that belong together, by key.

    Args:
        candidates: all of them.
        single: where no socket has two files they are one case, whatever their names:
            the platform calls every file by a number of its own. Unless their suffixes
            show that somebody named them, and named two cases.
    """
    sockets = Counter(candidate.socket.slug for candidate in candidates)
    named = all(_suffix(_stem(c.path), c.socket) for c in candidates)
    two_cases = named and len({candidate.key for candidate in candidates}) > 1
    if single and candidates and max(sockets.values()) == 1 and not two_cases:
        return [candidates]
    by_key: dict[str, list[_Candidate]] = {}
    for candidate in candidates:
        by_key.setdefault(candidate.key, []).append(candidate)
    return list(by_key.values())


def _case(
    group: list[_Candidate],
    challenge: Challenge,
    needed: Iterable[str],
    everything: list[_Candidate],
) -> Case | CaseProblem:
    by_channel: dict[str, list[_Candidate]] = {}
    for candidate in group:
        by_channel.setdefault(candidate.socket.channel, []).append(candidate)
    first = by_channel.get(challenge.reference.channel, group)[0]
    message = (
        next((candidate.fault for candidate in group if candidate.fault), None)
        or _repeated(by_channel.values(), first.name)
        or _missing(by_channel, first, challenge, needed, everything)
    )
    if message:
        return CaseProblem(first.name, message)
    return Case(first.name, {channel: files[0].path for channel, files in by_channel.items()})


def _repeated(channels: Iterable[list[_Candidate]], name: str) -> str | None:
    for files in channels:
        if len(files) > 1:
            channel = files[0].socket.channel
            names = ", ".join(file.path.name for file in files)
            return fault_message(
                files[0].path.parent,
                expected=f"one {channel} for case {name!r}",
                found=f"{len(files)} ({names})",
                do="keep one of them, or give each case its own name",
            )
    return None


def _missing(
    by_channel: Mapping[str, list[_Candidate]],
    first: _Candidate,
    challenge: Challenge,
    needed: Iterable[str],
    everything: list[_Candidate],
) -> str | None:
    for socket in challenge.sockets:
        if socket.channel in needed and socket.channel not in by_channel:
            names = [c.path.name for c in everything if c.socket.channel == socket.channel]
            some = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
            return fault_message(
                first.path,
                expected=f"the {socket.channel} of case {first.name!r} with it",
                found=f"only {some}" if names else f"no {socket.channel} at all",
                do=f"add it under the same name, or remove this {first.socket.channel}",
            )
    return None


def _distinct(cases: list[Case], challenge: Challenge) -> tuple[list[Case], list[CaseProblem]]:
    """Part the cases whose label files would overwrite one another from the rest."""
    channel = challenge.reference.channel
    names = {id(case): str(label_path(case, challenge)) for case in cases}
    count = Counter(name.casefold() for name in names.values())
    good = [case for case in cases if count[names[id(case)].casefold()] == 1]
    clashing = [case for case in cases if count[names[id(case)].casefold()] > 1]
    problems = [
        CaseProblem(
            case.name,
            fault_message(
                case.files[channel],
                expected="an output name of its own",
                found=f"{names[id(case)]}, which another case has too",
                do="rename the file",
            ),
        )
        for case in clashing
    ]
    return good, problems
