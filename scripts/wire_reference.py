"""Generates parts of docs/reference/wire.md and its folder from the table of message types.

The pages are prose with marked regions, the table and the bodies; ``scripts/reference.py`` fills the regions.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec import inspect as types
from regions import filled_in

from fleetcore.model.message import Direction, MessageType
from fleetcore.wire import messages
from fleetcore.wire.decode import unit_of, values_of
from fleetcore.wire.matrix import topics

_WORDS = {
    types.StrType: "text", types.IntType: "integer", types.FloatType: "number", types.BoolType: "boolean",
    types.AnyType: "any JSON", types.CustomType: "time", types.DictType: "object",
}  # fmt: skip


def pages(folder: Path) -> dict[str, str]:
    """The pages by their names below ``folder``, with generated regions."""
    return {
        name: filled_in((folder / name).read_text(encoding="utf-8"), region, text)
        for name, region, text in (
            ("wire.md", "table", table()),
            ("wire/from-a-device.md", "bodies", _bodies("5", _UP)),
            ("wire/calls.md", "bodies", _bodies("6", _CALLS)),
            ("wire/to-a-device.md", "bodies", _bodies("7", _DOWN)),
        )
    }


def table() -> str:
    """One row per message type, one column per protocol."""
    lines = [
        "| message | MQTT (U: the device publishes, D: it subscribes) | HTTP and CoAP path | answers | WebSocket op |",
        "|---|---|---|---|---|",
    ]
    lines += [_row(row) for row in messages.ALL]
    return "\n".join(lines)


def _row(row: MessageType) -> str:
    mqtt = topics(row)
    if not mqtt:
        mqtt = ["by request"] if row.direction is Direction.CALL and not row.later else ["-"]
    later = " *(reserved)*" if "mqtt" in row.later else ""
    methods = "/".join(row.methods)
    path = "-" if row.path is None else f"`{methods} /{row.path}`" + (" *(reserved)*" if "http" in row.later else "")
    alias = f", CoAP `{row.coap_alias}`" if row.coap_alias else ""
    return f"| {row.title} | {', '.join(mqtt)}{later} | {path}{alias} | {row.statuses or '-'} | `{row.name}` |"


_UP = [row for row in messages.ALL if row.direction is Direction.UP and not row.later]
_CALLS = [row for row in messages.ALL if row.direction is Direction.CALL and row is not messages.ARTIFACT]
_DOWN = [row for row in messages.ALL if row.direction is Direction.DOWN]


def _bodies(section: str, rows: Iterable[MessageType]) -> str:
    """Every body with its members and an example."""
    lines = [line for number, row in enumerate(rows, 1) for line in _section(f"{section}.{number}", row)]
    return "\n".join(lines).rstrip()


def _section(number: str, row: MessageType) -> Iterator[str]:
    yield from (f"### {number} `{row.name}`: {row.title}", "")
    if row.note:
        yield from (row.note, "")
    if row.many:
        yield from (f"One body, or a list of at most {row.many:,}; each is validated by itself.", "")
    yield from _body(row.body, row.example, "")
    if row.answer is not None:
        yield from _body(row.answer, row.answer_example, "Answer" if row.direction is Direction.CALL else "As a list")


def _body(kind: object, example: object, title: str) -> Iterator[str]:
    if title:
        yield from (f"**{title}**", "")
    if isinstance(kind, type) and issubclass(kind, Struct):
        text = (kind.__doc__ or "").strip().replace("``", "`")
        members = list(_members(types.type_info(kind)))
        yield from (text, "") if text != "No members." or not members else ()
        if members:
            yield from ("| member | type | bounds | |", "|---|---|---|---|", *members, "")
    if example not in (None, {}):
        yield from ("```json", json.dumps(example, ensure_ascii=False), "```", "")


def _members(info: types.Type, before: str = "") -> Iterator[str]:
    assert isinstance(info, types.StructType)
    for field in info.fields:
        kind, about = _taken_apart(field.type)
        name = f"{before}{field.encode_name}"
        bounds = "; ".join(_bounds(kind, unit_of(field.type)))
        meaning = "; ".join(part for part in ("required" if field.required else "", about) if part)
        yield f"| `{name}` | {_word(kind)} | {bounds} | {meaning} |"
        inner = kind.item_type if isinstance(kind, types.VarTupleType) else kind
        if isinstance(inner, types.StructType):
            mark = "[]" if isinstance(kind, types.VarTupleType) else ""
            yield from _members(inner, f"{name}{mark}.")


def _taken_apart(info: types.Type) -> tuple[types.Type, str]:
    """A type without null and absence, and its description."""
    about = ""
    while True:
        if isinstance(info, types.Metadata):
            schema: Mapping[str, object] = info.extra_json_schema or {}
            about = about or str(schema.get("description", ""))
            info = info.type
        elif isinstance(info, types.UnionType):
            kinds = [kind for kind in info.types if not isinstance(kind, types.NoneType)]
            if len(kinds) != 1:
                return info, about
            info = kinds[0]
        else:
            return info, about


def _word(info: types.Type) -> str:
    match info:
        case types.UnionType(kinds):
            return " or ".join(_word(_taken_apart(kind)[0]) for kind in kinds if not isinstance(kind, types.NoneType))
        case types.LiteralType() | types.EnumType():
            return "text"
        case types.StructType():
            return "object"
        case types.VarTupleType(item) | types.ListType(item):
            return f"list of {_word(_taken_apart(item)[0])}"
    return _WORDS[type(info)]


def _bounds(info: types.Type, unit: str) -> Iterator[str]:
    match info:
        case types.LiteralType():
            yield " ".join(f"`{value}`" for value in values_of(info))
        case types.StrType(max_length=int(length)):
            yield f"≤ {length:,} characters"
        case types.IntType(ge=low, le=high) | types.FloatType(ge=low, le=high) if low is not None or high is not None:
            limits = [f"{bound:,}".removesuffix(".0") for bound in (low, high) if bound is not None]
            yield f"{' to '.join(limits) if len(limits) == 2 else 'from ' + limits[0]} {unit}".rstrip()
