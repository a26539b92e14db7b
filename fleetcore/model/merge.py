"""Three-way merging of two JSON documents, leaf by leaf, against their last common state."""

from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import frozen

from fleetcore.model.twin import Json, equal

Side = Literal["fleet", "cloud"]


class _Missing:
    """Stands for no value; equal to itself alone."""


_MISSING = _Missing()


@frozen(kw_only=True)
class Merged:
    """The result; ``conflicts`` are the JSON pointers of leaves that both sides had changed differently."""

    document: Json
    conflicts: Sequence[str] = ()


def merge(base: Json, ours: Json, theirs: Json, *, sent: Json | None = None, wins: Side) -> Merged:
    """Merges the two sides of a document.

    A leaf that only one side changed takes that side's value; arrays are leaves. A leaf of ``theirs`` that equals the
    one ``sent`` last is not their change: the answer to that write may have been lost.

    Args:
        base: the document at their last agreement.
        wins: the side whose value counts where both changed a leaf.
    """
    conflicts: list[str] = []
    document = _merged(base, base if sent is None else sent, ours, theirs, wins, "", conflicts)
    return Merged(document=document, conflicts=tuple(conflicts))


def _merged(
    base: object, sent: object, ours: Json, theirs: Json, wins: Side, path: str, conflicts: list[str]
) -> dict[str, object]:
    merged: dict[str, object] = {}
    for key in dict.fromkeys([*ours, *theirs]):
        at = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        value = _leaf(_of(base, key), _of(sent, key), _of(ours, key), _of(theirs, key), wins, at, conflicts)
        if value is not _MISSING:
            merged[key] = value
    return merged


def _leaf(
    base: object, sent: object, ours: object, theirs: object, wins: Side, path: str, conflicts: list[str]
) -> object:
    changed_there = not (_same(theirs, base) or _same(theirs, sent))
    if _holds(ours) and _holds(theirs) and (_object(ours) or _object(theirs)):
        inner = _merged(base, sent, _object(ours), _object(theirs), wins, path, conflicts)
        if inner:
            return inner
        # An object without leaves: the side that changed it decides whether it stays as an empty object.
        return (theirs if theirs is _MISSING else {}) if changed_there else (ours if ours is _MISSING else {})
    if not changed_there or _same(ours, theirs):
        return ours
    if _same(ours, base):
        return theirs
    conflicts.append(path)
    return theirs if wins == "cloud" else ours


def _of(document: object, key: str) -> object:
    return document.get(key, _MISSING) if isinstance(document, Mapping) else _MISSING


def _holds(value: object) -> bool:
    return value is _MISSING or isinstance(value, Mapping)


def _object(value: object) -> Json:
    return value if isinstance(value, Mapping) else {}


def _same(a: object, b: object) -> bool:
    return a is b or (a is not _MISSING and b is not _MISSING and equal(a, b))
