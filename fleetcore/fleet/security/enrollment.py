"""Who may have a certificate: the rights that lead to one, in the order in which a request is looked at.

An enrolment token; what the peer has shown in TLS, be it a claim certificate, a manufacturer's, or the one that the
device has already (renewal); the key that the device was registered with; an operator's acceptance of a key that
knocked (wire.md §11). A request that is repeated because its answer was lost gets the same certificate again. Whatever
else is wrong is refused with a code and written down.
"""

import datetime as dt
import hmac
import logging
from collections.abc import Mapping, Sequence
from functools import partial

from attrs import evolve, field, frozen

from fleetcore.errors import (
    Conflict,
    FleetError,
    NotAuthenticated,
    NotAuthorised,
    Refused,
    StorageError,
    Unavailable,
    VersionConflict,
)
from fleetcore.fleet.buckets import Buckets
from fleetcore.fleet.lru_cache import LruCache
from fleetcore.fleet.process_state.locks import KeyedLocks
from fleetcore.fleet.repository import Repository, retried
from fleetcore.fleet.security.admission import Admissions
from fleetcore.fleet.security.claims import Claims
from fleetcore.fleet.security.inventory import CertificateRecord
from fleetcore.fleet.security.issuing import Grant, Issuer, StaticGroups, check_device, taken
from fleetcore.fleet.security.manufacturers import ManufacturerCa, Manufacturers
from fleetcore.fleet.security.requests import CertificateRequest, read_request
from fleetcore.fleet.security.tokens import EnrollmentToken, EnrollmentTokens, TokenUse, check_network, token_spent
from fleetcore.fleet.security.verify import CertificateVerifier, Foreign, refused
from fleetcore.interfaces.admission import Candidate
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.interfaces.storage import Storage
from fleetcore.listening.addresses import network
from fleetcore.model.addresses import host_of
from fleetcore.model.credential import Admits, CertificateState, EnrollmentState, Refusal
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.message import Reply
from fleetcore.model.store import Commit, Delete, Event, Put
from fleetcore.wire.strict_json import dumps

_log = logging.getLogger(__name__)

#: Devices that have not connected yet.
_NOT_SEEN = frozenset({Lifecycle.REGISTERED, Lifecycle.PROVISIONED})

#: When a device whose key waits for acceptance asks again, seconds.
RETRY_AFTER_S = 30

#: Keys that may wait for one device, and those of them that one address may have sent: anybody can ask in a
#: device's name.
_MAX_PENDING, _MAX_PENDING_OF_ONE = 5, 2
#: A device that waits asks every ``RETRY_AFTER_S``; a key that was silent so long gives its place to the next.
_SILENT_S = 600.0
#: Keys whose last question is remembered; one that is not counts from the start of the process.
_REMEMBERED = 10_000
#: Wrong enrolment tokens of one address before further ones are answered 429.
_WRONG_TOKENS_PER_MINUTE = 20

#: What a device may say about itself that is kept for the operator to read.
_PARAMETERS_BYTES = 4096

#: Refusals written down a minute, as each is a commit that a stranger can cause.
_REFUSALS_PER_MINUTE = 60

#: As many of one address, so that it cannot keep the others' out.
_REFUSALS_OF_ONE = 20


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


class StrangerRefused(NotAuthorised):
    """A refusal by how an id stands, of a peer that has shown nothing: it must not learn which ids there are.

    Attributes:
        answer: what the peer is told instead, the same for every id: that its key waits.
    """

    answer: Reply


