"""A call as an HTTP request, and the answer decoded: the common part of both remote clients."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from fleetcore.calls import decode
from fleetcore.calls.types import UNSET, IdempotencyKey, IfVersion, from_builtins, to_builtins
from fleetcore.errors import Refused, Unavailable
from fleetcore.frontends.catalogue import CallInfo, ParameterInfo
from fleetcore.wire.decode import Fault, Invalid, check_finite

T = TypeVar("T")
_HEADERS = {"if-match": "If-Match", "last-event-id": "Last-Event-ID", "idempotency-key": "Idempotency-Key"}
_READERS: Mapping[str, Any] = {"if-match": IfVersion, "idempotency-key": IdempotencyKey}
_SERVED = re.compile(r"(?:GET|POST|PUT|PATCH|DELETE) /x/[^/?#\s]+/[^?#\s]*", re.ASCII)


class Request(msgspec.Struct, frozen=True):
    """One request; ``path`` is below ``/api/v1``, ``source`` is a body that is sent in pieces."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: object = None
    source: Any = None


def request(call: CallInfo, given: Mapping[str, Any]) -> Request:
    """The request of a call; values that equal their default are left out, so that the server's default applies.

    Raises Refused for a value of another type than its parameter's, where it would be sent as text.
    """
    path = call.path
    query: dict[str, list[str]] = {}
    body: dict[str, Any] = {}
    headers: dict[str, str] = {}
    whole: object = None
    faults: list[Fault] = []
    if call.selected_by:
        query[call.selected_by] = ["true"]
    for parameter in call.parameters:
        if parameter.place == "stream":
            continue
        value = given.get(parameter.name, parameter.default if parameter.place == "path" else UNSET)
        value = UNSET if value is UNSET else to_builtins(value)
        if parameter.place in _HEADERS:
            if value not in (UNSET, None):
                if _is_header(parameter, value, faults):
                    headers[_HEADERS[parameter.place]] = f'"{value}"' if parameter.place == "if-match" else f"{value}"
            elif parameter.place == "if-match" and call.match_required:
                headers["If-Match"] = "*"
        elif parameter.place == "path":
            if _is_sendable(parameter, value, faults):
                path = path.replace(f"{{{parameter.name}}}", quote(_text(parameter, value), safe=""))
        elif value is UNSET or (_is_default(value, parameter) and not parameter.required and not parameter.clears):
            continue
        elif parameter.place == "query":
            if _is_sendable(parameter, value, faults):
                items = value if parameter.repeated else [value]
                query[parameter.name] = [_text(parameter, item) for item in items]
        elif not _is_finite(parameter, value, faults):
            continue
        elif parameter.place == "whole":
            whole = value
        else:
            body[parameter.name] = value
    if faults:
        raise decode.refusal(faults)
    has_body = any(parameter.place == "body" for parameter in call.parameters)
    return Request(call.method, path, query, headers, body if has_body else whole, given.get(call.stream))


def _is_default(value: object, parameter: ParameterInfo) -> bool:
    """Whether a value need not be sent; one of another type is sent, so that the server validates it: true is not 1."""
    return type(value) is type(parameter.default) and value == parameter.default


def _is_header(parameter: ParameterInfo, value: object, faults: list[Fault]) -> bool:
    """Whether a value may be sent as a header, about which the server could say less than the call."""
    if parameter.place not in _READERS:
        return _is_sendable(parameter, value, faults)
    try:
        decode.Reader(parameter.name, _READERS[parameter.place]).value(value)
    except Invalid as invalid:
        faults.append(invalid.fault)
        return False
    return True


def _is_finite(parameter: ParameterInfo, value: object, faults: list[Fault]) -> bool:
    """Whether a value can be sent at all: JSON cannot represent a number that is not finite."""
    try:
        check_finite(value, f"/{parameter.name}")
    except Invalid as invalid:
        faults.append(invalid.fault)
        return False
    return True


def _is_sendable(parameter: ParameterInfo, value: object, faults: list[Fault]) -> bool:
    """Whether a value may be sent as text, where it might look like another valid value."""
    try:
        decode.check_given(
            parameter.kind, value, parameter.name, repeated=parameter.repeated, choices=parameter.choices
        )
    except Invalid as invalid:
        faults.append(invalid.fault)
        return False
    return True


def _text(parameter: ParameterInfo, value: object) -> str:
    if parameter.kind == "boolean":
        return "true" if value else "false"
    return msgspec.json.encode(value).decode() if parameter.kind == "json" else str(value)


def answer(call: CallInfo, content: bytes, kind: type[T]) -> T:
    """The server's answer decoded as the call's; an empty answer is None.

    Raises Unavailable for anything that is not an answer of this call, such as another program's at the address.
    """
    try:
        found = msgspec.json.decode(content) if content else None
        if wrong := _wrong(call, found):
            raise Refused(wrong)
        return from_builtins(found, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Refused) as error:
        why = error.message if isinstance(error, Refused) else str(error)
        remedy = "Is it a fleetcore server, of a release like this one?"
        raise Unavailable(f"The server's answer to {call.name} cannot be read: {why}", remedy=remedy) from error


def _wrong(call: CallInfo, found: Any) -> str:
    """Why plain data is not an answer of a call; empty where it is one."""
    if call.answer == "nothing":
        return "" if found is None else "it has content, and this call returns none"
    items: Any = [found]
    if call.answer == "page":
        if not isinstance(found, dict) or not {"items", "next"} <= found.keys() or not isinstance(found["items"], list):
            return "it is not a page of a list"
        items = found["items"]
    for item in items:
        if call.needs and not isinstance(item, dict):
            return "it is not an object"
        if missing := [name for name in call.needs if name not in item]:
            return f"it lacks the member {missing[0]!r}"
    return ""


def is_served(call: CallInfo) -> bool:
    """Whether a plugin may have a call that the server lists: its requests go to that server."""
    return bool(call.plugin) and _SERVED.fullmatch(call.route) is not None and call.path.split("/")[2] == call.plugin
