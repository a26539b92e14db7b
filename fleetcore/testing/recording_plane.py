"""A device plane that records, for tests of a protocol's adapter without a fleet.

It implements all of :class:`~fleetcore.interfaces.protocol.DevicePlane` and, for messages to be committed, of
:class:`~fleetcore.interfaces.ingest.Ingest`, and decides like the real ones: which device may send about which, what is
too long, which connection gets waiting items. Bodies are otherwise checked by the capabilities of a fleet: here only a
twin report, a leaf and the time are read. It stores nothing: a committed message is an entry of ``received``. Tests
control when it commits, what it refuses, when it is full and what waits for a device.
"""

import asyncio
import base64
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve

from fleetcore.errors import NotAuthenticated, NotAuthorised, NotFound, Refused
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import ArtifactReader, DevicePlane, EnrollRequest, Session, Sink
from fleetcore.interfaces.provider import Limits
from fleetcore.model.credential import DEVICE_TOKEN, CertificateCredential, Credential, KeyCredential, TokenCredential
from fleetcore.model.message import Accepted, Direction, Downlink, Inbound, MessageType, Outcome, Rejected, Reply
from fleetcore.testing.recorded import (
    Authentication,
    Denial,
    Received,
    RecordedArtifact,
    RecordingClaim,
    RecordingSession,
    Refusal,
)
from fleetcore.wire import messages
from fleetcore.wire.bodies import read_body
from fleetcore.wire.replies import refusal, reply_to
from fleetcore.wire.shared_keys import shared_key

#: The outcome of a message, or None for the usual one.
Judge = Callable[[str, Inbound], Outcome | None]

#: 2026-01-01T00:00:00Z, the plane's time.
NOW_MS = 1_767_225_600_000
#: The version of every reported section before a report.
REPORTED_VERSION = 40

_NOTHING_DESIRED: Mapping[str, object] = {"version": 0, "patch": {}}
_OVERLOADED = Rejected(code="overloaded", reason="The receive queue is full", scope="server", retry_after_s=1.0)
_FOREIGN = Rejected(code="not_your_device", reason="The identity may not send messages about this device")
_SUSPENDED = Rejected(code="device_suspended", reason="The device may not send in this state")


