"""The CoAP column of the table of message types (wire.md §1): the meaning of each path and method.

Everything about a device is also served below ``/leaf/{leaf}/`` for a gateway and its leaves; the short aliases
``/d/t`` and so on are for the device itself.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from attrs import frozen

from fleetcore.model.message import MessageType
from fleetcore.model.names import check_device_id
from fleetcore.wire import messages
from fleetcore_coap.codec import Method

_PREFIX = ("device", "v1")
_TARGET, _SEQUENCE = "{target}", "{sequence}"
_METHODS = {"GET": Method.GET, "POST": Method.POST, "PUT": Method.PUT, "iPATCH": Method.IPATCH}


@frozen
class Match:
    """The target of a path.

    Attributes:
        row: the type of the message; None for discovery.
        methods: the methods of the path.
        links: whether it is ``/.well-known/core``.
        sequence: the target is a command's sequence number, in its short form.
    """

    row: MessageType | None
    methods: frozenset[int]
    leaf: str | None = None
    target: str | None = None
    sequence: bool = False
    links: bool = False


def methods_of(row: MessageType) -> frozenset[int]:
    """The methods of a row; ``GET + Observe`` is GET."""
    return frozenset(_METHODS[name.strip().partition(" ")[0]] for name in row.coap_method.split(","))


ROWS = tuple(row for row in messages.ALL if row.coap_method and row.path is not None and "coap" not in row.later)
_SHAPES: tuple[tuple[tuple[str, ...], MessageType], ...] = tuple(
    (tuple(row.path.split("/")), row) for row in ROWS if row.path is not None
)
_ALIASES: tuple[tuple[tuple[str, ...], MessageType], ...] = tuple(
    (tuple(row.coap_alias.strip("/").split("/")), row) for row in ROWS if row.coap_alias
)
_GET = frozenset({Method.GET})
_METHODS_OF: Mapping[str, frozenset[int]] = {row.name: methods_of(row) for row in ROWS}


def find(path: Sequence[str]) -> Match | None:
    """The target of a path, given as the segments of its options; None if nothing is served there.

    Raises :class:`~fleetcore.errors.Refused` (``name_invalid``) for a leaf that cannot be a device id.
    """
    return _find(tuple(path))


@lru_cache(maxsize=4096)  # devices repeat their paths
def _find(segments: tuple[str, ...]) -> Match | None:
    if segments == (".well-known", "core"):
        return Match(None, _GET, links=True)
    if segments[:1] == ("d",):
        return _shaped(segments, _ALIASES, None)
    if segments[:2] != _PREFIX:
        return None
    segments = segments[2:]
    if segments in {(), ("",)}:
        return Match(None, _GET)
    leaf = None
    if len(segments) > 2 and segments[0] == "leaf":
        leaf, segments = check_device_id(segments[1]), segments[2:]
    return _shaped(segments, _SHAPES, leaf)


def _shaped(
    segments: tuple[str, ...], shapes: Sequence[tuple[tuple[str, ...], MessageType]], leaf: str | None
) -> Match | None:
    for shape, row in shapes:
        if len(shape) != len(segments) or (leaf is not None and not row.leaf):
            continue
        target, sequence = None, False
        for wanted, given in zip(shape, segments, strict=True):
            if wanted in {_TARGET, _SEQUENCE} and given:
                target, sequence = given, wanted == _SEQUENCE
            elif wanted != given:
                break
        else:
            return Match(row, _METHODS_OF[row.name], leaf, target, sequence)
    return None


def links() -> str:
    """``/.well-known/core`` (RFC 6690): every path without an id in it, and its alias."""
    found = ['</device/v1/>;rt="fleetcore"']
    for row in ROWS:
        assert row.path is not None
        if _TARGET in row.path:
            continue
        attributes = f';rt="fleetcore.{row.name}"' + (";obs" if "Observe" in row.coap_method else "")
        found.append(f"</device/v1/{row.path}>{attributes}")
        if row.coap_alias:
            found.append(f"<{row.coap_alias}>{attributes}")
    return ",".join(found)
