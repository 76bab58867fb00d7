"""Find the cases in the input folder, and pair their files.

Four layouts are known; the first one that is present is used:

1. ``inputs.json`` as Grand Challenge writes it, naming sockets whose image files lie
   in ``images/<slug>/``;
2. the folders ``images/<slug>/`` alone;
3. the data set's own: ``case_01/case_01_IMG_CT.nrrd`` or, where the challenge's images
   have the same name in every case, ``1/data.nii.gz``; one such folder itself; or, if the
   challenge allows it for its only input, a folder of plain images;
4. if none of these holds an image, studies of DICOM in the folder or anywhere below it.

A socket's folder may hold the slices of one series of DICOM instead of an image.

Files are paired by case key, which is the name without the socket's suffix, in lower case;
never by their order. A faulty entry affects its own case only.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oarseg.cases.admission import (
    fault_message,
    find_file_fault,
    is_no_image,
    not_an_image,
)
from oarseg.cases.case import (
    Case,
    CaseProblem,
    file_stem,
    fits_file_name,
    label_path,
    longest_output_name,
    output_paths,
)
from oarseg.cases.dicom_cases import (
    DicomCases,
    WantedSeries,
    find_socket_case,
    find_study_cases,
)
from oarseg.cases.places import (
    EARLIER,
    HIDDEN,
    IMAGES,
    INPUTS,
    NAME_BYTES,
    RESULTS,
    fold_path,
    is_case_name,
)
from oarseg.challenges.challenge import Challenge, Socket
from oarseg.errors import InputError
from oarseg.imaging.files.locate import image_ending
from oarseg.imaging.files.pixels import open_plain_file, printable_path

# The platform's list has a few KiB; a much larger file is not one.
INPUTS_BYTES = 1 << 20
RESERVED = tuple(Path(name) for name in (RESULTS, EARLIER, HIDDEN))


@dataclass(frozen=True)
class Found:
    """Contents of the input folder, each part sorted by name.

    Attributes:
        cases: cases that can be segmented.
        problems: entries that were meant as cases but cannot be used, and why.
        ignored: files beside the images that are certainly not images.
    """

    cases: tuple[Case, ...]
    problems: tuple[CaseProblem, ...]
    ignored: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """A file for one socket of one case, and its fault, if it has one."""

    socket: Socket
    path: Path
    name: str
    fault: str | None

    @property
    def key(self) -> str:
        return self.name.casefold()


@dataclass(frozen=True)
class _Layout:
    """Contents of the input folder before files are paired."""

    candidates: list[_Candidate]
    problems: list[CaseProblem]
    ignored: list[Path]


def find_cases(
    input_dir: Path,
    challenge: Challenge,
    *,
    required: frozenset[str] | None = None,
    wanted: WantedSeries | None = None,
) -> Found:
    """Find the cases in an input folder, and the problems of entries that cannot be used.

    Args:
        input_dir: the folder.
        challenge: gives sockets and suffixes.
        required: channels that every case must have; None means all. The reference
            channel is always required.
        wanted: series of DICOM that the user named.

    Raises:
        InputError: there is no such folder, ``inputs.json`` is damaged, or the folder holds
            nothing that could be a case.
    """
    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: expected a folder with images, found none; pass --input")
    channels = {socket.channel for socket in challenge.sockets}
    needed = (channels if required is None else set(required)) | {challenge.reference.channel}
    by_socket = _uses_sockets(input_dir, challenge)
    layout = (_read_sockets if by_socket else _read_data_set)(input_dir, challenge)
    dicom = _find_dicom(input_dir, layout, challenge, needed, wanted or WantedSeries())
    if dicom is not None:
        return _sorted(dicom.cases, dicom.problems, challenge, [])
    if not layout.candidates and not layout.problems:
        raise InputError(
            f"{input_dir}: expected images {_places(challenge)}, found no case; put the images "
            "there or pass another --input"
        )
    cases: list[Case] = []
    problems = layout.problems
    for group in _groups(layout.candidates, single=by_socket):
        made = _case(group, challenge, needed, layout.candidates)
        if isinstance(made, Case):
            cases.append(made)
        else:
            problems.append(made)
    return _sorted(cases, problems, challenge, layout.ignored)


def _places(challenge: Challenge) -> str:
    """Say where the images of a case may lie."""
    folders = " and ".join(f"{IMAGES}/{socket.slug}" for socket in challenge.sockets)
    names = [f"<case>{s.suffixes[0]}" for s in challenge.sockets if s.suffixes]
    named = f", named {' and '.join(names)}" if names else ""
    return f"in {folders}{named} or in case folders as in the data set"


def _find_dicom(
    input_dir: Path,
    layout: _Layout,
    challenge: Challenge,
    needed: set[str],
    wanted: WantedSeries,
) -> DicomCases | None:
    """Find cases in DICOM, unless the folder holds cases in other formats."""
    if _uses_sockets(input_dir, challenge):
        folders = _socket_folders(input_dir, challenge)
        return find_socket_case(folders, challenge, needed, wanted, input_dir)
    if any(candidate.fault is None for candidate in layout.candidates):
        return None
    return find_study_cases(input_dir, challenge, needed, wanted)


def _sorted(
    cases: list[Case], problems: list[CaseProblem], challenge: Challenge, ignored: list[Path]
) -> Found:
    distinct, clashes = _distinct(cases, challenge)
    problems = sorted([*problems, *clashes], key=lambda problem: problem.name)
    cases = sorted(distinct, key=lambda case: case.name)
    return Found(tuple(cases), tuple(problems), tuple(sorted(ignored)))


def _uses_sockets(input_dir: Path, challenge: Challenge) -> bool:
    """Return whether the folder has the platform's layout rather than the data set's."""
    slugs = (socket.slug for socket in challenge.sockets)
    # A broken link counts as present, so that it is reported.
    listed = os.path.lexists(input_dir / INPUTS)
    return listed or any(os.path.lexists(input_dir / IMAGES / slug) for slug in slugs)


def _socket_folders(input_dir: Path, challenge: Challenge) -> dict[str, Path]:
    """Return the folders of the sockets, those that ``inputs.json`` lists if it is there."""
    listed = input_dir / INPUTS
    folders = {socket.slug: input_dir / IMAGES / socket.slug for socket in challenge.sockets}
    if os.path.lexists(listed):
        slugs = _listed_slugs(listed, challenge)
        folders = {slug: folder for slug, folder in folders.items() if slug in slugs}
    return folders


def _read_sockets(input_dir: Path, challenge: Challenge) -> _Layout:
    folders = _socket_folders(input_dir, challenge)
    layout = _Layout([], [], [])
    layout.problems.extend(_broken_links(folders.values(), input_dir))
    for socket in challenge.sockets:
        for path in _entries(folders[socket.slug], layout) if socket.slug in folders else ():
            if image_ending(path.name) is not None:
                layout.candidates.append(_candidate(path, socket, input_dir))
            elif is_no_image(path, input_dir):
                layout.ignored.append(path)
            else:
                name = printable_path(path.name)
                layout.problems.append(CaseProblem(name, not_an_image(path)))
    return layout


def _listed_slugs(listed: Path, challenge: Challenge) -> set[str]:
    """Return the challenge's sockets for which ``inputs.json`` lists an image."""
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


