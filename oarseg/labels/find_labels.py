"""Find the label files and masks of every case in a folder.

These layouts are known; the first that is present counts:

1. ``images/<output slug>/``: the label files that the challenge asks for;
2. ``oar_masks/``: one folder of masks per case;
3. label files and folders of masks or label files, up to three folders deep:
   ``case_01/case_01_OAR_<structure>.seg.nrrd`` (HaN-Seg), ``segrap_0001/<structure>.nii.gz``
   (SegRap), ``7/label.nii.gz`` (StructSeg), ``case_01.nii.gz`` (nnU-Net).

A label file is a label map, a 4-D image with one channel per organ, or a Slicer
segmentation with segments named like the organs, in one or more layers.

Images of a challenge's sockets are skipped. Masks, and files called "label", take the
case's name from their folder; other files from their own name, without the ending that the
challenge gives its label files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from oarseg.cases.case import PROBABILITY_MARK, CaseProblem
from oarseg.cases.data_set_layout import CHANNEL_NUMBER
from oarseg.cases.places import IMAGES, MASKS
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.imaging.files.locate import ENDINGS, image_ending

SEGMENTATION = ".seg"
LABEL_STEMS = frozenset({"label", "labels", "mask", "seg", "segmentation"})
IMAGE_STEMS = frozenset({"data", "image", "image_contrast", "img"})
IMAGE_FOLDERS = frozenset({"imagestr", "imagests"})
MAX_DEPTH = 3


@dataclass(frozen=True)
class LabelFiles:
    """Files of one side of a case: a label file, or one mask file per organ.

    Attributes:
        case: name of the case.
        label_map: the label file, if any; ``masks`` is then empty.
        masks: structure name → file of its binary mask.
    """

    case: str
    label_map: Path | None
    masks: Mapping[str, Path]

    @property
    def key(self) -> str:
        """Case-insensitive name, by which both sides are paired."""
        return self.case.casefold()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file."""
        return (self.label_map,) if self.label_map else tuple(self.masks.values())

    @property
    def first(self) -> Path:
        """The file that messages name and whose grid is the case's."""
        return self.label_map or next(iter(self.masks.values()))


@dataclass(frozen=True)
class FoundLabels:
    """Labels found in a folder, and problems; both sorted by name."""

    cases: tuple[LabelFiles, ...]
    problems: tuple[CaseProblem, ...]


@dataclass(frozen=True)
class _File:
    """A file with its case and structure; ``structure`` is None for a label file."""

    path: Path
    case: str
    structure: str | None
    unknown: bool = False


