"""Certificates as thumbprints of an identity: the hub stores neither certificates nor the fleet's CA.

The hub accepts two, the newest. A device without certificates gets keys, which the hub generates and fleetcore never
gives out. So a revoked certificate is invalid after the next write, even if a mirror does not remove.
"""

from collections.abc import AsyncIterator, Sequence

from attrs import evolve
from cryptography import x509

from fleetcore.interfaces.call_failed import CallFailed
from fleetcore.interfaces.cloud import Fitted, MirrorItem, MirrorResult
from fleetcore.model.mirror import CertificateBody, DeviceCertificate, EntityKey, Loss
from fleetcore_azure.held import FOREIGN, TOO_LONG, TRIES, Devices, Held
from fleetcore_azure.identities import Identities
from fleetcore_azure.names import digest

_MAX = 2


class Certificates:
    """See the module."""

    def __init__(self, devices: Devices, identities: Identities) -> None:
        self._devices, self._identities = devices, identities

    def fit(self, item: MirrorItem, body: CertificateBody) -> Fitted:
        """As in the interface. A thumbprint identifies a certificate completely: the missing text is not a loss."""
        if self._devices.name(item.key.id) is None:
            return Fitted(item=None, lost=(Loss("", TOO_LONG),))
        newest = sorted(body.certificates, key=_since, reverse=True)[:_MAX]
        lost = tuple(
            Loss(f"/certificates/{at}", "A device of IoT Hub can have two thumbprints; the newest are used")
            for at, entry in enumerate(body.certificates)
            if entry not in newest
        )
        return Fitted(item=evolve(item, body=_body([item.fingerprint for item in newest])), lost=lost)

    async def apply(self, item: MirrorItem, body: CertificateBody | None) -> MirrorResult:
        """As in the interface, for one item; raises HubFailed."""
        name = self._devices.name(item.key.id)
        if name is None:
            return MirrorResult(state="done" if body is None else "invalid", reason=TOO_LONG)
        wanted = (
            None
            if body is None
            else tuple(sorted(certificate.fingerprint for certificate in body.certificates)) or None
        )
        for last in range(TRIES):
            held = await self._devices.get(name)
            if held is None:
                gone = MirrorResult(state="failed", reason=f"There is no device {item.key.id} yet")
                return MirrorResult(state="done") if body is None else gone
            if not self._devices.owns(held):
                return MirrorResult(state="foreign", reason=FOREIGN)
            there = _thumbprints(held)
            if there == wanted:
                return MirrorResult(state="done", remote_version=_version(wanted))
            if item.remote_version != _version(there):
                return MirrorResult(state="conflict")
            try:
                await self._identities.set_thumbprints(held, wanted)
            except CallFailed as failed:
                if failed.kind != "conflict" or last == TRIES - 1:
                    raise
                continue  # its status has changed meanwhile
            return MirrorResult(state="done", remote_version=_version(wanted))
        raise AssertionError("the last try raises")

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """As in the interface, for one key; raises HubFailed."""
        name = self._devices.name(key.id)
        held = None if name is None else await self._devices.get(name)
        if held is None or not self._devices.owns(held):
            return None
        there = _thumbprints(held)
        return MirrorItem(key=key, body=_body(there or ()), remote_version=_version(there))

    async def entities(self) -> AsyncIterator[EntityKey]:
        """As in the interface; raises HubFailed."""
        async for held in self._devices.ours("authenticationType = 'selfSigned'"):
            device = self._devices.device(held.name)
            if device is not None:
                yield EntityKey("certificate", device)


def _since(device_certificate: DeviceCertificate) -> tuple[float, str]:
    if not device_certificate.pem:  # it was fitted before
        return 0.0, device_certificate.fingerprint
    return x509.load_pem_x509_certificate(
        device_certificate.pem.encode()
    ).not_valid_before_utc.timestamp(), device_certificate.fingerprint


def _thumbprints(held: Held) -> tuple[str, ...] | None:
    return tuple(sorted(held.thumbprints)) if held.thumbprints else None


def _body(fingerprints: Sequence[str]) -> CertificateBody:
    return CertificateBody(
        certificates=tuple(DeviceCertificate(fingerprint=each, pem="") for each in sorted(fingerprints))
    )


def _version(thumbprints: Sequence[str] | None) -> str | None:
    return None if thumbprints is None else digest(" ".join(sorted(thumbprints)))
