"""Claim certificates: one credential for a batch of devices in the factory, which only allows enrolment.

There are two steps, so that a thief of the credential cannot fill the registry. A request with it gives a certificate
that waits for its activation, and an ownership token. With the token the device registers and describes itself; then
the checks of plugins are asked, and one commit makes device and certificate valid. A certificate without a registration
within an hour ends, and the batch gets its place back. A step whose answer was lost can be repeated and gets the same
answer.
"""

import contextlib
import datetime as dt
import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence

from attrs import evolve, field, frozen
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore.errors import Conflict, NotAuthenticated, NotAuthorised, Refused, Unavailable, VersionConflict
from fleetcore.fleet.process_state.locks import KeyedLocks
from fleetcore.fleet.repository import Repository, retried
from fleetcore.fleet.security.admission import Admissions
from fleetcore.fleet.security.authority import Authority, issuer_id
from fleetcore.fleet.security.inventory import CertificateRecord, Inventory
from fleetcore.fleet.security.issuing import Grant, Issuer, taken
from fleetcore.fleet.security.requests import CertificateRequest
from fleetcore.interfaces.admission import Candidate
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.credential import CertificateState
from fleetcore.model.device import Device
from fleetcore.model.message import Reply
from fleetcore.model.names import check_label
from fleetcore.model.store import Commit, Delete, Event, Put
from fleetcore.wire.strict_json import dumps

#: How long a certificate waits for its device to register.
OWNERSHIP_S = 3600

#: A batch's name is part of a common name of at most 64 characters.
_BATCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", re.ASCII)

_MAX_DEVICES = 1_000_000
#: The kind of records of serials that have enrolled their device.
_SERIAL = "claim_serial"
_MAX_SERIALS = 100_000


@frozen(kw_only=True)
class ClaimBatch:
    """A batch and the limits of its claim certificate; times are ms since the epoch.

    Attributes:
        quota: how many devices may enrol; ``used`` have, including those that wait for their activation.
        models: the valid values of ``parameters.model``; empty for any.
        serials: the valid values of ``parameters.serial``, each for one device; empty for any.
        per_minute: how many may start in any minute.
        fingerprint: SHA-256 (hex) of the claim certificate, DER.
        issuer: the CA that issued it, hex; empty for a batch from before this was stored, issued by the first CA.
    """

    id: str
    quota: int
    expires: int
    created: int
    created_by: str
    fingerprint: str
    device_type: str = "device"
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    serials: tuple[str, ...] = ()
    per_minute: int = 60
    used: int = 0
    disabled: bool = False
    issuer: str = ""
    version: int = 0


@frozen(kw_only=True)
class Ownership:
    """A certificate that waits for its device to register, or no longer does; ``id`` is the token's SHA-256.

    ``parameters`` is the SHA-256 of the parameters at registration, empty before.
    """

    id: str
    batch: str
    device: str
    certificate: str
    expires: int
    parameters: str = ""
    version: int = 0


@frozen(kw_only=True)
class ClaimCredential:
    """The data for the factory, returned once: the claim certificate with its chain, and its key, PEM."""

    batch: str
    certificate: str
    key: str = field(repr=False)
    ca: str
    expires: int


