"""The limits of twin sections: desired, reported, and the attributes in a device's record."""

import math
import sys
from collections.abc import Mapping

from fleetcore.errors import Refused
from fleetcore.interfaces.provider import Limits
from fleetcore.model.twin import Json, leaves
from fleetcore.wire.strict_json import EXACT_INTEGER, dumps

_MAX_KEY_LENGTH = 128
_MAX_SIZE: Mapping[type, float] = {float: sys.float_info.max, int: EXACT_INTEGER}
#: A number or boolean takes fewer bytes as JSON, besides its key.
_NUMBER_BYTES = 32


def check_document(document: object, limits: Limits, *, pointer: str = "", depth: int = 1) -> None:
    """Raises :class:`Refused` where a section, or a patch of it, breaks the limits of twins."""
    if depth > limits.json_depth:
        raise Refused(f"Nested deeper than {limits.json_depth} at {pointer}", code="limit_exceeded", pointer=pointer)
    if type(document) is dict or isinstance(document, Mapping):
        deepest = depth >= limits.json_depth
        for key, value in document.items():
            if not 1 <= len(key) <= _MAX_KEY_LENGTH or not key.isprintable() or key[0] == "$":
                raise Refused(
                    f"The key {key!r} is not allowed",
                    remedy="Use 1-128 printable characters that do not start with $",
                    pointer=f"{pointer}/{key}",
                )
            # The most frequent types.
            if not deepest and (most := _MAX_SIZE.get(type(value))) is not None and -most <= value <= most:
                continue
            check_document(value, limits, pointer=f"{pointer}/{key}", depth=depth + 1)
    elif isinstance(document, list):
        for i, value in enumerate(document):
            check_document(value, limits, pointer=f"{pointer}/{i}", depth=depth + 1)
    elif isinstance(document, str):
        check_text(document, pointer)
    elif isinstance(document, float) and not math.isfinite(document):
        raise Refused(f"The number at {pointer} is not finite", pointer=pointer)
    elif isinstance(document, int) and not isinstance(document, bool) and abs(document) > EXACT_INTEGER:
        raise Refused(f"The integer at {pointer} is beyond 2^53 - 1", pointer=pointer)


def check_text(text: str, pointer: str) -> None:
    """Raises :class:`Refused` for text that strict JSON would refuse: NUL, and invalid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(f"The text at {pointer} is not valid Unicode", pointer=pointer) from None
    if "\0" in text:
        raise Refused(f"The text at {pointer} contains NUL", pointer=pointer)


def check_size(document: Json, limits: Limits) -> None:
    """Raises :class:`Refused` where a whole section has too many keys or bytes."""
    if len(document) <= limits.twin_keys and _is_short(document, limits.twin_bytes):
        return
    if len(leaves(document)) > limits.twin_keys:
        raise Refused(
            f"The section would have more than {limits.twin_keys} keys",
            code="limit_exceeded",
            limit=limits.twin_keys,
            unit="keys",
            scope="twin section",
        )
    if len(dumps(document)) > limits.twin_bytes:
        raise Refused(
            f"The section would be longer than {limits.twin_bytes} bytes",
            code="limit_exceeded",
            limit=limits.twin_bytes,
            unit="bytes",
            scope="twin section",
        )


def _is_short(document: Json, most: int) -> bool:
    """Whether a flat document is certainly within its bytes, without writing it: each character takes at most six."""
    size = 2
    for key, value in document.items():
        size += 6 * len(key) + _NUMBER_BYTES
        if type(value) is str:
            size += 6 * len(value)
        elif type(value) not in (int, float, bool):
            return False
    return size <= most