def _slug(item: Any) -> str | None:
    """Return the socket of an entry; the platform used to call sockets interfaces."""
    if not isinstance(item, dict):
        return None
    socket = item.get("socket") or item.get("interface")
    slug = socket.get("slug") if isinstance(socket, dict) else None
    return slug if isinstance(slug, str) else None


def _gives_image(item: Any) -> bool:
    """Return whether an entry has an image: ``image`` or ``file`` is set, or both are missing."""
    if not isinstance(item, dict):
        return False
    given = [item[key] for key in ("image", "file") if key in item]
    return not given or any(value is not None for value in given)


def _read_data_set(input_dir: Path, challenge: Challenge) -> _Layout:
    """Collect the images named with a socket's suffix, in the folder and its subfolders."""
    layout = _Layout([], [], [])
    here = _input_entries(input_dir)
    layout.problems.extend(_broken_links(here, input_dir))
    inside = [path for folder in here for path in _entries(folder, layout)]
    for path in [*here, *inside]:
        socket = _socket_by_file(path, challenge)
        if socket:
            layout.candidates.append(_candidate(path, socket, input_dir, name=_folder_name(path)))
        elif socket := _socket_by_suffix(path, challenge):
            layout.candidates.append(_candidate(path, socket, input_dir))
    if not layout.candidates:
        _add_unmarked(layout, here, challenge, input_dir)
    _add_misnamed(layout, [*here, *inside], challenge, input_dir)
    return layout


