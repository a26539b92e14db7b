"""Documents for twins: members that a twin cannot hold are left out and reported; sizes are counted as by Azure.

A twin takes a null as "remove this member" and merges updates
(https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-device-twins, tags and properties format, device twin size).
"""

import re
from collections.abc import Mapping

from fleetcore.model.mirror import Loss
from fleetcore.model.patch import Document, pointed

#: The limit of desired and of reported.
PROPERTIES_BYTES = 32 * 1024
#: Objects within a section; arrays count as objects here, because the page does not mention them.
MAX_DEPTH = 10
_MIN_INTEGER, _MAX_INTEGER = -(2**52), 2**52 - 1
_MAX_TEXT_LENGTH, _MAX_KEY_LENGTH = 4096, 1024
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f.$ ]")


def holdable(document: Document, path: str, lost: list[Loss], *, deepest: int = MAX_DEPTH) -> dict[str, object]:
    """The part of a section that a twin can hold; adds the losses to ``lost``."""
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
        return "A key of a twin must not be empty or contain control characters, . $ or spaces"
    return f"A key of a twin may have at most {_MAX_KEY_LENGTH} bytes" if _length(key) > _MAX_KEY_LENGTH else None


def _bad_value(value: object, deepest: int) -> str | None:
    """Why a value cannot be held completely; members of an object are checked one by one."""
    if value is None:
        return "A twin takes null as the removal of a member"
    if isinstance(value, Mapping):
        return f"A twin can hold {MAX_DEPTH} levels" if deepest < 1 else None
    if isinstance(value, list | tuple):
        return _bad_array(value, deepest)
    if isinstance(value, str) and _length(value) > _MAX_TEXT_LENGTH:
        return f"A text of a twin may have at most {_MAX_TEXT_LENGTH} bytes"
    if isinstance(value, int) and not _MIN_INTEGER <= value <= _MAX_INTEGER:
        return "An integer of a twin must be from -2^52 to 2^52 - 1"
    return None


def _bad_array(value: object, deepest: int) -> str | None:
    """Why an array, or its content, cannot be held: arrays are held completely or not at all."""
    if isinstance(value, list | tuple):
        if deepest < 1:
            return f"A twin can hold {MAX_DEPTH} levels"
        return next((why for each in value if (why := _bad_array(each, deepest - 1)) is not None), None)
    if isinstance(value, Mapping):
        if deepest < 1:
            return f"A twin can hold {MAX_DEPTH} levels"
        for key, each in value.items():
            if (why := _bad_key(key) or _bad_array(each, deepest - 1)) is not None:
                return why
        return None
    return "A twin cannot hold null in an array" if value is None else _bad_value(value, deepest)


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
    """A section of a twin without the hub's additions: ``$metadata`` and ``$version``."""
    return {key: value for key, value in section.items() if not key.startswith("$")}
