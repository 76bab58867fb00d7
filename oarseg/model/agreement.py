"""Checks that a model fits its challenge, and finds the challenge of a model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge
from oarseg.challenges.plain_names import file_names
from oarseg.errors import InputError, WeightsError
from oarseg.model.bundle import Bundle
from oarseg.model.entries.channels import Channel
from oarseg.model.manifest import Label, Region

# Values that scanners give, from air to metal.
CT_RANGE_HU = (-1000.0, 3000.0)


class ModelInterface(Protocol):
    """Channels and labels of a model; a manifest has them."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The input channels, in order."""

    @property
    def labels(self) -> tuple[Label, ...]:
        """The classes, in order."""

    @property
    def regions(self) -> bool:
        """Whether labels are regions, painted over one another."""


def challenge_of(weights: Bundle, named: str | None = None) -> Challenge:
    """Find the challenge that a model is for: one of the package's, or the model's own.

    Args:
        weights: an opened folder.
        named: the challenge that the user named, or their TOML file; None takes the one that
            the manifest names.

    Raises:
        WeightsError: the user named another challenge, or labels or channels do not fit it.
        InputError: the user's file is broken.
    """
    meant = weights.manifest.challenge
    if named is None:
        rules = weights.manifest.own_challenge or _package_challenge(meant, weights.folder)
    else:
        rules = catalogue.load_challenge(named)
        if rules.name != meant:
            raise WeightsError(
                f"{weights.folder}: the weights are for challenge {meant}, --challenge says "
                f"{rules.name}; pass the weights that belong to it"
            )
        if not rules.structures:
            rules = weights.manifest.own_challenge or rules
    check_agreement(weights.manifest, rules, source=str(weights.folder))
    return rules


def _package_challenge(name: str, folder: Path) -> Challenge:
    """Load a challenge by the name in a manifest, which must not point at a file."""
    if name not in catalogue.challenge_names():
        raise WeightsError(
            f"{folder}: the manifest names the challenge {name!a}, which this version does not "
            "have; export the model again, or pass the challenge's .toml file by --challenge"
        )
    return catalogue.load_challenge(name)


def check_agreement(model: ModelInterface, rules: Challenge, *, source: str) -> None:
    """Check that a model's channels and labels are those of its challenge.

    Raises:
        WeightsError: they are not; the message names the first difference.
    """
    for difference in _differences(model, rules):
        raise WeightsError(
            f"{source}: the model does not fit challenge {rules.name}: {difference}; "
            "export it for the challenge that it was trained for"
        )


def _differences(model: ModelInterface, rules: Challenge) -> Iterator[str]:
    yield from _channel_differences(model, rules)
    if model.regions:
        yield from _region_differences(model, rules)
    else:
        yield from _label_differences(model, rules)


def _channel_differences(model: ModelInterface, rules: Challenge) -> Iterator[str]:
    known = [socket.channel for socket in rules.sockets]
    names = [channel.name for channel in model.channels]
    for channel in model.channels:
        if channel.window_hu is not None and channel.name != rules.reference.channel:
            yield f"it takes a window of {channel.name}, which is not the reference CT"
        if channel.name not in known:
            yield f"it takes {channel.name}, the challenge gives {', '.join(known)}"
        elif rules.socket(channel.name).modality == "CT" and not _sees_a_ct(channel):
            yield (
                f"its {channel.name} is clipped to {channel.normalisation.lower:g} … "
                f"{channel.normalisation.upper:g}, where no CT has a value"
            )
    # Windows of one CT stand side by side.
    if [name for name, _ in groupby(names)] != [name for name in known if name in names]:
        yield f"it takes {', '.join(names)} in this order, the challenge gives {', '.join(known)}"


def _label_differences(model: ModelInterface, rules: Challenge) -> Iterator[str]:
    wanted = {structure.label: structure.name for structure in rules.structures}
    sides = [side for label in model.labels for side in _sides(label)]
    named = zip(sides, file_names([name for _, name in sides]), strict=True)
    found = {value: (told, name) for (value, told), name in named if value != 0}
    for value in sorted(set(found) | set(wanted)):
        mine, theirs = found.get(value, ("", "")), wanted.get(value)
        if theirs not in mine:
            yield f"label {value} is {mine[0] or 'unknown'} to it and {theirs or 'unknown'} there"


def _sides(label: Label) -> tuple[tuple[int, str], ...]:
    """Return value and name of each organ of a class, two where it holds both of a pair."""
    if label.right is None:
        return ((label.value, label.name),)
    left, _, right = label.name.partition("+")
    return ((label.value, left), (label.right, right))


def _region_differences(model: ModelInterface, rules: Challenge) -> Iterator[str]:
    """Compare regions by what they are made of; they are painted over one another."""
    known = {structure.label for structure in rules.structures}
    for value in sorted({label.value for label in model.labels} - known):
        yield f"it paints label {value}, which the challenge does not have"
    if not all(label.members for label in model.labels):
        return  # an older export did not note them
    names = file_names([label.name for label in model.labels])
    mine = {n: frozenset(r.members) for n, r in zip(names, model.labels, strict=True)}
    theirs = {organ.name: frozenset(organ.labels) for organ in rules.organs}
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        if mine.get(name) != theirs.get(name):
            yield (
                f"region {name} is {_labels_text(mine.get(name))} to it and "
                f"{_labels_text(theirs.get(name))} there"
            )


def _labels_text(labels: frozenset[int] | None) -> str:
    return f"labels {' + '.join(map(str, sorted(labels)))}" if labels else "unknown"


def _sees_a_ct(channel: Channel) -> bool:
    """Whether anything of a CT is left by a channel's clipping."""
    how = channel.normalisation
    return how.scheme != "ct" or (how.lower < CT_RANGE_HU[1] and how.upper > CT_RANGE_HU[0])


def check_region(region: Region | None, rules: Challenge) -> None:
    """Check that the body can be found where a region needs it.

    Raises:
        InputError: the region is the body's, and the reference image is no CT to find it in.
    """
    if region not in (None, "all") and rules.reference.modality != "CT":
        raise InputError(
            f"--region {region}: finds the body in a CT, and the model's first image is "
            f"{rules.reference.channel}; pass --region all"
        )


def dataset_record(rules: Challenge) -> dict[str, Any]:
    """Return what a prepared data set notes of its challenge (``PreparedRecord``)."""
    own = own_facts(rules)
    record: dict[str, Any] = {"challenge": rules.name}
    if own is not None:
        record["own_challenge"] = TypeAdapter(Challenge).dump_python(own, mode="json")
    return record


def own_facts(rules: Challenge) -> Challenge | None:
    """Return a challenge that must be stored with its model; None for one of the package's."""
    if rules.name in catalogue.challenge_names() and catalogue.load_challenge(rules.name) == rules:
        return None
    return rules
