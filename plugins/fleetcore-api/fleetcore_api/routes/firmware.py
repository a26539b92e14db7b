"""Firmware artifacts: taken in as a stream, addressed by their SHA-256."""

from litestar import Response, get, post
from litestar.params import FromPath

from fleetcore.errors import Refused
from fleetcore.model.operator import Permission
from fleetcore_api.access import ApiRequest, missing
from fleetcore_api.models import shown
from fleetcore_api.models_seen import ArtifactOut
from fleetcore_api.openapi import OCTETS
from fleetcore_api.parameters import Caller

#: The one path whose body is not JSON and not held in memory.
ARTIFACTS = "/firmware/artifacts"


@post(ARTIFACTS, permission=Permission.FIRMWARE_WRITE, everywhere=True, raw=True)
async def add_artifact(access: Caller, request: ApiRequest) -> Response[ArtifactOut]:
    """Takes the body in as firmware; ``sha256`` and ``size_bytes`` pin it. The same again changes nothing."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != OCTETS:
        raise Refused(f"An artifact is sent as {OCTETS}", code="media_type_unsupported")
    info = await access.fleet.campaigns.add_artifact(request.stream())
    return Response(shown(ArtifactOut, info), status_code=201)


@get(ARTIFACTS + "/{sha256:str}", permission=Permission.CAMPAIGNS_READ, everywhere=True)
async def get_artifact(access: Caller, sha256: FromPath[str]) -> ArtifactOut:
    """Whether an artifact is here, and its size."""
    found = await access.fleet.storage.artifact(sha256)
    if found is None:
        raise missing("artifact", sha256, "artifact_unknown")
    return shown(ArtifactOut, found)


HANDLERS = [add_artifact, get_artifact]
