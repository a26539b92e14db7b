"""Manufacturers' CAs: what a device was given at its making opens enrolment, and nothing else.

A CA is registered by who can sign with it: the operator gets a nonce and shows a certificate that names it, signed by
the CA. A device whose certificate that CA has signed may then ask for one of ours, for the id that is its common name.
Depending on the CA's rule it is registered by a template and gets it at once, or is registered and waits for an
operator. It never goes on with the manufacturer's own: that one cannot be renewed or revoked here.
"""

import hmac
import secrets
from collections.abc import Sequence

from attrs import evolve, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore.errors import Conflict, NotAuthorised, Refused
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.security.profiles import common_name, strong_key
from fleetcore.fleet.security.verify import CertificateVerifier, Foreign
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.credential import Admits, Refusal
from fleetcore.model.names import check_label
from fleetcore.model.store import Event

#: Each is tried on a certificate that is not ours.
_MAX_CAS = 100
_LIMIT_BYTES = 16 * 1024


@frozen(kw_only=True)
class ManufacturerCa:
    """A registered CA; times are ms since the epoch.

    Attributes:
        nonce: what the proof has to name; empty once the CA is proven.
        admits: whether its devices wait for an operator or get a certificate at once.
        device_type, model, tags: what its devices are registered as.
    """

    id: str
    pem: str = field(repr=False)
    fingerprint: str
    not_after: int
    created: int
    created_by: str
    nonce: str
    admits: Admits = Admits.WAITING
    device_type: str = "device"
    model: str | None = None
    tags: tuple[str, ...] = ()
    disabled: bool = False
    version: int = 0

    @property
    def certificate(self) -> x509.Certificate:
        """The CA's certificate."""
        return x509.load_pem_x509_certificate(self.pem.encode())

    @property
    def usable(self) -> bool:
        """Whether it opens enrolment."""
        return not self.nonce and not self.disabled


class Manufacturers:
    """Registers manufacturers' CAs and knows their devices."""

    def __init__(self, storage: Storage, clock: Clock, verifier: CertificateVerifier) -> None:
        self._clock, self._verifier = clock, verifier
        self.records = Repository(
            storage, "manufacturer_ca", ManufacturerCa, unique=lambda item: [("manufacturer-ca", item.fingerprint)]
        )

    async def propose(
        self,
        name: str,
        pem: str,
        *,
        admits: str = "waiting",
        device_type: str = "device",
        model: str | None = None,
        tags: Sequence[str] = (),
        actor: str = "system",
        reason: str = "",
    ) -> ManufacturerCa:
        """Takes a CA in that has to be proven yet: its ``nonce`` is to be the common name of a certificate it signs.

        Raises:
            Refused: it is no CA's certificate, or one that is too weak or expired.
            Conflict: the name or the CA is registered.
        """
        check_label(name, "CA")
        check_label(device_type, "type")
        for text in (*tags, *(() if model is None else (model,))):
            check_label(text, "tag or model")
        if admits not in list(Admits):
            raise Refused(f"admits is one of {', '.join(Admits)}, not {admits!r}")
        certificate = _read(pem)
        now = self._clock.now_ms()
        ends = int(certificate.not_valid_after_utc.timestamp()) * 1000
        if not _is_ca(certificate):
            raise _invalid("is no CA")
        if not strong_key(certificate.public_key()):
            raise _invalid("has a key that is too weak")
        if now >= ends:
            raise _invalid("has expired")
        if self._verifier.is_own_ca(certificate):
            # A device may be named like a nonce, and every device's certificate would be a proof.
            raise _invalid("is one of this fleet's own CAs")
        if len(await self.records.find(limit=_MAX_CAS)) >= _MAX_CAS:
            raise Refused(f"There are {_MAX_CAS} manufacturers' CAs already", code="limit_exceeded", limit=_MAX_CAS)
        record = ManufacturerCa(
            id=name,
            pem=certificate.public_bytes(Encoding.PEM).decode(),
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            not_after=ends,
            created=now,
            created_by=actor,
            nonce=secrets.token_hex(24),
            admits=Admits(admits),
            device_type=device_type,
            model=model,
            tags=tuple(dict.fromkeys(tags)),
        )
        event = Event(type="manufacturer.proposed", subject=name, time=now, actor=actor, reason=reason)
        try:
            return await self.records.create(record, [event])
        except Conflict as error:
            raise Conflict(
                f"The CA or the name {name!r} is registered already", remedy="Remove the one that is there", ca=name
            ) from error

    async def prove(self, name: str, proof: str, *, actor: str, reason: str) -> ManufacturerCa:
        """Believes a CA from now on, as ``proof`` (PEM) names its nonce and is signed by it.

        Raises:
            NotFound: there is no such CA.
            Refused: the proof cannot be read, names another nonce or is not signed by the CA.
        """
        certificate = _read(proof)
        event = Event(type="manufacturer.proven", subject=name, time=self._clock.now_ms(), actor=actor, reason=reason)

        def step(old: ManufacturerCa) -> tuple[ManufacturerCa, list[Event]] | None:
            if not old.nonce:
                return None
            if not hmac.compare_digest((common_name(certificate.subject) or "").encode(), old.nonce.encode()):
                raise Refused("The proof does not have the nonce as its common name", ca=name)
            try:
                certificate.verify_directly_issued_by(old.certificate)
            except Exception as error:  # three families of cryptography's, and all mean the same here
                raise Refused("The proof is not signed by the CA", ca=name) from error
            return evolve(old, nonce=""), [event]

        return await self.records.change(name, step)

    async def disable(self, name: str, *, actor: str, reason: str) -> ManufacturerCa:
        """Ends enrolment by the CA's devices at once; enrolled ones stay. Raises NotFound."""
        event = Event(type="manufacturer.disabled", subject=name, time=self._clock.now_ms(), actor=actor, reason=reason)
        return await self.records.change(
            name, lambda old: None if old.disabled else (evolve(old, disabled=True), [event])
        )

    async def usable(self) -> list[ManufacturerCa]:
        """The CAs that open enrolment now."""
        return [record for record in await self.records.find() if record.usable]

    async def device_of(self, certificate: bytes) -> tuple[ManufacturerCa, Foreign]:
        """Whose certificate (DER) it is; raises NotAuthorised (``certificate_invalid``) where no CA's."""
        reason = Refusal.UNTRUSTED
        for ca in await self.usable():
            found = self._verifier.check_foreign(certificate, ca.certificate)
            if isinstance(found, Foreign):
                return ca, found
            if found is not Refusal.UNTRUSTED:
                reason = found
        raise NotAuthorised(f"The certificate is refused: {reason}", code="certificate_invalid", reason=reason)


def _read(pem: str) -> x509.Certificate:
    if len(pem) > _LIMIT_BYTES:
        raise _invalid("is too long")
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except Exception as error:  # the parser's errors for hostile DER are an open set
        raise _invalid("cannot be read") from error


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except Exception:  # noqa: BLE001 - as above; what cannot be read is no CA
        return False


def _invalid(why: str) -> Refused:
    return Refused(f"The certificate {why}", remedy="Give the CA's own certificate, PEM")
