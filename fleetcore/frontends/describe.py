"""Makes the catalogue of a table of calls."""

from collections.abc import AsyncIterator, Iterable
from typing import get_origin

import msgspec

from fleetcore.calls.decode import choices
from fleetcore.calls.table import Call, Parameter
from fleetcore.calls.types import UNSET, to_builtins
from fleetcore.frontends.catalogue import CallInfo, ParameterInfo


def describe(calls: Iterable[Call]) -> list[CallInfo]:
    """What front ends have to know of some calls."""
    return [_call(call) for call in calls]


def to_json(calls: Iterable[CallInfo]) -> bytes:
    """The catalogue as it is sent and stored."""
    return msgspec.json.format(msgspec.json.encode(list(calls)), indent=1) + b"\n"


def _call(call: Call) -> CallInfo:
    declared = call.declared
    if call.answer is type(None):
        answer = "nothing"
    elif call.is_page:
        answer = "page"
    else:
        answer = "stream" if get_origin(call.answer) is AsyncIterator else "value"
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
        choices=choices(reader.kind),
        help=parameter.help,
    )
