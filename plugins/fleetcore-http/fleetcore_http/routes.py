"""The HTTP column of the wire table (WIRE.md §1): which address does what.

A table, and a look-up in it: the commonest addresses are one dictionary access, the few with an id in them are split.
Everything that is about a device is served again below ``/leaf/{leaf}/`` for a gateway that speaks for its leaves.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import unquote

from aiohttp import web
from attrs import frozen

from fleetcore.errors import Refused
from fleetcore.model.message import Operation
from fleetcore.model.names import check_device_id
from fleetcore_http import est, handlers
from fleetcore_http.artifacts import download
from fleetcore_http.enrolment import enroll
from fleetcore_http.exchange import Exchange

PREFIX = "/device/v1/"

Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]


@frozen
class Route:
    """What a method on an address does.

    Attributes:
        open: also for those who show no credential.
    """

    handler: Handler
    open: bool = False


@frozen
class Match:
    """Where a request's path led. ``methods`` is empty where it led nowhere."""

    methods: Mapping[str, Route]
    leaf: str | None = None
    target: str | None = None


def _reading(route: Route) -> Mapping[str, Route]:
    """HEAD is GET without the body (RFC 9110 §9.3.2); aiohttp leaves the body out."""
    return {"GET": route, "HEAD": route}


def _uplink(operation: Operation, *methods: str) -> Mapping[str, Route]:
    return dict.fromkeys(methods or ("POST",), Route(partial(handlers.uplink, operation=operation)))


#: About a device: at the root for who speaks, below ``leaf/{leaf}/`` for a leaf.
_ABOUT_A_DEVICE: Mapping[str, Mapping[str, Route]] = {
    "telemetry": _uplink(Operation.TELEMETRY),
    "location": _uplink(Operation.LOCATION, "POST", "PUT"),
    "status": _uplink(Operation.STATUS),
    "twin/ack": _uplink(Operation.TWIN_ACK),
    "twin/reported": {"PATCH": Route(partial(handlers.report_twin, operation=Operation.TWIN_REPORT))},
    "twin": _reading(Route(partial(handlers.read_twin, operation=Operation.TWIN_GET))),
    "twin/desired": _reading(Route(partial(handlers.await_downlink, what="desired"))),
    "commands": _reading(Route(partial(handlers.await_downlink, what="commands"))),
    "firmware": _reading(Route(partial(handlers.await_downlink, what="firmware"))),
    "inbox": _reading(Route(partial(handlers.await_downlink, what="inbox"))),
    "firmware/status": _uplink(Operation.FIRMWARE_STATUS),
    "time": _reading(Route(partial(handlers.tell_time, operation=Operation.TIME))),
    "certificates/renew": {"POST": Route(partial(handlers.renew, operation=Operation.CERTIFICATE_RENEW))},
}

#: About the connection or the server; never below a leaf.
_ABOUT_US: Mapping[str, Mapping[str, Route]] = {
    "": _reading(Route(handlers.discover, open=True)),
    "ca": _reading(Route(partial(handlers.ca_bundle, operation=Operation.CA_GET), open=True)),
    "enroll": {"POST": Route(enroll, open=True)},
    "leaf": {"POST": Route(partial(handlers.call, operation=Operation.LEAF_REGISTER))},
}

_EST: Mapping[str, Mapping[str, Route]] = {
    "cacerts": _reading(Route(est.ca_certificates, open=True)),
    "csrattrs": _reading(Route(est.csr_attributes, open=True)),
    "simpleenroll": {"POST": Route(est.simple_enroll, open=True)},
    "simplereenroll": {"POST": Route(est.simple_reenroll, open=True)},
}

_COMMAND_RESULT = _uplink(Operation.COMMAND_RESULT)
_ARTIFACT = _reading(Route(download))

_WHOLE_PATHS = {PREFIX + path: Match(methods) for path, methods in {**_ABOUT_A_DEVICE, **_ABOUT_US}.items()}
_WHOLE_PATHS |= {est.PREFIX + path: Match(methods) for path, methods in _EST.items()}
_WHOLE_PATHS[PREFIX.rstrip("/")] = _WHOLE_PATHS[PREFIX]
_NOWHERE = Match({})


def find(path: str) -> Match:
    """Where ``path`` (as sent, percent-encoding and all) leads.

    Raises :class:`Refused` (``name_invalid``) for a leaf that cannot be a device id.
    """
    match = _WHOLE_PATHS.get(path)
    if match is not None:
        return match
    if not path.startswith(PREFIX):
        return _NOWHERE
    try:
        # Decoded after the split, so that an encoded slash is part of a name and no separator.
        segments = [unquote(segment, errors="strict") for segment in path[len(PREFIX) :].split("/")]
    except UnicodeDecodeError as error:
        raise Refused("The path is no UTF-8", code="name_invalid") from error
    leaf = None
    if len(segments) > 2 and segments[0] == "leaf":
        leaf, segments = check_device_id(segments[1]), segments[2:]
    match segments:
        case ["commands", command, "result"] if command:
            return Match(_COMMAND_RESULT, leaf, command)
        case ["artifacts", sha256] if sha256:
            return Match(_ARTIFACT, leaf, sha256)
    methods = None if any("/" in segment for segment in segments) else _ABOUT_A_DEVICE.get("/".join(segments))
    return _NOWHERE if methods is None else Match(methods, leaf)
