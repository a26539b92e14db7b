"""Models of firmware: images, releases, the trust root."""

from fleetcore.model.firmware import ExecutionState
from fleetcore_api.models import In, Json, Out, Reason, Time


class ArtifactOut(Out):
    """Stored firmware."""

    sha256: str
    size_bytes: int


class TrustIn(In):
    """The next version of the trust root, as it was signed."""

    envelope: Json
    reason: Reason = ""


class TrustOut(Out):
    """One version of the trust root."""

    number: int
    envelope: Json
    expires: Time | None
    added: Time | None
    by: str


class ReleaseIn(In):
    """A signed manifest whose image was uploaded; ``allow_downgrade`` takes a seq below the name's highest."""

    manifest: Json
    allow_downgrade: bool = False
    reason: Reason = ""


class ReleaseOut(Out):
    """Firmware that was signed off; ``trust`` is the version of the trust root that it was verified by."""

    id: str
    name: str
    release: str
    seq: int
    min_seq: int
    requires_seq: int
    models: list[str]
    size: int
    sha256: str
    manifest_sha256: str
    trust: int
    created: Time | None
    expires: Time | None
    added: Time | None
    by: str


class SignedReleaseOut(ReleaseOut):
    """A release with its manifest, as devices get it."""

    manifest: Json


class ExecutionOut(Out):
    """One device's way through a campaign."""

    id: str
    campaign: str
    device: str
    state: ExecutionState
    attempt: int
    progress: float | None
    code: str | None
    reason: str | None
    until: Time | None
    reported_version: str | None
    changed: Time | None
