"""Whether the server lives and may be sent work."""

from litestar import Response, get
from litestar.datastructures import State

from fleetcore_api.models import Health
from fleetcore_api.site import Site


@get("/healthz", open=True)
async def healthz() -> Health:
    """Answers while the process runs."""
    return Health(status="ok")


@get("/readyz", open=True)
async def readyz(state: State) -> Response[Health]:
    """200 once every part of the server works, else 503 with the parts that do not."""
    site: Site = state.site
    waiting = [one.name for one in site.fleet.consumers if one.status.state != "running"]
    if site.closing.is_set():
        waiting.append("closing")
    body = Health(status="not ready" if waiting else "ready", waiting_for=waiting)
    return Response(body, status_code=503 if waiting else 200)


HANDLERS = [healthz, readyz]
