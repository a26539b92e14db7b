"""How a device comes by a certificate: who may have one, and the one commit in which it is granted.

Four rights lead to one (WIRE.md §8): the key that the device was registered with, an operator's acceptance of a key
that knocked, an enrolment token, and the certificate it has already (renewal). A request that is repeated because its
answer was lost gets the same certificate again. Whatever else is wrong is refused with a code and written down.
"""

import asyncio
import datetime as dt
import hmac
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol
from weakref import WeakValueDictionary

from attrs import evolve, field, frozen

from fleetcore.errors import Conflict, NotAuthorised, Refused, StorageError, Unavailable, VersionConflict
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.security.admission import Admissions
from fleetcore.fleet.security.authority import Authority
from fleetcore.fleet.security.inventory import ATTEMPTS, CertificateRecord, CertificateState, Inventory
from fleetcore.fleet.security.requests import CertificateRequest, read_request
from fleetcore.fleet.security.tokens import EnrollmentToken, EnrollmentTokens, TokenUse, token_spent
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.message import Reply
from fleetcore.model.store import Commit, Event, Put
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.times import format_time

#: When a device whose key waits for acceptance asks again, seconds.
RETRY_AFTER_S = 30

#: Keys that may wait for one device: anybody can knock in a device's name.
_MOST_PENDING = 5

#: What a device may say about itself that is kept for the operator to read.
_PARAMETERS_BYTES = 4096

#: Refusals written down a minute, as each is a commit that a stranger can cause.
_REFUSALS_PER_MINUTE = 60


class DeviceDirectory(Protocol):
    """What enrolment needs of the registry."""

    async def find(self, device: str) -> Device | None:
        """The device or None."""
        ...

    async def register(
        self,
        device: str,
        type: str,
        *,
        actor: str = "system",
        reason: str = "",
    ) -> Device:
        """Registers a new device; raises Conflict where the id is taken."""
        ...


