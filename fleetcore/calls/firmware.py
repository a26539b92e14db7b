"""Firmware: images, addressed by SHA-256; signed releases of them; and the firmware root, which lists the signers."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered, missing
from fleetcore.calls.campaigns import AllowDowngrade, ImageDigest, Manifest
from fleetcore.calls.cursors import decode
from fleetcore.calls.responses.firmware import (
    ArtifactResponse,
    DeltaResponse,
    FirmwareRootResponse,
    ReleaseResponse,
    SignedReleaseResponse,
    UploadResponse,
)
from fleetcore.calls.table import ANYWHERE, call
from fleetcore.calls.types import Content, Cursor, Json, Limit, Names, Page, Reason, to_response
from fleetcore.errors import Refused
from fleetcore.model.operator import Permission

ArtifactId = Annotated[str, Meta(min_length=1, max_length=128, description="The image's SHA-256, in hex.")]
AnnouncedSize = Annotated[int, Meta(ge=0, lt=10**15, description="The exact size of the content, in bytes.")]
UploadSize = Annotated[int, Meta(ge=0, lt=10**15, description="The exact size of the whole image, in bytes.")]
UploadOffset = Annotated[int, Meta(ge=0, lt=10**15, description="How many bytes of it have come already.")]
ReleaseName = Annotated[str, Meta(max_length=64, description="Only releases of this name.")]
SignedRelease = Annotated[
    str, Meta(min_length=1, max_length=128, description="The release, `NAME:SEQ`."), Names("list_releases")
]
DeltaBase = Annotated[
    str, Meta(min_length=1, max_length=128, description="The release that devices run, or its image's SHA-256."),
    Names("list_releases"),
]  # fmt: skip
DeltaTarget = Annotated[
    str, Meta(min_length=1, max_length=128, description="The release that they shall run, or its image's SHA-256."),
    Names("list_releases"),
]  # fmt: skip
RootEnvelope = Annotated[Json, Meta(description="The signed firmware root, as in `trust.json`.")]
RootNumber = Annotated[
    Annotated[int, Meta(ge=0, lt=10**7)] | Literal["current"],
    Meta(description="Which version; by default the current one."),
]


@call(
    "POST /firmware/artifacts", Permission.FIRMWARE_WRITE, status=201,
    no_cli="`fleetcore firmware upload` makes an upload that can be continued",
)  # fmt: skip
async def upload_artifact(
    caller: Caller, content: Content, *, sha256: ImageDigest | None = None, size: AnnouncedSize | None = None
) -> ArtifactResponse:
    """Stores an image under its SHA-256; the same image again changes nothing, and a partial one is never stored.

    With a digest or a size, other content is refused. The upload ends if the caller loses the permission for it.

    Args:
        content: the image.

    Raises:
        Refused: the content differs from the given digest or size, or is too long.
    """
    pieces = _of_size(_while_allowed(caller, content), size)
    return to_response(ArtifactResponse, await caller.fleet.campaigns.add_artifact(pieces, sha256=sha256))


async def _while_allowed(caller: Caller, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in content:
        await caller.still()
        yield piece


async def _of_size(content: AsyncIterator[bytes], size: int | None) -> AsyncIterator[bytes]:
    """The content, which must have a given size; a longer one is cut off at the first excess byte."""
    got = 0
    async for piece in content:
        got += len(piece)
        if size is not None and got > size:
            break
        yield piece
    if size is not None and got != size:
        more = "more than" if got > size else f"{got} of"
        raise Refused(f"There are {more} the {size} bytes that were announced", code="size_mismatch")


@call(
    "GET /firmware/uploads/{sha256}", Permission.FIRMWARE_WRITE,
    no_cli="`fleetcore firmware upload` continues an upload by itself",
)  # fmt: skip
async def get_upload(caller: Caller, sha256: ImageDigest, size: UploadSize) -> UploadResponse:
    """Shows how many bytes of an image have come, so that its upload can go on from there.

    An upload is known by the digest and the size of the whole image. It is removed when nothing comes for a day.

    Raises:
        Refused: the image is stored, and has another size.
    """
    return to_response(UploadResponse, await caller.fleet.uploads.get(sha256, size))


@call(
    "PUT /firmware/uploads/{sha256}", Permission.FIRMWARE_WRITE,
    no_cli="`fleetcore firmware upload` continues an upload by itself",
)  # fmt: skip
async def continue_upload(
    caller: Caller, content: Content, sha256: ImageDigest, size: UploadSize, *, offset: UploadOffset = 0
) -> UploadResponse:
    """Adds to an upload, from a byte on; with its last byte the image is verified and stored.

    Bytes that came stay when the connection breaks, the server ends or its store is full. A later request for the same
    upload takes its place.

    Args:
        content: the image's bytes from ``offset`` on, all or some of them.

    Raises:
        Conflict: the upload has come to another byte, or another request continues it.
        Refused: there are more bytes than announced, the digest is another one, or unfinished uploads are too large.
        Unavailable: the store is full.
    """
    pieces = _while_allowed(caller, content)
    return to_response(UploadResponse, await caller.fleet.uploads.append(pieces, sha256, size, offset))


@call("GET /firmware/artifacts/{sha256}", Permission.CAMPAIGNS_READ, cli="firmware artifact SHA256")
async def get_artifact(caller: Caller, sha256: ArtifactId) -> ArtifactResponse:
    """Shows whether an image is stored, and its size.

    Raises:
        NotFound: there is no such image.
    """
    found = await caller.fleet.storage.artifact(sha256)
    if found is None:
        raise missing("artifact", sha256, "artifact_unknown")
    return to_response(ArtifactResponse, found)


@call("POST /firmware/releases", Permission.FIRMWARE_WRITE, cli="firmware release add MANIFEST", status=201)
async def add_release(
    caller: Caller, manifest: Manifest, *, allow_downgrade: AllowDowngrade = False, reason: Reason = ""
) -> SignedReleaseResponse:
    """Releases firmware: verifies its manifest against the firmware root, for every model that it names, and stores it.

    Raises:
        NotFound: its image was not uploaded.
        Refused: the manifest or its signatures are not valid, or its seq is below the highest of its name.
        Conflict: that release exists with other content.
    """
    made = await caller.fleet.releases.add(manifest, allow_downgrade=allow_downgrade, actor=caller.actor, reason=reason)
    return to_response(SignedReleaseResponse, made)


@call(
    "GET /firmware/releases", Permission.CAMPAIGNS_READ, scope=ANYWHERE, cli="firmware release list NAME",
    columns=("id", "release", "models", "size", "expires", "trust", "added"),
)  # fmt: skip
async def list_releases(
    caller: Caller, name: ReleaseName | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[ReleaseResponse]:
    """Lists releases by name and seq, without their manifests."""
    ref = None if name is None else ("name", name)
    found = await caller.fleet.releases.records.page(ref=ref, after=decode(cursor), limit=limit)
    return answered(found, lambda release: to_response(ReleaseResponse, release))


@call(
    "GET /firmware/releases/{release}", Permission.CAMPAIGNS_READ, scope=ANYWHERE,
    cli="firmware release show RELEASE",
)  # fmt: skip
async def get_release(caller: Caller, release: SignedRelease) -> SignedReleaseResponse:
    """Shows a release with its manifest.

    Raises:
        NotFound: there is no such release.
    """
    return to_response(SignedReleaseResponse, await caller.fleet.releases.get(release))


@call("POST /firmware/deltas", Permission.FIRMWARE_WRITE, cli="firmware delta make BASE TARGET")
async def make_delta(caller: Caller, base: DeltaBase, target: DeltaTarget, *, reason: Reason = "") -> DeltaResponse:
    """Makes the delta from one image to another, which devices that run the first one are offered with the second.

    The images must not be compressed. It may take minutes; the same delta again is answered at once.

    Raises:
        NotFound: there is no such release or image.
        Conflict: the images are equal or compressed, or the delta has over half the size of the compressed image.
        Refused: the images are too large.
    """
    made = await caller.fleet.deltas.make(base, target, actor=caller.actor, reason=reason)
    return to_response(DeltaResponse, made)


@call(
    "GET /firmware/deltas", Permission.CAMPAIGNS_READ, scope=ANYWHERE, cli="firmware delta list",
    columns=("base", "target", "size", "compressed_size", "full_size", "added"),
)  # fmt: skip
async def list_deltas(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[DeltaResponse]:
    """Lists the deltas between images, with their sizes and those of the whole images."""
    found = await caller.fleet.deltas.records.page(after=decode(cursor), limit=limit)
    return answered(found, lambda delta: to_response(DeltaResponse, delta))


@call(
    "POST /firmware/trust", Permission.FIRMWARE_TRUST, status=201,
    no_cli="`fleetcore firmware trust set` gives several versions in their order",
)  # fmt: skip
async def set_firmware_root(caller: Caller, envelope: RootEnvelope, *, reason: Reason = "") -> FirmwareRootResponse:
    """Sets the next version of the firmware root; the first one is trusted without a check.

    A later one is signed by a threshold of the old and of the new root keys. The same version again changes nothing.

    Raises:
        Conflict: that version exists with other content.
        Refused: it is not the next version, or has too few signatures.
    """
    made = await caller.fleet.trust_root.add(envelope, actor=caller.actor, reason=reason)
    return to_response(FirmwareRootResponse, made)


@call(
    "GET /firmware/trust", Permission.CAMPAIGNS_READ, scope=ANYWHERE, cli="firmware trust list",
    columns=("number", "expires", "added", "by"),
)  # fmt: skip
async def list_firmware_roots(
    caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[FirmwareRootResponse]:
    """Lists every version of the firmware root, the first one first."""
    found = await caller.fleet.trust_root.records.page(after=decode(cursor), limit=limit)
    return answered(found, lambda version: to_response(FirmwareRootResponse, version))


@call(
    "GET /firmware/trust/{number}", Permission.CAMPAIGNS_READ, scope=ANYWHERE,
    no_cli="`fleetcore firmware trust show` says what is in it",
)  # fmt: skip
async def get_firmware_root(caller: Caller, number: RootNumber = "current") -> FirmwareRootResponse:
    """Shows a version of the firmware root.

    Raises:
        NotFound: there is no such version, or no firmware root.
    """
    wanted = None if number == "current" else number
    return to_response(FirmwareRootResponse, caller.fleet.trust_root.get(wanted))
