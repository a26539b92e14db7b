"""The OpenAPI 3.1 document: the paths of the table of calls, and their common parts: problems, keys, positions."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from fleetcore.calls.table import Call
from fleetcore.calls.types import Json
from fleetcore.frontends.openapi import paths
from fleetcore_api import __version__, metrics
from fleetcore_api.endpoints import PREFIX
from fleetcore_api.problems import MEDIA_TYPE

_REF = "#/components/schemas/{name}"
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    "description": "The same key again returns the first answer again, for a day; with another request it is refused.",
}
_POSITION = {
    "name": "Fleetcore-Position",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
    "description": "The position in a write's answer: this request waits until that write is visible.",
}
_PROBLEM = {
    "description": "A refusal with a stable code (RFC 9457)",
    "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}},
}


class Problem(msgspec.Struct, kw_only=True):
    """A refusal (RFC 9457); ``code`` is stable."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    remedy: str | UnsetType = UNSET
    ids: Json | UnsetType = UNSET


class Health(msgspec.Struct, kw_only=True):
    """Whether the server is alive, or ready for requests."""

    status: str
    waiting_for: list[str]


def document(calls: Iterable[Call]) -> dict[str, Any]:
    """The whole document of a table of calls."""
    called, schemas = paths(calls)
    _, own = msgspec.json.schema_components([Problem, Health], ref_template=_REF)
    found = {f"{PREFIX}{path}": item for path, item in called.items()}
    for item in found.values():
        for method in _METHODS & item.keys():
            operation = item[method]
            operation["responses"]["default"] = _PROBLEM
            # Bytes read piece by piece are identified by their digest: the call needs no key.
            octets = "application/octet-stream" in operation.get("requestBody", {}).get("content", ())
            more = [_KEY] if method == "post" and not octets else [_POSITION] if method == "get" else []
            operation["parameters"] = [*operation.get("parameters", ()), *more]
    return {
        "openapi": "3.1.0",
        "info": {"title": "fleetcore operators' API", "version": __version__},
        "security": [{"token": []}],
        "components": {
            "schemas": {**schemas, **own},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "fc_pat_…"}},
        },
        "paths": {**found, **_pages()},
    }


def _pages() -> dict[str, Any]:
    """The paths that are not calls."""
    health = {"application/json": {"schema": {"$ref": _REF.format(name="Health")}}}
    catalogue = {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}}
    not_ready = {"503": {"description": "Some parts do not work, or it is closing", "content": health}}
    return {
        f"{PREFIX}/calls": _page("catalogue", "The calls of this server, including those of plugins", catalogue),
        "/metrics": _page("metrics", "The server's counters since its start, and its state", {
            metrics.MEDIA_TYPE.partition(";")[0]: {"schema": {"type": "string"}}
        }),
        "/healthz": _page("healthz", "200 while the process runs", health, security=[]),
        "/readyz": _page("readyz", "Whether every part of the server works", health, not_ready, security=[]),
    }  # fmt: skip


def _page(name: str, summary: str, content: Json, responses: Json | None = None, **more: Any) -> dict[str, Any]:
    found = {"200": {"description": "Done", "content": content}, "default": _PROBLEM, **(responses or {})}
    return {"get": {"operationId": name, "summary": summary, "responses": found, **more}}


def methods_at(document: dict[str, Any], path: str) -> list[str]:
    """The methods of a path, for the header ``Allow``."""
    segments = path.split("/")
    for template, item in document["paths"].items():
        wanted = template.split("/")
        if len(wanted) == len(segments) and all(
            entry.startswith("{") or entry == two for entry, two in zip(wanted, segments, strict=True)
        ):
            return sorted(method.upper() for method in _METHODS & item.keys())
    return []
