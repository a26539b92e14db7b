"""Makes the catalogue of a table of calls."""

import types
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from fleetcore.calls.decode import choices
from fleetcore.calls.table import Call, Parameter
from fleetcore.calls.types import UNSET, Ms, Response, to_builtins
from fleetcore.frontends.catalogue import WORD, CallInfo, ParameterInfo

#: Text members written for people: a table may cut them.
_TEXTS = frozenset(
    {"description", "error", "explanation", "precondition", "query", "reason", "scope", "text", "url", "why"}
)
#: Integers that are counts, displayed with thousands separators.
_COUNTS = frozenset(
    {"cap", "changed", "count", "devices", "done", "failed", "left", "quota", "rows", "sessions", "stored", "total",
     "used", "uses"}
)  # fmt: skip
_SIZES = frozenset({"size", "size_bytes"})


def describe(calls: Iterable[Call]) -> list[CallInfo]:
    """The catalogue of some calls."""
    calls = list(calls)
    by_name = {call.name: call for call in calls}
    short = {
        (_item(by_name[names.call]), names.member)
        for call in calls
        for names in (parameter.names for parameter in call.parameters.values())
        if names is not None and names.short and names.call in by_name
    }
    return [_call(call, {member for item, member in short if item is _item(call)}) for call in calls]


def to_json(calls: Iterable[CallInfo]) -> bytes:
    """The catalogue in the form that is sent and stored."""
    return msgspec.json.format(msgspec.json.encode(list(calls)), indent=1) + b"\n"


def _call(call: Call, short: set[str]) -> CallInfo:
    declared = call.declared
    if call.answer is type(None):
        answer = "nothing"
    elif call.is_page:
        answer = "page"
    else:
        answer = "stream" if call.is_stream else "value"
    return CallInfo(
        name=call.name,
        help=call.help,
        permission=declared.permission.value,
        route=declared.route or "",
        command=declared.cli or "",
        answer=answer,
        status=declared.status,
        parameters=[_parameter(parameter) for parameter in call.parameters.values()],
        columns=list(declared.columns),
        match_required=declared.match_required,
        selected_by=declared.selected_by,
        also=dict(declared.also),
        members={name: kind for name, kind in _members(call, short) if kind != WORD},
        needs=_needs(call),
        confirm=declared.confirm,
        confirm_when=dict(declared.confirm_when),
        deprecated=declared.deprecated,
        plugin=call.plugin,
    )


def _parameter(parameter: Parameter) -> ParameterInfo:
    reader = parameter.reader
    default = None if parameter.default is UNSET else to_builtins(parameter.default)
    return ParameterInfo(
        name=parameter.name,
        place=parameter.place,
        kind=reader.text_kind,
        required=parameter.required,
        repeated=reader.repeated,
        clears=parameter.default is UNSET and reader.takes_none,
        default=default,
        word=parameter.word,
        names=parameter.names.call if parameter.names else "",
        named_by=parameter.names.member if parameter.names else "id",
        short=parameter.names is not None and parameter.names.short,
        choices=choices(reader.kind),
        help=parameter.help,
    )


def _item(call: Call) -> Any:
    """The type of the answer, or of each item of it."""
    return get_args(call.answer)[0] if call.is_page or call.is_stream else call.answer


def _members(call: Call, short: set[str]) -> Iterator[tuple[str, str]]:
    item = _item(call)
    if isinstance(item, type) and issubclass(item, Response):
        hints = get_type_hints(item)
        for name in item.__struct_fields__:
            yield name, "id" if name in short else _kind(name, hints[name])


def _needs(call: Call) -> list[str]:
    """The members that every answer has."""
    item = _item(call)
    if not (isinstance(item, type) and issubclass(item, Response)):
        return []
    all_of_them = not item.__struct_config__.omit_defaults
    return [field.name for field in msgspec.structs.fields(item) if field.required or all_of_them]


def _kind(name: str, hint: Any) -> str:
    """How a member is displayed."""
    if get_origin(hint) is Annotated:
        return _kind(name, get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        kinds = {_kind(name, item) for item in get_args(hint) if item is not type(None)}
        return kinds.pop() if len(kinds) == 1 else "value"
    origin = get_origin(hint) or hint
    if not isinstance(origin, type):
        return "value"
    return next((kind for cls, kind in _KINDS.items() if issubclass(origin, cls)), _plain(name, origin))


_KINDS: Mapping[type, str] = {
    Ms: "time", StrEnum: "choice", bool: "boolean", float: "number", list: "list", dict: "object", Response: "object",
}  # fmt: skip


def _plain(name: str, kind: type) -> str:
    if kind is int:
        return "bytes" if name in _SIZES else "count" if name in _COUNTS else "integer"
    return "value" if kind is not str else "text" if name in _TEXTS else WORD
