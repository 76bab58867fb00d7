"""What is written is what the strict reader reads, and what protobuf's own library reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from onnx import AttributeProto

from oarseg.model.protobuf import FieldBudget, Slot, read_message
from oarseg.model.wire_format import block, blocks, integer, real

INT64 = some.integers(-(1 << 63), (1 << 63) - 1)


@given(number=INT64, ratio=some.floats(width=32, allow_nan=False), text=some.text(max_size=300))
def test_a_message_comes_back(number: int, ratio: float, text: str) -> None:
    data = block(1, text) + real(2, ratio) + integer(3, number)
    schema = {1: Slot("name", "text"), 2: Slot("f", "float"), 3: Slot("i", "int")}
    found = read_message(memoryview(data), schema, FieldBudget())
    assert (found["name"], found["f"], found["i"]) == (text, ratio, number)
    theirs = AttributeProto.FromString(data)
    assert (theirs.name, theirs.f, theirs.i) == (text, ratio, number)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 1 << 21])
def test_long_fields(length: int) -> None:
    data = blocks(9, [b"\0" * length, b"x"])
    schema = {9: Slot("strings", "bytes", many=True)}
    first, second = read_message(memoryview(data), schema, FieldBudget())["strings"]
    assert (len(first), bytes(second)) == (length, b"x")