def _folder_name(path: Path) -> str:
    return path.absolute().parent.name


def _broken_links(paths: Iterable[Path], input_dir: Path) -> Iterator[CaseProblem]:
    """Report broken links without an image's ending: each may stand for a case's folder."""
    for path in paths:
        broken = os.path.islink(path) and not os.path.exists(path)
        if broken and image_ending(path.name) is None:
            fault = find_file_fault(path, input_dir)
            yield CaseProblem(printable_path(path.name), fault or not_an_image(path))


def _add_unmarked(
    layout: _Layout, files: list[Path], challenge: Challenge, input_dir: Path
) -> None:
    """Add every image of a folder, if the challenge has a socket for images without a mark."""
    socket = next((socket for socket in challenge.sockets if socket.unmarked), None)
    if socket is None:
        return
    images = [path for path in files if image_ending(path.name)]
    layout.candidates.extend(_candidate(path, socket, input_dir) for path in images)
    found = {candidate.key for candidate in layout.candidates}
    for path in files:
        if not os.path.isfile(path) or path in images:
            continue
        meant = Path(file_stem(path.with_suffix("")))
        if is_no_image(path, input_dir) or meant.name.casefold() in found:
            layout.ignored.append(path)
        else:
            named = _candidate(path, socket, input_dir, name=meant.name)
            layout.candidates.append(replace(named, fault=named.fault or not_an_image(path)))


def _add_misnamed(
    layout: _Layout, files: list[Path], challenge: Challenge, input_dir: Path
) -> None:
    """Add files that are named like an image of a case except for their ending.

    If the image itself is there too, the file is ignored as a preview, a copy or a note.
    """
    known = {candidate.path for candidate in layout.candidates}
    whole = {(candidate.key, candidate.socket.slug) for candidate in layout.candidates}
    for path in files:
        if image_ending(path.name) or os.path.isdir(path) or path in known:
            continue
        candidate = _misnamed(path, challenge, input_dir)
        if candidate is None:
            continue
        taken = (candidate.key, candidate.socket.slug) in whole
        if taken or is_no_image(path, input_dir):
            layout.ignored.append(path)
        else:
            layout.candidates.append(candidate)


def _misnamed(path: Path, challenge: Challenge, input_dir: Path) -> _Candidate | None:
    """Return the image that a file is named after, once endings are removed from its name."""
    stem = path.name
    while stem:
        meant = path.with_name(f"{stem}.nrrd")
        socket = _socket_by_file(meant, challenge)
        name = _folder_name(path) if socket else ""
        socket = socket or _socket_by_suffix(meant, challenge)
        if socket:
            name = name or stem[: len(stem) - _suffix(stem, socket)] or stem
            named = _candidate(path, socket, input_dir, name=name)
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
    matches = [(_suffix(file_stem(path), socket), socket) for socket in challenge.sockets]
    length, socket = max(matches, key=lambda match: match[0])
    return socket if length else None


def _input_entries(folder: Path) -> list[Path]:
    """List the input folder itself, without hidden entries."""
    try:
        return _visible(folder)
    except OSError as error:
        raise InputError(_unreadable(folder, error)) from error


