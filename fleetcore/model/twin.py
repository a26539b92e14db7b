"""A twin: a device's desired and reported state, each a JSON object with a version and times per leaf."""

from collections.abc import Mapping
from typing import TypeGuard

from attrs import field, frozen

Json = Mapping[str, object]

#: The key of desired state that only the fleet itself writes: CAs to trust, renewals. Write access to it would be
#: enough to make devices trust another CA.
OURS = "fleetcore"

#: The types of most leaves. A check against Mapping runs Python code, for each leaf of each change.
_LEAVES = frozenset({str, int, float, bool, list, type(None)})


def _is_object(value: object) -> TypeGuard[Json]:
    kind = type(value)
    return kind is dict or (kind not in _LEAVES and isinstance(value, Mapping))


def equal(a: object, b: object) -> bool:
    """Whether two JSON values are equal by JSON's rules: 1 equals 1.0, and neither equals true."""
    return a == b and _alike(a, b)


def _alike(a: object, b: object) -> bool:
    """For values that are equal in Python, where true equals 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return type(a) is type(b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return all(map(_alike, a, b))
    if _is_object(a) and _is_object(b):
        return all(_alike(value, b[key]) for key, value in a.items())
    return True


@frozen(kw_only=True)
class Section:
    """One section. ``times`` maps a JSON pointer of each leaf to ms since the epoch; versions start at 1."""

    document: Json = field(factory=dict)
    version: int = 0
    times: Mapping[str, int] = field(factory=dict)


@frozen(kw_only=True)
class Twin:
    """A device's desired and reported state.

    Attributes:
        desired: what the device gets: all layers merged, its own last.
        own: the device's own layer; ``by`` says who set each of its leaves.
        refused: what it refused (``twin/ack``), by pointer.
    """

    device: str
    desired: Section = Section()
    own: Section = Section()
    by: Mapping[str, str] = field(factory=dict)
    reported: Section = Section()
    acknowledged: int = 0
    refused: Mapping[str, object] = field(factory=dict)
    version: int = 0


def merge_patch(document: object, patch: object) -> object:
    """RFC 7396: ``patch`` applied to ``document``; null deletes, arrays and scalars replace. Inputs are not changed."""
    if not _is_object(patch):
        return patch
    result = dict(document) if _is_object(document) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif type(value) in _LEAVES:
            result[key] = value
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def diff_patch(old: Json, new: Json) -> dict[str, object]:
    """The smallest merge patch that turns ``old`` into ``new`` (RFC 7396; neither may hold nulls)."""
    patch: dict[str, object] = dict.fromkeys((key for key in old if key not in new), None)
    for key, value in new.items():
        if key not in old:
            patch[key] = value
            continue
        before = old[key]
        if _is_object(before) and _is_object(value):
            inner = diff_patch(before, value)
            if inner:
                patch[key] = inner
        elif type(before) is not type(value) or not equal(before, value):
            patch[key] = value
    return patch


def delta(desired: Json, reported: Json) -> dict[str, object]:
    """The desired leaves that the reported section does not match; nested by path, arrays atomic."""
    result: dict[str, object] = {}
    for key, value in desired.items():
        have = reported.get(key)
        if _is_object(value) and _is_object(have):
            inner = delta(value, have)
            if inner:
                result[key] = inner
        elif key not in reported or not equal(have, value):
            result[key] = value
    return result


@frozen(kw_only=True)
class Past:
    """One change of a section that can be undone."""

    id: str
    undo: Json = field(factory=dict)
    time: int = 0
    by: str = ""
    reason: str = ""
    version: int = 0


def comparable(desired: Json) -> Json:
    """Desired state without what a gateway does not report of its functions: configuration, manifest, offer."""
    functions = desired.get("functions")
    if not _is_object(functions):
        return desired
    kept = {
        name: {member: entry[member] for member in ("version", "sha256") if member in entry}
        if _is_object(entry) and "manifest" in entry
        else entry
        for name, entry in functions.items()
    }
    return {**desired, "functions": kept}


def unconverged(twin: Twin) -> dict[str, int]:
    """Every desired leaf that the reported section does not match, by pointer, and since when (ms since the epoch).

    A device confirms the CAs that it is to trust by their digest; it need not report them whole. Of a function it
    reports version and digest.
    """
    open_ = leaves(delta(comparable(twin.desired.document), twin.reported.document))
    if "/fleetcore/trust/sha256" not in open_:
        open_.pop("/fleetcore/trust/ca", None)
    return {
        at: max(twin.desired.times.get(at, 0), twin.reported.times.get(at, 0)) for at in open_
    }  # fmt: skip


def leaves(document: Json, prefix: str = "") -> dict[str, object]:
    """Every leaf by its JSON pointer (RFC 6901); an empty object is a leaf."""
    found: dict[str, object] = {}
    for key, value in document.items():
        pointer = f"{prefix}/{key.replace('~', '~0').replace('/', '~1')}"
        if type(value) not in _LEAVES and _is_object(value) and value:
            found.update(leaves(value, pointer))
        else:
            found[pointer] = value
    return found
