"""Documents for shadows: members that a shadow cannot hold are left out and reported, and a write replaces everything.

A shadow takes a null as "remove this member", drops empty objects, refuses an array with a null in it, and merges
updates (https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-document.html).
"""

from collections.abc import Mapping

from fleetcore.model.mirror import Loss
from fleetcore.model.patch import Document, pointed
from fleetcore.wire.strict_json import dumps

#: Of desired and reported together, as compact JSON; metadata does not count (developer guide, diagnosing shadows).
MAX_BYTES = 8 * 1024
#: Levels within desired or reported. The guide's error page says 6 with ``state``, the quotas 8: the smaller one
#: applies.
MAX_DEPTH = 5


def holdable(document: Document, path: str, lost: list[Loss]) -> dict[str, object]:
    """The part of a section that a shadow can hold; adds the losses to ``lost``."""
    return _holdable(document, path, lost, 1)


def _holdable(document: Document, path: str, lost: list[Loss], level: int) -> dict[str, object]:
    kept: dict[str, object] = {}
    for key, value in document.items():
        at = f"{path}/{pointed(key)}"
        if value is None:
            lost.append(Loss(at, "A shadow takes null as the removal of a member"))
        elif isinstance(value, Mapping):
            if level >= MAX_DEPTH and value:
                lost.append(Loss(at, f"A shadow can hold {MAX_DEPTH} levels"))
                continue
            before = len(lost)
            inner = _holdable(value, at, lost, level + 1)
            if inner:
                kept[key] = inner
            elif len(lost) == before:
                lost.append(Loss(at, "A shadow drops empty objects"))
        elif isinstance(value, list | tuple):
            if _has_null(value):
                lost.append(Loss(at, "A shadow refuses an array that contains null"))
            elif level + _depth(value) > MAX_DEPTH:
                lost.append(Loss(at, f"A shadow can hold {MAX_DEPTH} levels"))
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
