"""Sessions and rights: which device a connection belongs to, and about which devices it may send.

A credential opens a session. It ends with its connection, or when the device loses the right that the credential gave.
The data path gets from here, for every message, its state of a device.

All of it is local to this process: several nodes over one store would have separate sessions, and would have to tell
each other when a right ends.
"""

from collections import defaultdict
from collections.abc import Callable
from weakref import WeakValueDictionary

from fleetcore.errors import NotAuthenticated, NotAuthorised
from fleetcore.fleet.process_state.denials import Denials
from fleetcore.fleet.process_state.presence import PresenceBoard
from fleetcore.fleet.registry import GATEWAY, Registry
from fleetcore.fleet.security import SecurityManager
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.protocol import Session
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.credential import (
    AssertedCredential,
    CertificateCredential,
    Credential,
    KeyCredential,
    TokenCredential,
)
from fleetcore.model.device import Device, Lifecycle
from fleetcore.pipeline.admit import Directory
from fleetcore.pipeline.session import DeviceSession, DeviceState
from fleetcore.wire.shared_keys import key_of

#: The maximum length of a token id from a peer: a device id, a colon and 16 digits fit.
_MAX_LENGTH = 96


class Sessions(Directory):
    """Opens and ends sessions, and has the devices with open ones.

    Attributes:
        last_seen: when each device last sent, ms since the epoch; the data path updates it.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        clock: Clock,
        limits: Limits,
        registry: Registry,
        presence: PresenceBoard,
        security: SecurityManager,
        denials: Denials,
    ) -> None:
        self._storage, self._clock, self._limits = storage, clock, limits
        self._registry, self._presence = registry, presence
        self._security, self._denials = security, denials
        self._states: WeakValueDictionary[str, DeviceState] = WeakValueDictionary()
        #: Token buckets that were not full when the device's last session ended: a new connection does not refill them.
        self._buckets: dict[str, tuple[float, float]] = {}
        self._open: dict[str, set[DeviceSession]] = defaultdict(set)
        self._activating: set[str] = set()
        self._activate: Callable[[str], None] = lambda _device: None
        registry.on_change(self._device_changed)
        security.on_revoked(self.end)

    def on_first_message(self, activate: Callable[[str], None]) -> None:
        """Calls ``activate(device)`` at the first message of a device that is not active yet."""
        self._activate = activate

    @property
    def last_seen(self) -> dict[str, int]:
        return self._presence.last

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    async def open(
        self, credential: Credential, *, protocol: str, peer: str = "", lasting: bool = True
    ) -> DeviceSession:
        """See :meth:`fleetcore.interfaces.protocol.DevicePlane.authenticate`; a refusal is audited."""
        try:
            return await self._opened(credential, protocol, peer, lasting)
        except (NotAuthenticated, NotAuthorised) as error:
            device = error.ids.get("device", getattr(credential, "device", None))
            reason = error.ids.get("reason")
            code = error.code if reason is None else f"{error.code}: {reason}"
            self._denials.note(str(device or "unknown"), "session", code, protocol=protocol, peer=peer)
            raise

    async def _opened(self, credential: Credential, protocol: str, peer: str, lasting: bool) -> DeviceSession:
        key: str | None = None
        until: int | None = None
        if isinstance(credential, CertificateCredential):
            identity = await self._security.identity(credential.der)
            device_id, key, until = identity.device, identity.certificate, identity.not_after
        elif isinstance(credential, TokenCredential):
            record = await self._security.verify_token(credential.token)
            device_id, until = record.device, record.expires
            if credential.device is not None and credential.device != device_id:
                raise NotAuthenticated("The token belongs to another device than the user name")
        elif isinstance(credential, KeyCredential):
            record = await self._security.token_of(credential.token_id)
            device_id, until = record.device, record.expires
        else:
            device_id = credential.device
        device = await self._registry.find(device_id)
        if device is None:
            raise NotAuthorised(f"Device {device_id!r} is not registered", code="device_unknown", device=device_id)
        if device.lifecycle is Lifecycle.RETIRED:
            raise NotAuthorised(f"Device {device_id!r} is retired", code="device_retired", device=device_id)
        state = await self._state(device)
        # It may have lost its right since it was read. Nothing else runs between this and the session.
        if isinstance(credential, TokenCredential):
            await self._security.verify_token(credential.token)
        elif isinstance(credential, KeyCredential):
            await self._security.token_of(credential.token_id)
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
        self._open[device_id].add(session)
        session.on_end(lambda _code: self._forget(session))
        return session

    async def shared_key(self, token_id: str, *, protocol: str, peer: str) -> bytes | None:
        """See :meth:`fleetcore.interfaces.protocol.DevicePlane.shared_key`; an unknown token is audited."""
        try:
            record = await self._security.token_of(token_id)
        except NotAuthenticated as error:
            # The id names the device that tries; it is not secret.
            self._denials.note(
                "unknown", "session", error.code, protocol=protocol, peer=peer, token=token_id[:_MAX_LENGTH]
            )
            return None
        return key_of(record.sha256)

    def key_refused(self, token_id: str, *, protocol: str, peer: str) -> None:
        """See :meth:`fleetcore.interfaces.protocol.DevicePlane.key_refused`."""
        named = {"token": token_id} if token_id else {}
        self._denials.note(
            "unknown", "session", "not_authenticated: not the key of the token", protocol=protocol, peer=peer, **named
        )

    def _forget(self, session: DeviceSession) -> None:
        device = session.identity
        self._open[device].discard(session)
        if not self._open[device]:
            del self._open[device]
            if session.state.tokens < self._limits.burst:
                self._buckets[device] = session.state.tokens, session.state.refilled

    async def _state(self, device: Device) -> DeviceState:
        state = self._states.get(device.id)
        if state is None:
            tokens, refilled = self._buckets.pop(device.id, (self._limits.burst, self._clock.monotonic_s()))
            state = DeviceState(device, tokens, refilled)
            state.metrics.update({series.metric: series.index for series in await self._storage.series_of(device.id)})
            state = self._states.setdefault(device.id, state)
            # A change since it was read has not reached the new state.
            device = await self._registry.find(device.id) or device
        if device.version >= state.device.version:
            state.update(device)
        return state

    def known(self, device: str) -> Device | None:
        """The present record of a device, if it has a session: every change is reported here."""
        state = self._states.get(device)
        return None if state is None else state.device

    async def current(self, device: str) -> Device | None:
        """The present record of a device, or None."""
        return self.known(device) or await self._registry.find(device)

    def _device_changed(self, device: Device) -> None:
        state = self._states.get(device.id)
        if state is not None:
            moved = state.device.gateway != device.gateway
            state.update(device)
            if moved:
                self._forget_subjects({device.id})
        if GATEWAY in device.attributes:
            self._forget_subjects(None)  # it may have moved, with all devices below it
        if device.lifecycle is Lifecycle.RETIRED:
            self.end(device.id, "device_retired")

    def _forget_subjects(self, devices: set[str] | None) -> None:
        """Sessions of other devices look up again whether they may speak for these; None: for any."""
        for sessions in self._open.values():
            for session in sessions:
                for subject in session.subjects.keys() - {session.identity}:
                    if devices is None or subject in devices:
                        del session.subjects[subject]

    def end(self, device: str, code: str, certificate: str | None = None) -> None:
        """Ends the device's sessions on every protocol at once; only those of one certificate, if it is given.

        A session that a broker has vouched for may use that certificate: it ends too, and opens again if the device
        may.
        """
        for session in list(self._open.get(device, ())):
            if certificate is None or session.asserted or session.credential_key == certificate:
                session.end(code)

    def end_stale(self) -> None:
        """Ends sessions whose certificate or token has expired or was superseded; revocation ends them at once."""
        now = self._clock.now_ms()
        for sessions in list(self._open.values()):
            for session in list(sessions):
                key, until = session.credential_key, session.credential_until
                if key is not None and self._security.is_refused(key):
                    session.end("device_revoked")
                elif until is not None and now > until:
                    session.end("not_authenticated" if key is None else "certificate_invalid")

    def close(self) -> None:
        """Ends every session."""
        for device in list(self._open):
            self.end(device, "closed")

    async def subject(self, session: DeviceSession, subject: str) -> DeviceState | None:
        device = await self._registry.find(subject)
        if device is None or not await self._may_speak(session.identity, device):
            self._denials.note(
                session.identity, subject, "not_your_device", protocol=session.protocol, peer=session.peer
            )
            return None
        state = await self._state(device)
        session.subjects[subject] = state
        return state

    async def _may_speak(self, identity: str, device: Device) -> bool:
        """Whether an identity is a device, or a gateway above it."""
        if identity in (device.id, device.gateway):
            return True
        return any(gateway.id == identity for gateway in await self._registry.path(device))

    async def check(self, session: Session, subject: str) -> DeviceSession:
        """The session, if it may send about a device now; raises NotAuthorised."""
        assert isinstance(session, DeviceSession)
        if session.state.blocked is not None:
            raise NotAuthorised("The device may not send in this state", code=session.state.blocked)
        state = session.subjects.get(subject) or await self.subject(session, subject)
        if state is None:
            raise NotAuthorised("The identity may not send messages about this device", code="not_your_device")
        if state.blocked is not None:
            raise NotAuthorised("The device may not send in this state", code=state.blocked)
        return session

    def seen(self, state: DeviceState, now_ms: int) -> None:
        self._presence.last[state.device.id] = now_ms
        if state.fresh and state.device.id not in self._activating:
            self._activating.add(state.device.id)
            self._activate(state.device.id)

    def activated(self, device: str) -> None:
        """Called when the activation of a device has ended, either way."""
        self._activating.discard(device)

    def both_seen(self, session: DeviceSession, subject: str) -> None:
        """Notes that the identity has sent and, for a leaf, the leaf too."""
        now = self._clock.now_ms()
        for state in {session.identity: session.state, subject: session.subjects[subject]}.values():
            self.seen(state, now)

    def forget_full_buckets(self) -> None:
        """Forgets token buckets that have become full."""
        if self._buckets:
            now_s, rate, burst = self._clock.monotonic_s(), self._limits.rate_per_s, self._limits.burst
            self._buckets = {
                device: (tokens, refilled)
                for device, (tokens, refilled) in self._buckets.items()
                if tokens + (now_s - refilled) * rate < burst
            }