def find_labels(folder: Path, challenge: Challenge) -> FoundLabels:
    """Find the label maps and masks of every case below a folder.

    Cases with duplicate files, and masks of structures unknown to the challenge, become
    problems; the rest is returned.

    Raises:
        InputError: no such folder, or no labels in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with label maps or masks, found none")
    files = list(_iterate_files(folder, challenge))
    if not files:
        raise InputError(
            f"{folder}: expected label maps or masks ({', '.join(ENDINGS)}) in one of the known "
            "layouts, found none; see 'oarseg evaluate --help'"
        )
    by_case: dict[str, list[_File]] = {}
    for file in files:
        by_case.setdefault(file.case.casefold(), []).append(file)
    cases: list[LabelFiles] = []
    problems: list[CaseProblem] = []
    for group in by_case.values():
        name = group[0].case
        known = [file for file in group if not file.unknown]
        twice = _describe_duplicate(known)
        if twice:
            problems.append(CaseProblem(name, twice))
        elif known:
            cases.append(_group_files(name, known))
    problems += _report_unknown([file for file in files if file.unknown], challenge)
    return FoundLabels(
        tuple(sorted(cases, key=lambda case: case.case)),
        tuple(sorted(problems, key=lambda problem: problem.name)),
    )


def _iterate_files(folder: Path, challenge: Challenge) -> Iterator[_File]:
    platform = folder / IMAGES / challenge.output.slug
    if challenge.output.slug and platform.is_dir():
        for path in _iterate_images(platform, depth=0):
            yield _File(path, _case_of_output(_stem(path), challenge), None)
        return
    masks = folder / MASKS
    root = masks if masks.is_dir() else folder
    # Our own output has one file with all masks of a case beside their folder: skip it.
    paths = [
        p for p in _iterate_images(root, depth=MAX_DEPTH) if root != masks or p.parent != masks
    ]
    names = {organ.name for organ in challenge.organs}
    of_masks = {p.parent for p in paths if p.parent != root and _stem(p) in names}
    for path in paths:
        file = _classify_file(path, root, challenge, inside_masks=path.parent in of_masks)
        if file:
            yield file


def _iterate_images(folder: Path, *, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if depth and path.name.lower() not in IMAGE_FOLDERS:
                yield from _iterate_images(path, depth=depth - 1)
        elif image_ending(path.name):
            yield path


def _classify_file(
    path: Path, root: Path, challenge: Challenge, *, inside_masks: bool
) -> _File | None:
    """Classify a file by its name and its neighbours; None for an image."""
    stem, inside = _stem(path), path.parent != root
    if stem.startswith(f"{path.parent.name}{PROBABILITY_MARK}"):
        return None
    names = {organ.name for organ in challenge.organs}
    case, marker, structure = stem.rpartition("_OAR_")
    if marker:
        return _File(path, case, structure, unknown=structure not in names)
    if inside and stem in names:
        return _File(path, path.parent.name, stem)
    if inside and stem.lower() in LABEL_STEMS:
        return _File(path, path.parent.name, None)
    if _is_image(path, stem, challenge):
        return None
    if inside_masks:
        return _File(path, path.parent.name, stem, unknown=True)
    return _File(path, _strip_to_case(stem, challenge), None)


def _is_image(path: Path, stem: str, challenge: Challenge) -> bool:
    sockets = challenge.sockets
    return (
        stem.lower() in IMAGE_STEMS
        or path.parent.name in {socket.slug for socket in sockets}
        or any(stem.endswith(suffix) for socket in sockets for suffix in socket.suffixes)
        # nnU-Net ends the names of images, but not of labels, with the channel number.
        or (CHANNEL_NUMBER.search(stem) is not None and not _is_case_name(stem, challenge))
    )


def _is_case_name(stem: str, challenge: Challenge) -> bool:
    """Whether the number at the end is the case's, as in segrap_0001."""
    prefix = challenge.case_prefix
    return bool(prefix) and stem.startswith(prefix) and stem[len(prefix) :].isdecimal()


def _stem(path: Path) -> str:
    return path.name[: -len(image_ending(path.name) or "")].removesuffix(SEGMENTATION)


def _case_of_output(stem: str, challenge: Challenge) -> str:
    """Return the case of a label file in its socket, in which nothing else lies.

    Images end in their suffix in any case of letters, and where the challenge's naming replaces it
    in capitals only, ``a_ct.mha`` of case a keeps its name.
    """
    known = _strip_to_case(stem, challenge)
    if known != stem:
        return known
    suffixes = sorted(challenge.reference.suffixes, key=len, reverse=True)
    ends = (len(s) for s in suffixes if len(stem) > len(s) and stem.lower().endswith(s.lower()))
    return stem[: -next(ends, 0) or None]


def _strip_to_case(stem: str, challenge: Challenge) -> str:
    """Strip what the challenge's naming adds to a case's name."""
    output = challenge.output
    given = (suffix.replace(output.replace, output.by) for suffix in challenge.reference.suffixes)
    endings = sorted((e for e in {*given, output.by} if e), key=len, reverse=True)
    for known in endings:
        if stem.endswith(known) and stem != known:
            return stem.removesuffix(known)
    return stem


def _group_files(name: str, files: Iterable[_File]) -> LabelFiles:
    maps = [file.path for file in files if file.structure is None]
    masks = {file.structure: file.path for file in files if file.structure is not None}
    return LabelFiles(name, maps[0] if maps else None, {} if maps else masks)


def _describe_duplicate(files: list[_File]) -> str | None:
    """Describe the first duplicate among a case's files, if any."""
    seen: dict[str | None, _File] = {}
    for file in files:
        other = seen.setdefault(file.structure, file)
        if other is not file:
            what = file.structure or "label map"
            return (
                f"{file.path}: expected one {what} of case {file.case!r}, found another in "
                f"{other.path}; keep one of them"
            )
    return None


def _report_unknown(files: list[_File], challenge: Challenge) -> list[CaseProblem]:
    """Report each structure that the challenge lacks once, with all cases that have it."""
    by_structure: dict[str, list[_File]] = {}
    for file in files:
        by_structure.setdefault(file.structure or "", []).append(file)
    return [
        CaseProblem(
            ", ".join(dict.fromkeys(file.case for file in group)),
            f"{group[0].path}{' and others' if len(group) > 1 else ''}: expected a structure of "
            f"{challenge.name}, found {structure!r}, which it does not have; passed over",
        )
        for structure, group in by_structure.items()
    ]
