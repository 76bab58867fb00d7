"""Does a model fit its challenge? Weights that answer another question are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from pydantic import TypeAdapter

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge
from oarseg.errors import WeightsError
from oarseg.model.bundle import Bundle
from oarseg.model.manifest import Channel, Label

# Values that scanners give, from air to metal.
CT_RANGE_HU = (-1000.0, 3000.0)


class ModelInterface(Protocol):
    """What a model takes and gives; a manifest is one."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Its inputs, in order."""

    @property
    def labels(self) -> tuple[Label, ...]:
        """Its answers, in order."""

    @property
    def regions(self) -> bool:
        """Whether labels are painted over one another."""


def challenge_of(weights: Bundle, told: str | None = None) -> Challenge:
    """The challenge that weights are for: one of the package's, or their own.

    Args:
        weights: an opened folder.
        told: the challenge that the user named, or their TOML file; None takes the
            weights' word.

    Raises:
        WeightsError: the user named another one, or labels or channels do not fit it.
        InputError: the user's file is broken.
    """
    meant = weights.manifest.challenge
    if told is None:
        rules = weights.manifest.own_challenge or catalogue.load_challenge(meant)
    else:
        rules = catalogue.load_challenge(told)
        if rules.name != meant:
            raise WeightsError(
                f"{weights.folder}: the weights are for challenge {meant}, --challenge says "
                f"{rules.name}; pass the weights that belong to it"
            )
        if not rules.structures:
            rules = weights.manifest.own_challenge or rules
    check_agreement(weights.manifest, rules, source=str(weights.folder))
    return rules


def check_agreement(model: ModelInterface, rules: Challenge, *, source: str) -> None:
    """Make sure that a model's channels and labels are those of its challenge.

    Raises:
        WeightsError: they are not; says the first difference.
    """
    for difference in _differences(model, rules):
        raise WeightsError(
            f"{source}: the model does not fit challenge {rules.name}: {difference}; "
            "export it for the challenge that it was trained for"
        )


def _differences(model: ModelInterface, rules: Challenge) -> Iterator[str]:
    known = [socket.channel for socket in rules.sockets]
    for channel in model.channels:
        if channel.name not in known:
            yield f"it takes {channel.name}, the challenge gives {', '.join(known)}"
        elif rules.socket(channel.name).modality == "CT" and not _sees_a_ct(channel):
            yield (
                f"its {channel.name} is clipped to {channel.normalisation.lower:g} … "
                f"{channel.normalisation.upper:g}, where no CT has a value"
            )
    wanted = {structure.label: structure.name for structure in rules.structures}
    values = [label.value for label in model.labels]
    if model.regions:
        # Regions are painted over one another; only their values reach the label map.
        for value in sorted(set(values) - set(wanted)):
            yield f"it paints label {value}, which the challenge does not have"
        return
    found = {label.value: label.name for label in model.labels if label.value != 0}
    for value in sorted(set(found) | set(wanted)):
        mine, theirs = found.get(value), wanted.get(value)
        if mine != theirs:
            yield f"label {value} is {mine or 'unknown'} to it and {theirs or 'unknown'} there"


def _sees_a_ct(channel: Channel) -> bool:
    """Whether anything of a CT is left by a channel's clipping."""
    how = channel.normalisation
    return how.scheme != "ct" or (how.lower < CT_RANGE_HU[1] and how.upper > CT_RANGE_HU[0])


def challenge_of_dataset(document: Mapping[str, Any]) -> Challenge | None:
    """The challenge that a raw dataset was prepared for; None where it does not tell.

    Args:
        document: nnU-Net's ``dataset.json``.

    Raises:
        InputError: it tells of one that is not known.
    """
    told = document.get("oarseg", {})
    if told.get("own_challenge"):
        return TypeAdapter(Challenge).validate_python(told["own_challenge"])
    return catalogue.load_challenge(told["challenge"]) if "challenge" in told else None


def dataset_record(rules: Challenge) -> dict[str, Any]:
    """What ``challenge_of_dataset`` reads."""
    own = own_facts(rules)
    record: dict[str, Any] = {"challenge": rules.name}
    if own is not None:
        record["own_challenge"] = TypeAdapter(Challenge).dump_python(own, mode="json")
    return record


def own_facts(rules: Challenge) -> Challenge | None:
    """A challenge that must travel with its model; None for one of the package's."""
    if rules.name in catalogue.challenge_names() and catalogue.load_challenge(rules.name) == rules:
        return None
    return rules
