"""CBOR (RFC 8949) read as strictly as JSON: the plain data types only, no duplicate keys, bounded depth.

CBOR has more types than JSON: times, fractions, regular expressions, shared references. Messages of devices need only
the tag "this is CBOR" (55799, RFC 8949 §3.4.6), so all others are refused before their decoder runs. Lengths may be
indefinite, as streaming encoders on small devices write them: each item still costs a byte.
"""

from io import BytesIO
from typing import NoReturn

import cbor2

from fleetcore.errors import Refused
from fleetcore.wire.strict_json import MAX_INTEGER, MIN_INTEGER, StrictJsonError, too_deep

#: The first bytes of self-described CBOR.
SELF_DESCRIBED = b"\xd9\xd9\xf7"


def _refuse_tag(*_: object) -> NoReturn:
    raise Refused("a tag", code="payload_unreadable")


#: The tags that the library would decode by itself (cbor2 6); it passes the others to its ``tag_hook``.
_DECODED_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
_ALL_TAGS = dict.fromkeys(_DECODED_TAGS, _refuse_tag)


class StrictCborError(StrictJsonError):
    """The bytes are not acceptable CBOR; it has its parent's attributes, so that one clause catches both."""


def loads(payload: bytes, *, depth: int = 10) -> object:
    """Reads one CBOR data item.

    Refused: other tags than self-described CBOR at the start, more than ``depth`` nested arrays and maps, duplicate
    keys, keys that are neither text nor integers, integers outside 64 signed bits, ``undefined`` and other simple
    values, NUL in text, trailing bytes. Floats that are not finite pass: a codec refuses those reading by reading.

    Returns:
        dict (keys str or int), list, str, bytes, int, float, bool or None.

    Raises:
        StrictCborError: always with code ``payload_unreadable``; no other exception, whatever the bytes.
    """
    body = BytesIO(payload.removeprefix(SELF_DESCRIBED))
    decoder = cbor2.CBORDecoder(
        body, tag_hook=_refuse_tag, semantic_decoders=_ALL_TAGS, max_depth=depth, allow_duplicate_keys=False
    )
    try:
        value = decoder.decode()
    except cbor2.CBORError as error:
        if "nesting depth" in str(error):
            raise _error(too_deep(depth).reason, limit=depth) from None
        raise _error(f"not CBOR: {error}") from error
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        # The library does not document these; whatever it raises, the payload is at fault.
        raise _error(f"not CBOR: {type(error).__name__}") from error
    if body.read(1):
        raise _error("bytes follow the CBOR item")
    _check(value)
    return value


def dumps(value: object) -> bytes:
    """Writes CBOR with definite lengths; raises ``TypeError`` for a value that CBOR cannot represent here."""
    try:
        return cbor2.dumps(value)
    except cbor2.CBOREncodeError as error:
        raise TypeError(str(error)) from error


def _error(reason: str, limit: int | None = None) -> StrictCborError:
    return StrictCborError("payload_unreadable", reason, limit=limit)


def _check(root: object) -> None:
    nodes = [root]
    for node in nodes:  # grows during the loop
        if isinstance(node, dict):
            for key in node:
                if type(key) is not str and type(key) is not int:
                    raise _error("a key is neither text nor an integer")
            nodes.extend(node)
            nodes.extend(node.values())
        elif isinstance(node, list):
            nodes.extend(node)
        elif isinstance(node, str):
            if "\0" in node:
                raise _error("NUL in text")
        elif type(node) is int:
            if not MIN_INTEGER <= node <= MAX_INTEGER:
                raise _error("an integer does not fit 64 bits")
        elif node is not None and not isinstance(node, (bool, float, bytes)):
            raise _error("a value of a kind that JSON does not have")
