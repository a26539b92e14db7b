"""The device plane: who a connection is, what its messages do, and what is handed back to it.

Telemetry goes down the data path; every other uplink is handled here by the capability it belongs to.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from weakref import WeakValueDictionary

from attrs import evolve

from fleetcore.errors import CODES, FleetError, NotAuthenticated, NotAuthorised, NotFound, Unavailable
from fleetcore.fleet.campaigns import Campaigns
from fleetcore.fleet.commands import SNAPSHOT, Commands
from fleetcore.fleet.denials import Denials
from fleetcore.fleet.edge import EdgeComputing
from fleetcore.fleet.location import Locations
from fleetcore.fleet.presence import PresenceBoard
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.security import SecurityManager
from fleetcore.fleet.twins import Twins, desired_change, twin_etag, twin_view
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import (
    ArtifactReader,
    Awaited,
    ClaimSession,
    DevicePlane,
    EnrollRequest,
    Session,
)
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.command import Command
from fleetcore.model.credential import AssertedCredential, CertificateCredential, Credential, TokenCredential
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.message import Accepted, Downlink, Dropped, Inbound, Operation, Outcome, Rejected, Reply
from fleetcore.model.store import ArtifactInfo, Commit
from fleetcore.pipeline.session import DeviceSession, DeviceState
from fleetcore.runtime.claimants import Claimants, Desk
from fleetcore.wire.bodies import read_body
from fleetcore.wire.times import format_time

_log = logging.getLogger(__name__)

Sink = Callable[[Downlink], None]

_UPLINKS = frozenset(
    {
        Operation.TELEMETRY,
        Operation.LOCATION,
        Operation.STATUS,
        Operation.TWIN_REPORT,
        Operation.TWIN_ACK,
        Operation.COMMAND_RESULT,
        Operation.FIRMWARE_STATUS,
    }
)
#: How many devices' counts of waiting things are remembered; each changes only by what passes here.
_PENDING_KEPT = 100_000
_SERVED = frozenset({Lifecycle.REGISTERED, Lifecycle.PROVISIONED, Lifecycle.ACTIVE})


class Plane(DevicePlane):
    """The one implementation, over the fleet's capabilities."""

    def __init__(
        self,
        *,
        storage: Storage,
        clock: Clock,
        limits: Limits,
        registry: Registry,
        presence: PresenceBoard,
        twins: Twins,
        commands: Commands,
        campaigns: Campaigns,
        locations: Locations,
        edge: EdgeComputing,
        security: SecurityManager,
        denials: Denials,
    ) -> None:
        self._denials = denials
        self._storage, self._clock, self._limits = storage, clock, limits
        self._registry, self._presence, self._twins = registry, presence, twins
        self._commands, self._campaigns, self._locations = commands, campaigns, locations
        self._edge, self._security = edge, security
        self._ingest: Ingest | None = None
        self._states: WeakValueDictionary[str, DeviceState] = WeakValueDictionary()
        #: Token buckets that were not full when the device's last session ended: a new connection is no new bucket.
        self._buckets: dict[str, tuple[float, float]] = {}
        self._sessions: dict[str, set[DeviceSession]] = defaultdict(set)
        self._listeners: dict[str, dict[DeviceSession, Sink]] = defaultdict(dict)
        self._carriers: list[Sink] = []
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._dirty: dict[str, list[Downlink | Command | Operation]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._activating: set[str] = set()
        self._pending: dict[str, Mapping[str, int]] = {}
        registry.on_change(self._device_changed)
        twins.on_desired(self._desired_changed)
        commands.on_queued(lambda device: self._poke(device, Operation.COMMAND))
        commands.on_cancel(self._cancel_asked)
        commands.connect(self._reaches, lambda command: self._poke(command.device, command))
        campaigns.on_offer(lambda device: self._poke(device, Operation.FIRMWARE))
        campaigns.on_withdrawn(self._offer_withdrawn)
        security.on_revoked(self.end_sessions)
        self._claimants = Claimants(
            security,
            denials,
            Desk(enroll=self.enroll, ca=self._ca, time=self._tell_time, refusal=self._refusal, depth=limits.json_depth),
        )

    def attach(self, ingest: Ingest) -> None:
        """The data path is built over this plane, and is then given to it."""
        self._ingest = ingest
        # One call less for every message: an adapter's deliver is the queue's own.
        self.deliver = ingest.deliver  # type: ignore[method-assign]  # the same signature and promise

    @property
    def _path(self) -> Ingest:
        assert self._ingest is not None, "attach() comes first"
        return self._ingest

    # --- who it is ---------------------------------------------------------------------------------------------

    async def authenticate(
        self, credential: Credential, *, protocol: str, peer: str = "", lasting: bool = True
    ) -> DeviceSession:
        try:
            return await self._authenticate(credential, protocol, peer, lasting)
        except (NotAuthenticated, NotAuthorised) as error:
            who = error.ids.get("device", getattr(credential, "device", None))
            why = error.ids.get("reason")
            code = error.code if why is None else f"{error.code}: {why}"
            self._denials.note(str(who or "unknown"), "session", code, protocol=protocol, peer=peer)
            raise

    async def _authenticate(self, credential: Credential, protocol: str, peer: str, lasting: bool) -> DeviceSession:
        key: str | None = None
        until: int | None = None
        if isinstance(credential, CertificateCredential):
            identity = await self._security.identity(credential.der)
            device_id, key, until = identity.device, identity.certificate, identity.not_after
        elif isinstance(credential, TokenCredential):
            device_id = await self._security.verify_token(credential.token)
            if credential.device is not None and credential.device != device_id:
                raise NotAuthenticated("The token belongs to another device than the user name says")
        else:
            device_id = credential.device
        device = await self._registry.find(device_id)
        if device is None:
            raise NotAuthorised(f"Device {device_id!r} is not registered", code="device_unknown", device=device_id)
        if device.lifecycle is Lifecycle.RETIRED:
            raise NotAuthorised(f"Device {device_id!r} is retired", code="device_retired", device=device_id)
        state = await self._state(device)
        # It may have lost its right since it was looked at. Nothing else runs between this and the session.
        if isinstance(credential, TokenCredential):
            await self._security.verify_token(credential.token)
        elif isinstance(credential, AssertedCredential):
            await self._security.check_asserted(device_id)
        if state.device.lifecycle is Lifecycle.RETIRED:
            raise NotAuthorised(f"Device {device_id!r} is retired", code="device_retired", device=device_id)
        asserted = isinstance(credential, AssertedCredential)
        session = DeviceSession(state, protocol, peer, key, until, asserted=asserted)
        if key is not None and self._security.is_refused(key):
            raise NotAuthorised("The certificate is revoked", code="device_revoked", device=device_id)
        if lasting and not asserted and protocol != "library":
            self._presence.opened(device_id)
            session.on_end(lambda _code: self._presence.closed(device_id))
        self._sessions[device_id].add(session)
        session.on_end(lambda _code: self._forget(session))
        return session

    async def claim(self, certificate: bytes, *, protocol: str, peer: str = "") -> ClaimSession | None:
        return await self._claimants.open(certificate, protocol, peer)

    def _forget(self, session: DeviceSession) -> None:
        device = session.identity
        self._sessions[device].discard(session)
        if not self._sessions[device]:
            del self._sessions[device]
            if session.state.tokens < self._limits.burst:
                self._buckets[device] = session.state.tokens, session.state.refilled
        if device in self._listeners:
            self._listeners[device].pop(session, None)
            if not self._listeners[device]:
                del self._listeners[device]

    async def _state(self, device: Device) -> DeviceState:
        state = self._states.get(device.id)
        if state is None:
            tokens, refilled = self._buckets.pop(device.id, (self._limits.burst, self._clock.monotonic_s()))
            state = DeviceState(device, tokens, refilled)
            state.metrics.update({series.metric: series.index for series in await self._storage.series_of(device.id)})
            state = self._states.setdefault(device.id, state)
            # What changed since it was read has passed the new state by.
            device = await self._registry.find(device.id) or device
        if device.version >= state.device.version:
            state.update(device)
        return state

    async def _current(self, device: str) -> Device | None:
        """A device as it is now: of one with a session it is known, since every change passes by."""
        state = self._states.get(device)
        return await self._registry.find(device) if state is None else state.device

    def _device_changed(self, device: Device) -> None:
        state = self._states.get(device.id)
        if state is not None:
            moved = state.device.gateway != device.gateway
            state.update(device)
            if moved:
                for sessions in self._sessions.values():
                    for session in sessions:
                        if session.identity != device.id:
                            session.subjects.pop(device.id, None)
        if device.lifecycle is Lifecycle.RETIRED:
            self.end_sessions(device.id, "device_retired")

    def end_sessions(self, device: str, code: str, certificate: str | None = None) -> None:
        """Ends the device's sessions on every protocol at once; those of one certificate only, where it is named.

        One that somebody has vouched for may be of that certificate: it ends too, and opens again if the device may.
        """
        for session in list(self._sessions.get(device, ())):
            if certificate is None or session.asserted or session.credential_key == certificate:
                session.end(code)

    def end_stale(self) -> None:
        """Ends the sessions whose certificate is past its dates or superseded by now; a revocation does not wait."""
        now = self._clock.now_ms()
        for sessions in list(self._sessions.values()):
            for session in list(sessions):
                if session.credential_key is None:
                    continue
                if self._security.is_refused(session.credential_key):
                    session.end("device_revoked")
                elif session.credential_until is not None and now > session.credential_until:
                    session.end("certificate_invalid")

    @property
    def sessions(self) -> int:
        """Open sessions."""
        return sum(len(sessions) for sessions in self._sessions.values())

    # --- the data path's questions -----------------------------------------------------------------------------

    async def subject(self, session: DeviceSession, subject: str) -> DeviceState | None:
        """The state of a subject that the session may speak for: a leaf whose gateway it is. None is audited."""
        device = await self._registry.find(subject)
        if device is None or session.identity not in (device.gateway, device.id):
            self._denials.note(
                session.identity, subject, "not_your_device", protocol=session.protocol, peer=session.peer
            )
            return None
        state = await self._state(device)
        session.subjects[subject] = state
        return state

    @property
    def last_seen(self) -> dict[str, int]:
        """When each device sent last, ms since the epoch; the data path writes it."""
        return self._presence.last

    def seen(self, state: DeviceState, now_ms: int) -> None:
        """A message of or about a device was accepted: presence, and the first one makes it active."""
        self._presence.last[state.device.id] = now_ms
        if state.fresh and state.device.id not in self._activating:
            self._activating.add(state.device.id)
            self._spawn(self._activate(state.device.id), f"activate {state.device.id}")

    def _both_seen(self, session: DeviceSession, subject: str) -> None:
        """Who speaks and, where it speaks for a leaf, the leaf."""
        now = self._clock.now_ms()
        for state in {session.identity: session.state, subject: session.subjects[subject]}.values():
            self.seen(state, now)

    async def _activate(self, device: str) -> None:
        try:
            await self._registry.activate(device)
        finally:
            self._activating.discard(device)

    # --- messages ----------------------------------------------------------------------------------------------

    def deliver(self, session: Session, message: Inbound, done: Callable[[Outcome], None]) -> bool:
        return self._path.deliver(session, message, done)

    async def ready(self) -> None:
        await self._path.ready()

    async def submit(self, session: Session, message: Inbound) -> Outcome:
        return await self._path.submit(session, message)

    async def control(self, message: Inbound) -> Outcome:
        """One uplink that is not telemetry; called by the data path, which has checked who speaks about whom."""
        body = read_body(message.payload, message.content_type, self._limits.json_depth)
        if isinstance(body, Rejected):
            return body
        subject = message.subject
        self._pending.pop(subject, None)
        match message.operation:
            case Operation.TWIN_REPORT:
                return await self._twins.report(subject, body, if_version=message.if_version)
            case Operation.TWIN_ACK:
                return await self._twins.acknowledge(subject, body)
            case Operation.COMMAND_RESULT:
                return await self._commands.result(subject, message.target or "", body)
            case Operation.FIRMWARE_STATUS:
                return await self._campaigns.status(subject, body)
            case Operation.LOCATION:
                return await self._locations.update(subject, body)
            case Operation.STATUS:
                return await self._status(subject, body)
        return Rejected(code="operation_unknown", reason=f"{message.operation} is no uplink")

    async def _status(self, subject: str, body: object) -> Outcome:
        if not isinstance(body, Mapping):
            return Rejected(code="schema_invalid", reason="A status is a JSON object")
        outcome, put = self._presence.tell(subject, body)
        if put is not None:
            await self._storage.commit(Commit(puts=(put,)))
        if isinstance(outcome, Accepted) and body.get("state") == "online":
            self._spawn(self._greet_subject(subject, None), f"greet {subject}")
        return outcome

    async def call(self, session: Session, message: Inbound) -> Reply:
        assert isinstance(session, DeviceSession)
        try:
            if message.operation in _UPLINKS:
                return self._reply(message, await self.submit(session, message))
            if session.state.blocked is not None:
                return self._refusal(Rejected(code=session.state.blocked, reason="The device may not speak"))
            if session.ended is not None:
                return self._refusal(Rejected(code="not_authenticated", reason="The session has ended"))
            if message.subject not in session.subjects and await self.subject(session, message.subject) is None:
                return self._refusal(
                    Rejected(code="not_your_device", reason="The identity may not speak for this device")
                )
            self._both_seen(session, message.subject)
            return await self._answer(session, message)
        except FleetError as error:
            retry = error.retry_after_s if isinstance(error, Unavailable) else None
            return self._refusal(Rejected(code=error.code, reason=str(error), retry_after_s=retry))
        except Exception:
            _log.exception("Answering %s failed", message.operation)
            return self._refusal(Rejected(code="internal", reason="The request could not be handled"))

    async def _answer(self, session: DeviceSession, message: Inbound) -> Reply:
        now = self._clock.now_ms()
        subject = message.subject
        match message.operation:
            case Operation.TWIN_GET:
                twin = await self._twins.get(subject)
                return Reply(body=twin_view(twin, now), etag=twin_etag(twin), version=twin.reported.version)
            case Operation.TIME:
                return self._tell_time(message)
            case Operation.INBOX:
                waiting = await self.wait(session, subject, "inbox")
                return Reply(status=200 if waiting else 204, body=waiting)
            case Operation.CA_GET:
                return self._ca()
        body = read_body(message.payload, message.content_type, self._limits.json_depth)
        if isinstance(body, Rejected):
            return self._refusal(body)
        if not isinstance(body, Mapping):
            return self._refusal(Rejected(code="schema_invalid", reason="The body is a JSON object"))
        match message.operation:
            case Operation.LEAF_REGISTER:
                leaf, kind = body.get("device", body.get("id")), body.get("type", "leaf")
                if not isinstance(leaf, str) or not isinstance(kind, str):
                    return self._refusal(
                        Rejected(code="schema_invalid", reason="device names the leaf", pointer="/device")
                    )
                device = await self._edge.register_leaf(session.identity, leaf, kind)
                return Reply(status=201, body={"device": device.id, "gateway": device.gateway})
            case Operation.CERTIFICATE_RENEW:
                csr = body.get("csr")
                if not isinstance(csr, str):
                    return self._refusal(Rejected(code="schema_invalid", reason="csr is PEM", pointer="/csr"))
                return await self._security.renew(session.identity, csr.encode(), current=session.credential_key)
        return self._refusal(Rejected(code="operation_unknown", reason=f"There is no operation {message.operation}"))

    def _ca(self) -> Reply:
        return Reply(body={"ca": self._security.ca_pem().decode()})

    def _tell_time(self, message: Inbound) -> Reply:
        now = self._clock.now_ms()
        body = read_body(message.payload, message.content_type, self._limits.json_depth)
        client = body.get("client") if isinstance(body, Mapping) else None
        sent = self._clock.now_ms()
        return Reply(
            body={
                "client": client,
                "received": format_time(now),
                "sent": format_time(sent),
                "received_ms": now,
                "sent_ms": sent,
            }
        )

    def _reply(self, message: Inbound, outcome: Outcome) -> Reply:
        if isinstance(outcome, Rejected):
            return self._refusal(outcome)
        if isinstance(outcome, Dropped):
            return Reply(status=204)
        if outcome.refused:
            return Reply(status=200, body=dict(_partial(outcome)))
        if outcome.late:
            return Reply(status=200, body={"late": True})
        return Reply(status=204, version=outcome.version if message.operation is Operation.TWIN_REPORT else None)

    def _refusal(self, rejected: Rejected) -> Reply:
        return Reply(status=CODES[rejected.code].http, error=self.problem(rejected), version=rejected.version)

    def problem(self, outcome: Outcome, **members: object) -> Mapping[str, object]:
        if isinstance(outcome, Accepted):
            first = outcome.refused[0].code if outcome.refused else "internal"
            body: dict[str, object] = {"code": first, "title": CODES[first].title, "status": 200, **_partial(outcome)}
            body["type"] = f"urn:fleetcore:error:{first}"
            return body | _given(members)
        if isinstance(outcome, Dropped):
            return {"code": "internal", "title": outcome.reason, "status": 200} | _given(members)
        code = CODES[outcome.code]
        body = {
            "type": f"urn:fleetcore:error:{outcome.code}",
            "title": code.title,
            "status": code.http,
            "code": outcome.code,
            "detail": outcome.reason,
        }
        if outcome.pointer:
            body["errors"] = [{"pointer": outcome.pointer, "code": outcome.code}]
        if outcome.refused:
            body["stored"] = 0
            body["rejected"] = [{"index": one.index, "metric": one.metric, "code": one.code} for one in outcome.refused]
        extra = {
            "limit": outcome.limit,
            "unit": outcome.unit,
            "scope": outcome.scope,
            "version": outcome.version,
            "retry_after_s": outcome.retry_after_s,
        }
        return body | _given(extra) | _given(members)

    # --- downlinks ---------------------------------------------------------------------------------------------

    def listen(self, session: Session, sink: Sink) -> None:
        assert isinstance(session, DeviceSession)
        if session.ended is not None:
            return
        self._listeners[session.identity][session] = sink
        self._spawn(self._greet(session, sink), f"greet {session.identity}")

    def carry(self, sink: Sink) -> Callable[[], None]:
        self._carriers.append(sink)

        def end() -> None:
            if sink in self._carriers:
                self._carriers.remove(sink)

        return end

    async def _greet(self, session: DeviceSession, sink: Sink) -> None:
        await self._greet_subject(session.identity, sink)
        for leaf in await self._registry.leaves(session.identity):
            await self._greet_subject(leaf.id, sink)

    async def _greet_subject(self, subject: str, sink: Sink | None) -> None:
        """Hands over all that is unfinished: desired state, commands, the offer."""
        device = await self._registry.find(subject)
        if device is None or device.lifecycle not in _SERVED:
            return
        sinks = [sink] if sink is not None else self._sinks(device)
        if not sinks:
            return
        twin = await self._twins.get(subject)
        downlinks = []
        if twin.desired.version:
            downlinks.append(Downlink(operation=Operation.TWIN_DESIRED, subject=subject, body=desired_change(twin)))
        downlinks += [self._downlink(one) for one in await self._commands.hand_out(subject, again=True)]
        offer = await self._campaigns.offer(subject)
        if offer is not None:
            downlinks.append(Downlink(operation=Operation.FIRMWARE, subject=subject, body=offer))
        for downlink in downlinks:
            self._hand(sinks, device, downlink)

    def _sinks(self, device: Device) -> list[Sink]:
        listeners = self._listeners.get(device.id) or (self._listeners.get(device.gateway) if device.gateway else None)
        return list(listeners.values()) if listeners else list(self._carriers)

    def _served(self, device: Device) -> list[Sink]:
        """The sinks of a device that is given anything; none for one that is not."""
        return self._sinks(device) if device.lifecycle in _SERVED else []

    def _push(self, device: Device, what: "Downlink | Command") -> None:
        sinks = self._served(device)
        if isinstance(what, Command):
            self._give(sinks, device, what)
        elif sinks:
            self._hand(sinks, device, what)

    def _give(self, sinks: list[Sink], device: Device, command: Command) -> None:
        """A command that is stored as handed out, to those who take it."""
        if not sinks:
            self._commands.not_taken(command)
        elif self._commands.may_be_given(command):
            self._hand(sinks, device, self._downlink(command))

    def _hand(self, sinks: list[Sink], device: Device, downlink: Downlink) -> None:
        if device.gateway is not None:
            downlink = evolve(downlink, gateway=device.gateway)
        for sink in sinks:
            try:
                sink(downlink)
            except Exception:
                _log.exception("An adapter failed to take a downlink for %s", downlink.subject)

    def _downlink(self, command: Command) -> Downlink:
        return Downlink(
            operation=Operation.COMMAND,
            subject=command.device,
            body=self._commands.wire(command),
            expires_ms=max(1, command.expires_at - self._clock.now_ms()),
        )

    def _desired_changed(self, device: str, notification: Mapping[str, object]) -> None:
        self._poke(device, Downlink(operation=Operation.TWIN_DESIRED, subject=device, body=notification))

    def _cancel_asked(self, command: Command) -> None:
        self._poke(
            command.device,
            Downlink(
                operation=Operation.COMMAND_CANCEL, subject=command.device, target=command.id, body={"id": command.id}
            ),
        )

    def _offer_withdrawn(self, device: str, execution: str) -> None:
        self._poke(
            device,
            Downlink(operation=Operation.FIRMWARE, subject=device, body={"offer": None, "cancel": execution}),
        )

    def _reaches(self, device: str) -> bool:
        """Whether what is handed out for a device now has a listener, and nothing that waits before it."""
        state = self._states.get(device)
        return state is not None and device not in self._dirty and bool(self._served(state.device))

    def _poke(self, device: str, what: "Downlink | Command | Operation") -> None:
        """Something changed for a device: wakes its long polls and pushes to whoever listens for it, in order.

        A command as ``what`` is stored as handed out; the operation asks for what is to be handed out.
        """
        self._pending.pop(device, None)
        for event in self._waiters.get(device, ()):
            event.set()
        if not self._listeners and not self._carriers:
            if isinstance(what, Command):
                self._commands.not_taken(what)
            return
        queue = self._dirty.get(device)
        if what is Operation.COMMAND and queue is None and self._commands.is_idle(device):
            return
        if queue is not None:
            if what not in queue:
                queue.append(what)
            return
        state = self._states.get(device)
        if state is not None and not isinstance(what, Operation):
            self._push(state.device, what)
            return
        self._dirty[device] = [what]
        self._spawn(self._pump(device), f"push {device}")

    async def _pump(self, subject: str) -> None:
        try:
            while queue := self._dirty[subject]:
                what = queue.pop(0)
                device = await self._current(subject)
                sinks = [] if device is None else self._served(device)
                if device is None or not sinks:
                    if isinstance(what, Command):
                        self._commands.not_taken(what)
                    continue
                if not isinstance(what, Operation):
                    self._push(device, what)
                elif what is Operation.COMMAND:
                    for command in await self._commands.hand_out(subject):
                        self._give(sinks, device, command)
                else:
                    offer = await self._campaigns.offer(subject)
                    if offer is not None:
                        self._hand(sinks, device, Downlink(operation=Operation.FIRMWARE, subject=subject, body=offer))
        finally:
            self._dirty.pop(subject, None)

    async def tick(self) -> None:
        """Ends commands that are past their time and hands out again what was not accepted; forgets full buckets."""
        if self._buckets:
            now_s, rate, burst = self._clock.monotonic_s(), self._limits.rate_per_s, self._limits.burst
            self._buckets = {
                device: (tokens, refilled)
                for device, (tokens, refilled) in self._buckets.items()
                if tokens + (now_s - refilled) * rate < burst
            }
        for device in await self._commands.tick():
            self._poke(device, Operation.COMMAND)

    def watch_revocations(self, revoked: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        return self._security.on_listed(revoked)

    async def wait(
        self, session: Session, subject: str, what: Awaited, *, after: int = 0, timeout_s: float = 0.0
    ) -> Mapping[str, object] | None:
        await self._check(session, subject)
        assert isinstance(session, DeviceSession)
        self._both_seen(session, subject)
        event = asyncio.Event()
        self._waiters[subject].add(event)
        try:
            async with asyncio.timeout(timeout_s if timeout_s > 0 else None):
                while True:
                    event.clear()
                    body = await self._waiting(subject, what, after)
                    if body is not None or timeout_s <= 0 or session.ended is not None:
                        return body
                    await event.wait()
        except TimeoutError:
            return None
        finally:
            self._waiters[subject].discard(event)
            if not self._waiters[subject]:
                del self._waiters[subject]

    async def _waiting(self, subject: str, what: Awaited, after: int) -> Mapping[str, object] | None:
        device = await self._registry.find(subject)
        if device is None or device.lifecycle not in _SERVED:
            return None
        if what == "desired":
            twin = await self._twins.get(subject)
            return desired_change(twin) if twin.desired.version > after else None
        if what == "commands":
            given = {one.id: one for one in await self._commands.hand_out(subject)}
            left = [one for one in await self._commands.snapshot(subject) if one.id not in given]
            shown = sorted((*given.values(), *left), key=lambda one: one.sequence)[:SNAPSHOT]
            if not shown:
                return None
            return {"commands": [self._commands.wire(one) for one in shown], "more": False}
        if what == "firmware":
            return await self._campaigns.offer(subject)
        desired = await self._waiting(subject, "desired", after)
        commands = await self._waiting(subject, "commands", after)
        firmware = await self._waiting(subject, "firmware", after)
        body = {"desired": desired, "commands": commands, "firmware": firmware}
        return {name: part for name, part in body.items() if part is not None} or None

    async def pending(self, session: Session, subject: str) -> Mapping[str, int]:
        assert isinstance(session, DeviceSession)
        if subject not in session.subjects:
            return {}
        known = self._pending.get(subject)
        if known is not None:
            return known
        counts: dict[str, int] = {}
        commands = await self._commands.snapshot(subject)
        if commands:
            counts["commands"] = len(commands)
        twin = await self._twins.get(subject)
        if twin.desired.version:
            counts["desired"] = twin.desired.version
        if await self._campaigns.open_execution(subject) is not None:
            counts["firmware"] = 1
        if len(self._pending) >= _PENDING_KEPT:
            self._pending.clear()
        self._pending[subject] = counts
        return counts

    async def _check(self, session: Session, subject: str) -> None:
        assert isinstance(session, DeviceSession)
        state = session.subjects.get(subject) or await self.subject(session, subject)
        if state is None:
            raise NotAuthorised("The identity may not speak for this device", code="not_your_device")
        blocked = session.state.blocked or state.blocked
        if blocked is not None:
            raise NotAuthorised("The device may not speak", code=blocked)

    # --- enrolment and artifacts -------------------------------------------------------------------------------

    async def enroll(self, request: EnrollRequest) -> Reply:
        try:
            return await self._security.enroll(request)
        except FleetError as error:
            retry = error.retry_after_s if isinstance(error, Unavailable) else None
            return self._refusal(Rejected(code=error.code, reason=str(error), retry_after_s=retry))
        except Exception:
            _log.exception("An enrolment failed")
            return self._refusal(Rejected(code="internal", reason="The enrolment could not be handled"))

    async def open_artifact(self, session: Session, subject: str, sha256: str) -> ArtifactReader:
        await self._check(session, subject)
        pair = await self._campaigns.open_execution(subject)
        info = await self._storage.artifact(sha256) if pair is not None and pair[0].sha256 == sha256 else None
        if info is None:
            raise NotFound("No open offer of this device has that artifact", code="artifact_unknown")
        return _Artifact(self._storage, info)

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(_logged(work, name), name=f"fleetcore {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Returns once what is under way is done: activations and pushes."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Ends every session and what is under way."""
        for device in list(self._sessions):
            for session in list(self._sessions.get(device, ())):
                session.end("closed")
        self._claimants.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Artifact(ArtifactReader):
    def __init__(self, storage: Storage, info: ArtifactInfo) -> None:
        self._storage, self._info = storage, info

    @property
    def sha256(self) -> str:
        return self._info.sha256

    @property
    def size_bytes(self) -> int:
        return self._info.size_bytes

    def read(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        return self._storage.read_artifact(self._info.sha256, start, end)


async def _logged(work: Coroutine[object, object, None], name: str) -> None:
    try:
        await work
    except FleetError as error:
        _log.warning("%s: %s", name, error)
    except Exception:
        _log.exception("%s failed", name)


def _partial(outcome: Accepted) -> dict[str, object]:
    return {
        "stored": outcome.stored,
        "rejected": [{"index": one.index, "metric": one.metric, "code": one.code} for one in outcome.refused],
    }


def _given(members: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}