class EnrollmentState(StrEnum):
    """What was decided about a key that knocked."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


@frozen(kw_only=True)
class EnrollmentRecord:
    """A key that asked to be a device; ``id`` is ``<device>:<spki>``, times are ms since the epoch.

    Attributes:
        fingerprint: SHA-256 (hex) of the SubjectPublicKeyInfo, to be compared with what the device shows.
        replace: accepting it ends the device's other certificates once this one has connected.
    """

    id: str
    device: str
    fingerprint: str
    state: EnrollmentState
    created: int
    source: str
    parameters: Mapping[str, object] = field(factory=dict)
    replace: bool = False
    decided_by: str = ""
    reason: str = ""
    version: int = 0


@frozen(kw_only=True)
class _Grant:
    """That a request may have a certificate, and what is written with it."""

    device: Device
    how: str
    known: bool = True
    token: EnrollmentToken | None = None
    replaces: tuple[CertificateRecord, ...] = ()


class Enrollment:
    """Decides about requests and issues.

    Args:
        endpoints: the URLs that a new device is told.
        lifetime: of devices' certificates.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        authority: Authority,
        inventory: Inventory,
        tokens: EnrollmentTokens,
        directory: DeviceDirectory,
        admissions: Admissions,
        *,
        endpoints: Callable[[], Sequence[str]],
        lifetime: dt.timedelta,
    ) -> None:
        self._storage, self._clock, self._authority = storage, clock, authority
        self._inventory, self._tokens, self._directory = inventory, tokens, directory
        self._admissions, self._endpoints, self._lifetime = admissions, endpoints, lifetime
        self.records = Repository(
            storage,
            "enrollment",
            EnrollmentRecord,
            refs=lambda one: [("device", one.device), ("state", one.state)],
        )
        self._token_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._refusals: set[tuple[str, str]] = set()
        self._refusals_minute = 0

    # --- what devices ask ----------------------------------------------------------------------------------------

    async def enroll(self, request: EnrollRequest) -> Reply:
        """Answers 201 with a certificate, or 202 while the key waits for an operator.

        Raises:
            Refused: ``csr_invalid``, ``limit_exceeded``.
            NotAuthenticated: ``token_spent``.
            NotAuthorised: ``device_unknown``, ``device_suspended``, ``device_retired``, ``device_revoked`` (the key
                was), ``not_your_device`` (the token is another's), ``not_authorised`` (rejected or not admitted).
            Conflict: ``key_in_use``, ``already_exists``.
            Unavailable: ``rate_limited``, or the store cannot take it now.
        """
        try:
            asked = read_request(request.csr, self._authority.fleet)
        except Refused as error:
            await self._write_refusal("", error, request.source)
            raise
        try:
            return await self._enroll(asked, request)
        except (Refused, Conflict) as error:
            await self._write_refusal(asked.device, error, request.source)
            raise

    async def renew(self, device: str, csr: bytes, *, current: str | None = None) -> Reply:
        """A new certificate for the same identity; the key may be new. Answers 201.

        The certificate it renews stays good until the new one has connected or the overlap is over.

        Args:
            device: the identity of the session that asks.
            current: the certificate by which it did; without it, the one that ends first.

        Raises as :meth:`enroll`; ``not_authorised`` where the device has no certificate to renew.
        """
        asked = read_request(csr, self._authority.fleet)
        if asked.device != device:
            error = NotAuthorised("The request names another device", code="not_your_device", device=device)
            await self._write_refusal(device, error, device)
            raise error
        for _ in range(ATTEMPTS):
            found = await self._directory.find(device)
            self._check_device(found, device)
            assert found is not None  # _check_device raises for None
            await self._inventory.key_for(device, asked.spki)
            known = await self._inventory.current(device, asked.spki)
            if known is not None:
                return self._answer(known)
            replaces = await self._to_renew(device, current)
            grant = _Grant(device=found, how="renewal", replaces=replaces)
            try:
                return self._answer(await self._issue(asked, grant, actor=device))
            except VersionConflict:
                continue
        raise Unavailable("Too many changes of the device's certificates at once", retry_after_s=1.0)

    async def _to_renew(self, device: str, current: str | None) -> tuple[CertificateRecord, ...]:
        now = self._clock.now_ms()
        alive = [record for record in await self._inventory.of(device) if record.alive(now)]
        if current is not None:
            base = next((record for record in alive if record.id == current), None)
        else:
            base = min(
                (record for record in alive if record.state is CertificateState.ACTIVE),
                key=lambda record: record.not_after,
                default=None,
            )
        if base is None:
            raise NotAuthorised(
                "The device has no certificate to renew", remedy="Enrol it: with a token, or its registered key"
            )
        # A renewal whose answer was lost, or that the device gave up, has made another successor: that one ends too.
        return (base, *(one for one in alive if one.state is CertificateState.PENDING and base.id in one.replaces))

    async def _enroll(self, asked: CertificateRequest, request: EnrollRequest) -> Reply:
        decided = await self._decide(asked, request)
        if isinstance(decided, Reply):
            return decided
        await self._admissions.ask(decided.device, request.parameters)
        if request.token is None:
            return await self._grant(asked, request)
        name = decided.token.id if decided.token is not None else ""
        # Compare-and-set alone would do; but a batch of devices on one token would mostly lose and try again.
        lock = self._token_locks.setdefault(name, asyncio.Lock())
        async with lock:
            return await self._grant(asked, request)

    async def _grant(self, asked: CertificateRequest, request: EnrollRequest) -> Reply:
        for _ in range(ATTEMPTS):
            decided = await self._decide(asked, request)
            if isinstance(decided, Reply):
                return decided
            try:
                record = await self._issue(asked, decided, actor=asked.device, source=request.source)
            except VersionConflict:
                continue
            if not decided.known:
                await self._register(decided.device, record)
            return self._answer(record)
        raise Unavailable("Too many enrolments at once", retry_after_s=1.0)

    async def _decide(self, asked: CertificateRequest, request: EnrollRequest) -> _Grant | Reply:
        """What the request may have, as of now; nothing is consumed."""
        if request.token is not None:
            return await self._decide_by_token(asked, request.token)
        device = await self._directory.find(asked.device)
        self._check_device(device, asked.device)
        assert device is not None  # _check_device raises for None
        await self._inventory.key_for(device.id, asked.spki)
        known = await self._inventory.current(device.id, asked.spki)
        if known is not None:
            return self._answer(known)
        if device.key_id is not None and hmac.compare_digest(device.key_id.lower(), asked.spki):
            return _Grant(device=device, how="key_id")
        return await self._decide_by_approval(device, asked, request)

    async def _decide_by_token(self, asked: CertificateRequest, secret: str) -> _Grant | Reply:
        token = await self._tokens.check(secret)
        if token.device is not None and token.device != asked.device:
            raise NotAuthorised(
                "The enrolment token is for another device", code="not_your_device", device=asked.device
            )
        await self._inventory.key_for(asked.device, asked.spki)
        device = await self._directory.find(asked.device)
        if device is not None:
            self._check_device(device, asked.device)
        use = await self._tokens.used.get(f"{token.id}:{asked.spki}")
        if use is not None and use.device == asked.device:
            record = await self._inventory.certificates.need(use.certificate)
            if not record.alive(self._clock.now_ms()):
                raise token_spent()
            if device is None:  # the server ended between the certificate and the registration
                await self._register(_candidate(asked.device, token), record)
            return self._answer(record)
        if token.left < 1:
            raise token_spent()
        if device is not None and token.device is None:
            raise Conflict(
                f"Device {asked.device!r} is registered already, and the token is for new devices",
                remedy="Make an enrolment token for this device",
                device=asked.device,
            )
        return _Grant(
            device=device or _candidate(asked.device, token),
            how=f"token:{token.id}",
            known=device is not None,
            token=token,
        )

    async def _decide_by_approval(
        self, device: Device, asked: CertificateRequest, request: EnrollRequest
    ) -> _Grant | Reply:
        if device.key_id is not None:
            raise NotAuthorised(
                "The device is registered with another key",
                remedy="Enrol with the registered key, or by a token",
                device=device.id,
            )
        record = await self.records.get(f"{device.id}:{asked.spki}")
        if record is None:
            record = await self._knock(device, asked, request)
        match record.state:
            case EnrollmentState.ACCEPTED:
                now = self._clock.now_ms()
                others = [one for one in await self._inventory.of(device.id) if one.alive(now)]
                return _Grant(device=device, how="approval", replaces=tuple(others) if record.replace else ())
            case EnrollmentState.REJECTED:
                raise NotAuthorised("The key was rejected by an operator", device=device.id)
            case EnrollmentState.PENDING:
                return Reply(
                    status=202,
                    body={
                        "code": "enrollment_pending",
                        "device": device.id,
                        "fingerprint": asked.spki,
                        "retry_after_s": RETRY_AFTER_S,
                    },
                )

    async def _knock(self, device: Device, asked: CertificateRequest, request: EnrollRequest) -> EnrollmentRecord:
        waiting = await self.records.find(ref=("device", device.id))
        if sum(one.state is EnrollmentState.PENDING for one in waiting) >= _MOST_PENDING:
            raise Unavailable(
                f"{_MOST_PENDING} keys wait for the acceptance of {device.id!r} already",
                code="rate_limited",
                retry_after_s=RETRY_AFTER_S,
                remedy="Accept or reject them",
                device=device.id,
            )
        if len(dumps(dict(request.parameters))) > _PARAMETERS_BYTES:
            raise Refused(
                f"The parameters are longer than {_PARAMETERS_BYTES} bytes",
                code="limit_exceeded",
                limit=_PARAMETERS_BYTES,
                unit="bytes",
                scope="request",
            )
        now = self._clock.now_ms()
        record = EnrollmentRecord(
            id=f"{device.id}:{asked.spki}",
            device=device.id,
            fingerprint=asked.spki,
            state=EnrollmentState.PENDING,
            created=now,
            source=request.source,
            parameters=dict(request.parameters),
        )
        event = Event(
            type="enrollment.pending",
            subject=device.id,
            time=now,
            actor=request.source or "unknown",
            data={"fingerprint": asked.spki},
        )
        try:
            return await self.records.create(record, [event])
        except VersionConflict:
            return await self.records.need(record.id)

    # --- what operators decide -----------------------------------------------------------------------------------

    async def decide(
        self,
        device: str,
        fingerprint: str,
        state: EnrollmentState,
        *,
        replace: bool = False,
        actor: str,
        reason: str,
    ) -> EnrollmentRecord:
        """Accepts or rejects a key; the device gets its certificate when it asks again. Raises NotFound.

        Rejecting a key that has a certificate does not revoke it.
        """
        event = Event(
            type=f"enrollment.{state}",
            subject=device,
            time=self._clock.now_ms(),
            actor=actor,
            reason=reason,
            data={"fingerprint": fingerprint},
        )
        return await self.records.change(
            f"{device}:{fingerprint}",
            lambda old: (evolve(old, state=state, replace=replace, decided_by=actor, reason=reason), [event]),
        )

    async def issue(self, csr: bytes, *, actor: str, reason: str) -> CertificateRecord:
        """Issues to a registered device by an operator's right; raises as :meth:`enroll`."""
        asked = read_request(csr, self._authority.fleet)
        for _ in range(ATTEMPTS):
            device = await self._directory.find(asked.device)
            self._check_device(device, asked.device)
            assert device is not None  # _check_device raises for None
            try:
                return await self._issue(asked, _Grant(device=device, how="operator"), actor=actor, reason=reason)
            except VersionConflict:
                continue
        raise Unavailable("Too many changes of the device's certificates at once", retry_after_s=1.0)

    # --- the one way to a certificate ----------------------------------------------------------------------------

    async def _issue(
        self, asked: CertificateRequest, grant: _Grant, *, actor: str, reason: str = "", source: str = ""
    ) -> CertificateRecord:
        """Signs and writes all of it at once; raises VersionConflict where anything it rests on changed."""
        device = grant.device.id
        key = await self._inventory.key_for(device, asked.spki)
        certificate = self._authority.issue_device(device, asked.public_key, lifetime=self._lifetime)
        record = self._inventory.draft(certificate, device, how=grant.how, replaces=grant.replaces)
        event = Event(
            type="certificate.issued",
            subject=device,
            time=record.created,
            actor=actor,
            reason=reason or grant.how,
            data={"certificate": record.id, "fingerprint": asked.spki, "source": source},
        )
        return await self._inventory.add(
            record, key, event, replaces=grant.replaces, with_puts=self._charge(grant.token, record)
        )

    def _charge(self, token: EnrollmentToken | None, record: CertificateRecord) -> tuple[Put, ...]:
        if token is None:
            return ()
        use = TokenUse(id=f"{token.id}:{record.spki}", device=record.device, certificate=record.id)
        return (
            self._tokens.records.put(evolve(token, left=token.left - 1), expect=token.version),
            self._tokens.used.put(use, expect=0),
        )

    async def _register(self, device: Device, record: CertificateRecord) -> None:
        """Registers a token's new device, after its certificate: a device without one would be left by a lost race.

        Until it is registered nobody can do anything with the certificate.
        """
        try:
            await self._directory.register(device.id, device.type, actor=device.id, reason=record.how)
        except Conflict:
            existing = await self._directory.find(device.id)
            # Registered since, by the same request sent twice: it is this device. Otherwise it is somebody else's.
            if existing is not None and existing.created >= record.created:
                return
            await self._inventory.revoke([record], actor="system", reason="the id was taken")
            raise

    def _answer(self, record: CertificateRecord) -> Reply:
        return Reply(
            status=201,
            body={
                "device": record.device,
                "certificate": record.pem,
                "chain": self._authority.chain_pem().decode(),
                "ca": self._authority.ca_pem().decode(),
                "not_after": format_time(record.not_after),
                "renew_after": format_time(record.renew_after),
                "endpoints": list(self._endpoints()),
            },
        )

    def _check_device(self, device: Device | None, name: str) -> None:
        if device is None:
            raise NotAuthorised(
                f"Device {name!r} is not registered",
                code="device_unknown",
                remedy="Register it first, or enrol it by a token",
                device=name,
            )
        if device.lifecycle in (Lifecycle.RETIRED, Lifecycle.SUSPENDED):
            raise NotAuthorised(
                f"Device {name!r} is {device.lifecycle}", code=f"device_{device.lifecycle}", device=name
            )

    async def _write_refusal(self, device: str, error: Refused | Conflict, source: str) -> None:
        """Writes the first refusal of a source and reason in each minute, and no more than a bounded number."""
        now = self._clock.now_ms()
        if now // 60_000 != self._refusals_minute:
            self._refusals_minute = now // 60_000
            self._refusals.clear()
        if (source, error.code) in self._refusals or len(self._refusals) >= _REFUSALS_PER_MINUTE:
            return
        self._refusals.add((source, error.code))
        event = Event(
            type="enrollment.refused",
            subject=device,
            time=now,
            actor=source or "unknown",
            reason=error.code,
            data={"detail": error.message},
        )
        try:
            await self._storage.commit(Commit(events=(event,)))
        except (StorageError, Unavailable):
            return  # the refusal stands; that it could not be written down is the store's own alarm


def _candidate(device: str, token: EnrollmentToken) -> Device:
    return Device(id=device, type=token.device_type)
