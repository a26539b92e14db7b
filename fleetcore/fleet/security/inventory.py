"""The truth about certificates: which were issued, to whom, and which of them are refused now.

Records live in the store; what decides on every connection, the refused ones and those about to end, is in memory and
is read once when the fleet opens. The revocation list that brokers are given is an export of this, not its source.

States: ``pending`` (issued by a renewal, has not connected yet; valid) → ``active`` → ``superseded`` or ``revoked``.
One that a claim certificate got is ``pending_activation``, and good for nothing, until its device has registered.
"""

import contextlib
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence

from attrs import evolve, field, frozen
from cryptography import x509

from fleetcore.errors import Conflict, NotAuthorised, VersionConflict
from fleetcore.fleet.repository import Pairs, Repository, retried
from fleetcore.fleet.security.authority import Authority, RevokedEntry, pem
from fleetcore.fleet.security.verify import certificate_key, identity_of
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.credential import CertificateState, Refusal
from fleetcore.model.days import DAY_MS
from fleetcore.model.store import Commit, Delete, Event, Put

#: A device renews at two thirds of the lifetime, ± 10 % by its id: a fleet made in one day does not renew in one hour.
_RENEW_AT, _JITTER = 2 / 3, 0.1

#: Revoked certificates that expired this lately are still loaded: the server's clock may be set back meanwhile.
_EXPIRED_LATELY_MS = 30 * DAY_MS


_ALIVE = frozenset({CertificateState.PENDING, CertificateState.ACTIVE})


@frozen(kw_only=True)
class CertificateRecord:
    """An issued certificate; times are ms since the epoch.

    Attributes:
        id: ``<issuer's key id>:<serial>``, hex.
        spki: SHA-256 (hex) of its SubjectPublicKeyInfo.
        renew_after: when the device ought to renew.
        how: by what right it was issued: ``key_id``, ``approval``, ``token:<id>``, ``claim:<batch>``,
            ``manufacturer:<ca>``, ``renewal``, ``operator``.
        replaces: certificates that end once this one connects.
        ended_at: from when it is refused although its dates are good, or None.
    """

    id: str
    device: str
    issuer: str
    serial: str
    spki: str
    state: CertificateState
    created: int
    not_before: int
    not_after: int
    renew_after: int
    how: str
    pem: str = field(repr=False)
    replaces: tuple[str, ...] = ()
    ended_at: int | None = None
    reason: str = ""
    version: int = 0

    def alive(self, now_ms: int, *, grace_ms: int = 0) -> bool:
        """Whether it is accepted now, or was until its dates ran out at most ``grace_ms`` ago."""
        ended = self.ended_at is not None and now_ms >= self.ended_at
        return self.state in _ALIVE and now_ms <= self.not_after + grace_ms and not ended


@frozen(kw_only=True)
class DeviceKey:
    """Which device a public key belongs to, for ever: another's is refused, and so is one that was revoked."""

    id: str
    device: str
    revoked: bool = False
    version: int = 0


def _certificate_refs(record: CertificateRecord) -> Pairs:
    ending = record.state in _ALIVE and record.ended_at is not None
    return [
        ("device", record.device),
        ("spki", record.spki),
        ("state", "ending" if ending else record.state),
    ]


def _certificate_due(record: CertificateRecord) -> int | None:
    return record.ended_at if record.state in _ALIVE else None


def renew_after(device: str, not_before: int, not_after: int) -> int:
    """When a device ought to renew, ms since the epoch; always the same for one certificate."""
    spread = int.from_bytes(hashlib.sha256(device.encode()).digest()[:4]) / 0xFFFFFFFF * 2 - 1
    return not_before + int((not_after - not_before) * _RENEW_AT * (1 + _JITTER * spread))


