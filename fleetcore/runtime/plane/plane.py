"""The implementation of :class:`~fleetcore.interfaces.protocol.DevicePlane` from its parts."""

from collections.abc import AsyncIterator, Callable, Mapping, Sized
from typing import TypeVar

from fleetcore.errors import FleetError, NotFound, Unavailable
from fleetcore.fleet.deltas import is_delta_to
from fleetcore.fleet.desired_functions import DesiredFunctions
from fleetcore.fleet.passed_offers import PassedOffers
from fleetcore.fleet.security import SecurityManager
from fleetcore.fleet.updates import Updates
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import ArtifactReader, ClaimSession, DevicePlane, EnrollRequest, Session, Sink
from fleetcore.interfaces.storage import Storage
from fleetcore.model.credential import Credential
from fleetcore.model.file_span import FileSpan
from fleetcore.model.message import Direction, Inbound, MessageType, Rejected, Reply
from fleetcore.model.store import ArtifactInfo
from fleetcore.pipeline.admit import FOREIGN, silenced
from fleetcore.pipeline.handlers import Handlers
from fleetcore.pipeline.rate import RateLimit
from fleetcore.pipeline.refusals import Refusals
from fleetcore.pipeline.session import DeviceSession
from fleetcore.runtime.plane.claims import ClaimSessions
from fleetcore.runtime.plane.downlinks import Downlinks
from fleetcore.runtime.plane.downloads import Downloads
from fleetcore.runtime.plane.enrolling import enroll
from fleetcore.runtime.plane.sessions import Sessions
from fleetcore.runtime.plane.waiting import Waiting
from fleetcore.wire.replies import refusal, rejection, reply_to

S = TypeVar("S", bound=Sized)


