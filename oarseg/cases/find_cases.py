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

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from oarseg.cases.admission import fault_message
from oarseg.cases.candidates import Candidate, Listing, suffix_length
from oarseg.cases.case import (
    Case,
    CaseProblem,
    file_stem,
    fits_file_name,
    label_path,
    longest_output_name,
    output_paths,
)
from oarseg.cases.data_set_layout import read_data_set
from oarseg.cases.dicom_cases import (
    DicomCases,
    WantedSeries,
    find_socket_case,
    find_study_cases,
)
from oarseg.cases.places import EARLIER, HIDDEN, IMAGES, NAME_BYTES, RESULTS, fold_path
from oarseg.cases.platform_layout import read_sockets, socket_folders, uses_sockets
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError

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
    by_socket = uses_sockets(input_dir, challenge)
    listing = (read_sockets if by_socket else read_data_set)(input_dir, challenge)
    dicom = _find_dicom(input_dir, listing, challenge, needed, wanted or WantedSeries())
    if dicom is not None:
        return _sorted(dicom.cases, dicom.problems, challenge, [])
    if not listing.candidates and not listing.problems:
        raise InputError(
            f"{input_dir}: expected images of challenge {challenge.name} {_places(challenge)}, "
            "found no case; put the images there, or pass another --input or the weights of the "
            "model that is for them"
        )
    cases: list[Case] = []
    problems = listing.problems
    for group in _groups(listing.candidates, single=by_socket):
        made = _case(group, challenge, needed, listing.candidates)
        if isinstance(made, Case):
            cases.append(made)
        else:
            problems.append(made)
    return _sorted(cases, problems, challenge, listing.ignored)


def _places(challenge: Challenge) -> str:
    """Say where the images of a case may lie."""
    folders = " and ".join(f"{IMAGES}/{socket.slug}" for socket in challenge.sockets)
    names = [f"<case>{s.suffixes[0]}" for s in challenge.sockets if s.suffixes]
    named = f", named {' and '.join(names)}" if names else ""
    return f"in {folders}{named} or in case folders as in the data set"


def _find_dicom(
    input_dir: Path,
    listing: Listing,
    challenge: Challenge,
    needed: set[str],
    wanted: WantedSeries,
) -> DicomCases | None:
    """Find cases in DICOM, unless the folder holds cases in other formats."""
    if uses_sockets(input_dir, challenge):
        folders = socket_folders(input_dir, challenge)
        return find_socket_case(folders, challenge, needed, wanted, input_dir)
    if any(candidate.fault is None for candidate in listing.candidates):
        return None
    return find_study_cases(input_dir, challenge, needed, wanted)


def _sorted(
    cases: list[Case], problems: list[CaseProblem], challenge: Challenge, ignored: list[Path]
) -> Found:
    distinct, clashes = _distinct(cases, challenge)
    problems = sorted([*problems, *clashes], key=lambda problem: problem.name)
    cases = sorted(distinct, key=lambda case: case.name)
    return Found(tuple(cases), tuple(problems), tuple(sorted(ignored)))


def _groups(candidates: list[Candidate], *, single: bool) -> list[list[Candidate]]:
    """Group the candidates that belong to one case, by key.

    Args:
        candidates: all candidates.
        single: take all candidates as one case, whatever their names, if no socket has
            two: the platform gives every file an arbitrary name. The exception is names
            that all end with a suffix and so name two cases.
    """
    sockets = Counter(candidate.socket.slug for candidate in candidates)
    named = all(suffix_length(file_stem(c.path), c.socket) for c in candidates)
    two_cases = named and len({candidate.key for candidate in candidates}) > 1
    if single and candidates and max(sockets.values()) == 1 and not two_cases:
        return [candidates]
    by_key: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_key.setdefault(candidate.key, []).append(candidate)
    return list(by_key.values())


def _case(
    group: list[Candidate],
    challenge: Challenge,
    needed: Iterable[str],
    everything: list[Candidate],
) -> Case | CaseProblem:
    by_channel: dict[str, list[Candidate]] = {}
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


def _repeated(channels: Iterable[list[Candidate]], name: str) -> str | None:
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
    by_channel: Mapping[str, list[Candidate]],
    first: Candidate,
    challenge: Challenge,
    needed: Iterable[str],
    everything: list[Candidate],
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
