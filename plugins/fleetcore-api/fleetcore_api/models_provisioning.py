"""Models of provisioning: enrolment tokens, batches with a claim certificate, manufacturers' CAs."""

from typing import Annotated

from msgspec import Meta

from fleetcore.fleet.security.manufacturers import Admits
from fleetcore_api.models import DeviceId, In, Label, Out, Reason, Time

BatchName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,39}$")]
Pem = Annotated[str, Meta(max_length=16_384)]
Labels = Annotated[list[Label], Meta(max_length=100)]


class EnrollmentTokenOut(Out):
    """An enrolment token without what it is; ``left`` devices may still enrol with it."""

    id: str
    device: DeviceId | None
    device_type: str
    groups: list[str]
    networks: list[str]
    uses: int
    left: int
    created: Time | None
    created_by: str
    expires: Time | None
    revoked: bool


class ClaimIn(In):
    """A batch of devices: how many, for how long, and what they may say of themselves."""

    batch: BatchName
    quota: Annotated[int, Meta(ge=1, le=1_000_000)]
    days: Annotated[float, Meta(ge=1, le=366)] = 90.0
    device_type: Label = "device"
    tags: Labels = []
    models: Labels = []
    serials: Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=100_000)] = []
    per_minute: Annotated[int, Meta(ge=1, le=60_000)] = 60
    reason: Reason = ""


class ClaimOut(Out):
    """A batch and how many of its devices have enrolled."""

    id: str
    quota: int
    used: int
    device_type: str
    tags: list[str]
    models: list[str]
    serials: list[str]
    per_minute: int
    created: Time | None
    created_by: str
    expires: Time | None
    fingerprint: str
    issuer: str
    disabled: bool


class ClaimCredentialOut(Out):
    """What the factory is given; ``key`` is shown this once, and null where an answer is repeated."""

    batch: str
    certificate: str
    key: str | None
    ca: str
    expires: Time | None


class ManufacturerIn(In):
    """A manufacturer's CA, PEM; its devices wait for an operator, or get a certificate ``at_once``."""

    name: Label
    pem: Pem
    admits: Admits = Admits.WAITING
    device_type: Label = "device"
    model: Label | None = None
    tags: Labels = []
    reason: Reason = ""


class ProofIn(In):
    """A certificate, PEM, that the CA has signed and whose common name is the nonce."""

    proof: Pem
    reason: Reason = ""


class ManufacturerOut(Out):
    """A manufacturer's CA; it opens nothing while there is a ``nonce``."""

    id: str
    pem: str
    fingerprint: str
    nonce: str
    admits: Admits
    device_type: str
    model: str | None
    tags: list[str]
    created: Time | None
    created_by: str
    not_after: Time | None
    disabled: bool
