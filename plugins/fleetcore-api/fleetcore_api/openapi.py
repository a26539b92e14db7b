"""The OpenAPI 3.1 document: paths from the handlers' signatures, schemas from the models themselves.

The framework's own rendering of models loses what makes a contract (closed objects, limits of members), so the
components are those that msgspec gives, which is also what checks the bodies. What holds for all routes is added here:
problems, keys, positions.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from fleetcore.calls.table import Table
from fleetcore.frontends.openapi import paths
from fleetcore_api import __version__
from fleetcore_api.models import In, Out, Problem
from fleetcore_api.pages import Page
from fleetcore_api.problems import MEDIA_TYPE

_REF = "#/components/schemas/{name}"
#: How the framework names a page of a model.
_PAGE = re.compile(r"Page_(?:\w+\.)*(\w+)_")
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})

CONFIG = OpenAPIConfig(
    title="fleetcore operators' API",
    version=__version__,
    use_handler_docstrings=True,
    path="/api/v1/unused",
    operation_id_creator=lambda handler, _method, _path: handler.handler_name,
    components=Components(
        security_schemes={"token": SecurityScheme(type="http", scheme="bearer", description="fc_pat_…")}
    ),
    security=[{"token": []}],
)

_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    "description": "The same key again gives the first answer again, for a day; with another request it is refused.",
}
_POSITION = {
    "name": "Fleetcore-Position",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
    "description": "What a write was answered with: the answer waits until that write shows.",
}
_TABLES = {
    "text/csv": {"schema": {"type": "string"}},
    "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
}
_PROBLEM = {
    "description": "A refusal with a stable code (RFC 9457)",
    "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}},
}


@get("/openapi.json", open=True, include_in_schema=False, media_type=MediaType.JSON)
async def document_route(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """The document."""
    return Response(request.app.state.document, headers={"Cache-Control": "no-cache"})


def document(app: Litestar, table: Table) -> dict[str, Any]:
    """The whole document, made once when the API opens."""
    made: dict[str, Any] = _refs(app.openapi_schema.to_schema())
    called, schemas = paths(table)
    made["components"]["schemas"] = {**_schemas(), **schemas}
    made["paths"] |= {f"/api/v1{path}": item for path, item in called.items()}
    opened = {handler.handler_name for handler in _handlers(app) if handler.opt.get("open")}
    tables = {handler.handler_name for handler in _handlers(app) if handler.opt.get("csv")}
    for item in made["paths"].values():
        for method in _METHODS & item.keys():
            operation = item[method]
            _complete(method, operation, opened=operation["operationId"] in opened)
            if operation["operationId"] in tables:
                operation["responses"]["200"]["content"].update(_TABLES)
    return made


def methods_at(document: dict[str, Any], path: str) -> list[str]:
    """The methods that a path takes, for the header ``Allow``."""
    segments = path.split("/")
    for template, item in document["paths"].items():
        wanted = template.split("/")
        if len(wanted) == len(segments) and all(
            one.startswith("{") or one == two for one, two in zip(wanted, segments, strict=True)
        ):
            return sorted(method.upper() for method in _METHODS & item.keys())
    return []


def queries_of(document: dict[str, Any]) -> dict[str, frozenset[str]]:
    """The query parameters of each operation, by its id."""
    return {
        operation["operationId"]: frozenset(
            one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"
        )
        for item in document["paths"].values()
        for method, operation in item.items()
        if method in _METHODS
    }


def _handlers(app: Litestar) -> Iterator[HTTPRouteHandler]:
    for route in app.routes:
        yield from getattr(route, "route_handlers", ())


def _refs(value: Any) -> Any:
    """The same document with the pages under their short names."""
    if isinstance(value, dict):
        return {key: _refs(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_refs(one) for one in value]
    if isinstance(value, str) and value.startswith("#/"):
        return _PAGE.sub(r"Page_\1_", value)
    return value


def _models(base: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _schemas() -> dict[str, Any]:
    models = [*_models(In), *_models(Out)]
    pages = [Page[model] for model in models if issubclass(model, Out)]  # type: ignore[valid-type]  # made at run time
    _, schemas = msgspec.json.schema_components([*models, *pages, Problem], ref_template=_REF)
    return schemas


def _complete(method: str, operation: dict[str, Any], *, opened: bool) -> None:
    operation["responses"].pop("400", None)  # the framework's own idea of an error
    operation["responses"]["default"] = _PROBLEM
    parameters = operation.setdefault("parameters", [])
    for one in parameters:
        one["schema"] = _parameter(one["schema"])
    if opened:
        operation["security"] = []
    elif method == "post":
        parameters.append(_KEY)
    elif method == "get":
        parameters.append(_POSITION)


def _parameter(schema: dict[str, Any]) -> dict[str, Any]:
    """An absent parameter is absent, it is never null."""
    kinds = [one for one in schema.get("oneOf", ()) if one != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**kinds[0], **{key: value for key, value in schema.items() if key != "oneOf"}}
