"""Firmware: images, taken in as a stream and addressed by their SHA-256; signed releases of them; the trust root."""

from collections.abc import AsyncIterator
from typing import Annotated

from litestar import Response, get, post
from litestar.exceptions import InternalServerException
from litestar.params import FromPath, JSONBody, QueryParameter

from fleetcore.calls.cursors import decode
from fleetcore.errors import Refused
from fleetcore.model.operator import Permission
from fleetcore_api.access import Access, ApiRequest, missing
from fleetcore_api.models import shown
from fleetcore_api.models_firmware import ArtifactOut, ReleaseIn, ReleaseOut, SignedReleaseOut, TrustIn, TrustOut
from fleetcore_api.openapi import OCTETS
from fleetcore_api.pages import Cursor, Limit, Page, answered
from fleetcore_api.parameters import Caller, named

#: The one path whose body is not JSON and not held in memory.
ARTIFACTS = "/firmware/artifacts"
Digest = Annotated[
    str | None,
    QueryParameter(name="sha256", pattern="^[0-9a-f]{64}$", max_length=64, description="What the content must be."),
]
#: Text, since the framework takes "null" for an integer that may be absent.
Size = Annotated[
    str | None,
    QueryParameter(
        name="size", pattern="^[0-9]{1,15}$", max_length=15, description="How many bytes the content must have."
    ),
]
Name = Annotated[str | None, QueryParameter(name="name", max_length=64, description="Releases of this name alone.")]


@post(ARTIFACTS, permission=Permission.FIRMWARE_WRITE, everywhere=True, raw=True)
async def add_artifact(
    access: Caller, request: ApiRequest, sha256: Digest = None, size: Size = None
) -> Response[ArtifactOut]:
    """Takes the body in as firmware; ``sha256`` and ``size_bytes`` pin it. The same again changes nothing."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != OCTETS:
        raise Refused(f"An artifact is sent as {OCTETS}", code="media_type_unsupported")
    content = _of_size(_while_allowed(access, request.stream()), None if size is None else int(size))
    info = await access.fleet.campaigns.add_artifact(content, sha256=sha256)
    return Response(shown(ArtifactOut, info), status_code=201)


async def _while_allowed(access: Access, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The content, as long as its sender may send it."""
    async for piece in content:
        await access.still(Permission.FIRMWARE_WRITE)
        yield piece


async def _of_size(content: AsyncIterator[bytes], size: int | None) -> AsyncIterator[bytes]:
    """The content, which has to have a size; a longer one is cut off at the first byte too many."""
    got = 0
    try:
        async for piece in content:
            got += len(piece)
            if size is not None and got > size:
                break
            yield piece
    except InternalServerException as error:  # what the framework makes of a sender that is gone
        raise Refused("The upload was cut off", code="payload_unreadable") from error
    if size is not None and got != size:
        more = "more than" if got > size else f"{got} of"
        raise Refused(f"There are {more} the {size} bytes that were announced", code="size_mismatch")


@get(ARTIFACTS + "/{sha256:str}", permission=Permission.CAMPAIGNS_READ, everywhere=True)
async def get_artifact(access: Caller, sha256: FromPath[str]) -> ArtifactOut:
    """Whether an artifact is here, and its size."""
    found = await access.fleet.storage.artifact(sha256)
    if found is None:
        raise missing("artifact", sha256, "artifact_unknown")
    return shown(ArtifactOut, found)


@post("/firmware/releases", permission=Permission.FIRMWARE_WRITE, everywhere=True)
async def add_release(access: Caller, data: JSONBody[ReleaseIn]) -> Response[SignedReleaseOut]:
    """Signs firmware off: the manifest is verified by the trust root, for every model that it names."""
    made = await access.fleet.releases.add(
        data.manifest, allow_downgrade=data.allow_downgrade, actor=access.actor, reason=data.reason
    )
    return Response(shown(SignedReleaseOut, made), status_code=201)


@get("/firmware/releases", permission=Permission.CAMPAIGNS_READ)
async def list_releases(
    access: Caller, name: Name = None, limit: Limit = 100, cursor: Cursor = None
) -> Page[ReleaseOut]:
    """Releases by name and seq."""
    ref = None if name is None else ("name", name)
    found = await access.fleet.releases.records.page(ref=ref, after=decode(cursor), limit=limit)
    return answered(found, lambda release: shown(ReleaseOut, release))


@get("/firmware/releases/{release:str}", permission=Permission.CAMPAIGNS_READ)
async def get_release(access: Caller, release: FromPath[str]) -> SignedReleaseOut:
    """One release by its id, ``NAME:SEQ``."""
    return shown(SignedReleaseOut, await access.fleet.releases.get(named(release)))


@post("/firmware/trust", permission=Permission.FIRMWARE_TRUST, everywhere=True)
async def set_trust(access: Caller, data: JSONBody[TrustIn]) -> Response[TrustOut]:
    """Takes the next version of the trust root, which a threshold of the old and of the new root keys has signed."""
    made = await access.fleet.trust_root.add(data.envelope, actor=access.actor, reason=data.reason)
    return Response(shown(TrustOut, made), status_code=201)


@get("/firmware/trust", permission=Permission.CAMPAIGNS_READ)
async def list_trust(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[TrustOut]:
    """Every version of the trust root, the first one first."""
    found = await access.fleet.trust_root.records.page(after=decode(cursor), limit=limit)
    return answered(found, lambda version: shown(TrustOut, version))


@get("/firmware/trust/{number:str}", permission=Permission.CAMPAIGNS_READ)
async def get_trust(access: Caller, number: FromPath[str]) -> TrustOut:
    """One version of the trust root by its number, or the one that holds: ``current``."""
    if number == "current":
        return shown(TrustOut, access.fleet.trust_root.get())
    if not number.isascii() or not number.isdigit() or len(number) > 7:
        raise missing("version of the trust root", number)
    return shown(TrustOut, access.fleet.trust_root.get(int(number)))


HANDLERS = [
    add_artifact, get_artifact, add_release, list_releases, get_release, set_trust, list_trust, get_trust,
]  # fmt: skip
