"""Models of trust: certificates, enrolments, operators, the audit log; and of the server itself."""

from typing import Annotated

from msgspec import Meta

from fleetcore.fleet.security.enrollment import EnrollmentState
from fleetcore.fleet.security.inventory import CertificateState
from fleetcore_api.models import DeviceId, In, Json, Label, Out, Reason, Time


class CertificateOut(Out):
    """An issued certificate; ``pem`` is public."""

    id: str
    device: str
    issuer: str
    serial: str
    spki: str
    state: CertificateState
    created: Time | None
    not_before: Time | None
    not_after: Time | None
    renew_after: Time | None
    ended_at: Time | None
    how: str
    reason: str
    pem: str


class EnrollmentOut(Out):
    """A key that asked to be a device."""

    id: str
    device: str
    fingerprint: str
    state: EnrollmentState
    created: Time | None
    source: str
    parameters: Json
    decided_by: str
    reason: str


class DecisionIn(In):
    """With ``replace`` the device's other certificates end once the new one has connected."""

    replace: bool = False
    reason: Reason = ""


class EnrollmentTokenIn(In):
    """A token by which devices enrol: one named device, or so many new ones.

    New ones are put into ``groups``; with ``networks`` (CIDR) it is good from these alone.
    """

    device: DeviceId | None = None
    uses: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    ttl_s: Annotated[float, Meta(gt=0, le=31_622_400)] = 86_400
    device_type: Label = "device"
    groups: Annotated[list[Label], Meta(max_length=100)] = []
    networks: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=100)] = []
    reason: Reason = ""


class SecretOut(Out):
    """A secret that is shown this once."""

    token: str | None
