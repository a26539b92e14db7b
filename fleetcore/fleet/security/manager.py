"""The security facade: certificates, tokens, enrolment, revocation and signed commands of a fleet."""

import asyncio
import datetime as dt
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

from attrs import evolve, frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetcore import files
from fleetcore.errors import FleetError, NotAuthorised, NotFound, Refused, Unavailable, VersionConflict
from fleetcore.fleet.repository import ATTEMPTS, Repository, retried
from fleetcore.fleet.security.admission import Admissions, Required
from fleetcore.fleet.security.authority import Authority, IssuingCa
from fleetcore.fleet.security.claims import ClaimBatch, Claims
from fleetcore.fleet.security.enrollment import Enrollment, EnrollmentRecord
from fleetcore.fleet.security.folder import PkiFolder, has_keys
from fleetcore.fleet.security.forecast import (
    CaStanding,
    Dependent,
    Forecast,
    Period,
    ca_standings,
    dependents_on,
    forecast,
)
from fleetcore.fleet.security.inventory import CertificateRecord, DeviceKey, Inventory
from fleetcore.fleet.security.issuing import DeviceDirectory, Issuer, StaticGroups
from fleetcore.fleet.security.manufacturers import ManufacturerCa, Manufacturers
from fleetcore.fleet.security.profiles import CLAIM_URN, DEVICE_LIFETIMES, SHAPES, Profile
from fleetcore.fleet.security.rotation import Rotation
from fleetcore.fleet.security.server_tls import FleetTls
from fleetcore.fleet.security.tokens import DeviceToken, DeviceTokens, EnrollmentToken, EnrollmentTokens
from fleetcore.fleet.security.verify import CertificateVerifier, Identity, refused
from fleetcore.fleet.shielding import Shield
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.interfaces.storage import Storage
from fleetcore.model.credential import CertificateState, EnrollmentState, Refusal
from fleetcore.model.message import Handler, MessageType, Reply, Request
from fleetcore.model.store import Commit, Delete, Event, Put
from fleetcore.wire import messages
from fleetcore.wire.dsse import COMMAND_TYPE, sign
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.tls import der_of

T = TypeVar("T")

#: ``callback(device, code, certificate)``; the certificate is None where all of the device's credentials are meant.
Revoked = Callable[[str, str, str | None], None]

#: ``callback(devices)``.
Listed = Callable[[frozenset[str]], None]

#: The numbers of revocation lists, by their issuers' key ids: each CA that has signed for a store has one.
CRL = "crl"

#: The rest of a commit that revokes.
Beside = Callable[[], Awaitable[Commit]]


async def _nothing() -> Commit:
    return Commit()


#: A broker refuses every device once its list has expired, which takes weeks.
LISTED_EVERY_S = 86_400.0

_log = logging.getLogger(__name__)

#: How long a renewed certificate stays valid beside its successor that has not connected yet.
OVERLAP = dt.timedelta(hours=24)

#: Time for devices that were stored in a warehouse.
MAX_GRACE = dt.timedelta(days=30)


@frozen(kw_only=True)
class Report:
    """The verdict on a certificate.

    Attributes:
        refusal: why it is refused, or None.
        device, certificate, not_after: its content, where it can be trusted.
        state: as in the inventory; None for one that is not in it.
    """

    refusal: Refusal | None = None
    device: str | None = None
    certificate: str | None = None
    not_after: int | None = None
    state: CertificateState | None = None

    @property
    def valid(self) -> bool:
        """Whether a device with this certificate is accepted."""
        return self.refusal is None


