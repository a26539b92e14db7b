"""Models of the CAs: what they are, how one follows another, what ends when, and renewal in waves."""

from typing import Annotated

import msgspec
from msgspec import Meta

from fleetcore.fleet.renewals import WAVES
from fleetcore.fleet.security.profiles import Refusal
from fleetcore.fleet.security.rotation import Phase
from fleetcore.model.credential import CertificateState
from fleetcore_api.models import DeviceId, In, Out, Reason, Time
from fleetcore_api.models_state import Query

Wave = Annotated[
    str, Meta(pattern=r"^[0-9]{1,7}(\.[0-9]{1,3})?%?$", description="A number of devices, or a share: 10%.")
]
Share = Annotated[float, Meta(ge=0, le=1)]
TimeoutS = Annotated[float, Meta(gt=0, le=31_622_400)]


class CaOut(Out):
    """A CA: which signs, what is trusted, and when another ought to follow it (``due``)."""

    id: str
    kind: str
    number: int
    name: str
    state: str
    key: str
    not_before: Time | None
    not_after: Time | None
    due: Time | None
    certificates: int


class RotationOut(Out):
    """How far a rotation is: ``devices`` with a credential are asked to confirm the bundle; some that have not."""

    phase: Phase
    bundle: int
    sha256: str
    devices: int
    confirmed: int
    share: float
    waiting: list[str]
    dependents: int
    dependents_on_new: int
    locked_out: list[str]
    claims: list[str]


class StepIn(In):
    """``threshold`` and ``force`` are for retiring, ``force`` for going back too."""

    threshold: Share = 1.0
    force: bool = False
    reason: Reason = ""


class DistrustIn(In):
    """With ``force`` though devices have no other certificate."""

    force: bool = False
    reason: Reason = ""


class StepOut(Out):
    """A step that was taken, the devices that it has locked out, and the batches whose claim certificate it ended."""

    phase: Phase
    bundle: int
    locked_out: list[str]
    claims: list[str]


class DependentOut(Out):
    """A device with living certificates of a CA; ``sole_certificate`` where it has none of another."""

    device: str
    certificates: int
    sole_certificate: bool


class IncidentOut(Out):
    """What hangs on an issuing CA."""

    ca: str
    devices: int
    sole_certificate: int
    dependents: list[DependentOut]


class PeriodOut(Out):
    """Certificates that end in a period, and of which types or groups."""

    start: Time | None
    until: Time | None
    count: int
    by: dict[str, int]


class EndingOut(Out):
    """A certificate that is next to end, or whose device ought to have renewed."""

    device: str
    certificate: str
    not_after: Time | None
    renew_after: Time | None


class ForecastOut(Out):
    """What ends when; ``own`` are the server's certificates."""

    time: Time | None
    certificates: int
    buckets: list[PeriodOut]
    later: int
    next: list[EndingOut]
    late: list[EndingOut]
    late_count: int
    cas: list[CaOut]
    own: dict[str, str]


class CertificateIn(In):
    """A certificate to be judged, PEM."""

    pem: Annotated[str, Meta(max_length=32_768)]


class CheckedOut(Out):
    """What a certificate is worth here and now; the rest is null where it could not be believed."""

    valid: bool
    refusal: Refusal | None
    device: str | None
    certificate: str | None
    not_after: Time | None
    state: CertificateState | None


class CrlOut(Out):
    """Revocation lists, PEM, one after the other."""

    crl: str


class RenewalIn(In):
    """Whom to ask for a new certificate: a query, ids, or those without one of the CA that signs now."""

    where: Query | None = None
    devices: Annotated[list[DeviceId], Meta(max_length=10_000)] = []
    outdated: bool = False
    waves: Annotated[list[Wave], Meta(max_length=100)] = msgspec.field(default_factory=lambda: [*WAVES])
    cap: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    timeout_s: TimeoutS = 86_400.0
    max_failed: Share = 0.05
    plan: Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$")] | None = None
    reason: Reason = ""


class RenewalPlanOut(Out):
    """Whom it would ask; send the same body with ``plan`` to have it done."""

    plan: str
    count: int
    sample: list[str]
    waves: list[int]
    skipped: int
    cap: int


class ReissueIn(In):
    """How long the device has to come with its new certificate."""

    timeout_s: TimeoutS = 86_400.0
    reason: Reason = ""
