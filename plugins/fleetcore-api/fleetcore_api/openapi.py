"""The OpenAPI 3.1 document: paths from the handlers' signatures, schemas from the models themselves.

The framework's own rendering of models loses what makes a contract (closed objects, formats), so the components are
those that msgspec gives, which is also what checks the bodies.
"""

from typing import Any

from litestar import MediaType, Request, Response, get
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from fleetcore_api import __version__

CONFIG = OpenAPIConfig(
    title="fleetcore operators' API",
    version=__version__,
    use_handler_docstrings=True,
    path="/api/v1/unused",
    components=Components(
        security_schemes={"token": SecurityScheme(type="http", scheme="bearer", description="fc_pat_…")}
    ),
    security=[{"token": []}],
)


@get("/openapi.json", open=True, include_in_schema=False, media_type=MediaType.JSON)
async def document_route(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """The document."""
    return Response(request.app.openapi_schema.to_schema(), headers={"Cache-Control": "no-cache"})