class SecurityManager:
    """The security of one fleet. :meth:`open` makes it.

    Args:
        command_key: signs commands; a new one where None.
        groups: the groups that devices may join as they enrol by a token.
        admissions: the checks of every enrolment except renewals.
        lifetime: of devices' certificates, a day to 400 days.
        overlap: how long a renewed certificate stays valid at most.
        grace: how long after its expiry a device may still renew a certificate, up to 30 days.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        authority: Authority,
        directory: DeviceDirectory,
        *,
        command_key: Ed25519PrivateKey | None = None,
        groups: StaticGroups | None = None,
        admissions: Sequence[Required] = (),
        lifetime: dt.timedelta = SHAPES[Profile.DEVICE].lifetime,
        overlap: dt.timedelta = OVERLAP,
        grace: dt.timedelta = dt.timedelta(0),
    ) -> None:
        shortest, longest = DEVICE_LIFETIMES
        if not shortest <= lifetime <= longest:
            raise Refused(f"A device's certificate lasts {shortest.days} to {longest.days} days, not {lifetime}")
        if not dt.timedelta(0) <= grace <= MAX_GRACE:
            raise Refused(f"An expired certificate may be renewed for up to {MAX_GRACE.days} days, not {grace}")
        self._storage, self._clock, self.authority = storage, clock, authority
        self._directory = directory
        self._command_key = command_key or Ed25519PrivateKey.generate()
        self._inventory = Inventory(storage, clock, authority, overlap=overlap)
        self._verifier = CertificateVerifier(authority, clock, self._inventory.refusal)
        self.device_tokens = DeviceTokens(storage, clock)
        self.enrollment_tokens = EnrollmentTokens(storage, clock, groups)
        #: The URLs for new devices; set once the protocols listen.
        self.endpoints: Sequence[str] = ()
        issuer = Issuer(
            clock,
            authority,
            self._inventory,
            directory,
            endpoints=lambda: self.endpoints,
            lifetime=lifetime,
        )
        asked = Admissions(admissions, clock)
        self.claims = Claims(storage, clock, authority, self._inventory, issuer, asked)
        self.manufacturers = Manufacturers(storage, clock, self._verifier)
        self._enrollment = Enrollment(
            storage,
            clock,
            authority.fleet,
            issuer,
            self.enrollment_tokens,
            self._verifier,
            self.claims,
            self.manufacturers,
            asked,
            groups=groups,
            grace=grace,
        )
        self._callbacks: list[Revoked] = []
        self._listed: list[Listed] = []
        #: The number of notifications so far.
        self._notifications = 0
        self._disabled: list[Callable[[str], None]] = []
        #: Devices whose revocation is not in a written list yet.
        self._unlisted: set[str] = set()
        self._listing: asyncio.Task[None] | None = None
        self._exporting = asyncio.Lock()
        self._listed_at = 0.0
        self._shield = Shield()
        #: None where the fleet is in memory.
        self.tls: FleetTls | None = None
        self.folder: PkiFolder | None = None
        self.rotation = Rotation(
            storage,
            clock,
            authority,
            self._inventory,
            folder=lambda: self.folder,
            follow=self._follow_cas,
            ended=self._tell,
            token_holders=self.device_tokens.holders,
            batches=self.claims.open,
        )

    @classmethod
    async def open(
        cls,
        storage: Storage,
        clock: Clock,
        fleet: str,
        *,
        directory: DeviceDirectory,
        data: Path | None = None,
        create: bool = True,
        identity: str = "",
        hosts: Sequence[str] = ("localhost",),
        passphrase: str | None = None,
        groups: StaticGroups | None = None,
        admissions: Sequence[Required] = (),
        lifetime: dt.timedelta = SHAPES[Profile.DEVICE].lifetime,
        overlap: dt.timedelta = OVERLAP,
        grace: dt.timedelta = dt.timedelta(0),
    ) -> Self:
        """Opens the fleet's PKI folder ``<data>/pki`` and loads the revocations.

        With ``create`` a missing folder is made, for the fleet of that ``identity``. With ``data`` None the authority
        is only in memory. Raises as :meth:`PkiFolder.create` and :meth:`PkiFolder.load`.
        """
        folder: PkiFolder | None = None
        if data is not None:
            path = data / "pki"
            folder = (
                PkiFolder.load(path, fleet, clock, passphrase=passphrase)
                if has_keys(path) or not create
                else PkiFolder.create(path, fleet, hosts, clock, identity=identity, passphrase=passphrase)
            )
        manager = cls(
            storage,
            clock,
            folder.authority if folder is not None else Authority.create(fleet, clock),
            directory,
            command_key=folder.command_key if folder is not None else None,
            groups=groups,
            admissions=admissions,
            lifetime=lifetime,
            overlap=overlap,
            grace=grace,
        )
        if folder is not None:
            manager.folder, manager.tls = folder, FleetTls(folder, clock)
        await manager.load()
        return manager

    async def load(self) -> None:
        """Loads the revocations and the manufacturers; call it before the first connection."""
        await self._inventory.load()
        await self.settle_cas(starting=True)
        if self.tls is not None:
            self.tls.admit([item.pem for item in await self.manufacturers.usable()])

    # --- identities ----------------------------------------------------------------------------------------------

    async def identify(self, der: bytes) -> tuple[str, str]:
        """The device and the certificate of a TLS peer; raises as :meth:`identity`."""
        identity = await self.identity(der)
        return identity.device, identity.certificate

    async def identity(self, der: bytes) -> Identity:
        """The identity of a TLS peer.

        It writes nothing, except at the first connection of a renewed certificate, which ends the one before.

        Raises:
            NotAuthorised: ``device_revoked``; the certificate was revoked or superseded.
            NotAuthenticated: ``certificate_invalid``; ``ids['reason']`` is a :class:`Refusal`.
        """
        identity = self._verifier.check(der)
        if isinstance(identity, Refusal):
            raise refused(identity, self._verifier.owner(der))
        if self._inventory.unseen(identity.certificate):
            await self._shield.run(self._inventory.seen(identity.certificate))
            if self._inventory.refusal(identity.certificate) is not None:
                raise NotAuthorised("The certificate is revoked", code="device_revoked", reason=Refusal.REVOKED)
        return identity

    async def check_asserted(self, device: str) -> None:
        """Checks a device whose credential another party, such as a broker, has verified.

        Raises NotAuthorised (``device_revoked``) where its certificates were revoked, or are of a CA that is no longer
        trusted, and it has no newer one.
        """
        trusts = self.authority.trust.trusts
        while True:
            before = self._notifications
            records = await self._inventory.of(device)
            revoked = any(record.state is CertificateState.REVOKED or not trusts(record.issuer) for record in records)
            if revoked and not any(self._inventory.living(record) for record in records):
                raise NotAuthorised(f"Device {device!r} is revoked", code="device_revoked", device=device)
            if before == self._notifications:  # otherwise it may have been revoked since it was read
                return

    def claim_batch(self, der: bytes) -> str | None:
        """The batch that a claim certificate names; None where the certificate is of another kind.

        The batch decides whether it may still be used. Raises NotAuthenticated (``certificate_invalid``).
        """
        if CLAIM_URN not in der:  # every claim certificate contains it, so this check is cheap for a device's
            return None
        batch = self._verifier.check_claim(der)
        if isinstance(batch, Refusal):
            raise refused(batch)
        return batch

    def is_refused(self, certificate: str) -> bool:
        """Whether a certificate that was valid when it was presented is refused by now; from memory."""
        return self._inventory.refusal(certificate) is not None

    def is_revoked(self, issuer: str, serial: str) -> bool:
        """Whether the certificate was revoked; both in hex; from memory."""
        return self._inventory.is_revoked(issuer, serial)

    async def verify_token(self, token: str) -> DeviceToken:
        """The record of a device token; raises NotAuthenticated."""
        return await self.device_tokens.verify(token)

    async def token_of(self, token_id: str) -> DeviceToken:
        """The record of a device token by its id, while it is valid; raises NotAuthenticated."""
        return await self.device_tokens.need(token_id)

    async def validate(self, certificate: bytes) -> Report:
        """Checks a certificate, PEM or DER, as if a device had presented it; of a chain, the first.

        Never raises for its content.
        """
        if b"-----BEGIN" in certificate[:1024]:
            try:
                certificate = der_of(certificate)
            except ValueError:
                return Report(refusal=Refusal.UNREADABLE)
        judged = self._verifier.check(certificate)
        if isinstance(judged, Refusal):
            return Report(refusal=judged)
        record = await self._inventory.certificates.get(judged.certificate)
        return Report(
            device=judged.device,
            certificate=judged.certificate,
            not_after=judged.not_after,
            state=None if record is None else record.state,
        )

    # --- certificates --------------------------------------------------------------------------------------------

    async def enroll(self, request: EnrollRequest) -> Reply:
        """A CSR in, a chain out: see :meth:`Enrollment.enroll`. Once granted, it completes even if cancelled."""
        return await self._shield.run(self._enrollment.enroll(request))

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers for devices' requests about certificates."""
        return {messages.CERTIFICATE_RENEW: self._renew, messages.CA_GET: self._tell_ca}

    async def _renew(self, request: Request, body: messages.RenewBody) -> Reply:
        return await self.renew(request.identity, body.csr.encode(), current=request.certificate)

    async def _tell_ca(self, _request: Request, _body: object) -> Reply:
        return Reply(body={"ca": self.authority.ca_pem().decode()})

    async def renew(self, device: str, csr: bytes, *, current: str | None = None) -> Reply:
        """A new certificate for a device that has one: see :meth:`Enrollment.renew`."""
        return await self._shield.run(self._enrollment.renew(device, csr, current=current))

    async def issue(self, csr: bytes, *, actor: str = "system", reason: str = "") -> CertificateRecord:
        """Issues to a registered device by an operator's right: see :meth:`Enrollment.issue`."""
        return await self._shield.run(self._enrollment.issue(csr, actor=actor, reason=reason))

    async def inventory(self, device: str | None = None) -> list[CertificateRecord]:
        """Every issued certificate, or those of one device."""
        if device is not None:
            return await self._inventory.of(device)
        return await self._inventory.certificates.find()

    async def letting_in(self, device: str) -> list[CertificateRecord]:
        """The certificates that give a device access now."""
        return [record for record in await self._inventory.of(device) if self._inventory.living(record)]

    @property
    def certificate_records(self) -> Repository[CertificateRecord]:
        """The repository of certificates: look-up by id, and pages."""
        return self._inventory.certificates

    @property
    def enrollment_records(self) -> Repository[EnrollmentRecord]:
        """The repository of enrolments."""
        return self._enrollment.records

    @property
    def enrollment_token_records(self) -> Repository[EnrollmentToken]:
        """The repository of enrolment tokens."""
        return self.enrollment_tokens.records

    async def living(self) -> AsyncIterator[CertificateRecord]:
        """Every certificate that is accepted now: in a valid state and time, of a trusted CA."""
        async for record in self._inventory.all_alive():
            if self.authority.trust.trusts(record.issuer):
                yield record

    async def cas(self) -> list[CaStanding]:
        """Every CA: roots, issuing CAs, former ones whose lists are still made, and the cross certificate."""
        living = Counter([record.issuer async for record in self._inventory.all_alive()])
        return ca_standings(self.authority.trust, living)

    def own_ends(self) -> dict[str, int]:
        """When the server's own certificates expire, ms since the epoch; empty in memory."""
        if self.folder is None:
            return {}
        pairs = {"server": self.folder.server_pair(), "service": self.folder.service_pair()}
        return {name: int(pair.certificate.not_valid_after_utc.timestamp()) * 1000 for name, pair in pairs.items()}

    async def forecast(
        self,
        *,
        per: Period = Period.WEEK,
        periods: int = 12,
        most: int = 10,
        labels: Callable[[str], Iterable[str]] | None = None,
        only: Callable[[str], bool] = lambda _device: True,
    ) -> Forecast:
        """The numbers of valid certificates by expiry: see :func:`~fleetcore.fleet.security.forecast.forecast`."""
        now = self._clock.now_ms()
        return await forecast(self.living(), now, per=per, periods=periods, most=most, labels=labels, only=only)

    async def incident(self, ca: str) -> list[Dependent]:
        """The devices that depend on a compromised issuing CA, by its id; raises NotFound."""
        trust = self.authority.trust
        if all(item.id != ca for item in (*trust.issuing, *trust.former)):
            raise NotFound(f"Issuing CA {ca!r} does not exist", remedy="`fleetcore ca show` lists them", ca=ca)
        return await dependents_on(self._inventory.all_alive(), ca, trust.trusts)

    async def revoke(
        self,
        device: str | None = None,
        *,
        serial: str | None = None,
        actor: str = "system",
        reason: str = "",
        extra_commit: Beside = _nothing,
        code: str = "device_revoked",
    ) -> int:
        """Revokes all credentials of a device, or one certificate; returns how many were revoked.

        A device's credentials are its certificates and tokens and everything that would lead to new ones: enrolment
        tokens for this device, the key it was registered with, and accepted keys. It is one commit. When it returns, no
        revoked credential is accepted any more and the sessions were told to end, even if the caller is cancelled
        meanwhile. The keys are never accepted again.

        Args:
            extra_commit: returns the rest of the commit that revokes a device's credentials; it is called again where
                something changed meanwhile.
            code: the code with which the device's sessions end.
            serial: a certificate's ``<issuer>:<serial>``, or its serial alone, hex, where a CA of ours issued it.

        Raises:
            NotFound: there is no such certificate.
        """
        if (device is None) == (serial is None):
            raise Refused("Give either a device or a serial to revoke")
        if device is not None:
            return await self._shield.run(self._revoke_device(device, actor, reason, extra_commit, code))
        assert serial is not None  # one of the two is given
        return await self._shield.run(self._revoke_certificate(serial, actor, reason))

    async def _revoke_device(self, device: str, actor: str, reason: str, extra_commit: Beside, code: str) -> int:
        # Not retried(): a version that the caller's part of the commit expects is the caller's conflict.
        for _ in range(ATTEMPTS):
            certificates = [
                record
                for record in await self._inventory.of(device)
                if record.state not in (CertificateState.REVOKED, CertificateState.SUPERSEDED)
            ]
            tokens = await self.device_tokens.of(device)
            invitations = await self.enrollment_tokens.living_of(device)
            unused = await self._unused_key(device)
            withdrawn = await self._enrollment.withdrawn(device, actor=actor, reason=reason)
            extra = await extra_commit()
            if extra == Commit() and not (certificates or tokens or invitations or unused or withdrawn):
                return 0
            ended = [
                *(("token.revoked", {"token": token.id}) for token in tokens),
                *(("enrollment_token.revoked", {"token": token.id}) for token in invitations),
                *(("key.revoked", {"fingerprint": key.id}) for key in unused),
            ]
            now = self._clock.now_ms()
            try:
                revoked = await self._inventory.revoke(
                    certificates,
                    actor=actor,
                    reason=reason,
                    unused=unused,
                    extra=extra,
                    with_puts=(
                        *withdrawn,
                        *(
                            self.enrollment_tokens.records.put(evolve(token, revoked=True), expect=token.version)
                            for token in invitations
                        ),
                    ),
                    deletes=[Delete(kind="device_token", key=token.id) for token in tokens],
                    events=[
                        Event(type=what, subject=device, time=now, actor=actor, reason=reason, data=data)
                        for what, data in ended
                    ],
                )
            except VersionConflict:
                continue
            self.device_tokens.forget(device)
            self._tell(device, None, code)
            return len(revoked) + len(ended)
        raise Unavailable("Too many changes of the device's credentials at once", retry_after_s=1.0)

    async def _unused_key(self, device: str) -> list[DeviceKey]:
        """The key that the device was registered with, where it has no certificate yet and may still get one."""
        found = await self._directory.find(device)
        if found is None or found.key_id is None:
            return []
        spki = found.key_id.lower()
        if await self._inventory.certificates.find(ref=("spki", spki), limit=1):
            return []
        key = await self._inventory.keys.get(spki) or DeviceKey(id=spki, device=device)
        return [] if key.revoked or key.device != device else [key]

    @retried("Too many changes of the certificate at once")
    async def _revoke_certificate(self, serial: str, actor: str, reason: str) -> int:
        record = await self._inventory.certificates.need(await self._named(serial.lower()))
        if record.state is CertificateState.REVOKED:
            return 0
        await self._inventory.revoke([record], actor=actor, reason=reason)
        self._tell(record.device, record.id)
        return 1

    async def certificate(self, name: str) -> CertificateRecord | None:
        """A certificate by ``ISSUER:SERIAL``, or by only its serial, hex; None where the fleet issued none."""
        return await self._inventory.certificates.get(await self._named(name.lower()))

    async def _named(self, serial: str) -> str:
        if ":" in serial:
            return serial
        trust = self.authority.trust
        names = [f"{item.id}:{serial.lstrip('0')}" for item in reversed((*trust.former, *trust.issuing))]
        for name in names:
            if await self._inventory.certificates.get(name) is not None:
                return name
        return names[0]

    def on_revoked(self, callback: Revoked) -> None:
        """Calls ``callback(device, code, certificate)`` after each revocation, to end sessions."""
        self._callbacks.append(callback)

    def on_listed(self, callback: Listed) -> Callable[[], None]:
        """Calls ``callback(devices)`` once the list for brokers names them; returns a function that ends it."""
        self._listed.append(callback)

        def end() -> None:
            if callback in self._listed:
                self._listed.remove(callback)

        return end

    def _tell(self, device: str, certificate: str | None, code: str = "device_revoked") -> None:
        self._notifications += 1
        for callback in self._callbacks:
            callback(device, code, certificate)
        self._unlisted.add(device)
        self._list()

    def _list(self) -> None:
        """Starts writing the list for brokers without waiting for it; concurrent requests are combined."""
        if self.folder is not None and (self._listing is None or self._listing.done()):
            self._listing = asyncio.create_task(self._write_lists(), name="fleetcore revocation list")

    async def _write_lists(self) -> None:
        while True:
            devices, self._unlisted = self._unlisted, set()
            try:
                await self.export_crl()
            except (FleetError, OSError) as error:
                self._unlisted |= devices
                _log.warning("The revocation list could not be written and is tried again within the hour: %s", error)
                return
            self._listed_at = self._clock.monotonic_s()
            for callback in self._listed:
                callback(frozenset(devices))
            if not self._unlisted:
                return

    async def _follow_cas(self) -> None:
        """Updates the server's certificates and the lists for brokers to the CAs; raises as their renewal does."""
        if self.tls is not None:
            self.tls.renew_if_due()
            self.tls.renew_service_if_due()
            self._list()

    async def settle_cas(self, *, starting: bool = False) -> None:
        """Updates what depends on the CAs after a crash in between; an error is logged."""
        try:
            await self.rotation.reconcile()
        except (FleetError, OSError) as error:
            # Not in the log at start-up: where a listener needs the file, opening it fails with a clear error.
            _log.log(
                logging.DEBUG if starting else logging.WARNING,
                "The server's certificates or revocation lists could not be updated to the CAs; the next attempt "
                "is within the hour: %s",
                error,
            )

    async def close(self) -> None:
        """Completes changes in progress, and a revocation list that is being written."""
        await self._shield.idle()
        if self._listing is not None:
            await asyncio.gather(self._listing, return_exceptions=True)

    async def export_crl(self) -> bytes:
        """The revocation lists for brokers, PEM, that of the CA which signs first; also written to ``pki/crl.pem``.

        There is one for each trusted issuing CA, and for each former one with valid certificates. A list's number rises
        each time.
        """
        # One at a time: of two concurrent lists the older could be written last.
        async with self._exporting:
            trust = self.authority.trust
            others = [item for item in reversed((*trust.former, *trust.issuing)) if item.number != trust.signing]
            lists = [await self._crl(item) for item in (trust.signer, *others)]
            crl = b"".join(lists)
            if self.folder is not None:
                await asyncio.to_thread(files.replace, self.folder.crl, crl)
        return crl

    async def revocation_lists(self) -> bytes:
        """The last exported lists, after an export in progress; makes them where there are none.

        Reading them writes nothing, so they can be read on a full disk.
        """
        if self._listing is not None:
            await asyncio.wait({self._listing})
        if self.folder is not None:
            try:
                return await asyncio.to_thread(self.folder.crl.read_bytes)
            except OSError:
                pass
        return await self.export_crl()

    @retried("Too many revocation lists at once")
    async def _crl(self, issuing: IssuingCa) -> bytes:
        issuer = issuing.id
        record = await self._storage.get(CRL, issuer)
        last = record.body.get("number") if record is not None else 1
        assert isinstance(last, int)  # this method is the only writer
        put = Put(kind=CRL, key=issuer, body={"number": last + 1}, expect=record.version if record else 0)
        await self._storage.commit(Commit(puts=(put,)))
        entries = await self._inventory.crl_entries(issuer)
        return await asyncio.to_thread(self.authority.crl, entries, last + 1, issuing)

    async def maintain(self) -> None:
        """Records which overlaps and activation times are over, and renews the list for brokers.

        Call it regularly.
        """
        await self._inventory.sweep()
        await self.claims.sweep()
        await self.settle_cas()
        if self._unlisted or self._clock.monotonic_s() - self._listed_at >= LISTED_EVERY_S:
            self._list()

    # --- enrolment -----------------------------------------------------------------------------------------------

    async def enrollment(self, name: str) -> EnrollmentRecord | None:
        """An enrolment by its id, ``DEVICE:FINGERPRINT``; None where there is none.

        The fingerprint may have colons and capitals. Raises NotFound for an invalid one.
        """
        device, colon, fingerprint = name.partition(":")
        return await self._enrollment.records.get(f"{device}:{_fingerprint(fingerprint)}") if colon else None

    async def enrollments(self, state: EnrollmentState | None = None) -> list[EnrollmentRecord]:
        """Keys that asked to enrol, in one state or all."""
        return await self._enrollment.records.find(ref=None if state is None else ("state", state))

    async def approve(
        self, device: str, fingerprint: str, *, replace: bool = False, actor: str = "system", reason: str = ""
    ) -> EnrollmentRecord:
        """Accepts a key; the device gets its certificate when it asks again. Raises NotFound.

        With ``replace`` the device's other certificates end once the new one has connected.
        """
        return await self._enrollment.decide(
            device,
            _fingerprint(fingerprint),
            EnrollmentState.ACCEPTED,
            replace=replace,
            actor=actor,
            reason=reason,
        )

    async def reject(
        self, device: str, fingerprint: str, *, actor: str = "system", reason: str = ""
    ) -> EnrollmentRecord:
        """Rejects a key. Raises NotFound."""
        return await self._enrollment.decide(
            device, _fingerprint(fingerprint), EnrollmentState.REJECTED, actor=actor, reason=reason
        )

    # --- batches and manufacturers -------------------------------------------------------------------------------

    async def disable_claim(self, batch: str, *, actor: str = "system", reason: str = "") -> ClaimBatch:
        """Disables a batch's certificate at once; enrolled devices stay. Raises NotFound."""
        return await self._shield.run(self._disable_claim(batch, actor, reason))

    async def _disable_claim(self, batch: str, actor: str, reason: str) -> ClaimBatch:
        ended = await self.claims.disable(batch, actor=actor, reason=reason)
        for callback in self._disabled:
            callback(batch)
        return ended

    def on_claim_disabled(self, callback: Callable[[str], None]) -> None:
        """Calls ``callback(batch)`` after a batch was disabled, to end its connections."""
        self._disabled.append(callback)

    async def prove_manufacturer(
        self, name: str, proof: str, *, actor: str = "system", reason: str = ""
    ) -> ManufacturerCa:
        """Trusts a CA that has signed a certificate for its nonce: see :meth:`Manufacturers.prove`."""
        proven = await self.manufacturers.prove(name, proof, actor=actor, reason=reason)
        if self.tls is not None and proven.usable:
            self.tls.admit([proven.pem])
        return proven

    # --- device tokens -------------------------------------------------------------------------------------------

    async def revoke_token(self, token_id: str, *, actor: str = "system", reason: str = "") -> None:
        """Revokes a device token by its id and ends the device's sessions; raises NotFound."""

        async def revoke() -> None:
            self._tell(await self.device_tokens.revoke(token_id, actor=actor, reason=reason), None)

        await self._shield.run(revoke())

    # --- keys and signatures -------------------------------------------------------------------------------------

    def command_public_key(self) -> bytes:
        """The key with which devices verify signed commands, PEM."""
        return self._command_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign_command(self, command: Mapping[str, object]) -> dict[str, object]:
        """A DSSE envelope of the command; a verifying device uses only its content (wire.md §9)."""
        return sign(dumps(command), COMMAND_TYPE, [self._command_key])

    def sign_payload(self, payload: bytes, payload_type: str) -> dict[str, object]:
        """A DSSE envelope by the same key; the type is signed, so neither is taken for the other."""
        return sign(payload, payload_type, [self._command_key])

    def signing_keys(self) -> Sequence[Ed25519PublicKey]:
        """The keys that verify this fleet's signatures."""
        return (self._command_key.public_key(),)


def _fingerprint(text: str) -> str:
    plain = text.replace(":", "").lower()
    if len(plain) != 64 or not set(plain) <= set("0123456789abcdef"):
        raise NotFound(f"{text!r} is not a fingerprint", remedy="Give all 64 hex digits that the device shows")
    return plain
