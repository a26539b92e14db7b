"""Models of trust: certificates, enrolments, operators, the audit log; and of the server itself."""

from typing import Annotated

from msgspec import Meta

from fleetcore.fleet.operators import LONGEST_DAYS
from fleetcore.fleet.security.enrollment import EnrollmentState
from fleetcore.fleet.security.inventory import CertificateState
from fleetcore.model.operator import Permission, Role
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


class GrantIn(In):
    """A role for a principal within a scope: ``group:NAME``, a query, or nothing for the whole fleet."""

    principal: Label
    role: Role
    scope: Annotated[str, Meta(max_length=4096)] = ""
    reason: Reason = ""


class GrantOut(Out):
    """A grant."""

    id: str
    principal: str
    role: Role
    scope: str
    created: Time | None
    created_by: str


class TokenIn(In):
    """A token for a principal; its grants are the principal's, limited to ``permissions`` where there are any."""

    principal: Label
    days: Annotated[float, Meta(gt=0, le=LONGEST_DAYS)] = 90.0
    permissions: Annotated[list[Permission], Meta(max_length=len(Permission))] = []
    reason: Reason = ""


class TokenOut(Out):
    """A token without what it is."""

    id: str
    principal: str
    permissions: list[Permission]
    created: Time | None
    created_by: str
    expires: Time | None
    last_used: Time | None
    revoked: bool


class NewTokenOut(TokenOut):
    """A token as it is shown once; null where an answer is repeated."""

    token: str | None


class AuditOut(Out):
    """A row of the audit log, bound to the one before by its hash."""

    seq: int
    time: Time | None
    actor: str
    action: str
    object: str
    reason: str
    position: int
    changed: list[str]
    data_hash: str
    prev: str
    hash: str


class VerifyIn(In):
    """Checkpoints to believe, lines of the file, where they were kept elsewhere; the newest speaks for all rows before.

    As many as a body holds (``body_bytes``), whatever their length.
    """

    checkpoints: Annotated[list[Annotated[str, Meta(max_length=2048)]], Meta(max_length=250)] | None = None


class VerdictOut(Out):
    """Whether the audit log is as it was written; ``bad_seq`` is the first row that is not, and ``why``."""

    ok: bool
    rows: int
    checkpoints: int
    bad_seq: int | None
    why: str


class InstanceOut(Out):
    """A configured part of the data path, and the plugin kind that it is."""

    name: str
    kind: str


class PluginOut(Out):
    """An installed plugin and what it offers; ``error`` where it did not load."""

    name: str
    version: str
    origin: str
    offers: list[str]
    error: str