class RecordingPlane(DevicePlane, Ingest):
    """Devices, their leaves, and all their messages; also the way into the data path.

    Args:
        devices: the registered ones.
        leaves: leaf → its gateway.
        limits: ``message_bytes`` limits a message, ``queue_messages`` the messages that wait for :meth:`commit`.

    Attributes:
        arrived: every submitted message, whatever its outcome, in order.
        received: committed messages, in order.
        calls: the messages of :meth:`call`, in order.
        refusals: messages refused by the adapter itself, in order.
        judge, outcomes, outcome: the outcome of a message: from the function; else the next of the list; else the one
            outcome; else it is accepted.
        failure: the error that every message raises: a broken plane.
        waiting: messages that wait for :meth:`commit` after :meth:`hold`.
        authentications: the credentials, in order.
        sessions: open sessions of devices. ``opened`` are all that were ever open.
        claims: open sessions with claim certificates.
        denials: refusals, as a server audits them.
        polls: how many calls of :meth:`wait` are waiting.
        pending_asked: the subjects passed to :meth:`pending`, in order.
        enrollments: requests, each answered with ``enroll_reply``.
        ca_pem: the answer to ``ca.get``.
    """

    def __init__(
        self,
        devices: Iterable[str] = ("dev1", "dev2"),
        leaves: Mapping[str, str] | None = None,
        *,
        limits: Limits | None = None,
    ) -> None:
        self.leaves = dict({"leaf1": "dev1", "leaf2": "dev2"} if leaves is None else leaves)
        self.devices = {*devices, *self.leaves}
        self.limits = Limits() if limits is None else limits
        self.arrived: list[Received] = []
        self.received: list[Received] = []
        self.calls: list[Received] = []
        self.refusals: list[Refusal] = []
        self.judge: Judge | None = None
        self.outcomes: list[Outcome] = []
        self.outcome: Outcome | None = None
        self.failure: Exception | None = None
        self.waiting: list[tuple[Received, Callable[[], None]]] = []
        self.authentications: list[Authentication] = []
        self.sessions: list[RecordingSession] = []
        self.opened: list[RecordingSession] = []
        self.claims: list[RecordingClaim] = []
        self.denials: list[Denial] = []
        self.polls = 0
        self.pending_asked: list[str] = []
        self.enrollments: list[EnrollRequest] = []
        self.enroll_reply = Reply(status=201, body={"device": "dev3", "certificate": "PEM"})
        self.ca_pem = "PEM"
        self.artifacts: dict[str, RecordedArtifact] = {}
        #: Downloads: subject and digest.
        self.downloads: list[tuple[str, str]] = []
        self._revoked: dict[str, str] = {}
        self._suspended: set[str] = set()
        self._holding = self._filled = False
        self._room, self._authenticating, self._answering = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for gate in (self._room, self._authenticating, self._answering):
            gate.set()
        self._desired: dict[str, Mapping[str, object]] = {}
        self._reported: dict[str, tuple[int, Mapping[str, object]]] = {}
        self._commands: dict[str, list[Mapping[str, object]]] = defaultdict(list)
        self._offers: dict[str, Mapping[str, object]] = {}
        self._listeners: dict[RecordingSession, Sink] = {}
        self._carriers: list[Sink] = []
        self._changed = asyncio.Event()
        self._claim_batches: dict[bytes, str] = {}
        self._disabled_batches: set[str] = set()
        self._revocation_watchers: list[Callable[[frozenset[str]], None]] = []

    # what came

    @property
    def messages(self) -> list[Inbound]:
        """The committed messages, without their senders."""
        return [message for _, message in self.received]

    @property
    def bodies(self) -> list[bytes]:
        """The committed payloads."""
        return [message.payload for _, message in self.received]

    @property
    def listening(self) -> list[str]:
        """The identities that listen for downlinks."""
        return [session.identity for session in self._listeners]

    def reported(self, device: str) -> Mapping[str, object]:
        """The current reported section."""
        return self._section(device)[1]

    # levers: messages

    def hold(self) -> None:
        """Keeps messages uncommitted until :meth:`commit`."""
        self._holding = True

    def commit(self) -> None:
        """Commits the waiting messages, and all later ones at once."""
        self._holding = False
        waiting, self.waiting = self.waiting, []
        for _, finish in waiting:
            finish()
        if not self._filled:
            self._room.set()

    def lose(self) -> list[tuple[Received, Callable[[], None]]]:
        """Drops the waiting messages, like a server that is killed before it commits.

        Returns them, and a function that commits them nevertheless: a late answer.
        """
        waiting, self.waiting = self.waiting, []
        return waiting

    def fill(self) -> None:
        """Applies back-pressure: messages are accepted, and adapters are asked not to read until :meth:`make_room`."""
        self._filled = True

    def make_room(self) -> None:
        """Lets adapters continue reading."""
        self._filled = False
        self._room.set()

    def hold_calls(self) -> None:
        """Answers no call until :meth:`answer_calls`."""
        self._answering.clear()

    def answer_calls(self) -> None:
        """Answers the waiting calls, and later ones."""
        self._answering.set()

    # controls: rights

    @staticmethod
    def token(device: str) -> str:
        """The device token of ``device``; its secret is public."""
        secret = base64.urlsafe_b64encode(hashlib.sha256(device.encode()).digest()).rstrip(b"=").decode()
        return f"{DEVICE_TOKEN}{device}_{secret}"

    def hold_authentication(self) -> None:
        """Neither admits nor refuses any device, until :meth:`let_in`."""
        self._authenticating.clear()

    def let_in(self) -> None:
        """Decides about the waiting devices, and later ones."""
        self._authenticating.set()

    def revoke(self, device: str, code: str = "device_revoked") -> None:
        """Revokes the device's rights, ends its sessions, and notifies the watchers of revocations."""
        self._revoked[device] = code
        for session in [session for session in self.sessions if session.identity == device]:
            session.end(code)
        self._list_revoked(frozenset({device}))

    def register_again(self, device: str) -> None:
        """Registers a new device under the name of a revoked one; nothing waits for it."""
        del self._revoked[device]
        self._commands.pop(device, None)

    def renew_revocations(self) -> None:
        """Writes the revocation list again, without a new entry."""
        self._list_revoked(frozenset())

    def _list_revoked(self, devices: frozenset[str]) -> None:
        for watcher in tuple(self._revocation_watchers):
            watcher(devices)

    def suspend(self, device: str) -> None:
        """Refuses the device's messages; its sessions stay open."""
        self._suspended.add(device)

    def accept_claim(self, certificate: bytes, batch: str = "line-1") -> None:
        """Makes a certificate (DER) the claim certificate of a batch."""
        self._claim_batches[certificate] = batch

    def disable_claim(self, batch: str = "line-1") -> None:
        """Ends the sessions of a batch, and admits no more of them."""
        self._disabled_batches.add(batch)
        for claim in [claim for claim in self.claims if claim.batch == batch]:
            claim.end("not_authorised")

    # controls: items for a device

    def desire(self, device: str, version: int, patch: Mapping[str, object]) -> Mapping[str, object]:
        """Changes the desired state; returns the body of the downlink."""
        body = {"version": version, "since": 0, "patch": dict(patch), "time": "2026-01-01T00:00:00.000Z"}
        self._desired[device] = body
        self.push(Downlink(type=messages.TWIN_DESIRED, subject=device, body=body))
        return body

    def report(self, device: str, version: int, body: Mapping[str, object]) -> None:
        """Sets the reported section."""
        self._reported[device] = version, body

    def command(self, device: str, body: Mapping[str, object]) -> None:
        """Adds a waiting command; one with the same id is replaced. ``body``: docs/reference/wire.md §7.2."""
        waiting = self._commands[device]
        waiting[:] = [*(known for known in waiting if known["id"] != body["id"]), body]
        self.push(self._command_downlink(device, body))

    def cancel(self, device: str, command: str) -> None:
        """Asks for a command's cancellation."""
        waiting = self._commands[device]
        waiting[:] = [{**known, "cancel": True} if known["id"] == command else known for known in waiting]
        body = {"id": command}
        self.push(Downlink(type=messages.COMMAND_CANCEL, subject=device, body=body, target=command))

    def offer(self, device: str, body: Mapping[str, object]) -> None:
        """Makes a firmware offer, or withdraws it."""
        self._offers[device] = body
        self.push(Downlink(type=messages.FIRMWARE, subject=device, body=body))

    def put_artifact(self, content: bytes, *, piece_bytes: int = 1000, breaks: int = 0, breaks_at: int = 0) -> str:
        """Adds an artifact that every device may download; returns its SHA-256.

        Args:
            piece_bytes: the size of the pieces in which it is read.
            breaks: how many reads fail with an OSError once they reach ``breaks_at``.
        """
        artifact = RecordedArtifact(content, piece_bytes=piece_bytes, breaks=breaks, breaks_at=breaks_at)
        self.artifacts[artifact.sha256] = artifact
        return artifact.sha256

    def push(self, downlink: Downlink) -> None:
        """Sends a downlink to the listeners of its subject, or to broker sinks; a later listener does not get it."""
        gateway = self.leaves.get(downlink.subject)
        if gateway is not None:
            downlink = evolve(downlink, gateway=gateway)
        if downlink.subject not in self._suspended:
            own = self._sinks(downlink.subject)
            for sink in own or (gateway and self._sinks(gateway)) or list(self._carriers):
                sink(downlink)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _sinks(self, identity: str) -> list[Sink]:
        return [sink for session, sink in self._listeners.items() if session.identity == identity]

    # authentication

    async def authenticate(
        self, credential: Credential, *, protocol: str, peer: str = "", lasting: bool = True
    ) -> RecordingSession:
        self.authentications.append(Authentication(credential, protocol, peer, lasting))
        await self._authenticating.wait()
        try:
            device = self._identity(credential)
        except Refused as error:
            self._deny(str(getattr(credential, "device", None) or "unknown"), "session", error.code, peer=peer)
            raise
        session = RecordingSession(device)
        self.opened.append(session)
        self.sessions.append(session)
        session.on_end(lambda _code: self._forget(session))
        return session

    def _identity(self, credential: Credential) -> str:
        if isinstance(credential, CertificateCredential):
            device = _named(credential.der)
        elif isinstance(credential, TokenCredential):
            known = {self.token(device): device for device in self.devices}
            device = known.get(credential.token, "")
            if not device or credential.device not in {None, device}:
                raise NotAuthenticated("The token is unknown or another device's")
        elif isinstance(credential, KeyCredential):
            device = self._token_ids().get(credential.token_id, "")
            if not device:
                raise NotAuthenticated("The device token is not valid")
        else:
            device = credential.device
        if device not in self.devices:
            raise NotAuthorised(f"Device {device!r} is not registered", code="device_unknown")
        if device in self._revoked:
            raise NotAuthorised(f"Device {device!r} has lost its rights", code=self._revoked[device])
        return device

    async def shared_key(self, token_id: str, *, protocol: str, peer: str = "") -> bytes | None:
        await self._authenticating.wait()
        device = self._token_ids().get(token_id)
        if device is None or device in self._revoked:
            self._deny("unknown", "session", "not_authenticated", peer=peer, protocol=protocol)
            return None
        return shared_key(device, self.token(device)).key

    def key_refused(self, token_id: str, *, protocol: str, peer: str = "") -> None:
        self._deny("unknown", "session", "not_authenticated", token=token_id, peer=peer, protocol=protocol)

    def _token_ids(self) -> dict[str, str]:
        return {shared_key(device, self.token(device)).token: device for device in self.devices}

    def _forget(self, session: RecordingSession) -> None:
        self.sessions.remove(session)
        self._listeners.pop(session, None)

    async def claim(self, certificate: bytes, *, protocol: str, peer: str = "") -> RecordingClaim | None:
        batch = self._claim_batches.get(certificate)
        if batch is None:
            return None
        claim = RecordingClaim(batch, self.denials.append, self._call_of_claim)
        if batch in self._disabled_batches:
            self._deny(claim.name, "session", "not_authorised", peer=peer, protocol=protocol)
            raise NotAuthorised("The claim certificate is disabled", batch=batch)
        self.claims.append(claim)
        claim.on_end(lambda _code: self.claims.remove(claim))
        return claim

    def _may(self, session: Session, subject: str) -> bool:
        if session.identity in {subject, self.leaves.get(subject)}:
            return True
        self._deny(session.identity, subject, "not_your_device")
        return False

    def _check(self, session: Session, subject: str) -> None:
        for device in (session.identity, subject):
            if device in self._suspended:
                raise NotAuthorised(_SUSPENDED.reason, code=_SUSPENDED.code)
            if not self._may(session, subject):
                raise NotAuthorised(_FOREIGN.reason, code=_FOREIGN.code)

    def _deny(self, who: str, what: str, code: str, **data: object) -> None:
        self.denials.append(Denial(who, what, code, data))

    # messages

    def deliver(self, session: Session, message: Inbound, done: Callable[[Outcome], None]) -> bool:
        loop, received, before = asyncio.get_running_loop(), Received(session.identity, message), len(self.waiting)
        self.arrived.append(received)
        if before >= self.limits.queue_messages:
            done(_OVERLOADED)
            return False

        def finish() -> None:
            outcome = self._judge(session, message)
            if not isinstance(outcome, Rejected):
                self.received.append(received)
            loop.call_soon(done, outcome)

        if self._holding:
            self.waiting.append((received, finish))
        else:
            finish()
        # As in the real queue: adapters stop at half of it, so that messages already under way still fit.
        if self._filled or (self._holding and before >= self.limits.queue_messages // 2):
            self._room.clear()
            return False
        return True

    def _judge(self, session: Session, message: Inbound) -> Outcome:
        if session.ended is not None and session.ended.startswith("device_"):
            return Rejected(code=session.ended, reason="The session has ended")
        if session.identity in self._suspended:
            return _SUSPENDED
        if len(message.payload) > self.limits.message_bytes:
            return Rejected(
                code="limit_exceeded",
                reason="The message is too long",
                limit=self.limits.message_bytes,
                unit="bytes",
                scope="message",
            )
        if not self._may(session, message.subject):
            return _FOREIGN
        if message.subject in self._suspended:
            return _SUSPENDED
        told = self.judge(session.identity, message) if self.judge is not None else None
        if told is None:
            told = self.outcomes.pop(0) if self.outcomes else self.outcome
        if told is not None:
            return told
        if message.type is messages.TWIN_REPORT:
            return self._take_report(message)
        return Accepted(stored=1 if message.type is messages.TELEMETRY else 0)

    def _take_report(self, message: Inbound) -> Outcome:
        version, section = self._section(message.subject)
        if message.if_version is not None and message.if_version != version:
            return Rejected(code="version_conflict", reason="The section has another version", version=version)
        body = self._body(message)
        if isinstance(body, Rejected):
            return body
        self._reported[message.subject] = version + 1, {**section, **body}
        return Accepted(version=version + 1, etag=self._etag(message.subject))

    def _body(self, message: Inbound) -> Any:
        """The body by the message's row, or Rejected."""
        return read_body(message.type, message.payload, message.content_type, self.limits.json_depth)

    def _etag(self, subject: str) -> str:
        desired = self._desired.get(subject, _NOTHING_DESIRED)
        return f"d{desired['version']}.r{self._section(subject)[0]}"

    def _section(self, subject: str) -> tuple[int, Mapping[str, object]]:
        return self._reported.get(subject, (REPORTED_VERSION, {"subject": subject}))

    async def ready(self) -> None:
        await self._room.wait()

    async def submit(self, session: Session, message: Inbound) -> Outcome:
        if self.failure is not None:
            raise self.failure
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.deliver(session, message, lambda found: None if outcome.done() else outcome.set_result(found))
        return await outcome

    async def call(self, session: Session, message: Inbound) -> Reply:
        self.calls.append(Received(session.identity, message))
        await self._answering.wait()
        if message.type.direction is Direction.UP:
            return reply_to(await self.submit(session, message))
        self.arrived.append(Received(session.identity, message))
        if self.failure is not None:
            raise self.failure
        if session.identity in self._suspended:
            return refusal(_SUSPENDED)
        if session.ended is not None:
            return refusal(Rejected(code="not_authenticated", reason="The session has ended"))
        if not self._may(session, message.subject):
            return refusal(_FOREIGN)
        answer = self._answer(session, message)
        return refusal(answer) if isinstance(answer, Rejected) else answer

    def _answer(self, session: Session, message: Inbound) -> Reply | Rejected:
        match message.type:
            case messages.TWIN_GET:
                return self._twin(message.subject)
            case messages.TIME:
                body = self._body(message)
                return body if isinstance(body, Rejected) else _tell_time(body)
            case messages.INBOX:
                waiting = self._waits(message.subject, messages.INBOX, 0)
                return Reply(status=200 if waiting else 204, body=waiting)
            case messages.CA_GET:
                return Reply(body={"ca": self.ca_pem})
            case messages.LEAF_REGISTER:
                body = self._body(message)
                if isinstance(body, Rejected):
                    return body
                self.leaves[body.device] = session.identity
                return Reply(status=201, body={"device": body.device, "gateway": session.identity})
            case messages.LEAF_LIST:
                body = self._body(message)
                if isinstance(body, Rejected):
                    return body
                own = sorted(leaf for leaf, gateway in self.leaves.items() if gateway == session.identity)
                return Reply(
                    body={
                        "leaves": [{"device": leaf, "type": "leaf", "lifecycle": "active", "tags": []} for leaf in own],
                        "more": False,
                    }
                )
            case messages.CERTIFICATE_RENEW:
                return Reply(status=201, body={"certificate": "PEM"})
        return Rejected(code="operation_unknown", reason=f"Devices do not send {message.type.name}")

    def _twin(self, subject: str) -> Reply:
        desired = self._desired.get(subject, _NOTHING_DESIRED)
        version, reported = self._section(subject)
        body = {
            "desired": desired["patch"],
            "desired_version": desired["version"],
            "reported": reported,
            "reported_version": version,
        }
        return Reply(body=body, etag=self._etag(subject), version=version)

    async def _call_of_claim(self, claim: RecordingClaim, message: Inbound) -> Reply:
        self.calls.append(Received(claim.name, message))
        await self._answering.wait()
        if claim.ended is not None:
            return refusal(Rejected(code="not_authorised", reason="The claim certificate is disabled"))
        if message.type not in {messages.ENROLL, messages.CA_GET, messages.TIME}:
            claim.denied(message.type.name, "not_authorised")
            return refusal(Rejected(code="not_authorised", reason="A claim certificate can only enrol devices"))
        body = self._body(message)
        if isinstance(body, Rejected):
            return refusal(body)
        if message.type is messages.ENROLL:
            return await self.enroll(
                EnrollRequest(
                    csr=(body.csr or "").encode("ascii"),
                    ownership=body.ownership_token,
                    parameters=body.parameters or {},
                )
            )
        return Reply(body={"ca": self.ca_pem}) if message.type is messages.CA_GET else _tell_time(body)

    def refused(self, session: Session | None, message: Inbound, rejected: Rejected, *, protocol: str) -> None:
        del protocol
        self.refusals.append(Refusal("" if session is None else session.identity, message, rejected))

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
        if subject in self._suspended:
            return ()
        found = []
        if subject in self._desired:
            found.append(Downlink(type=messages.TWIN_DESIRED, subject=subject, body=self._desired[subject]))
        found += [self._command_downlink(subject, body) for body in self._commands.get(subject, ())]
        if subject in self._offers:
            found.append(Downlink(type=messages.FIRMWARE, subject=subject, body=self._offers[subject]))
        gateway = self.leaves.get(subject)
        return [evolve(downlink, gateway=gateway) for downlink in found]

    @staticmethod
    def _command_downlink(device: str, body: Mapping[str, object]) -> Downlink:
        expires_ms = body.get("expires_in_ms")
        return Downlink(
            type=messages.COMMAND,
            subject=device,
            body=body,
            expires_ms=expires_ms if isinstance(expires_ms, int) else None,
        )

    def add_broker_sink(self, sink: Sink) -> Callable[[], None]:
        self._carriers.append(sink)

        def end() -> None:
            if sink in self._carriers:
                self._carriers.remove(sink)

        return end

    def watch_revocations(self, revoked: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        self._revocation_watchers.append(revoked)

        return lambda: self._revocation_watchers.remove(revoked)

    async def wait(
        self, session: Session, subject: str, what: MessageType, *, after: int = 0, timeout_s: float = 0.0
    ) -> Mapping[str, object] | None:
        self._check(session, subject)
        if timeout_s <= 0:
            return self._waits(subject, what, after)
        self.polls += 1
        try:
            async with asyncio.timeout(timeout_s):
                while (body := self._waits(subject, what, after)) is None:
                    await self._changed.wait()
                return body
        except TimeoutError:
            return None
        finally:
            self.polls -= 1

    def _waits(self, subject: str, what: MessageType, after: int) -> Mapping[str, object] | None:
        if subject in self._suspended:
            return None
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
        self.pending_asked.append(subject)
        if session.identity not in {subject, self.leaves.get(subject)}:
            return {}
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
        self._check(session, subject)
        self.downloads.append((subject, sha256))
        if sha256 not in self.artifacts:
            raise NotFound("No open offer names this artifact", code="artifact_unknown")
        return self.artifacts[sha256]


def _tell_time(asked: messages.TimeRequest) -> Reply:
    return Reply(body={"client": asked.client, "received_ms": NOW_MS, "sent_ms": NOW_MS})


def _named(der: bytes) -> str:
    """The device in a certificate's SAN URI."""
    from cryptography import x509  # slow to import, and not needed by a plane with tokens only

    certificate = x509.load_der_x509_certificate(der)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.UniformResourceIdentifier)[0].rpartition(":")[2]
    except (x509.ExtensionNotFound, IndexError) as error:
        raise NotAuthenticated("The certificate names no device", code="certificate_invalid") from error
