"""Documents as a shadow holds them: what it cannot hold is left out and told, and what is written replaces all.

A shadow takes a null for "remove this member", keeps no empty object, refuses an array with a null in it, and merges
what it is sent (https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-document.html).
"""

from collections.abc import Mapping

from fleetcore.model.mirror import Loss
from fleetcore.model.patch import Document, pointed
from fleetcore.wire.strict_json import dumps

#: Of desired and reported together, as compact JSON; metadata does not count (developer guide, diagnosing shadows).
MAX_BYTES = 8 * 1024
#: Levels within desired or reported. The guide's error page says 6 with ``state``, the quotas 8: the less holds.
MAX_DEPTH = 5


def holdable(document: Document, path: str, lost: list[Loss]) -> dict[str, object]:
    """What of a section a shadow can hold; adds what is left out to ``lost``."""
    return _holdable(document, path, lost, 1)


def _holdable(document: Document, path: str, lost: list[Loss], level: int) -> dict[str, object]:
    kept: dict[str, object] = {}
    for key, value in document.items():
        at = f"{path}/{pointed(key)}"
        if value is None:
            lost.append(Loss(at, "A shadow takes null for removing a member"))
        elif isinstance(value, Mapping):
            if level >= MAX_DEPTH and value:
                lost.append(Loss(at, f"A shadow holds {MAX_DEPTH} levels"))
                continue
            before = len(lost)
            inner = _holdable(value, at, lost, level + 1)
            if inner:
                kept[key] = inner
            elif len(lost) == before:
                lost.append(Loss(at, "A shadow keeps no empty object"))
        elif isinstance(value, list | tuple):
            if _has_null(value):
                lost.append(Loss(at, "A shadow refuses an array with null in it"))
            elif level + _depth(value) > MAX_DEPTH:
                lost.append(Loss(at, f"A shadow holds {MAX_DEPTH} levels"))
            else:
                kept[key] = list(value)
        else:
            kept[key] = value
    return kept


def _has_null(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_has_null(each) for each in value.values())
    if isinstance(value, list | tuple):
        return any(_has_null(each) for each in value)
    return value is None


def _depth(value: object) -> int:
    if isinstance(value, Mapping):
        return 1 + max((_depth(each) for each in value.values()), default=0)
    if isinstance(value, list | tuple):
        return 1 + max((_depth(each) for each in value), default=0)
    return 0


def size(state: Document) -> int:
    """Bytes of a state as AWS counts them."""
    return len(dumps(state))
