"""Models of firmware: images, releases, the trust root, campaigns and each device's way through one."""

from typing import Annotated

from msgspec import Meta

from fleetcore.model.firmware import CampaignState, ExecutionState
from fleetcore_api.models import DeviceId, In, Json, Label, Out, Reason, Time


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


class CampaignIn(In):
    """One firmware version for devices. Without a digest the server fetches the address once and pins it.

    A manifest, or that of a release, names digest and size; the address may be empty where the image is here.
    """

    id: Label
    release: Label
    devices: Annotated[list[DeviceId], Meta(min_length=1, max_length=10_000)]
    url: Annotated[str, Meta(max_length=2048)] = ""
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    size: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    manifest: Json | None = None
    from_release: Label | None = None
    allow_downgrade: bool = False
    reason: Reason = ""


class CampaignOut(Out):
    """A campaign; ``code`` says why it waits in draft.

    ``targets`` names the first 1,000 of ``total`` devices; its executions name all, and ``counts`` says how many of
    them are in which state.
    """

    id: str
    release: str
    url: str
    targets: list[str]
    total: int
    counts: dict[str, int]
    state: CampaignState
    sha256: str | None
    size: int | None
    manifest_sha256: str | None
    seq: int | None
    trust: int | None
    allow_downgrade: bool
    component: str
    code: str | None
    reason: str | None
    created: Time | None
    finished_at: Time | None
    version: int


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
