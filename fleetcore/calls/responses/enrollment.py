"""Ways of enrolment: tokens, claim certificates, manufacturers' CAs, and keys that asked."""

from fleetcore.calls.types import Json, Ms, Response
from fleetcore.model.credential import Admits, EnrollmentState


class SecretResponse(Response, frozen=True):
    """A secret that is returned once; None where the same request is answered again."""

    token: str | None


class EnrollmentTokenResponse(Response, frozen=True):
    """An enrolment token without its secret; ``left`` more devices may enrol with it."""

    id: str
    device: str | None
    device_type: str
    groups: list[str]
    networks: list[str]
    uses: int
    left: int
    created: Ms | None
    created_by: str
    expires: Ms | None
    revoked: bool


class ClaimResponse(Response, frozen=True):
    """A batch of devices with a claim certificate, and the number of its enrolled devices."""

    id: str
    quota: int
    used: int
    device_type: str
    tags: list[str]
    models: list[str]
    serials: list[str]
    per_minute: int
    created: Ms | None
    created_by: str
    expires: Ms | None
    fingerprint: str
    issuer: str
    disabled: bool


class ClaimCredentialResponse(Response, frozen=True):
    """The data for the factory, PEM; ``key`` is returned once, and None where the same request is answered again."""

    batch: str
    certificate: str
    key: str | None
    ca: str
    expires: Ms | None


class ManufacturerResponse(Response, frozen=True):
    """A manufacturer's CA. While it has a ``nonce`` it is not proven, and its devices cannot enrol."""

    id: str
    pem: str
    fingerprint: str
    nonce: str
    admits: Admits
    device_type: str
    model: str | None
    tags: list[str]
    created: Ms | None
    created_by: str
    not_after: Ms | None
    disabled: bool


class EnrollmentResponse(Response, frozen=True):
    """A key that asked to enrol; ``id`` is ``DEVICE:FINGERPRINT``, ``source`` the address of the request."""

    id: str
    device: str
    fingerprint: str
    state: EnrollmentState
    created: Ms | None
    source: str
    parameters: Json
    decided_by: str
    reason: str