class Plane(DevicePlane):
    """Delegates; decides only how a call is answered, and which artifacts a device may read."""

    def __init__(
        self,
        *,
        storage: Storage,
        sessions: Sessions,
        handlers: Handlers,
        downlinks: Downlinks,
        waiting: Waiting,
        claims: ClaimSessions,
        refusals: Refusals,
        ingest: Ingest,
        security: SecurityManager,
        updates: Updates,
        functions: DesiredFunctions,
        passed_offers: PassedOffers,
        rate: RateLimit,
        downloads: Downloads,
    ) -> None:
        self._rate, self._downloads, self._functions, self._passed_offers = rate, downloads, functions, passed_offers
        self._storage, self._ingest, self._security, self._updates = storage, ingest, security, updates
        self._sessions, self._handlers, self._refusals = sessions, handlers, refusals
        self._downlinks, self._waiting, self._claims = downlinks, waiting, claims

    async def authenticate(
        self, credential: Credential, *, protocol: str, peer: str = "", lasting: bool = True
    ) -> DeviceSession:
        return await self._sessions.open(credential, protocol=protocol, peer=peer, lasting=lasting)

    async def claim(self, certificate: bytes, *, protocol: str, peer: str = "") -> ClaimSession | None:
        return await self._claims.open(certificate, protocol, peer)

    async def call(self, session: Session, message: Inbound) -> Reply:
        assert isinstance(session, DeviceSession)
        if message.type.direction is Direction.UP:
            return reply_to(await self._ingest.submit(session, message))
        reply = await self._answer(session, message)
        if isinstance(reply, Rejected):
            self._refusals.add(session, message, reply)
            return refusal(reply)
        return reply

    async def _answer(self, session: DeviceSession, message: Inbound) -> Reply | Rejected:
        if session.state.blocked is not None:
            return silenced(session.state.blocked)
        if session.ended is not None:
            return Rejected(code="not_authenticated", reason="The session has ended")
        if (too_often := self._rate.refusal(session)) is not None:
            return too_often
        if message.subject != session.identity and not message.type.leaf:
            return Rejected(code="operation_unknown", reason=f"{message.type} cannot be sent for a leaf")
        try:
            if message.subject not in session.subjects and not await self._sessions.subject(session, message.subject):
                return FOREIGN
            self._sessions.both_seen(session, message.subject)
        except FleetError as error:
            return rejection(error)
        answer = await self._handlers.handle(session, message)
        if isinstance(answer, Reply | Rejected):
            return answer
        raise AssertionError(f"the handler of {message.type} answers with {type(answer).__name__}")

    def refused(self, session: Session | None, message: Inbound, rejected: Rejected, *, protocol: str) -> None:
        if isinstance(session, DeviceSession):
            self._refusals.add(session, message, rejected)
        else:
            self._refusals.count(protocol, rejected.code)

    async def shared_key(self, token_id: str, *, protocol: str, peer: str = "") -> bytes | None:
        return await self._sessions.shared_key(token_id, protocol=protocol, peer=peer)

    def key_refused(self, token_id: str, *, protocol: str, peer: str = "") -> None:
        self._sessions.key_refused(token_id, protocol=protocol, peer=peer)

    def listen(self, session: Session, sink: Sink) -> None:
        self._downlinks.listen(session, sink)

    def add_broker_sink(self, sink: Sink) -> Callable[[], None]:
        return self._downlinks.add_broker_sink(sink)

    def watch_revocations(self, revoked: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        return self._security.on_listed(revoked)

    async def wait(
        self, session: Session, subject: str, what: MessageType, *, after: int = 0, timeout_s: float = 0.0
    ) -> Mapping[str, object] | None:
        self._take_token(session)
        return await self._waiting.wait(session, subject, what, after, timeout_s)

    async def pending(self, session: Session, subject: str) -> Mapping[str, int]:
        return await self._waiting.pending(session, subject)

    async def enroll(self, request: EnrollRequest) -> Reply:
        return await enroll(self._security, request, self._refusals)

    async def open_artifact(self, session: Session, subject: str, sha256: str) -> ArtifactReader:
        self._take_token(session)
        await self._sessions.check(session, subject)
        image = await self._updates.image_of(subject)
        allowed = image == sha256 or await is_delta_to(self._storage, image, sha256)
        allowed = allowed or await self._functions.names_artifact(subject, sha256)
        allowed = allowed or await self._passed_offers.names_artifact(subject, sha256)
        info = await self._storage.artifact(sha256) if allowed else None
        if info is None:
            raise NotFound("No open offer of this device has that artifact", code="artifact_unknown")
        self._downloads.take(subject)
        return _Artifact(self._storage, info, self._downloads, subject)

    def _take_token(self, session: Session) -> None:
        assert isinstance(session, DeviceSession)
        if (too_often := self._rate.refusal(session)) is not None:
            self._refusals.count(session.protocol, too_often.code)
            raise Unavailable(
                too_often.reason,
                code=too_often.code,
                retry_after_s=too_often.retry_after_s or 1.0,
                limit=too_often.limit,
                unit=too_often.unit,
                scope=too_often.scope,
            )

    async def wait_idle(self) -> None:
        """Returns once activations and pushes under way are finished."""
        await self._downlinks.wait_idle()

    async def close(self) -> None:
        """Ends every session and the tasks under way."""
        self._sessions.close()
        self._claims.close()
        await self._downlinks.close()


class _Artifact(ArtifactReader):
    def __init__(self, storage: Storage, info: ArtifactInfo, downloads: Downloads, device: str) -> None:
        self._storage, self._info = storage, info
        self._downloads, self._device = downloads, device

    @property
    def sha256(self) -> str:
        return self._info.sha256

    @property
    def size_bytes(self) -> int:
        return self._info.size_bytes

    def read(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        return self._paced(self._storage.read_artifact(self._info.sha256, start, end), end)

    def spans(self, start: int = 0, end: int | None = None) -> AsyncIterator[FileSpan] | None:
        spans = self._storage.artifact_spans(self._info.sha256, start, end)
        return None if spans is None else self._paced(spans, end)

    def _paced(self, pieces: AsyncIterator[S], end: int | None) -> AsyncIterator[S]:
        if not self._downloads.is_limited:
            return pieces
        last = end is None or end >= self._info.size_bytes
        return self._downloads.paced(self._device, pieces, last=last)
