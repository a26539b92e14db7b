"""The one gate through which JSON enters and leaves: RFC 8259, read strictly.

A fast parser alone is not strict: it keeps the last of two equal keys, nests as deep as Python allows, and takes
integers that no store can hold. Parsing again with a strict one would cost ten times as much. So :func:`loads` parses
fast, then compares cheap counts of the bytes with what was decoded; only a message whose counts cannot prove it clean
is read a second time. The proof errs to one side: a clean message may take the slow way, a dirty one never the fast.

What it knows nothing of: readings, twins, or any other meaning of a document.
"""

import json
import re
from collections.abc import Iterable

import msgspec

from fleetcore.errors import Refused

#: Integers lie in a signed 64-bit word, what stores and columns hold. Twins ask for less (wire.md §8) and check it.
MAX_INTEGER = 2**63 - 1
MIN_INTEGER = -(2**63)
#: The largest integer that every JSON reader keeps exactly, also one that has only doubles (RFC 8259 §6).
EXACT_INTEGER = 2**53 - 1
#: Digits of MAX_INTEGER; a run of fewer cannot overflow.
_LONG_NUMBER = b"0" * 19

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_DIGITS_TO_ZERO = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


class StrictJsonError(Refused):
    """The bytes are no JSON that is accepted.

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

    Refused besides what is no JSON (NaN, a byte order mark, bytes that are no UTF-8, lone surrogates, trailing bytes):
    more than ``depth`` nested arrays and objects, duplicate keys, integers outside 64 signed bits, numbers outside the
    range of a float64, and NUL in text.

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
        raise StrictJsonError("payload_unreadable", f"no JSON: {error}") from error
    objects = payload.count(b"{")
    if objects + payload.count(b"[") > depth and nests_deeper(payload, depth):
        raise too_deep(depth)
    # find, for `in` first tries to take the bytes for an integer and costs twice as much
    if (
        payload.find(b"\\") >= 0
        or not keys_are_written_once(payload, _count_keys(value, objects))
        or has_long_number(payload)
    ):
        return _read_slowly(payload, value)
    return value


def dumps(value: object) -> bytes:
    """Writes compact JSON, keys in the order they have.

    Raises ``TypeError`` for what JSON has no form for. Non-finite floats become null: no document of ours holds one
    on purpose, and an answer with a gap is better than no answer.
    """
    return _encode(value)


def too_deep(depth: int) -> StrictJsonError:
    """The refusal of a document that nests deeper than ``depth``; it names the limit."""
    return StrictJsonError("payload_unreadable", f"nested deeper than {depth} levels", limit=depth)


def has_long_number(payload: bytes) -> bool:
    """Whether some number has so many digits in a row that it might not fit 64 bits."""
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

    Brackets alone are kept and the innermost pairs removed level by level. Brackets inside text do not pair up: only
    then is text cut out first.
    """
    return _levels_left(payload, depth) and _levels_left(_TEXT.sub(b"", payload), depth)


def _levels_left(payload: bytes, depth: int) -> bool:
    brackets = payload.translate(None, _NOT_BRACKETS)
    for _ in range(depth):
        if not brackets:
            return False
        # Side by side both pairs of one level go; what was around them waits for the next round.
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
    for node in containers:  # grows while it is walked
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
            raise StrictJsonError("payload_unreadable", f"key {error.key!r} stands twice in one object") from None
        # The two parsers disagree on something: refusing is the safe side.
        raise StrictJsonError("payload_unreadable", f"no JSON: {error}") from error
    check_values([value])
    return value


def check_values(roots: list[object]) -> None:
    """Raises :class:`StrictJsonError` for an integer outside 64 bits or NUL in text, at any level below ``roots``."""
    nodes = roots
    for node in nodes:  # grows while it is walked
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
    """Refuses duplicates and keeps nothing: the values come from the fast parser."""
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _DuplicateKeyError(key)
        seen.add(key)
