"""Answers of calls about firmware."""

from fleetcore.calls.types import Json, Ms, Response


class ArtifactResponse(Response, frozen=True):
    """Stored firmware."""

    sha256: str
    size_bytes: int


class UploadResponse(Response, frozen=True):
    """How far an upload has come; ``complete`` once the image is stored and its digest verified."""

    sha256: str
    size_bytes: int
    received: int
    complete: bool


class DeltaResponse(Response, frozen=True):
    """A delta between two images; ``sha256`` and ``size`` are its own, the other sizes are the target's."""

    id: str
    base: str
    target: str
    format: str
    sha256: str
    size: int
    full_size: int
    compressed_size: int
    added: Ms | None
    by: str


class FirmwareRootResponse(Response, frozen=True):
    """One version of the firmware root: the signed document that lists the trusted signers of firmware."""

    number: int
    envelope: Json
    expires: Ms | None
    added: Ms | None
    by: str


class ReleaseResponse(Response, frozen=True):
    """Released firmware; ``trust`` is the version of the firmware root that verified it.

    ``requires`` names the releases of other components that have to be installed before, by component. ``sbom_sha256``
    is the digest of its software bill of materials; empty without one.
    """

    id: str
    name: str
    release: str
    seq: int
    min_seq: int
    component: str
    requires_seq: int
    requires: dict[str, str]
    models: list[str]
    sbom_format: str
    sbom_sha256: str
    size: int
    sha256: str
    manifest_sha256: str
    trust: int
    created: Ms | None
    expires: Ms | None
    added: Ms | None
    by: str


class SignedReleaseResponse(ReleaseResponse, frozen=True):
    """A release with its manifest, as devices get it."""

    manifest: Json
