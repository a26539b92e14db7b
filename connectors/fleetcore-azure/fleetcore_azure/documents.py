"""Documents as a twin holds them: what it cannot hold is left out and told, and sizes are Azure's.

A twin takes a null for "remove this member" and merges what it is sent
(https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins, tags and properties format, device twin size).
"""

import re
from collections.abc import Mapping

from fleetcore.model.mirror import Loss
from fleetcore.model.patch import Document, pointed

#: Of desired and reported each.
PROPERTIES_BYTES = 32 * 1024
#: Objects within a section; arrays count as objects here, of which the page says nothing.
MAX_DEPTH = 10
_LEAST, _GREATEST = -(2**52), 2**52 - 1
_MAX_TEXT_LENGTH, _MAX_KEY_LENGTH = 4096, 1024
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f.$ ]")


def holdable(document: Document, path: str, lost: list[Loss], *, deepest: int = MAX_DEPTH) -> dict[str, object]:
    """What of a section a twin can hold; adds what is left out to ``lost``."""
    kept: dict[str, object] = {}
    for key, value in document.items():
        at = f"{path}/{pointed(key)}"
        why = _bad_key(key) or _bad_value(value, deepest)
        if isinstance(value, Mapping) and why is None:
            kept[key] = holdable(value, at, lost, deepest=deepest - 1)
        elif why is None:
            kept[key] = value
        else:
            lost.append(Loss(at, why))
    return kept


def _bad_key(key: str) -> str | None:
    if not key or _FORBIDDEN.search(key):
        return "A key of a twin is not empty and has no control character, . $ or space"
    return f"A key of a twin has {_MAX_KEY_LENGTH} bytes at most" if _length(key) > _MAX_KEY_LENGTH else None


def _bad_value(value: object, deepest: int) -> str | None:
    """Why a value cannot be held whole; members of an object are judged one by one."""
    if value is None:
        return "A twin takes null for removing a member"
    if isinstance(value, Mapping):
        return f"A twin holds {MAX_DEPTH} levels" if deepest < 1 else None
    if isinstance(value, list | tuple):
        return _bad_array(value, deepest)
    if isinstance(value, str) and _length(value) > _MAX_TEXT_LENGTH:
        return f"A text of a twin has {_MAX_TEXT_LENGTH} bytes at most"
    if isinstance(value, int) and not _LEAST <= value <= _GREATEST:
        return "An integer of a twin is from -2^52 to 2^52 - 1"
    return None


def _bad_array(value: object, deepest: int) -> str | None:
    """Why an array, or what is in it, cannot be held: it is held whole or not at all."""
    if isinstance(value, list | tuple):
        if deepest < 1:
            return f"A twin holds {MAX_DEPTH} levels"
        return next((why for each in value if (why := _bad_array(each, deepest - 1)) is not None), None)
    if isinstance(value, Mapping):
        if deepest < 1:
            return f"A twin holds {MAX_DEPTH} levels"
        for key, each in value.items():
            if (why := _bad_key(key) or _bad_array(each, deepest - 1)) is not None:
                return why
        return None
    return "A twin has no null in an array" if value is None else _bad_value(value, deepest)


def _length(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def size(value: object) -> int:
    """A section's size as Azure counts it: lengths of keys and texts, 8 for a number, 4 for a boolean."""
    if isinstance(value, Mapping):
        return sum(_length(key) + size(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return sum(size(each) for each in value)
    if isinstance(value, bool):
        return 4
    if isinstance(value, int | float):
        return 8
    return _length(value) if isinstance(value, str) else 0


def plain(section: Document) -> dict[str, object]:
    """A section of a twin without what the hub adds: ``$metadata`` and ``$version``."""
    return {key: value for key, value in section.items() if not key.startswith("$")}
