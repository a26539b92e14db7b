"""The HTTP column of the table of message types (wire.md §1): the meaning of each path.

The most common paths are one dictionary access; the few with an id are split. Everything about a device is also served
below ``/leaf/{leaf}/`` for a gateway and its leaves.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import unquote

from aiohttp import web
from attrs import frozen

from fleetcore.errors import Refused
from fleetcore.model.message import Direction, MessageType
from fleetcore.model.names import check_device_id
from fleetcore.wire import messages
from fleetcore_http import est, handlers
from fleetcore_http.artifacts import download
from fleetcore_http.enrolment import enroll
from fleetcore_http.exchange import Exchange

PREFIX = "/device/v1/"
_TARGET = "{target}"

Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]


@frozen
class Route:
    """A method on a path.

    Attributes:
        open: also for peers without a credential.
        row: the type of its message, or None.
    """

    handler: Handler
    open: bool = False
    row: MessageType | None = None


@frozen
class Match:
    """The target of a request's path. ``methods`` is empty if nothing is served there."""

    methods: Mapping[str, Route]
    leaf: str | None = None
    target: str | None = None


def _reading(route: Route) -> Mapping[str, Route]:
    """HEAD is GET without the body (RFC 9110 §9.3.2); aiohttp leaves the body out."""
    return {"GET": route, "HEAD": route}


#: Paths with a special form over HTTP, in addition to the table's.
_OWN_FORM: Mapping[MessageType, Handler] = {
    messages.ENROLL: enroll,
    messages.CERTIFICATE_RENEW: handlers.renew,
    messages.CA_GET: handlers.ca_bundle,
    messages.ARTIFACT: download,
}


def _handler(row: MessageType) -> Handler:
    own = _OWN_FORM.get(row)
    if own is not None:
        return own
    if row.waits:
        return partial(handlers.await_downlink, row=row)
    return partial(handlers.uplink if row.direction is Direction.UP else handlers.call, row=row)


_ROWS = tuple(row for row in messages.ALL if row.path is not None and "http" not in row.later)
_ROUTES: Mapping[str, Mapping[str, Route]] = {
    row.path: dict.fromkeys(row.methods, Route(_handler(row), open=row.public, row=row))
    for row in _ROWS
    if row.path is not None
}
_LEAVES = frozenset(row.path for row in _ROWS if row.leaf)
_DISCOVER = _reading(Route(handlers.discover, open=True))
#: Paths with an id in them, by their segments.
_TARGETED = tuple((path.split("/"), routes) for path, routes in _ROUTES.items() if _TARGET in path)

_EST: Mapping[str, Mapping[str, Route]] = {
    "cacerts": _reading(Route(est.ca_certificates, open=True)),
    "csrattrs": _reading(Route(est.csr_attributes, open=True)),
    "simpleenroll": {"POST": Route(est.simple_enroll, open=True)},
    "simplereenroll": {"POST": Route(est.simple_reenroll, open=True)},
}

_WHOLE_PATHS = {PREFIX + path: Match(routes) for path, routes in _ROUTES.items() if _TARGET not in path}
_WHOLE_PATHS |= {est.PREFIX + path: Match(methods) for path, methods in _EST.items()}
_WHOLE_PATHS |= dict.fromkeys((PREFIX, PREFIX.rstrip("/")), Match(_DISCOVER))
_NOWHERE = Match({})


def find(path: str) -> Match:
    """The target of ``path`` (as sent, percent-encoded).

    Raises :class:`Refused` (``name_invalid``) for a leaf that cannot be a device id.
    """
    match = _WHOLE_PATHS.get(path)
    if match is not None:
        return match
    if not path.startswith(PREFIX):
        return _NOWHERE
    try:
        # Decoded after the split, so that an encoded slash is part of a name and not a separator.
        segments = [unquote(segment, errors="strict") for segment in path[len(PREFIX) :].split("/")]
    except UnicodeDecodeError as error:
        raise Refused("The path is not UTF-8", code="name_invalid") from error
    leaf = None
    if len(segments) > 2 and segments[0] == "leaf":
        leaf, segments = check_device_id(segments[1]), segments[2:]
    if any("/" in segment for segment in segments):
        return _NOWHERE
    path, target = "/".join(segments), None
    routes = _ROUTES.get(path) if _TARGET not in path else None
    if routes is None:
        path, routes, target = _filled_in(segments)
    if leaf is not None and path not in _LEAVES:
        return _NOWHERE
    return _NOWHERE if routes is None else Match(routes, leaf, target)


def _filled_in(segments: list[str]) -> tuple[str, Mapping[str, Route] | None, str | None]:
    """The path with ``{target}`` that matches the segments, its route, and the id."""
    for shape, routes in _TARGETED:
        if len(shape) == len(segments) and all(
            name == segment or (name == _TARGET and segment) for name, segment in zip(shape, segments, strict=True)
        ):
            return "/".join(shape), routes, segments[shape.index(_TARGET)]
    return "", None, None
