"""The CAs, the progress of a rotation, upcoming expiries, and the devices of a renewal."""

from fleetcore.calls.types import Ms, Response
from fleetcore.model.credential import CertificateState, Phase, Refusal


class CaResponse(Response, frozen=True):
    """A CA.

    ``kind`` is ``root``, ``issuing`` or ``cross``; ``state`` is ``signs``, ``trusted``, or ``former`` where only its
    revocation list is still made; ``key`` is ``here``, ``offline``, or ``none`` for a cross certificate. ``due`` is
    when its successor is due. ``certificates`` counts the unexpired ones that it issued to devices.
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
    """The progress of a rotation.

    ``bundle`` is the version of the CAs that devices are to trust. ``devices`` counts those with a credential,
    ``confirmed`` those that trust the bundle, ``share`` is their part; ``waiting`` lists some that have not confirmed.
    ``dependents`` counts devices whose certificates all come from the older root, ``dependents_on_new`` from the newer;
    ``locked_out`` lists some that retiring the old root would lock out, ``claims`` batches that enrol by it.
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
    """A completed step, the devices that it locked out, and the batches whose claim certificate it ended."""

    phase: Phase
    bundle: int
    locked_out: list[str]
    claims: list[str]


class DependentResponse(Response, frozen=True):
    """A device with valid certificates of a CA; ``sole_certificate`` where it has none of another trusted CA."""

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
    """How many certificates expire in a period; ``by`` counts them by the type or group of their devices."""

    start: Ms | None
    until: Ms | None
    count: int
    by: dict[str, int]


class EndingResponse(Response, frozen=True):
    """A certificate that expires next, or whose device is late to renew it."""

    device: str
    certificate: str
    not_after: Ms | None
    renew_after: Ms | None


class ForecastResponse(Response, frozen=True):
    """How many certificates are valid and when they expire.

    ``later`` counts those that expire after the last bucket. ``next`` lists the next to expire, ``late`` those past
    their time to renew. ``own`` has the expiries of the server's own certificates.
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
    """The devices that a renewal would ask: their number, the first of them, and the number in each wave.

    ``skipped`` counts selected devices without a valid certificate. ``plan`` identifies exactly these devices and
    waves.
    """

    plan: str
    count: int
    sample: list[str]
    waves: list[int]
    skipped: int
    cap: int


class RootOfflineResponse(Response, frozen=True):
    """The new place of a root's key, and whether it is encrypted there."""

    file: str
    root: int
    encrypted: bool
