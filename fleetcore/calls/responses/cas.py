"""The CAs, how far a rotation is, what ends when, and which devices a renewal would ask."""

from fleetcore.calls.types import Ms, Response
from fleetcore.model.credential import CertificateState, Phase, Refusal


class CaResponse(Response, frozen=True):
    """A CA.

    ``kind`` is ``root``, ``issuing`` or ``cross``; ``state`` is ``signs``, ``trusted``, or ``former`` where only its
    revocation list is still made; ``key`` is ``here``, ``offline``, or ``none`` for a cross certificate. From ``due``
    on another CA should follow it. ``certificates`` counts the living ones that it issued to devices.
    """

    id: str
    kind: str
    number: int
    name: str
    state: str
    key: str
    not_before: Ms | None
    not_after: Ms | None
    due: Ms | None
    certificates: int


class RotationResponse(Response, frozen=True):
    """How far a rotation is.

    ``bundle`` is the version of what devices are to trust. ``devices`` counts those with a credential, ``confirmed``
    those that trust the bundle, ``share`` is their part; ``waiting`` names some that have not confirmed. ``dependents``
    counts devices whose certificates all come from the older root, ``dependents_on_new`` from the newer;
    ``locked_out`` names some that retiring the old root would lock out, ``claims`` batches that enrol by it.
    """

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


class StepResponse(Response, frozen=True):
    """A step that was taken, the devices that it locked out, and the batches whose claim certificate it ended."""

    phase: Phase
    bundle: int
    locked_out: list[str]
    claims: list[str]


class DependentResponse(Response, frozen=True):
    """A device with living certificates of a CA; ``sole_certificate`` where it has none of another trusted CA."""

    device: str
    certificates: int
    sole_certificate: bool


class IncidentResponse(Response, frozen=True):
    """The devices that depend on an issuing CA; ``sole_certificate`` counts those without another certificate."""

    ca: str
    devices: int
    sole_certificate: int
    dependents: list[DependentResponse]


class PeriodResponse(Response, frozen=True):
    """How many certificates end in a period; ``by`` counts them by the type or group of their devices."""

    start: Ms | None
    until: Ms | None
    count: int
    by: dict[str, int]


class EndingResponse(Response, frozen=True):
    """A certificate that ends next, or whose device is late to renew it."""

    device: str
    certificate: str
    not_after: Ms | None
    renew_after: Ms | None


class ForecastResponse(Response, frozen=True):
    """How many certificates live and when they end.

    ``later`` counts those that end after the last bucket. ``next`` names the next to end, ``late`` those past their
    time to renew. ``own`` tells when the server's own certificates end.
    """

    time: Ms | None
    certificates: int
    buckets: list[PeriodResponse]
    later: int
    next: list[EndingResponse]
    late: list[EndingResponse]
    late_count: int
    cas: list[CaResponse]
    own: dict[str, Ms]


class CertificateCheckResponse(Response, frozen=True):
    """Whether a certificate is accepted now; the other members are null where the certificate cannot be trusted."""

    valid: bool
    refusal: Refusal | None
    device: str | None
    certificate: str | None
    not_after: Ms | None
    state: CertificateState | None


class RevocationListsResponse(Response, frozen=True):
    """Revocation lists, PEM, one after the other."""

    crl: str


class RenewalPlanResponse(Response, frozen=True):
    """Which devices a renewal would ask: how many, the first of them, and how many in each wave.

    ``skipped`` counts selected devices without a living certificate. ``plan`` names exactly these devices and waves.
    """

    plan: str
    count: int
    sample: list[str]
    waves: list[int]
    skipped: int
    cap: int


class RootOfflineResponse(Response, frozen=True):
    """Where the key of a root was moved to, and whether it is encrypted there."""

    file: str
    root: int
    encrypted: bool
