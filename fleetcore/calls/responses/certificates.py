"""Certificates of devices."""

from fleetcore.calls.types import Ms, Response
from fleetcore.model.credential import CertificateState


class CertificateResponse(Response, frozen=True):
    """An issued certificate; ``id`` is ``ISSUER:SERIAL``, ``how`` the way it was issued. ``pem`` is public."""

    id: str
    device: str
    issuer: str
    serial: str
    spki: str
    state: CertificateState
    created: Ms | None
    not_before: Ms | None
    not_after: Ms | None
    renew_after: Ms | None
    ended_at: Ms | None
    how: str
    reason: str
    pem: str