class Inventory:
    """Every certificate of the fleet. :meth:`load` comes before any question."""

    def __init__(self, storage: Storage, clock: Clock, authority: Authority, *, overlap: dt.timedelta) -> None:
        self._storage, self._clock, self._authority = storage, clock, authority
        self._overlap_ms = int(overlap.total_seconds() * 1000)
        self.certificates = Repository(
            storage,
            "certificate",
            CertificateRecord,
            unique=lambda record: [("serial", record.id)],
            refs=_certificate_refs,
            due=_certificate_due,
        )
        self.keys = Repository(
            storage,
            "device_key",
            DeviceKey,
            unique=lambda key: [("spki", key.id)],
            refs=lambda key: [("device", key.device)],
        )
        #: Certificate → from when it is refused (ms) and why.
        self._ends: dict[str, tuple[int, Refusal]] = {}
        self._unseen: set[str] = set()

    async def load(self) -> None:
        """Reads what decides on every connection."""
        oldest = self._clock.now_ms() - _EXPIRED_LATELY_MS
        states = set(CertificateState) - {CertificateState.ACTIVE}
        for state in (*states, "ending"):
            async for record in self.certificates.iterate(ref=("state", state)):
                if record.not_after >= oldest:
                    self._remember(record)

    def _remember(self, record: CertificateRecord) -> None:
        self._unseen.discard(record.id)
        match record.state:
            case CertificateState.REVOKED:
                self._ends[record.id] = (0, Refusal.REVOKED)
            case CertificateState.SUPERSEDED:
                self._ends[record.id] = (0, Refusal.SUPERSEDED)
            case CertificateState.PENDING_ACTIVATION:
                self._ends[record.id] = (0, Refusal.NOT_ACTIVATED)
            case CertificateState.PENDING | CertificateState.ACTIVE:
                self._ends.pop(record.id, None)
                if record.state is CertificateState.PENDING:
                    self._unseen.add(record.id)
                if record.ended_at is not None:
                    self._ends[record.id] = (record.ended_at, Refusal.SUPERSEDED)

    # --- questions, answered from memory -------------------------------------------------------------------------

    def refusal(self, certificate: str) -> Refusal | None:
        """Why the certificate is refused now, or None."""
        end = self._ends.get(certificate)
        if end is not None and end[0] <= self._clock.now_ms():
            return end[1]
        return None if self._authority.trust.trusts(certificate.partition(":")[0]) else Refusal.UNTRUSTED

    def living(self, record: CertificateRecord, *, grace_ms: int = 0) -> bool:
        """Whether it is accepted now: in good state and time, from a CA that is trusted."""
        return record.alive(self._clock.now_ms(), grace_ms=grace_ms) and self._authority.trust.trusts(record.issuer)

    def is_revoked(self, issuer: str, serial: str) -> bool:
        """Whether it was revoked."""
        end = self._ends.get(certificate_key(issuer, serial))
        return end is not None and end[1] is Refusal.REVOKED

    def unseen(self, certificate: str) -> bool:
        """Whether it came from a renewal and has not connected yet."""
        return certificate in self._unseen

    # --- questions to the store ----------------------------------------------------------------------------------

    async def of(self, device: str) -> list[CertificateRecord]:
        """Every certificate that a device ever had."""
        return await self.certificates.find(ref=("device", device))

    async def current(self, device: str, spki: str) -> CertificateRecord | None:
        """The certificate that the device has for this key and need not renew yet: what a repeated request gets.

        One that another CA has issued than signs now is renewed, with the same key too.
        """
        now, issuer = self._clock.now_ms(), self._authority.issuer
        found = [
            record
            for record in await self.certificates.find(ref=("spki", spki))
            if (record.device, record.issuer) == (device, issuer)
            and record.alive(now)
            and record.ended_at is None
            and now < record.renew_after
        ]
        return max(found, key=lambda record: record.not_after, default=None)

    async def all_alive(self) -> AsyncIterator[CertificateRecord]:
        """Every certificate in good state and time, of CAs that are trusted no more too."""
        now = self._clock.now_ms()
        for state in (CertificateState.ACTIVE, CertificateState.PENDING, "ending"):
            async for record in self.certificates.iterate(ref=("state", state)):
                if record.alive(now):
                    yield record

    async def key_for(self, device: str, spki: str) -> DeviceKey:
        """The key's record, version 0 where it is new.

        Raises:
            Conflict: ``key_in_use``; it belongs to another device.
            NotAuthorised: ``device_revoked``; a certificate for it was revoked.
        """
        key = await self.keys.get(spki) or DeviceKey(id=spki, device=device)
        if key.device != device:
            raise Conflict(
                "The public key belongs to another device",
                code="key_in_use",
                remedy="Make a new key on the device; two devices never share one",
                device=device,
            )
        if key.revoked:
            raise NotAuthorised(
                "A certificate for this key was revoked",
                code="device_revoked",
                remedy="Make a new key on the device and enrol it anew",
                device=device,
            )
        return key

    def unchanged(self, records: Sequence[CertificateRecord], _record: CertificateRecord) -> list[Put]:
        """Puts that make a commit conflict where one of these changed meanwhile."""
        return [self.certificates.put(record, expect=record.version) for record in records]

    # --- changes -------------------------------------------------------------------------------------------------

    def draft(
        self,
        certificate: x509.Certificate,
        device: str,
        *,
        how: str,
        replaces: Sequence[CertificateRecord] = (),
        inactive_until: int | None = None,
    ) -> CertificateRecord:
        """The record of a certificate just signed."""
        identity = identity_of(certificate, device)
        state = CertificateState.PENDING if replaces else CertificateState.ACTIVE
        return CertificateRecord(
            id=identity.certificate,
            device=device,
            issuer=identity.issuer,
            serial=identity.serial,
            spki=identity.spki,
            state=state if inactive_until is None else CertificateState.PENDING_ACTIVATION,
            created=self._clock.now_ms(),
            not_before=identity.not_before,
            not_after=identity.not_after,
            renew_after=renew_after(device, identity.not_before, identity.not_after),
            how=how,
            pem=pem([certificate]).decode(),
            replaces=tuple(record.id for record in replaces),
            ended_at=inactive_until,
        )

    async def add(
        self,
        record: CertificateRecord,
        key: DeviceKey,
        events: tuple[Event, ...],
        *,
        replaces: Sequence[CertificateRecord] = (),
        with_puts: Iterable[Put] = (),
    ) -> CertificateRecord:
        """Stores a new certificate, its key and ``with_puts`` in one commit; those it replaces end after the overlap.

        Raises VersionConflict where the key, a replaced certificate or one of ``with_puts`` changed meanwhile: then
        nothing is stored, and the certificate is thrown away.
        """
        end = record.created + self._overlap_ms
        ending = [
            evolve(old, ended_at=end if old.ended_at is None else min(end, old.ended_at), reason="renewed")
            for old in replaces
        ]
        puts = (
            self.certificates.put(record, expect=0),
            self.keys.put(key, expect=key.version),
            *(self.certificates.put(old, expect=old.version) for old in ending),
            *with_puts,
        )
        await self._storage.commit(Commit(puts=puts, events=events))
        for item in (record, *ending):
            self._remember(item)
        return evolve(record, version=1)

    async def activate(
        self, record: CertificateRecord, *, actor: str, reason: str, extra_commit: Commit
    ) -> CertificateRecord:
        """Makes a certificate valid that waited for its device. Raises VersionConflict where it changed meanwhile."""
        active = evolve(record, state=CertificateState.ACTIVE, ended_at=None)
        await self._change(
            [active],
            "certificate.activated",
            actor=actor,
            reason=reason,
            with_puts=extra_commit.puts,
            events=extra_commit.events,
        )
        return evolve(active, version=record.version + 1)

    async def discard(self, record: CertificateRecord, extra_commit: Commit) -> None:
        """Ends a certificate that was not activated in time; its key may ask again. Raises VersionConflict.

        The record stays, revoked: a certificate without a record would be valid once its device exists.
        """
        key = await self.keys.get(record.spki)
        own = key is not None and key.device == record.device and not key.revoked
        deletes = (Delete(kind="device_key", key=record.spki, expect=key.version),) if key is not None and own else ()
        ended = evolve(record, state=CertificateState.REVOKED, ended_at=self._clock.now_ms())
        await self._change(
            [ended],
            "certificate.revoked",
            actor="system",
            reason="not activated in time",
            with_puts=extra_commit.puts,
            deletes=(*deletes, *extra_commit.deletes),
            events=extra_commit.events,
        )

    @retried("Too many changes of the certificate at once")
    async def seen(self, certificate: str) -> None:
        """A renewed certificate has connected: it is active, and those it replaces are superseded."""
        new = await self.certificates.need(certificate)
        if new.state is not CertificateState.PENDING:
            self._remember(new)
            return
        now = self._clock.now_ms()
        changed = [evolve(new, state=CertificateState.ACTIVE)]
        for name in new.replaces:
            old = await self.certificates.need(name)
            if old.state in _ALIVE:
                changed.append(evolve(old, state=CertificateState.SUPERSEDED, ended_at=now))
        await self._change(changed, "certificate.superseded", actor=new.device, reason="renewed")

    async def revoke(
        self,
        chosen: Sequence[CertificateRecord],
        *,
        actor: str,
        reason: str,
        unused: Iterable[DeviceKey] = (),
        with_puts: Iterable[Put] = (),
        deletes: Iterable[Delete] = (),
        events: Iterable[Event] = (),
        extra: Commit | None = None,
    ) -> list[CertificateRecord]:
        """Revokes certificates and their keys in one commit. Raises VersionConflict where one changed meanwhile.

        ``unused`` are keys that have no certificate yet and shall never get one; ``extra`` is done in the same commit.
        """
        now = self._clock.now_ms()
        changed = [
            evolve(record, state=CertificateState.REVOKED, ended_at=now, reason=reason)
            for record in chosen
            if record.state is not CertificateState.REVOKED
        ]
        keys = [self.keys.put(evolve(key, revoked=True), expect=key.version) for key in unused]
        for spki in {record.spki for record in changed}:
            key = await self.keys.need(spki)
            keys.append(self.keys.put(evolve(key, revoked=True), expect=key.version))
        await self._change(
            changed,
            "certificate.revoked",
            actor=actor,
            reason=reason,
            with_puts=(*keys, *with_puts),
            deletes=deletes,
            events=events,
            extra=extra,
        )
        return changed

    async def _change(
        self,
        changed: Sequence[CertificateRecord],
        what: str,
        *,
        actor: str,
        reason: str,
        with_puts: Iterable[Put] = (),
        deletes: Iterable[Delete] = (),
        events: Iterable[Event] = (),
        extra: Commit | None = None,
    ) -> None:
        now = self._clock.now_ms()
        told = [
            Event(
                type=what if record.state is not CertificateState.ACTIVE else "certificate.activated",
                subject=record.device,
                time=now,
                actor=actor,
                reason=reason,
                data={"certificate": record.id},
            )
            for record in changed
        ]
        puts = (*(self.certificates.put(record, expect=record.version) for record in changed), *with_puts)
        own = Commit(puts=puts, deletes=tuple(deletes), events=(*told, *events))
        await self._storage.commit(own if extra is None else own + extra)
        for record in changed:
            self._remember(record)

    async def sweep(self) -> None:
        """Writes down that certificates whose overlap is over are superseded; they are refused before that already."""
        for record in await self.certificates.due(self._clock.now_ms()):
            superseded = evolve(record, state=CertificateState.SUPERSEDED)
            with contextlib.suppress(VersionConflict):  # the next sweep looks again
                await self._change([superseded], "certificate.superseded", actor="system", reason="the overlap is over")

    async def crl_entries(self, issuer: str) -> list[RevokedEntry]:
        """What the issuer's revocation list has to name: revoked and superseded certificates that have not expired."""
        now = self._clock.now_ms()
        reasons = {
            CertificateState.REVOKED: x509.ReasonFlags.unspecified,
            CertificateState.SUPERSEDED: x509.ReasonFlags.superseded,
        }
        return [
            RevokedEntry(serial=int(record.serial, 16), time_ms=record.ended_at or now, reason=reason)
            for state, reason in reasons.items()
            async for record in self.certificates.iterate(ref=("state", state))
            if record.issuer == issuer and record.not_after >= now
        ]
