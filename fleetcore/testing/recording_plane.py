"""A device plane that records: what a protocol's tests stand their adapter on, without a fleet behind it.

It implements all of :class:`~fleetcore.interfaces.protocol.DevicePlane` and decides as the real one does who may speak
about whom. What it does not do is keep anything: a committed message is an entry of ``received``. Levers say when it
commits, what it refuses and what waits for a device.
"""

import asyncio
import base64
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

from attrs import frozen

from fleetcore.errors import NotAuthenticated, NotAuthorised, NotFound
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import ArtifactReader, DevicePlane, EnrollRequest, Session
from fleetcore.model.credential import CertificateCredential, Credential, TokenCredential
from fleetcore.model.message import Accepted, Direction, Downlink, Inbound, MessageType, Outcome, Rejected, Reply
from fleetcore.wire import messages
from fleetcore.wire.replies import refusal, reply_to
from fleetcore.wire.strict_json import loads

Sink = Callable[[Downlink], None]

#: 2026-01-01T00:00:00Z, the plane's time.
NOW_MS = 1_767_225_600_000
_PIECE_BYTES = 1000


@frozen
class Received:
    """A committed message and who sent it."""

    identity: str
    message: Inbound


class RecordingSession(Session):
    """A session that a test can end."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._ended: str | None = None
        self._callbacks: list[Callable[[str], None]] = []

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def ended(self) -> str | None:
        return self._ended

    def on_end(self, callback: Callable[[str], None]) -> None:
        if self._ended is None:
            self._callbacks.append(callback)
        else:
            callback(self._ended)

    def close(self) -> None:
        self.end("closed")

    def end(self, code: str) -> None:
        """The device has lost its rights, for the reason ``code``."""
        if self._ended is None:
            self._ended = code
            for callback in self._callbacks:
                callback(code)


class RecordedArtifact(ArtifactReader):
    """An artifact in memory, read in small pieces."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._content).hexdigest()

    @property
    def size_bytes(self) -> int:
        return len(self._content)

    async def read(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        stop = len(self._content) if end is None else end
        for at in range(start, stop, _PIECE_BYTES):
            yield self._content[at : min(at + _PIECE_BYTES, stop)]


class RecordingPlane(DevicePlane, Ingest):
    """Devices, their leaves, and everything that comes from them.

    Attributes:
        received: what was committed, in order.
        refusals: what the adapter refused by itself: identity, message, refusal.
        outcome: what every message ends with from now on; None accepts.
        waiting: messages that wait for :meth:`commit` after :meth:`hold`.
        sessions: those that are open.
        enrollments: requests, each answered with ``enroll_reply``.
    """

    def __init__(self, devices: Iterable[str] = ("dev1", "dev2"), leaves: Mapping[str, str] | None = None) -> None:
        self.devices = set(devices)
        self.leaves = dict({"leaf1": "dev1", "leaf2": "dev2"} if leaves is None else leaves)
        self.received: list[Received] = []
        self.outcome: Outcome | None = None
        self.refusals: list[tuple[str, Inbound, Rejected]] = []
        self.waiting: list[tuple[Inbound, Callable[[], None]]] = []
        self.sessions: list[RecordingSession] = []
        self.enrollments: list[EnrollRequest] = []
        self.enroll_reply = Reply(status=201, body={"device": "dev3", "certificate": "PEM"})
        self.artifacts: dict[str, RecordedArtifact] = {}
        self._revoked: dict[str, str] = {}
        self._holding = False
        self._desired: dict[str, Mapping[str, object]] = {}
        self._commands: dict[str, list[Mapping[str, object]]] = defaultdict(list)
        self._offers: dict[str, Mapping[str, object]] = {}
        self._listeners: dict[RecordingSession, Sink] = {}
        self._carriers: list[Sink] = []
        self._changed = asyncio.Event()

    # levers

    @staticmethod
    def token(device: str) -> str:
        """The device token by which ``device`` is known; the form is WIRE.md's, the secret is no secret."""
        secret = base64.urlsafe_b64encode(hashlib.sha256(device.encode()).digest()).rstrip(b"=").decode()
        return f"fc_dev_{device}_{secret}"

    def hold(self) -> None:
        """Keeps messages uncommitted until :meth:`commit`."""
        self._holding = True

    def commit(self) -> None:
        """Commits what waits, and everything after it at once."""
        self._holding = False
        waiting, self.waiting = self.waiting, []
        for _, finish in waiting:
            finish()

    def revoke(self, device: str, code: str = "device_revoked") -> None:
        """Takes the device's rights and ends its sessions."""
        self._revoked[device] = code
        for session in [one for one in self.sessions if one.identity == device]:
            session.end(code)

    def desire(self, device: str, version: int, patch: Mapping[str, object]) -> Mapping[str, object]:
        """The desired state changes; returns the body that goes out."""
        body = {"version": version, "since": 0, "patch": dict(patch), "time": "2026-01-01T00:00:00.000Z"}
        self._desired[device] = body
        self._push(Downlink(type=messages.TWIN_DESIRED, subject=device, body=body))
        return body

    def command(self, device: str, body: Mapping[str, object]) -> None:
        """A command waits until it is cancelled; ``body`` is as WIRE.md §6 has it."""
        self._commands[device].append(body)
        self._push(Downlink(type=messages.COMMAND, subject=device, body=body))

    def cancel(self, device: str, command: str) -> None:
        """Asks for a command's cancellation."""
        waiting = self._commands[device]
        waiting[:] = [{**one, "cancel": True} if one["id"] == command else one for one in waiting]
        body = {"id": command}
        self._push(Downlink(type=messages.COMMAND_CANCEL, subject=device, body=body, target=command))

    def offer(self, device: str, body: Mapping[str, object]) -> None:
        """A firmware offer, or its withdrawal."""
        self._offers[device] = body
        self._push(Downlink(type=messages.FIRMWARE, subject=device, body=body))

    def put_artifact(self, content: bytes) -> str:
        """Makes an artifact that every device may download; returns its SHA-256."""
        artifact = RecordedArtifact(content)
        self.artifacts[artifact.sha256] = artifact
        return artifact.sha256

    def _push(self, downlink: Downlink) -> None:
        speakers = {downlink.subject, self.leaves.get(downlink.subject)}
        sinks = [sink for session, sink in self._listeners.items() if session.identity in speakers]
        for sink in sinks or self._carriers:
            sink(downlink)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # who it is

    async def authenticate(
        self,
        credential: Credential,
        *,
        protocol: str,
        peer: str = "",
        lasting: bool = True,  # noqa: ARG002 - presence is not recorded
    ) -> RecordingSession:
        del protocol, peer
        if isinstance(credential, CertificateCredential):
            device = _named(credential.der)
        elif isinstance(credential, TokenCredential):
            known = {self.token(one): one for one in self.devices}
            device = known.get(credential.token, "")
            if not device or credential.device not in {None, device}:
                raise NotAuthenticated("The token is unknown or another device's")
        else:
            device = credential.device
        if device not in self.devices:
            raise NotAuthorised(f"Device {device!r} is not registered", code="device_unknown")
        if device in self._revoked:
            raise NotAuthorised(f"Device {device!r} has lost its rights", code=self._revoked[device])
        session = RecordingSession(device)
        self.sessions.append(session)
        session.on_end(lambda _code: self._forget(session))
        return session

    def _forget(self, session: RecordingSession) -> None:
        self.sessions.remove(session)
        self._listeners.pop(session, None)

    def _may(self, session: Session, subject: str) -> bool:
        return session.identity in {subject, self.leaves.get(subject)}

    # messages

    def deliver(self, session: Session, message: Inbound, done: Callable[[Outcome], None]) -> bool:
        loop = asyncio.get_running_loop()

        def finish() -> None:
            outcome = self._judge(session, message)
            if isinstance(outcome, Accepted):
                self.received.append(Received(session.identity, message))
            loop.call_soon(done, outcome)

        if self._holding:
            self.waiting.append((message, finish))
        else:
            finish()
        return True

    def _judge(self, session: Session, message: Inbound) -> Outcome:
        if not self._may(session, message.subject):
            return Rejected(code="not_your_device", reason="The identity may not speak for this device")
        return Accepted(stored=1) if self.outcome is None else self.outcome

    async def ready(self) -> None:
        """It always is."""

    async def submit(self, session: Session, message: Inbound) -> Outcome:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.deliver(session, message, lambda one: None if outcome.done() else outcome.set_result(one))
        return await outcome

    async def call(self, session: Session, message: Inbound) -> Reply:
        if message.type.direction is Direction.UP:
            return reply_to(await self.submit(session, message))
        if not self._may(session, message.subject):
            return refusal(Rejected(code="not_your_device", reason="The identity may not speak for this device"))
        return await self._answer(session, message)

    async def _answer(self, session: Session, message: Inbound) -> Reply:
        body = loads(message.payload) if message.payload else {}
        members = body if isinstance(body, Mapping) else {}
        match message.type:
            case messages.TWIN_GET:
                desired = self._desired.get(message.subject, {"version": 0, "patch": {}})
                twin = {
                    "desired": desired["patch"],
                    "desired_version": desired["version"],
                    "reported": {"subject": message.subject},
                    "reported_version": 40,
                }
                return Reply(body=twin, etag=f"d{desired['version']}.r40", version=40)
            case messages.TIME:
                return Reply(body={"client": members.get("client"), "received_ms": NOW_MS, "sent_ms": NOW_MS})
            case messages.INBOX:
                waiting = await self.wait(session, message.subject, messages.INBOX)
                return Reply(status=200 if waiting else 204, body=waiting)
            case messages.LEAF_REGISTER:
                leaf = str(members.get("device"))
                self.leaves[leaf] = session.identity
                return Reply(status=201, body={"device": leaf, "gateway": session.identity})
        return Reply(body={"ca": "PEM"} if message.type is messages.CA_GET else {"certificate": "PEM"})

    def refused(self, session: Session, message: Inbound, rejected: Rejected) -> None:
        self.refusals.append((session.identity, message, rejected))

    # what waits

    def listen(self, session: Session, sink: Sink) -> None:
        assert isinstance(session, RecordingSession)
        if session.ended is not None:
            return
        self._listeners[session] = sink
        own = session.identity
        for subject in (own, *(leaf for leaf, gateway in self.leaves.items() if gateway == own)):
            for downlink in self._unfinished(subject):
                sink(downlink)

    def _unfinished(self, subject: str) -> Sequence[Downlink]:
        found = []
        if subject in self._desired:
            found.append(Downlink(type=messages.TWIN_DESIRED, subject=subject, body=self._desired[subject]))
        found += [Downlink(type=messages.COMMAND, subject=subject, body=one) for one in self._commands.get(subject, ())]
        if subject in self._offers:
            found.append(Downlink(type=messages.FIRMWARE, subject=subject, body=self._offers[subject]))
        return found

    def carry(self, sink: Sink) -> Callable[[], None]:
        self._carriers.append(sink)
        return lambda: self._carriers.remove(sink)

    async def wait(
        self, session: Session, subject: str, what: MessageType, *, after: int = 0, timeout_s: float = 0.0
    ) -> Mapping[str, object] | None:
        if not self._may(session, subject):
            raise NotAuthorised("The identity may not speak for this device", code="not_your_device")
        if timeout_s <= 0:
            return self._waits(subject, what, after)
        try:
            async with asyncio.timeout(timeout_s):
                while (body := self._waits(subject, what, after)) is None:
                    await self._changed.wait()
                return body
        except TimeoutError:
            return None

    def _waits(self, subject: str, what: MessageType, after: int) -> Mapping[str, object] | None:
        if what is messages.TWIN_DESIRED:
            body = self._desired.get(subject)
            version = body["version"] if body is not None else 0
            return body if isinstance(version, int) and version > after else None
        if what is messages.COMMAND:
            commands = self._commands.get(subject)
            return {"commands": list(commands), "more": False} if commands else None
        if what is messages.FIRMWARE:
            return self._offers.get(subject)
        rows = (messages.TWIN_DESIRED, messages.COMMAND, messages.FIRMWARE)
        found = {row.waits: self._waits(subject, row, after) for row in rows}
        return {name: body for name, body in found.items() if body is not None} or None

    async def pending(self, session: Session, subject: str) -> Mapping[str, int]:
        del session
        counts = {"commands": len(self._commands.get(subject, ())), "firmware": int(subject in self._offers)}
        version = self._desired.get(subject, {}).get("version")
        if isinstance(version, int):
            counts["desired"] = version
        return {name: count for name, count in counts.items() if count}

    # enrolment and artifacts

    async def enroll(self, request: EnrollRequest) -> Reply:
        self.enrollments.append(request)
        return self.enroll_reply

    async def open_artifact(self, session: Session, subject: str, sha256: str) -> ArtifactReader:
        if not self._may(session, subject):
            raise NotAuthorised("The identity may not speak for this device", code="not_your_device")
        if sha256 not in self.artifacts:
            raise NotFound("No open offer names this artifact", code="artifact_unknown")
        return self.artifacts[sha256]


def _named(der: bytes) -> str:
    """The device that a certificate names by its SAN URI."""
    from cryptography import x509  # slow to import, and a plane with tokens alone does without

    certificate = x509.load_der_x509_certificate(der)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0].rpartition(":")[2]