class Enrollment:
    """Decides about requests.

    Args:
        groups: what the devices of a token may be put into; None: nothing.
        grace: how long after its end a certificate may still be renewed by its device.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        fleet: str,
        issuer: Issuer,
        tokens: EnrollmentTokens,
        verifier: CertificateVerifier,
        claims: Claims,
        manufacturers: Manufacturers,
        admissions: Admissions,
        *,
        groups: StaticGroups | None,
        grace: dt.timedelta,
    ) -> None:
        self._storage, self._clock, self._fleet = storage, clock, fleet
        self._issuer, self._inventory, self._directory = issuer, issuer.inventory, issuer.directory
        self._tokens, self._verifier = tokens, verifier
        self._claims, self._manufacturers, self._admissions = claims, manufacturers, admissions
        self._groups = groups
        self._grace_ms = int(grace.total_seconds() * 1000)
        self.records = Repository(
            storage,
            "enrollment",
            EnrollmentRecord,
            refs=lambda item: [("device", item.device), ("state", item.state)],
        )
        self._token_locks = KeyedLocks()
        self._refusals: set[tuple[str, str, str, str]] = set()
        self._refusals_minute = 0
        self._wrong_tokens = Buckets(clock, _WRONG_TOKENS_PER_MINUTE)
        self._asked: LruCache[float] = LruCache(_REMEMBERED)
        self._begun_s = clock.monotonic_s()

    # --- what devices ask ----------------------------------------------------------------------------------------

    async def enroll(self, request: EnrollRequest) -> Reply:
        """Answers 201 with a certificate, or 202 while the key waits for an operator or an admission.

        Raises:
            Refused: ``csr_invalid``, ``limit_exceeded``.
            NotAuthenticated: ``token_spent``.
            NotAuthorised: ``device_unknown``, ``device_suspended``, ``device_retired``, ``device_revoked`` (the key
                was), ``not_your_device`` (the token is another's), ``not_authorised`` (rejected or not admitted).
            StrangerRefused: the same, and ``rate_limited``, to a peer with neither a token nor a certificate; events
                have the reason, and the peer is to hear its ``answer`` alone.
            Conflict: ``key_in_use``, ``already_exists``.
            Unavailable: ``rate_limited``, or the store cannot take it now.
        """
        device = ""
        try:
            if request.ownership is not None:
                return await self._register_claimed(request.ownership, request)
            asked = read_request(request.csr, self._fleet)
            device = asked.device
            if request.token is None and request.certificate is not None:
                return await self._enroll_by_certificate(asked, request.certificate, request)
            return await self._enroll(asked, request)
        except (Refused, Conflict) as error:
            await self._write_refusal(device, error, request.source)
            if error.code == "token_spent":
                self._slow(request.source)
            raise
        except Unavailable as error:
            if error.code != "enrollment_pending":
                raise
            waiting, fingerprint = str(error.ids["device"]), str(error.ids["fingerprint"])
            await self._write_waiting(waiting, fingerprint, str(error.ids["reason"]), request.source)
            return _pending(waiting, fingerprint, error.retry_after_s)

    def _slow(self, source: str) -> None:
        """A wrong token more from an address; raises Unavailable where they are too many. A good one always passes."""
        too_many = "Too many refused enrolment tokens from this address"
        self._wrong_tokens.check(network(host_of(source)), too_many, unit="attempts/min", scope="address")

    async def _register_claimed(self, ownership: str, request: EnrollRequest) -> Reply:
        batch = None if request.certificate is None else self._verifier.check_claim(request.certificate)
        if batch is None or isinstance(batch, Refusal):
            raise NotAuthenticated("An ownership token goes with its claim certificate")
        claim = await self._claims.usable(batch, request.certificate or b"")
        return await self._claims.register(claim, ownership, request.parameters, request.source)

    async def _enroll_by_certificate(
        self, asked: CertificateRequest, certificate: bytes, request: EnrollRequest
    ) -> Reply:
        """By what was shown in TLS: what it is decides what it may."""
        batch = self._verifier.check_claim(certificate)
        if not (isinstance(batch, Refusal) or request.renewal):
            claim = await self._claims.usable(batch, certificate)
            reply, ownership = await self._claims.begin(claim, asked, source=request.source)
            if not (request.at_once or request.parameters):
                return reply
            return await self._claims.register(claim, ownership, request.parameters, request.source)
        own = self._verifier.check(certificate, grace_ms=self._grace_ms)
        if isinstance(own, Refusal):
            # Expired and revoked ones are ours all the same, and are not manufacturer's.
            if request.renewal or own not in (Refusal.UNTRUSTED, *_FOREIGN):
                raise refused(own)
            ca, shown = await self._manufacturers.device_of(certificate)
            return await self._enroll_manufactured(asked, ca, shown, request)
        if own.device != asked.device or (request.renewal and not asked.plain):
            raise NotAuthorised("The request names another device", code="not_your_device", device=own.device)
        return await self.renew(own.device, request.csr, current=own.certificate)

    @retried("Too many enrolments at once")
    async def _enroll_manufactured(
        self, asked: CertificateRequest, ca: ManufacturerCa, shown: Foreign, request: EnrollRequest
    ) -> Reply:
        if asked.device != shown.device:
            raise NotAuthorised("The request names another device", code="not_your_device", device=shown.device)
        how = f"manufacturer:{ca.id}"
        device = await self._directory.find(asked.device)
        had = await self._inventory.of(asked.device)
        if device is not None:
            check_device(device, asked.device)
            await self._inventory.key_for(device.id, asked.spki)
            known = await self._inventory.current(device.id, asked.spki)
            if known is not None:
                return self._issuer.answer(known)
            if any(self._inventory.living(record) for record in had):
                raise Conflict(
                    f"Device {device.id!r} has a certificate of this fleet",
                    remedy="Renew with that one, or revoke it first",
                    code="already_exists",
                    device=device.id,
                )
            wanted = device
        else:
            wanted = await self._directory.prepared(asked.device, ca.device_type, model=ca.model, tags=ca.tags)
        await self._admissions.ask(_candidate(wanted, asked, request, how))
        if ca.admits is Admits.AT_ONCE and _is_makers(device, had, how, (asked.spki, shown.spki)):
            # In the commit, so that a revocation meanwhile is heard.
            grant = Grant(
                device=wanted, how=how, register=device is None, extra_puts=partial(self._inventory.unchanged, had)
            )
        else:
            if device is None:
                await self._register_waiting(wanted, how)
            decided = await self._decide_by_approval(wanted, asked, request)
            if isinstance(decided, Reply):
                return decided
            grant = evolve(decided, how=how)
        record = await self._issuer.issue(asked, grant, actor=asked.device, source=request.source)
        return self._issuer.answer(record)

    async def _register_waiting(self, device: Device, how: str) -> None:
        registration = self._issuer.registration(device, actor=how, reason="first contact")
        try:
            await self._storage.commit(registration)
        except VersionConflict:
            return  # by the same device's other request, which is looked at next
        except Conflict as error:
            raise taken(device.id) from error
        self._directory.registered(device)

    async def renew(self, device: str, csr: bytes, *, current: str | None = None) -> Reply:
        """A new certificate for the same identity; the key may be new. Answers 201.

        The certificate it renews stays good until the new one has connected or the overlap is over.

        Args:
            device: the identity of the session that asks.
            current: the certificate by which it did; without it, the one that ends first.

        Raises as :meth:`enroll`; ``not_authorised`` where the device has no certificate to renew.
        """
        asked = read_request(csr, self._fleet)
        if asked.device != device:
            error = NotAuthorised("The request names another device", code="not_your_device", device=device)
            await self._write_refusal(device, error, device)
            raise error
        return await self._renew(asked, device, current)

    @retried("Too many changes of the device's certificates at once")
    async def _renew(self, asked: CertificateRequest, device: str, current: str | None) -> Reply:
        found = check_device(await self._directory.find(device), device)
        await self._inventory.key_for(device, asked.spki)
        known = await self._inventory.current(device, asked.spki)
        if known is not None:
            return self._issuer.answer(known)
        grant = Grant(device=found, how="renewal", replaces=await self._to_renew(device, current))
        return self._issuer.answer(await self._issuer.issue(asked, grant, actor=device))

    async def _to_renew(self, device: str, current: str | None) -> tuple[CertificateRecord, ...]:
        now, grace = self._clock.now_ms(), self._grace_ms
        # A device that has a token may renew one of a CA that is trusted no more.
        alive = [record for record in await self._inventory.of(device) if record.alive(now, grace_ms=grace)]
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
        return (base, *(item for item in alive if item.state is CertificateState.PENDING and base.id in item.replaces))

    async def _enroll(self, asked: CertificateRequest, request: EnrollRequest) -> Reply:
        reply = await self._admit(asked, request)
        if request.token is not None and reply.status == 201:
            await self._join(asked.device, request.token)
        return reply

    async def _admit(self, asked: CertificateRequest, request: EnrollRequest) -> Reply:
        decided = await self._decide(asked, request)
        if isinstance(decided, Reply):
            return decided
        await self._admissions.ask(_candidate(decided.device, asked, request, decided.how))
        if request.token is None:
            return await self._grant(asked, request)
        # Compare-and-set alone would do; but a batch of devices on one token would mostly lose and try again.
        lock = self._token_locks.of(decided.how)
        async with lock:
            return await self._grant(asked, request)

    async def _join(self, device: str, secret: str) -> None:
        """Puts a device that a token let in into the token's groups.

        It has its certificate by now. A crash in between costs nothing: the device has no answer yet and asks again.
        """
        token = await self._tokens.find(secret)
        if token is None or not token.groups or self._groups is None:
            return
        found = await self._directory.find(device)
        if found is None or found.lifecycle not in _NOT_SEEN:
            return  # who has been at work may have been taken out of a group since
        for group in token.groups:
            try:
                await self._groups.add(group, [device], actor=f"token:{token.id}", reason="enrolled by a token")
            except FleetError as error:  # removed in this moment; the device is in all the same
                _log.warning("%s enrolled but was not put into group %r: %s", device, group, error)

    def _check_token_groups(self, token: EnrollmentToken) -> None:
        try:
            self._tokens.check_groups(token.groups)
        except FleetError as error:
            raise Conflict(
                "A group of the enrolment token is gone",
                code="illegal_transition",
                remedy="Create the group again, or make another token",
            ) from error

    @retried("Too many enrolments at once")
    async def _grant(self, asked: CertificateRequest, request: EnrollRequest) -> Reply:
        decided = await self._decide(asked, request)
        if isinstance(decided, Reply):
            return decided
        return self._issuer.answer(await self._issuer.issue(asked, decided, actor=asked.device, source=request.source))

    async def _decide(self, asked: CertificateRequest, request: EnrollRequest) -> Grant | Reply:
        """What the request may have, as of now; nothing is consumed."""
        if request.token is not None:
            return await self._decide_by_token(asked, request.token, request.source)
        # What is wrong with the request itself comes first: it says nothing of the id.
        if len(dumps(dict(request.parameters))) > _PARAMETERS_BYTES:
            raise Refused(
                f"The parameters are longer than {_PARAMETERS_BYTES} bytes",
                code="limit_exceeded",
                limit=_PARAMETERS_BYTES,
                unit="bytes",
                scope="request",
            )
        await self._inventory.key_for(asked.device, asked.spki)
        try:
            return await self._decide_by_key(asked, request)
        except (NotAuthorised, Unavailable) as error:
            hidden = StrangerRefused(error.message, code=error.code, remedy=error.remedy, device=asked.device)
            hidden.answer = _pending(asked.device, asked.spki, RETRY_AFTER_S)
            raise hidden from error

    async def _decide_by_key(self, asked: CertificateRequest, request: EnrollRequest) -> Grant | Reply:
        device = check_device(await self._directory.find(asked.device), asked.device)
        known = await self._inventory.current(device.id, asked.spki)
        if known is not None:
            return self._issuer.answer(known)
        if device.key_id is not None and hmac.compare_digest(device.key_id.lower(), asked.spki):
            return Grant(device=device, how="key_id")
        return await self._decide_by_approval(device, asked, request)

    async def _decide_by_token(self, asked: CertificateRequest, secret: str, source: str) -> Grant | Reply:
        token = await self._tokens.check(secret)
        check_network(token, source)
        if token.device is not None and token.device != asked.device:
            raise NotAuthorised(
                "The enrolment token is for another device", code="not_your_device", device=asked.device
            )
        await self._inventory.key_for(asked.device, asked.spki)
        device = await self._directory.find(asked.device)
        if device is not None:
            check_device(device, asked.device)
        use = await self._tokens.used.get(f"{token.id}:{asked.spki}")
        if use is not None and use.device == asked.device:
            record = await self._inventory.certificates.need(use.certificate)
            if not record.alive(self._clock.now_ms()):
                raise token_spent()
            return self._issuer.answer(record)
        if token.left < 1:
            raise token_spent()
        if device is not None and token.device is None:
            raise taken(device.id)
        self._check_token_groups(token)

        def charged(record: CertificateRecord) -> Sequence[Put]:
            used = TokenUse(id=f"{token.id}:{record.spki}", device=record.device, certificate=record.id)
            return (
                self._tokens.records.put(evolve(token, left=token.left - 1), expect=token.version),
                self._tokens.used.put(used, expect=0),
            )

        return Grant(
            device=device or await self._directory.prepared(asked.device, token.device_type),
            how=f"token:{token.id}",
            register=device is None,
            extra_puts=charged,
        )

    async def _decide_by_approval(
        self, device: Device, asked: CertificateRequest, request: EnrollRequest
    ) -> Grant | Reply:
        if device.key_id is not None:
            raise NotAuthorised(
                "The device is registered with another key",
                remedy="Enrol with the registered key, or by a token",
                device=device.id,
            )
        record = await self.records.get(f"{device.id}:{asked.spki}")
        if record is None:
            record = await self._pending_enrollment(device, asked, request)
        match record.state:
            case EnrollmentState.ACCEPTED:
                now = self._clock.now_ms()
                others = [item for item in await self._inventory.of(device.id) if item.alive(now)]
                # In the commit, so that an operator who takes the word back meanwhile is heard.
                standing = self.records.put(record, expect=record.version)
                return Grant(
                    device=device,
                    how="approval",
                    replaces=tuple(others) if record.replace else (),
                    extra_puts=lambda _record: (standing,),
                )
            case EnrollmentState.REJECTED:
                raise NotAuthorised("The key was rejected by an operator", device=device.id)
            case EnrollmentState.PENDING:
                self._asked.put(record.id.encode(), self._clock.monotonic_s())
                return _pending(device.id, asked.spki, RETRY_AFTER_S)

    async def _pending_enrollment(
        self, device: Device, asked: CertificateRequest, request: EnrollRequest
    ) -> EnrollmentRecord:
        gone = await self._make_place(device.id, request.source)
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
        put = self.records.put(record, expect=0)
        try:
            await self._storage.commit(Commit(puts=(put,), deletes=tuple(gone), events=(event,)))
        except VersionConflict as error:
            # The same key knocked twice at once, or the one that was to give its place was decided about.
            known = await self.records.get(record.id)
            if known is None:
                raise Unavailable("Too many enrolments at once", retry_after_s=1.0, device=device.id) from error
            return known
        return await self.records.need(record.id)

    async def _make_place(self, device: str, source: str) -> list[Delete]:
        """The keys that give their places to one more of a device; raises Unavailable where none does."""
        found = await self.records.find(ref=("device", device))
        waiting = [item for item in found if item.state is EnrollmentState.PENDING]
        near = [item for item in waiting if network(host_of(item.source)) == network(host_of(source))]
        gone: list[EnrollmentRecord] = []
        for places, most in ((near, _MAX_PENDING_OF_ONE), (waiting, _MAX_PENDING)):
            left = [place for place in places if place not in gone]
            if len(left) < most:
                continue
            silent = min(left, key=self._last_asked_s)
            if self._clock.monotonic_s() - self._last_asked_s(silent) < _SILENT_S:
                raise Unavailable(
                    f"{len(left)} keys wait for the acceptance of {device!r} already",
                    code="rate_limited",
                    retry_after_s=RETRY_AFTER_S,
                    remedy="Accept or reject them",
                    device=device,
                )
            gone.append(silent)
        return [Delete(kind="enrollment", key=item.id, expect=item.version) for item in gone]

    def _last_asked_s(self, record: EnrollmentRecord) -> float:
        asked = self._asked.get(record.id.encode())
        return self._begun_s if asked is None else asked

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

    async def withdrawn(self, device: str, *, actor: str, reason: str) -> list[Put]:
        """What takes every acceptance of a device's keys back, as part of a larger commit."""
        accepted = [
            record
            for record in await self.records.find(ref=("device", device))
            if record.state is EnrollmentState.ACCEPTED
        ]
        return [
            self.records.put(
                evolve(item, state=EnrollmentState.REJECTED, decided_by=actor, reason=reason), expect=item.version
            )
            for item in accepted
        ]

    @retried("Too many changes of the device's certificates at once")
    async def issue(self, csr: bytes, *, actor: str, reason: str) -> CertificateRecord:
        """Issues to a registered device by an operator's right; raises as :meth:`enroll`."""
        asked = read_request(csr, self._fleet)
        device = check_device(await self._directory.find(asked.device), asked.device)
        return await self._issuer.issue(asked, Grant(device=device, how="operator"), actor=actor, reason=reason)

    async def _write_refusal(self, device: str, error: Refused | Conflict, source: str) -> None:
        device = device or str(error.ids.get("device", ""))
        reason = str(error.ids.get("reason", ""))
        event = Event(
            type="enrollment.refused",
            subject=device,
            time=self._clock.now_ms(),
            actor=source or "unknown",
            reason=error.code,
            data={"detail": f"{error.message}: {reason}" if reason else error.message},
        )
        await self._write_once((host_of(source), error.code, reason, device), event)

    async def _write_waiting(self, device: str, fingerprint: str, reason: str, source: str) -> None:
        event = Event(
            type="enrollment.pending",
            subject=device,
            time=self._clock.now_ms(),
            actor=source or "unknown",
            reason=reason,
            data={"fingerprint": fingerprint},
        )
        await self._write_once((host_of(source), "enrollment_pending", reason, device), event)

    async def _write_once(self, kind: tuple[str, str, str, str], event: Event) -> None:
        """Writes the first event of its kind in each minute, and no more than a bounded number.

        ``kind`` begins with the address, without the port, which is another one with each connection.
        """
        if event.time // 60_000 != self._refusals_minute:
            self._refusals_minute = event.time // 60_000
            self._refusals.clear()
        if kind in self._refusals or len(self._refusals) >= _REFUSALS_PER_MINUTE:
            return
        if sum(refusal[0] == kind[0] for refusal in self._refusals) >= _REFUSALS_OF_ONE:
            return
        self._refusals.add(kind)
        try:
            await self._storage.commit(Commit(events=(event,)))
        except (StorageError, Unavailable):
            return  # the refusal stands; that it could not be written down is the store's own alarm


def _candidate(device: Device, asked: CertificateRequest, request: EnrollRequest, issued_via: str) -> Candidate:
    return Candidate(
        device=device,
        fingerprint=asked.spki,
        parameters=request.parameters,
        source=request.source,
        issued_via=issued_via,
    )


def _pending(device: str, fingerprint: str, retry_after_s: float) -> Reply:
    """What a device is answered whose enrolment waits; it asks again after so many seconds."""
    body = {
        "code": "enrollment_pending",
        "device": device,
        "fingerprint": fingerprint,
        "retry_after_s": retry_after_s,
    }
    return Reply(status=202, body=body)


def _is_makers(device: Device | None, had: Sequence[CertificateRecord], how: str, keys: Sequence[str]) -> bool:
    """Whether a maker's word is enough: for who is new, came by it before, or was registered with one of these keys.

    A device that was revoked may have lost the key that it was made with too, and that one cannot be revoked here.
    """
    if any(record.state is CertificateState.REVOKED for record in had):
        return False
    if device is None:
        return True
    if device.key_id is not None:
        return device.key_id.lower() in keys
    return any(record.how == how for record in had)


#: What a certificate that is not ours may be refused for by our own profile; it may be a manufacturer's yet.
_FOREIGN = frozenset(Refusal) - {
    Refusal.UNREADABLE,
    Refusal.EXPIRED,
    Refusal.NOT_YET_VALID,
    Refusal.REVOKED,
    Refusal.SUPERSEDED,
    Refusal.NOT_ACTIVATED,
}
