"""A strict reader of protobuf's wire format.

A schema names the fields that a message may have. Fields that the schema does not name, singular
fields that occur twice, other wire types, lengths beyond the end and messages of too many fields
are refused, so that every parser understands an accepted message in the same way. Schemas are not
recursive, so the nesting depth is bounded.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

# The shipped networks have 5,000, nnU-Net's largest in half precision about 40,000.
MOST_FIELDS: Final = 200_000
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT: Final = 10

Kind = Literal["int", "ints", "float", "floats", "text", "bytes", "skip"]
Message = dict[str, Any]


class MalformedMessageError(Exception):
    """The message cannot be read; the text says why."""


@dataclass(frozen=True)
class Slot:
    """A field that a message may have.

    Attributes:
        name: its key in what ``read_message`` returns.
        kind: ``ints`` and ``floats`` may be packed, and floats are left as views; ``skip``
            ignores the value; a schema stands for a nested message.
        many: the field is repeated.
    """

    name: str
    kind: Kind | Mapping[int, Slot]
    many: bool = False


Schema = Mapping[int, Slot]
WireValue = int | memoryview


class FieldBudget:
    """Limits the number of fields of a file."""

    def __init__(self, fields: int = MOST_FIELDS) -> None:
        """Set the limit."""
        self._left = fields

    def take(self) -> None:
        """Count one field.

        Raises:
            MalformedMessageError: there are too many.
        """
        self._left -= 1
        if self._left < 0:
            raise MalformedMessageError(f"more than {MOST_FIELDS} fields")


def read_message(
    data: memoryview, schema: Schema, budget: FieldBudget, *, name: str = "file"
) -> Message:
    """Read a message; fields of bytes are views into ``data``.

    Args:
        data: the message.
        schema: the fields that it may have.
        budget: limits the fields of all messages together.
        name: of the message, for errors.

    Returns:
        The values by the slots' names. Repeated fields are lists, empty if absent; absent
        singular fields have no entry.

    Raises:
        MalformedMessageError: the message is damaged, or has a field that the schema does not
            name.
    """
    found: Message = {
        slot.name: [] for slot in schema.values() if slot.many or slot.kind in ("ints", "floats")
    }
    for number, wire, value in _fields(data, budget):
        slot = schema.get(number)
        if slot is None:
            raise MalformedMessageError(f"field {number} of {name}, which export does not write")
        read = _value(slot, wire, value, budget)
        if slot.kind in ("ints", "floats"):
            found[slot.name].extend(read)
        elif slot.many:
            found[slot.name].append(read)
        elif slot.name in found:
            raise MalformedMessageError(f"{slot.name} twice")
        else:
            found[slot.name] = read
    return found


def _fields(data: memoryview, budget: FieldBudget) -> Iterator[tuple[int, int, WireValue]]:
    at = 0
    while at < len(data):
        budget.take()
        key, at = _varint(data, at)
        wire = key & 7
        value: WireValue
        if wire == VARINT:
            value, at = _varint(data, at)
        else:
            size, at = _size(data, at, wire)
            if size > len(data) - at:
                raise MalformedMessageError("a field that reaches beyond the end")
            value, at = data[at : at + size], at + size
        yield key >> 3, wire, value


def _size(data: memoryview, at: int, wire: int) -> tuple[int, int]:
    """Read the length of a value; returns it and the position of the value."""
    if wire == LENGTH:
        return _varint(data, at)
    if wire not in (FIXED32, FIXED64):
        raise MalformedMessageError("a field of no known wire type")
    return (4 if wire == FIXED32 else 8), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read an unsigned base-128 number, least significant group first; returns it and its end."""
    result = 0
    for shift, byte in enumerate(data[at : at + LONGEST_VARINT]):
        result |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return result, at + shift + 1
    raise MalformedMessageError("a number that does not end")


def _value(slot: Slot, wire: int, value: WireValue, budget: FieldBudget) -> Any:
    if slot.kind == "skip":
        return None
    if isinstance(value, int):
        if slot.kind not in ("int", "ints"):
            raise MalformedMessageError(f"{slot.name} as a number")
        return _signed(value) if slot.kind == "int" else [_signed(value)]
    if wire == FIXED32 and slot.kind == "floats":
        return [value]
    if wire == FIXED32 and slot.kind == "float":
        number: float = struct.unpack("<f", value)[0]
        return number
    if wire != LENGTH:
        raise MalformedMessageError(f"{slot.name} as a fixed number")
    return _content(slot, value, budget)


def _content(slot: Slot, value: memoryview, budget: FieldBudget) -> Any:
    """Convert a length-delimited value to its slot's kind."""
    if not isinstance(slot.kind, str):
        return read_message(value, slot.kind, budget, name=slot.name)
    if slot.kind == "bytes":
        return value
    if slot.kind == "text":
        try:
            return bytes(value).decode()
        except UnicodeDecodeError as error:
            raise MalformedMessageError(f"{slot.name} that is not UTF-8") from error
    if slot.kind == "ints":
        return list(_packed(value, budget))
    if slot.kind == "floats" and len(value) % 4 == 0:
        return [value]
    raise MalformedMessageError(f"{slot.name} as bytes")


def _packed(data: memoryview, budget: FieldBudget) -> Iterator[int]:
    at = 0
    while at < len(data):
        budget.take()
        number, at = _varint(data, at)
        yield _signed(number)


def _signed(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number
