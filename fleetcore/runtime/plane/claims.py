"""Sessions with a claim certificate, on protocols with lasting connections: such a peer enrols devices and is not one.

It has neither a device session nor presence, gets no downlinks, and its messages never reach the data path. It ends
when its batch is disabled.
"""

from collections import defaultdict

from fleetcore.errors import NotAuthenticated, NotAuthorised
from fleetcore.fleet.process_state.denials import Denials
from fleetcore.fleet.security import SecurityManager
from fleetcore.fleet.security.profiles import CLAIM_NAME
from fleetcore.interfaces.protocol import ClaimSession, CloseOnce, EnrollRequest
from fleetcore.model.message import Inbound, Rejected, Reply, Request
from fleetcore.pipeline.handlers import Handlers
from fleetcore.pipeline.refusals import Refusals
from fleetcore.runtime.plane.enrolling import enroll
from fleetcore.wire import messages
from fleetcore.wire.replies import refusal

#: Its messages beside enrolling.
_ASKED = frozenset({messages.CA_GET, messages.TIME})


class ClaimSessions:
    """Opens sessions with claim certificates, and ends those of a disabled batch."""

    def __init__(self, security: SecurityManager, denials: Denials, handlers: Handlers, refusals: Refusals) -> None:
        self._security, self._denials, self._handlers, self._refusals = security, denials, handlers, refusals
        self._open: dict[str, set[BatchSession]] = defaultdict(set)
        security.on_claim_disabled(self._disabled)

    async def open(self, certificate: bytes, protocol: str, peer: str) -> "BatchSession | None":
        """See :meth:`fleetcore.interfaces.protocol.DevicePlane.claim`."""
        batch: str | None = None
        try:
            batch = self._security.claim_batch(certificate)
            return None if batch is None else await self._admit(batch, certificate, protocol, peer)
        except (NotAuthenticated, NotAuthorised) as error:
            reason = error.ids.get("reason")
            name = "unknown" if batch is None else CLAIM_NAME.format(batch=batch)
            code = error.code if reason is None else f"{error.code}: {reason}"
            self._denials.note(name, "session", code, protocol=protocol, peer=peer)
            raise

    async def _admit(self, batch: str, certificate: bytes, protocol: str, peer: str) -> "BatchSession":
        session = BatchSession(
            self._security, self._denials, self._handlers, self._refusals, batch, certificate, protocol, peer
        )
        # Registered before the batch is checked: disabling it meanwhile ends the session.
        self._open[batch].add(session)
        session.on_end(lambda _code: self._forget(session))
        try:
            await self._security.claims.usable(batch, certificate)
        except BaseException:
            session.close()
            raise
        if session.ended is not None:
            raise NotAuthorised("The claim certificate is disabled", batch=batch)
        return session

    def _forget(self, session: "BatchSession") -> None:
        sessions = self._open[session.batch]
        sessions.discard(session)
        if not sessions:
            del self._open[session.batch]

    def _disabled(self, batch: str) -> None:
        for session in tuple(self._open.get(batch, ())):
            session.end("not_authorised")

    def close(self) -> None:
        """Ends them all."""
        for sessions in tuple(self._open.values()):
            for session in tuple(sessions):
                session.close()

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))


class BatchSession(CloseOnce, ClaimSession):
    """The implementation; ``batch`` is the one that the certificate names."""

    def __init__(
        self,
        security: SecurityManager,
        denials: Denials,
        handlers: Handlers,
        refusals: Refusals,
        batch: str,
        certificate: bytes,
        protocol: str,
        peer: str,
    ) -> None:
        super().__init__()
        self._security, self._denials, self._handlers, self._refusals = security, denials, handlers, refusals
        self.batch, self._certificate = batch, certificate
        self._protocol, self._peer = protocol, peer

    @property
    def name(self) -> str:
        return CLAIM_NAME.format(batch=self.batch)

    def denied(self, what: str, code: str, **data: object) -> None:
        self._denials.note(self.name, what, code, protocol=self._protocol, peer=self._peer, **data)

    async def call(self, message: Inbound) -> Reply:
        if self._ended is not None:
            return self._refused(Rejected(code="not_authorised", reason="The claim certificate is disabled"))
        if message.type is messages.ENROLL:
            body = self._handlers.read(message)
            if isinstance(body, Rejected):
                return self._refused(body)
            return await enroll(self._security, self._request(body), self._refusals)
        if message.type in _ASKED:
            answer = await self._handlers.run(Request(identity=self.name, subject=self.name), message)
            return self._refused(answer) if isinstance(answer, Rejected) else answer  # type: ignore[return-value]  # calls
        self.denied(message.type.name, "not_authorised")
        return self._refused(Rejected(code="not_authorised", reason="A claim certificate can only enrol devices"))

    def _refused(self, rejected: Rejected) -> Reply:
        self._refusals.count(self._protocol, rejected.code)
        return refusal(rejected)

    def _request(self, body: messages.EnrollBody) -> EnrollRequest:
        return EnrollRequest.of(body, certificate=self._certificate, source=self._peer, protocol=self._protocol)