class Claims:
    """Makes batches and enrols their devices."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        authority: Authority,
        inventory: Inventory,
        issuer: Issuer,
        admissions: Admissions,
    ) -> None:
        self._storage, self._clock, self._authority = storage, clock, authority
        self._inventory, self._issuer, self._admissions = inventory, issuer, admissions
        self.batches = Repository(storage, "claim_batch", ClaimBatch)
        self._ownerships = Repository(
            storage,
            "claim_ownership",
            Ownership,
            refs=lambda item: [("certificate", item.certificate)],
            due=lambda item: item.expires,
        )
        self._locks = KeyedLocks()
        #: Batch → when devices started in the last minute, by the monotonic clock; and when its quota was last
        #: reported, ms.
        self._begun: dict[str, list[float]] = {}
        self._alarmed: dict[str, int] = {}

    # --- for operators -------------------------------------------------------------------------------------------

    async def create(
        self,
        batch: str,
        *,
        quota: int,
        days: float = 90.0,
        device_type: str = "device",
        tags: Sequence[str] = (),
        models: Sequence[str] = (),
        serials: Sequence[str] = (),
        per_minute: int = 60,
        actor: str = "system",
        reason: str = "",
    ) -> ClaimCredential:
        """A new batch and its claim certificate, whose key is returned only here.

        Raises:
            Refused: an invalid name, quota, lifetime or list.
            Conflict: ``already_exists``.
        """
        if not _BATCH.fullmatch(batch):
            raise Refused(
                f"{batch!r} is not a batch name", code="name_invalid", remedy="Use 1-40 characters of A-Z a-z 0-9 . _ -"
            )
        check_label(device_type, "type")
        for text in (*tags, *models):
            check_label(text, "tag or model")
        if not 1 <= quota <= _MAX_DEVICES:
            raise Refused(f"A batch has 1 to {_MAX_DEVICES} devices, not {quota}")
        if len(serials) > _MAX_SERIALS or not all(0 < len(serial) <= 128 for serial in serials):
            raise Refused(f"A batch names up to {_MAX_SERIALS} serials of 1-128 characters")
        if not 1 <= per_minute <= 60_000:
            raise Refused("A batch takes 1 to 60,000 devices a minute")
        if not 1 <= days <= 366:  # before a timedelta that would overflow
            raise Refused(f"A claim certificate lasts 1 to 366 days, not {days:g}")
        pair = self._authority.issue_claim(batch, lifetime=dt.timedelta(days=days))
        now = self._clock.now_ms()
        record = ClaimBatch(
            id=batch,
            quota=quota,
            expires=int(pair.certificate.not_valid_after_utc.timestamp()) * 1000,
            created=now,
            created_by=actor,
            fingerprint=hashlib.sha256(pair.certificate.public_bytes(Encoding.DER)).hexdigest(),
            device_type=device_type,
            tags=tuple(dict.fromkeys(tags)),
            models=tuple(dict.fromkeys(models)),
            serials=tuple(dict.fromkeys(serials)),
            per_minute=per_minute,
            issuer=issuer_id(pair.certificate),
        )
        event = Event(type="claim.created", subject=batch, time=now, actor=actor, reason=reason, data={"quota": quota})
        try:
            await self.batches.create(record, [event])
        except Conflict as error:
            raise Conflict(f"Batch {batch!r} exists already", remedy="Choose another name", batch=batch) from error
        return ClaimCredential(
            batch=batch,
            certificate=pair.certificate.public_bytes(Encoding.PEM).decode() + self._authority.chain_pem().decode(),
            key=pair.key_pem().decode(),
            ca=self._authority.ca_pem().decode(),
            expires=record.expires,
        )

    async def disable(self, batch: str, *, actor: str, reason: str) -> ClaimBatch:
        """Ends enrolment with the batch's certificate at once; enrolled devices stay. Raises NotFound."""
        event = Event(type="claim.disabled", subject=batch, time=self._clock.now_ms(), actor=actor, reason=reason)
        return await self.batches.change(
            batch, lambda old: None if old.disabled else (evolve(old, disabled=True), [event])
        )

    # --- for devices ---------------------------------------------------------------------------------------------

    async def open(self) -> AsyncIterator[ClaimBatch]:
        """The batches whose certificate is still valid."""
        now = self._clock.now_ms()
        async for batch in self.batches.iterate():
            if not batch.disabled and batch.used < batch.quota and now <= batch.expires:
                yield batch

    async def usable(self, batch: str, certificate: bytes) -> ClaimBatch:
        """The batch, where its certificate (DER) is still valid; raises NotAuthorised."""
        found = await self.batches.get(batch)
        fingerprint = hashlib.sha256(certificate).hexdigest()
        if found is None or found.disabled or not hmac.compare_digest(found.fingerprint, fingerprint):
            raise _disabled(batch)
        return found

    async def begin(self, batch: ClaimBatch, asked: CertificateRequest, *, source: str) -> tuple[Reply, str]:
        """The first step: a certificate that waits, and the ownership token, which is in the reply too.

        Raises:
            Conflict: ``already_exists``; the device is registered.
            Unavailable: ``rate_limited``. Refused: ``quota_exceeded``.
        """
        if await self._issuer.directory.find(asked.device) is not None:
            raise taken(asked.device)
        self._charge_rate(batch)
        # Compare-and-set alone would be correct; but concurrent devices of one batch would mostly lose and try again.
        async with self._locks.of(batch.id):
            return await self._begin(batch, asked, source)

    @retried("Too many enrolments at once")
    async def _begin(self, batch: ClaimBatch, asked: CertificateRequest, source: str) -> tuple[Reply, str]:
        again = await self._begun_before(batch, asked)
        if again is not None:
            return again
        batch = await self.batches.need(batch.id)
        if batch.disabled:
            raise _disabled(batch.id)
        if batch.used >= batch.quota:
            await self._tell_quota(batch)
            raise Refused(
                f"Batch {batch.id!r} has enrolled its {batch.quota} devices",
                code="quota_exceeded",
                remedy="Make another batch, or find out who used it",
                limit=batch.quota,
                unit="devices",
                scope="batch",
            )
        token, until = secrets.token_urlsafe(32), self._clock.now_ms() + OWNERSHIP_S * 1000

        def extra_puts(record: CertificateRecord, held: ClaimBatch = batch, token: str = token) -> Sequence[Put]:
            return (
                self._ownerships.put(_ownership(token, held, record), expect=0),
                self.batches.put(evolve(held, used=held.used + 1), expect=held.version),
            )

        grant = Grant(
            device=Device(id=asked.device, type=batch.device_type),
            how=f"claim:{batch.id}",
            inactive_until=until,
            extra_puts=extra_puts,
        )
        record = await self._issuer.issue(asked, grant, actor=f"claim:{batch.id}", source=source)
        return self._waiting(record, token), token

    async def _begun_before(self, batch: ClaimBatch, asked: CertificateRequest) -> tuple[Reply, str] | None:
        """Repeats a request whose answer was lost: the same certificate, with a new token in place of the old."""
        for record in await self._inventory.certificates.find(ref=("spki", asked.spki)):
            if record.state is not CertificateState.PENDING_ACTIVATION or record.device != asked.device:
                continue
            old = await self._ownerships.find(ref=("certificate", record.id))
            if not old or old[0].batch != batch.id or self._clock.now_ms() >= old[0].expires:
                continue
            token = secrets.token_urlsafe(32)
            try:
                await self._storage.commit(
                    Commit(
                        puts=(self._ownerships.put(_ownership(token, batch, record), expect=0),),
                        deletes=(Delete(kind="claim_ownership", key=old[0].id, expect=old[0].version),),
                    )
                )
            except VersionConflict:
                return None
            return self._waiting(record, token), token
        return None

    def _waiting(self, record: CertificateRecord, token: str) -> Reply:
        left_s = max(0, (record.ended_at or 0) - self._clock.now_ms()) // 1000
        more = {"state": record.state.value, "ownership_token": token, "expires_in_s": left_s}
        return self._issuer.answer(record, **more)

    @retried("Too many changes of the certificate at once")
    async def register(self, batch: ClaimBatch, token: str, parameters: Mapping[str, object], source: str) -> Reply:
        """The second step: registers the device and activates its certificate.

        Repeating it with the same parameters gives the same answer.

        Raises:
            NotAuthenticated: ``token_spent``; unknown, expired, or another batch's.
            NotAuthorised: the batch does not list the model or serial, another device has enrolled with the serial, or
                an admission refused.
            Unavailable: ``enrollment_pending``; an admission has not decided.
            Conflict: other parameters than before, or the id was registered meanwhile.
        """
        digest = hashlib.sha256(dumps(dict(sorted(parameters.items())))).hexdigest()
        ownership = await self._ownerships.get(_hash(token))
        if ownership is None or ownership.batch != batch.id:
            raise _spent()
        record = await self._inventory.certificates.need(ownership.certificate)
        if ownership.parameters:
            if ownership.parameters != digest:
                raise Conflict(
                    "The device has registered with other parameters",
                    remedy="Repeat the first request, or change the device as an operator",
                    device=ownership.device,
                )
            return self._issuer.answer(record)
        if self._clock.now_ms() >= ownership.expires or record.state is not CertificateState.PENDING_ACTIVATION:
            raise _spent()
        device = await self._candidate(batch, ownership.device, parameters)
        spent = await self._spending(batch, device.id, parameters)
        actor = f"claim:{batch.id}"
        await self._admissions.ask(
            Candidate(device=device, fingerprint=record.spki, parameters=parameters, source=source, issued_via=actor)
        )
        registration = self._issuer.registration(device, actor=actor, reason=f"from {source}")
        extra_puts = evolve(
            registration,
            puts=(
                *(*registration.puts, *spent),
                self._ownerships.put(evolve(ownership, parameters=digest), expect=ownership.version),
            ),
        )
        try:
            active = await self._inventory.activate(record, actor=actor, reason=record.how, extra_commit=extra_puts)
        except VersionConflict:
            if await self._issuer.directory.find(device.id) is not None:
                now = await self._ownerships.get(ownership.id)
                if now is None or not now.parameters:
                    raise taken(device.id) from None
            raise
        except Conflict as error:
            raise taken(device.id) from error
        self._issuer.directory.registered(device)
        return self._issuer.answer(active)

    async def sweep(self) -> None:
        """Ends certificates that were not activated in time, and returns their places to the batches."""
        for ownership in await self._ownerships.due(self._clock.now_ms()):
            record = await self._inventory.certificates.get(ownership.certificate)
            gone = Delete(kind="claim_ownership", key=ownership.id)
            if record is None or record.state is not CertificateState.PENDING_ACTIVATION:
                # Its device has registered: a repetition of that request was answered this long.
                await self._storage.commit(Commit(deletes=(gone,)))
                continue
            batch = await self.batches.need(ownership.batch)
            back = self.batches.put(evolve(batch, used=batch.used - 1), expect=batch.version)
            with contextlib.suppress(VersionConflict):  # the next sweep looks again
                await self._inventory.discard(record, Commit(puts=(back,), deletes=(gone,)))

    async def _candidate(self, batch: ClaimBatch, device: str, parameters: Mapping[str, object]) -> Device:
        for name, allowed in (("model", batch.models), ("serial", batch.serials)):
            if allowed and parameters.get(name) not in allowed:
                raise NotAuthorised(f"The batch does not list this {name}", batch=batch.id, device=device)
        model = parameters.get("model")
        return await self._issuer.directory.prepared(
            device, batch.device_type, model=model if isinstance(model, str) else None, tags=batch.tags
        )

    async def _spending(self, batch: ClaimBatch, device: str, parameters: Mapping[str, object]) -> tuple[Put, ...]:
        """The put that assigns a listed serial to the device; raises NotAuthorised where another device has it."""
        if not batch.serials:
            return ()
        key = f"{batch.id}/{parameters['serial']}"
        found = await self._storage.get(_SERIAL, key)
        if found is None:
            return (Put(kind=_SERIAL, key=key, body={"device": device}, expect=0),)
        if found.body["device"] != device:
            raise NotAuthorised(
                "Another device has enrolled with this serial",
                remedy="Each serial of the batch enrols one device: `fleetcore device list` shows which device has it",
                batch=batch.id,
                device=device,
            )
        return ()

    def _charge_rate(self, batch: ClaimBatch) -> None:
        now = self._clock.monotonic_s()
        begun = self._begun[batch.id] = [item for item in self._begun.get(batch.id, []) if item > now - 60]
        if len(begun) >= batch.per_minute:
            raise Unavailable(
                f"Batch {batch.id!r} takes {batch.per_minute} devices a minute",
                code="rate_limited",
                retry_after_s=max(1.0, begun[0] + 60 - now),
                batch=batch.id,
            )
        begun.append(now)

    async def _tell_quota(self, batch: ClaimBatch) -> None:
        """Writes at most one event a minute: a holder of the certificate can ask as often as the rate allows."""
        now = self._clock.now_ms()
        if self._alarmed.get(batch.id, 0) + 60_000 > now:
            return
        self._alarmed[batch.id] = now
        event = Event(
            type="claim.quota_exceeded", subject=batch.id, time=now, actor=f"claim:{batch.id}",
            data={"quota": batch.quota},
        )  # fmt: skip
        await self._storage.commit(Commit(events=(event,)))


def _ownership(token: str, batch: ClaimBatch, record: CertificateRecord) -> Ownership:
    assert record.ended_at is not None  # it waits for its activation
    return Ownership(
        id=_hash(token), batch=batch.id, device=record.device, certificate=record.id, expires=record.ended_at
    )


def _disabled(batch: str) -> NotAuthorised:
    return NotAuthorised("The claim certificate is disabled or unknown", batch=batch)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _spent() -> NotAuthenticated:
    return NotAuthenticated(
        "The ownership token is expired or unknown", code="token_spent", remedy="Start again with the claim certificate"
    )
