"""A small reader of protobuf's wire format that trusts nothing it reads.

A message is read by a schema that names the fields it may have. A field that the schema does
not name, one given twice where it may stand once, a value of another wire type, a length
beyond the end and a message of too many fields are all refused, so that no second parser can
understand a message that was accepted here in another way. Schemas do not nest in themselves:
the depth is theirs, not the file's.

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
    """Why a message cannot be read."""


@dataclass(frozen=True)
class Slot:
    """A field that a message may have.

    Attributes:
        name: its key in what ``read_message`` returns.
        kind: ``ints`` and ``floats`` may be packed, and floats are left as views; ``skip``
            is read over; a schema is a message of its own.
        many: it may stand several times.
    """

    name: str
    kind: Kind | Mapping[int, Slot]
    many: bool = False


Schema = Mapping[int, Slot]
Value = int | memoryview


class FieldBudget:
    """Counts fields, so that a file of a million empty ones ends."""

    def __init__(self, fields: int = MOST_FIELDS) -> None:
        """Allow so many fields in all."""
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
        budget: what is left of the fields of all messages.
        name: what the message is, for errors.

    Returns:
        The values by the slots' names: a list for each field that may stand several times
        or is of ``ints`` or ``floats``, whether or not it is there; others only if it is.

    Raises:
        MalformedMessageError: it is damaged, or has a field that the schema does not name.
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


def _fields(data: memoryview, budget: FieldBudget) -> Iterator[tuple[int, int, Value]]:
    at = 0
    while at < len(data):
        budget.take()
        key, at = _varint(data, at)
        wire = key & 7
        value: Value
        if wire == VARINT:
            value, at = _varint(data, at)
        else:
            size, at = _size(data, at, wire)
            if size > len(data) - at:
                raise MalformedMessageError("a field that reaches beyond the end")
            value, at = data[at : at + size], at + size
        yield key >> 3, wire, value


def _size(data: memoryview, at: int, wire: int) -> tuple[int, int]:
    """Bytes of a value, and where it begins."""
    if wire == LENGTH:
        return _varint(data, at)
    if wire not in (FIXED32, FIXED64):
        raise MalformedMessageError("a field of no known wire type")
    return (4 if wire == FIXED32 else 8), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An unsigned number of 7 bits a byte, least significant first, and where it ends."""
    result = 0
    for shift, byte in enumerate(data[at : at + LONGEST_VARINT]):
        result |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return result, at + shift + 1
    raise MalformedMessageError("a number that does not end")


def _value(slot: Slot, wire: int, value: Value, budget: FieldBudget) -> Any:
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
    """What bytes of a length stand for."""
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
