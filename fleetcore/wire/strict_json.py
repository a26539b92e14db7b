"""Reads and writes JSON: RFC 8259, read strictly.

A fast parser alone is not strict: it keeps the last of two equal keys, nests as deep as Python allows, and takes
integers that no store can hold. Parsing again with a strict one would cost ten times as much. So :func:`loads` parses
fast, then compares cheap counts of the bytes with what was decoded; only a message whose counts do not prove it valid
is read a second time. The proof errs to one side: a valid message may take the slow way, an invalid one never takes the
fast one.

It does not know readings, twins, or any other meaning of a document.
"""

import json
import re
from collections.abc import Iterable

import msgspec

from fleetcore.errors import Refused

#: Integers must fit a signed 64-bit word, the range of stores and columns. Twins allow less (wire.md §8) and check it.
MAX_INTEGER = 2**63 - 1
MIN_INTEGER = -(2**63)
#: The largest integer that every JSON reader reads exactly, even one that has only doubles (RFC 8259 §6).
EXACT_INTEGER = 2**53 - 1
#: Digits of MAX_INTEGER; a run of fewer cannot overflow.
_LONG_NUMBER = b"0" * 19

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_DIGITS_TO_ZERO = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


class StrictJsonError(Refused):
    """The bytes are not acceptable JSON.

    Attributes:
        code: ``payload_unreadable``.
        reason: a sentence for the sender.
        pointer: JSON pointer to the place, where it is known.
        limit: the deepest nesting allowed, where that was exceeded.
    """

    def __init__(self, code: str, reason: str, pointer: str = "", limit: int | None = None) -> None:
        super().__init__(reason, code=code, pointer=pointer)
        self.reason = reason
        self.pointer = pointer
        self.limit = limit


def loads(payload: bytes, *, depth: int = 10) -> object:
    """Reads one JSON document.

    Refused besides invalid JSON (NaN, a byte order mark, invalid UTF-8, lone surrogates, trailing bytes): more than
    ``depth`` nested arrays and objects, duplicate keys, integers outside 64 signed bits, numbers outside the range of a
    float64, and NUL in text.

    Returns:
        dict, list, str, int, float, bool or None. Every float is finite.

    Raises:
        StrictJsonError: always with code ``payload_unreadable``; no other exception, whatever the bytes.
    """
    try:
        value = _decode(payload)
    except RecursionError:
        raise too_deep(depth) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StrictJsonError("payload_unreadable", f"not JSON: {error}") from error
    objects = payload.count(b"{")
    if objects + payload.count(b"[") > depth and nests_deeper(payload, depth):
        raise too_deep(depth)
    # find, because `in` first tries the bytes as an integer and costs twice as much
    if (
        payload.find(b"\\") >= 0
        or not keys_are_written_once(payload, _count_keys(value, objects))
        or has_long_number(payload)
    ):
        return _read_slowly(payload, value)
    return value


def dumps(value: object) -> bytes:
    """Writes compact JSON, keys in their order.

    Raises ``TypeError`` for a value that JSON cannot represent. Non-finite floats become null: our documents never
    contain one on purpose, and an answer with a gap is better than no answer.
    """
    return _encode(value)


def too_deep(depth: int) -> StrictJsonError:
    """The refusal of a document that nests deeper than ``depth``; it names the limit."""
    return StrictJsonError("payload_unreadable", f"nested deeper than {depth} levels", limit=depth)


def has_long_number(payload: bytes) -> bool:
    """Whether some number has enough digits in a row that it might not fit 64 bits."""
    return payload.translate(_DIGITS_TO_ZERO).find(_LONG_NUMBER) >= 0


def keys_are_written_once(payload: bytes, keys: int) -> bool:
    """Whether counts prove that a payload without backslashes writes exactly ``keys`` keys, so none of them twice.

    A key is followed by a colon, so there are at least as many colons as written keys. Text with colons in it (a
    time) makes them more; then white space is taken out and the colons right after a quote are counted.
    """
    if payload.count(b":") == keys:
        return True
    return payload.translate(None, b" \t\r\n").count(b'":') == keys


def nests_deeper(payload: bytes, depth: int) -> bool:
    """Whether a well-formed document has more than ``depth`` levels; linear, without recursion.

    It keeps only the brackets and removes the innermost pairs level by level. Where brackets do not pair up because
    text contains some, text is removed first.
    """
    return _levels_left(payload, depth) and _levels_left(_TEXT.sub(b"", payload), depth)


def _levels_left(payload: bytes, depth: int) -> bool:
    brackets = payload.translate(None, _NOT_BRACKETS)
    for _ in range(depth):
        if not brackets:
            return False
        # Adjacent pairs of one level go together; what was around them waits for the next round.
        brackets = brackets.replace(b"{}", b"\0").replace(b"[]", b"\0").replace(b"\0", b"")
    return bool(brackets)


def _count_keys(value: object, objects: int) -> int:
    """The keys of a decoded value at all levels; ``objects`` is at least the number of its objects."""
    if type(value) is dict:
        if objects == 1:
            return len(value)
        if objects == 2:
            for child in value.values():
                if type(child) is dict:
                    return len(value) + len(child)
    elif objects == 0:
        return 0
    keys = 0
    containers = [value]
    for node in containers:  # grows during the loop
        if type(node) is dict:
            keys += len(node)
            containers.extend([child for child in node.values() if type(child) is dict or type(child) is list])
        elif type(node) is list:
            containers.extend([child for child in node if type(child) is dict or type(child) is list])
    return keys


def _read_slowly(payload: bytes, value: object) -> object:
    """Looks at every key and value of a payload that the fast parser has found well-formed."""
    try:
        json.loads(payload, object_pairs_hook=_unique)
    except ValueError as error:
        if isinstance(error, _DuplicateKeyError):
            raise StrictJsonError("payload_unreadable", f"key {error.key!r} occurs twice in one object") from None
        # The two parsers disagree: refusing is safe.
        raise StrictJsonError("payload_unreadable", f"not JSON: {error}") from error
    check_values([value])
    return value


def check_values(roots: list[object]) -> None:
    """Raises :class:`StrictJsonError` for an integer outside 64 bits or NUL in text, at any level below ``roots``."""
    nodes = roots
    for node in nodes:  # grows during the loop
        kind = type(node)
        if kind is str:
            if "\0" in node:  # type: ignore[operator]  # it is str, see kind
                raise StrictJsonError("payload_unreadable", "NUL in text")
        elif kind is int:
            if not MIN_INTEGER <= node <= MAX_INTEGER:  # type: ignore[operator]  # it is int, see kind
                raise StrictJsonError("payload_unreadable", "an integer does not fit 64 bits")
        elif kind is dict:
            nodes.extend(node)  # type: ignore[arg-type]  # it is dict, see kind
            nodes.extend(node.values())  # type: ignore[attr-defined]  # it is dict, see kind
        elif kind is list:
            nodes.extend(node)  # type: ignore[arg-type]  # it is list, see kind


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key[:64]


def _unique(pairs: Iterable[tuple[str, object]]) -> None:
    """Refuses duplicate keys and returns nothing: the values come from the fast parser."""
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _DuplicateKeyError(key)
        seen.add(key)
