"""nnU-Net's dataset.json, typed: channels, labels, and what ``oarseg prepare`` adds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.model.entries.channels import ChannelRecipe
from oarseg.model.manifest import Label
from oarseg.training.nnunet_files.json_file import READ, invalid, read_json_object, shown

MOST_LABELS: Final = 256
MOST_INPUTS: Final = 64
BACKGROUND: Final = "background"
IGNORE: Final = "ignore"

LabelValue = Annotated[int, Field(ge=0, le=255)]
# A manifest takes no longer ones.
LabelName = Annotated[str, Field(min_length=1, max_length=100)]
LabelValues = Annotated[
    dict[LabelName, LabelValue | Annotated[tuple[LabelValue, ...], Field(min_length=1)]],
    Field(min_length=2, max_length=MOST_LABELS),
]


@dataclass(frozen=True, config=READ, kw_only=True)
class PreparedRecord:
    """What ``oarseg prepare`` notes in a dataset.json.

    Attributes:
        channels: how each channel came about; None where it was not noted.
        challenge: name of one of the package's challenges.
        own_challenge: the challenge itself, where it is the user's.
        classes: the challenge's label of each class, or left and right label of one that holds
            both organs of a pair; None where classes are labels.
    """

    channels: Annotated[tuple[ChannelRecipe, ...], Field(max_length=MOST_INPUTS)] | None = None
    challenge: str | None = None
    own_challenge: Challenge | None = None
    classes: (
        Annotated[
            tuple[Annotated[tuple[LabelValue, ...], Field(min_length=1, max_length=2)], ...],
            Field(max_length=MOST_LABELS),
        ]
        | None
    ) = None

    @property
    def is_there(self) -> bool:
        """Whether ``oarseg prepare`` made the data set."""
        return not (self.channels is None and self.challenge is None and self.own_challenge is None)

    @model_validator(mode="after")
    def _known(self) -> Self:
        # A name only: a data set must not point the reader at a file.
        name, names = self.challenge, catalogue.challenge_names()
        if name is not None and self.own_challenge is None and name not in names:
            raise ValueError(f"challenge {shown(name)}: expected one of {', '.join(names)}")
        return self


@dataclass(frozen=True, config=READ, kw_only=True)
class DatasetFile:
    """A dataset.json as nnU-Net reads it.

    Attributes:
        channels: names in order.
        labels: value or values of each label; several make nnU-Net train on regions.
        regions_class_order: the value that each region is painted with.
        file_ending: of its images.
        name: of the data set, if it is told.
    """

    channels: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_INPUTS)]
    labels: LabelValues
    regions_class_order: tuple[Annotated[int, Field(ge=1, le=255)], ...] | None = None
    oarseg: PreparedRecord = Field(default_factory=PreparedRecord)
    file_ending: str = ".nii.gz"
    name: Any = None

    @model_validator(mode="after")
    def _as_nnunet_wants_them(self) -> Self:
        if any(not (name.isprintable() and name.strip()) for name in self.channels):
            raise ValueError("channel_names: expected printable names")
        if any(not name.isprintable() for name in self.labels):
            raise ValueError("labels: expected printable names")
        if self.labels.get(BACKGROUND) != 0:
            raise ValueError("labels: expected background with the value 0")
        ignore = self.labels.get(IGNORE)
        if ignore is not None and ignore != max(self.values) + 1:
            raise ValueError("labels: expected ignore with the highest value")
        if self.has_regions and len(self.regions_class_order or ()) != len(self.regions):
            raise ValueError("regions_class_order: expected one value for each region")
        self._check_merged()
        return self

    def _check_merged(self) -> None:
        merged = self.oarseg.classes
        if merged is None:
            return
        given = [value for values in merged for value in values]
        if self.has_regions or self.values != tuple(range(len(merged))):
            raise ValueError("oarseg.classes: expected one for each label, which are 0, 1, 2 …")
        if len(set(given)) != len(given) or merged[0] != (0,):
            raise ValueError("oarseg.classes: expected background first, and no label twice")

    @property
    def has_regions(self) -> bool:
        """Whether the network answers for overlapping regions."""
        return any(isinstance(value, tuple) and len(value) > 1 for value in self.labels.values())

    @property
    def values(self) -> tuple[int, ...]:
        """All values that are labelled, in order."""
        return tuple(sorted(self._names_by_value))

    @property
    def _names_by_value(self) -> dict[int, str]:
        return {
            v: name
            for name, value in self.labels.items()
            if name != IGNORE
            for v in _several(value)
        }

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions' names in order; background is none."""
        return tuple(
            name for name, value in self.labels.items() if name != IGNORE and any(_several(value))
        )

    @property
    def classes(self) -> tuple[Label, ...]:
        """What each output of the network stands for."""
        if self.has_regions:
            order = self.regions_class_order or ()
            return tuple(
                Label(value, name, tuple(dict.fromkeys(_several(self.labels[name]))))
                for value, name in zip(order, self.regions, strict=True)
            )
        names = self._names_by_value
        if self.oarseg.classes is None:
            return tuple(Label(value, names[value]) for value in self.values)
        return tuple(
            Label(values[0], names[number], right=values[1] if len(values) > 1 else None)
            for number, values in enumerate(self.oarseg.classes)
        )


def read_dataset_file(path: Path) -> DatasetFile:
    """Read a ``dataset.json``.

    Raises:
        InputError: says what is wrong, and where.
    """
    document = read_json_object(path)
    try:
        return TypeAdapter(DatasetFile).validate_python(
            {**document, "channels": _channel_names(path, document)}
        )
    except ValidationError as error:
        raise invalid(path, error) from error


def _channel_names(path: Path, document: dict[str, Any]) -> Any:
    """The channels in order; data sets converted from nnU-Net's first version say ``modality``."""
    given = document.get("channel_names", document.get("modality"))
    if given is None:
        raise InputError(f"{path}: expected channel_names, found none")
    if isinstance(given, dict):
        return [given.get(str(number)) for number in range(min(len(given), MOST_INPUTS + 1))]
    return given


def _several(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