def _entries(folder: Path, layout: _Layout) -> list[Path]:
    """List a folder below the input; empty, with a problem noted, if it cannot be read."""
    if not os.path.isdir(folder):
        return []
    try:
        return _visible(folder)
    except OSError as error:
        name = printable_path(folder.name)
        layout.problems.append(CaseProblem(name, _unreadable(folder, error)))
        return []


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _unreadable(folder: Path, error: OSError) -> str:
    return fault_message(
        folder,
        expected="a folder that can be read",
        found=f"{error.strerror}",
        do="make it readable, or remove it",
    )


def _candidate(path: Path, socket: Socket, input_dir: Path, name: str = "") -> _Candidate:
    stem = file_stem(path)
    # A file whose name is only the suffix keeps its whole stem.
    name = name or stem[: len(stem) - _suffix(stem, socket)] or stem
    fault = find_file_fault(path, input_dir) or _name_fault(path, name)
    return _Candidate(socket, path, printable_path(name), fault)


def _name_fault(path: Path, name: str) -> str | None:
    if is_case_name(name):
        return None
    return fault_message(
        Path(printable_path(str(path))),
        expected="a name for its case that a file can have",
        found=printable_path(name) or "none",
        do="rename the file or its folder",
    )


def _suffix(stem: str, socket: Socket) -> int:
    """Return the length of the socket's longest suffix that the stem ends with; 0 for none."""
    lower = stem.lower()
    return max((len(s) for s in socket.suffixes if lower.endswith(s.lower())), default=0)


def _groups(candidates: list[_Candidate], *, single: bool) -> list[list[_Candidate]]:
    """Group the candidates that belong to one case, by key.

    Args:
        candidates: all candidates.
        single: take all candidates as one case, whatever their names, if no socket has
            two: the platform gives every file an arbitrary name. The exception is names
            that all end with a suffix and so name two cases.
    """
    sockets = Counter(candidate.socket.slug for candidate in candidates)
    named = all(_suffix(file_stem(c.path), c.socket) for c in candidates)
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
    case = Case(first.name, {channel: files[0].path for channel, files in by_channel.items()})
    longest = longest_output_name(case, challenge)
    if not fits_file_name(longest):
        return CaseProblem(case.name, _too_long(first.path, longest))
    return case


def _too_long(path: Path, longest: str) -> str:
    return fault_message(
        path,
        expected=f"a name that leaves room for the outputs', {NAME_BYTES} bytes each",
        found=f"{len(longest.encode())} bytes for {longest[:16]}…{longest[-32:]}",
        do="rename the file",
    )


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
    """Separate the cases whose outputs would overwrite each other or the run's own files."""
    owners: dict[Path, list[str]] = {fold_path(path): [""] for path in RESERVED}
    for case in cases:
        for path in output_paths(case, challenge):
            owners.setdefault(fold_path(path), []).append(case.name)
    clashes = {case.name: clash for case in cases if (clash := _clash(case, challenge, owners))}
    # The other case of a clash may own the parent path; neither of the two may be written.
    above = {name for _, names in clashes.values() for name in names}
    good = [case for case in cases if case.name not in clashes and case.name not in above]
    lost = [case for case in cases if case.name in clashes or case.name in above]
    problems = [
        CaseProblem(case.name, _clash_message(case, challenge, clashes.get(case.name)))
        for case in lost
    ]
    return good, problems


def _clash(
    case: Case, challenge: Challenge, owners: Mapping[Path, list[str]]
) -> tuple[Path, list[str]] | None:
    """Return a case's first output at or below another's output, and the owners' names."""
    # The label file first, since users know that one.
    for path in reversed(output_paths(case, challenge)):
        folded = fold_path(path)
        for place in (folded, *folded.parents):
            names = owners.get(place, [])
            others = [name for name in names if name != case.name]
            twice = len(names) > 1 or place != folded
            if others or (names and twice):
                return path, names
    return None


def _clash_message(case: Case, challenge: Challenge, clash: tuple[Path, list[str]] | None) -> str:
    path = clash[0] if clash else label_path(case, challenge)
    kept = clash is not None and "" in clash[1]
    return fault_message(
        case.files[challenge.reference.channel],
        expected="an output name of its own",
        found=f"{path}, which {'the run itself needs' if kept else 'another case has too'}",
        do="rename the file",
    )
