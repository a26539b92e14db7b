"""The named values that a store holds beside its records: the spaces and their content.

Cursors, blobs, counters, floors, message marks and the holders of unique values are all bytes under a space and a name,
so a store needs one table for all six, and one way to read it.

| space | name | value |
|---|---|---|
| ``cursor`` | of the cursor | the position, decimal |
| ``blob`` | of the blob | the blob |
| ``counter/SPACE`` | of the counter | the number, decimal; a counter that is 0 has no value |
| ``floor/SPACE`` | of the floor | the number, decimal |
| ``mark/DEVICE`` | message id | time and first answer, JSON |
| ``unique/SPACE`` | the unique value | kind and key of the record that holds it, JSON |
"""

from typing import cast

from msgspec import json

from fleetcore.model.store import Body, MessageMark

CURSORS, BLOBS = "cursor", "blob"


def counters_of(space: str) -> str:
    """The space of the counters of ``space``."""
    return f"counter/{space}"


def floors_of(space: str) -> str:
    """The space of the floors of ``space``."""
    return f"floor/{space}"


def marks_of(device: str) -> str:
    """The space of the message marks of a device."""
    return f"mark/{device}"


def uniques_of(space: str) -> str:
    """The space of the holders of the unique values of ``space``."""
    return f"unique/{space}"


def from_number(number: int) -> bytes:
    """A cursor, a counter or a floor as a value."""
    return b"%d" % number


def to_number(value: bytes) -> int:
    """The cursor, counter or floor in a value."""
    return int(value)


def from_mark(mark: MessageMark) -> bytes:
    """The value of a mark, without its device and id."""
    return json.encode([mark.time, mark.answer])


def to_mark(device: str, id: str, value: bytes) -> MessageMark:
    """The mark in a value."""
    time, answer = json.decode(value, type=tuple[int, dict[str, object]])
    return MessageMark(device=device, id=id, time=time, answer=cast("Body", answer))


def from_holder(kind: str, key: str) -> bytes:
    """The record that holds a unique value."""
    return json.encode([kind, key])


def to_holder(value: bytes) -> tuple[str, str]:
    """Kind and key of the record that holds a unique value."""
    return json.decode(value, type=tuple[str, str])
