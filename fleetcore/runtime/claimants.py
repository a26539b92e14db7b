"""Who comes with a claim certificate to a protocol that keeps connections: one that enrols devices and is none itself.

Such a connection has no device session: it is nobody's presence, gets no downlinks, and its messages never reach the
data path. It ends when its batch is disabled.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

from attrs import frozen

from fleetcore.errors import NotAuthenticated, NotAuthorised
from fleetcore.fleet.denials import Denials
from fleetcore.fleet.security import SecurityManager
from fleetcore.fleet.security.profiles import CLAIM_NAME
from fleetcore.interfaces.protocol import ClaimSession, EnrollRequest
from fleetcore.model.message import Inbound, Operation, Rejected, Reply
from fleetcore.pipeline.session import EndsOnce
from fleetcore.wire.bodies import read_body


@frozen(kw_only=True)
class Desk:
    """What a claimant is served with; the plane's own.

    Attributes:
        depth: how deep a body may be nested.
    """

    enroll: Callable[[EnrollRequest], Awaitable[Reply]]
    ca: Callable[[], Reply]
    time: Callable[[Inbound], Reply]
    refusal: Callable[[Rejected], Reply]
    depth: int


class Claimants:
    """Opens sessions by claim certificates, and ends those of a batch that is disabled."""

    def __init__(self, security: SecurityManager, denials: Denials, desk: Desk) -> None:
        self._security, self._denials, self._desk = security, denials, desk
        self._open: dict[str, set[Claimant]] = defaultdict(set)
        security.on_claim_disabled(self._disabled)

    async def open(self, certificate: bytes, protocol: str, peer: str) -> "Claimant | None":
        """See :meth:`fleetcore.interfaces.protocol.DevicePlane.claim`."""
        batch: str | None = None
        try:
            batch = self._security.claim_batch(certificate)
            return None if batch is None else await self._admit(batch, certificate, protocol, peer)
        except (NotAuthenticated, NotAuthorised) as error:
            why = error.ids.get("reason")
            who = "unknown" if batch is None else CLAIM_NAME.format(batch=batch)
            code = error.code if why is None else f"{error.code}: {why}"
            self._denials.note(who, "session", code, protocol=protocol, peer=peer)
            raise

    async def _admit(self, batch: str, certificate: bytes, protocol: str, peer: str) -> "Claimant":
        session = Claimant(batch, certificate, protocol, peer, self._desk, self._denials)
        # Known before the batch is asked about: one that is disabled meanwhile ends it.
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

    def _forget(self, session: "Claimant") -> None:
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


class Claimant(EndsOnce, ClaimSession):
    """The one implementation; ``batch`` is what its certificate names."""

    def __init__(self, batch: str, certificate: bytes, protocol: str, peer: str, desk: Desk, denials: Denials) -> None:
        super().__init__()
        self.batch, self._certificate = batch, certificate
        self._protocol, self._peer, self._desk, self._denials = protocol, peer, desk, denials

    @property
    def name(self) -> str:
        return CLAIM_NAME.format(batch=self.batch)

    def denied(self, what: str, code: str, **data: object) -> None:
        self._denials.note(self.name, what, code, protocol=self._protocol, peer=self._peer, **data)

    async def call(self, message: Inbound) -> Reply:
        if self._ended is not None:
            return self._desk.refusal(Rejected(code="not_authorised", reason="The claim certificate is disabled"))
        match message.operation:
            case Operation.ENROLL:
                request = self._request(read_body(message.payload, message.content_type, self._desk.depth))
                if isinstance(request, Rejected):
                    return self._desk.refusal(request)
                return await self._desk.enroll(request)
            case Operation.CA_GET:
                return self._desk.ca()
            case Operation.TIME:
                return self._desk.time(message)
        self.denied(message.operation.value, "not_authorised")
        return self._desk.refusal(
            Rejected(code="not_authorised", reason="A claim certificate enrols devices and does nothing else")
        )

    def _request(self, body: object) -> EnrollRequest | Rejected:
        """What ``{"csr", "parameters"}`` or ``{"ownership_token", "parameters"}`` asks for."""
        if isinstance(body, Rejected):
            return body
        if not isinstance(body, Mapping):
            return _wrong("The body is a JSON object", "")
        csr, ownership, parameters = body.get("csr"), body.get("ownership_token"), body.get("parameters")
        if ownership is not None and not isinstance(ownership, str):
            return _wrong("ownership_token is text", "/ownership_token")
        if not (csr or ownership) or not (csr is None or (isinstance(csr, str) and csr.isascii())):
            return _wrong("csr is the PEM text of a certificate request", "/csr")
        if not (parameters is None or isinstance(parameters, dict)):
            return _wrong("parameters is an object", "/parameters")
        return EnrollRequest(
            csr=(csr or "").encode("ascii"),
            certificate=self._certificate,
            ownership=ownership,
            parameters=parameters or {},
            source=self._peer,
        )


def _wrong(reason: str, pointer: str) -> Rejected:
    return Rejected(code="schema_invalid", reason=reason, pointer=pointer)
