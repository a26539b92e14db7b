"""The OpenAPI 3.1 paths and schemas of a table of calls; the schemas are those that msgspec validates by."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import msgspec

from fleetcore.calls.table import Call, Parameter
from fleetcore.calls.types import UNSET, Ms, to_builtins

_REF = "#/components/schemas/{name}"
_OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_FORMAT = {
    "name": "format", "in": "query", "required": False, "description": "The format of the answer.",
    "schema": {"type": "string", "enum": ["json", "csv", "arrow"], "default": "json"},
}  # fmt: skip
_TABLES = {
    "text/csv": {"schema": {"type": "string"}},
    "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
}
_DESCRIPTIONS = {200: "Done", 201: "Made", 202: "Begun", 204: "Done, without content"}


def paths(calls: Iterable[Call]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The operations by path (below ``/api/v1``) and method, and the schemas that they refer to."""
    routed = [call for call in calls if call.path]
    kinds: dict[str, Any] = {}
    for call in routed:
        if call.is_stream:
            kinds[f"{call.name} answers"] = get_args(call.answer)[0]
        elif call.answer is not type(None):
            kinds[f"{call.name} answers"] = call.answer
        kinds |= {f"{call.name} {name}": parameter.reader.kind for name, parameter in call.parameters.items()}
    made, components = msgspec.json.schema_components(kinds.values(), schema_hook=_hook, ref_template=_REF)
    schemas = dict(zip(kinds, made, strict=True))
    found: dict[str, dict[str, Any]] = {}
    for call in sorted(routed, key=lambda call: bool(call.declared.selected_by)):  # the plain one first
        item, operation = found.setdefault(call.path, {}), _operation(call, schemas)
        plain = item.get(call.method.lower())
        item[call.method.lower()] = operation if plain is None else _joined(plain, operation, call)
    return found, components


def _joined(plain: dict[str, Any], other: Mapping[str, Any], call: Call) -> dict[str, Any]:
    """The operation of two calls at one route; a query parameter selects the second."""
    selector = {
        "name": call.declared.selected_by, "in": "query", "required": False,
        "schema": {"type": "boolean", "default": False}, "description": call.help.partition("\n")[0],
    }  # fmt: skip
    names = {parameter["name"] for parameter in plain.get("parameters", ())}
    more = [parameter for parameter in other.get("parameters", ()) if parameter["name"] not in names]
    plain["parameters"] = [*plain.get("parameters", ()), *more, selector]
    for status, response in other["responses"].items():
        known = plain["responses"].setdefault(status, response)
        if known is not response and "content" in known and "content" in response:
            known["content"] = _either(known["content"], response["content"])
    body, more_body = plain.get("requestBody"), other.get("requestBody")
    if body is not None and more_body is not None and body != more_body:
        content = _either(body["content"], more_body["content"])
        plain["requestBody"] = {"required": body["required"] and more_body["required"], "content": content}
    return plain


def _either(item: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Content that is either of two."""
    found = {**other, **item}
    for kind in item.keys() & other.keys():
        schemas = [item[kind]["schema"], other[kind]["schema"]]
        found[kind] = {"schema": schemas[0] if schemas[0] == schemas[1] else {"anyOf": schemas}}
    return found


def _hook(kind: Any) -> dict[str, Any]:
    if kind is Ms:
        return {"type": "string", "format": "date-time"}
    raise NotImplementedError(f"{kind} has no schema")


def _operation(call: Call, schemas: Mapping[str, Any]) -> dict[str, Any]:
    first, _, rest = call.help.partition("\n")
    operation: dict[str, Any] = {"operationId": call.name, "summary": first.rstrip("."), "responses": {}}
    if rest.strip():
        operation["description"] = call.help
    if call.declared.deprecated:
        operation["deprecated"] = True
    parameters = [
        _parameter(call, parameter, schemas[f"{call.name} {name}"])
        for name, parameter in call.parameters.items()
        if parameter.place in ("path", "query", "if-match", "last-event-id")
    ]
    if call.declared.rows is not None:
        parameters.append(_FORMAT)
    if parameters:
        operation["parameters"] = parameters
    body = _body(call, schemas)
    if body is not None:
        operation["requestBody"] = body
    answer: dict[str, Any] = {"description": _DESCRIPTIONS.get(call.declared.status, "Done")}
    if call.answer is not type(None):
        kind = "text/event-stream" if call.is_stream else "application/json"
        answer["content"] = {kind: {"schema": schemas[f"{call.name} answers"]}}
        if call.declared.rows is not None:
            answer["content"] |= _TABLES
    operation["responses"][str(call.declared.status)] = answer
    return operation


def _parameter(call: Call, parameter: Parameter, schema: dict[str, Any]) -> dict[str, Any]:
    if parameter.place == "if-match":
        return {
            "name": "If-Match", "in": "header", "required": call.declared.match_required,
            "schema": {"type": "string", "maxLength": 64}, "description": "The ETag that the record must have.",
        }  # fmt: skip
    schema = _plain(schema)
    if parameter.place == "last-event-id":
        return {"name": "Last-Event-ID", "in": "header", "required": False, "schema": schema,
                "description": parameter.help}  # fmt: skip
    if parameter.default not in (None, UNSET):
        schema["default"] = to_builtins(parameter.default)
    found = {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required or parameter.place == "path",
        "schema": schema,
    }
    if parameter.help:
        found["description"] = parameter.help
    return found


def _body(call: Call, schemas: Mapping[str, Any]) -> dict[str, Any] | None:
    placed = {name: parameter for name, parameter in call.parameters.items() if parameter.place == "body"}
    for name, parameter in call.parameters.items():
        if parameter.place == "stream":
            return {"required": True, "content": _OCTETS}
        if parameter.place == "whole":
            return {"required": True, "content": {"application/json": {"schema": schemas[f"{call.name} {name}"]}}}
    if not placed:
        return None
    members = {}
    for name, parameter in placed.items():
        members[name] = {**schemas[f"{call.name} {name}"]}
        if parameter.help:
            members[name]["description"] = parameter.help
        if parameter.default not in (None, UNSET):
            members[name]["default"] = to_builtins(parameter.default)
    required = [name for name, parameter in placed.items() if parameter.required]
    schema: dict[str, Any] = {"type": "object", "properties": members, "additionalProperties": False}
    if required:
        schema["required"] = required
    return {"required": bool(required), "content": {"application/json": {"schema": schema}}}


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter of a path or query is absent, never null."""
    kinds = [item for item in schema.get("anyOf", ()) if item != {"type": "null"}]
    if len(kinds) != 1:
        return dict(schema)
    return {**kinds[0], **{key: value for key, value in schema.items() if key != "anyOf"}}
