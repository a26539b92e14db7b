"""The ``local`` protocol: devices in the same process, without a network, so that the core alone can run a demo."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from attrs import evolve, frozen

from fleetcore.errors import Refused, Unavailable
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import (
    DeviceClient,
    DevicePlane,
    DeviceSecrets,
    EnrollRequest,
    ProtocolAdapter,
    Session,
)
from fleetcore.interfaces.provider import Context
from fleetcore.model.credential import CertificateCredential, Credential, LocalCredential, TokenCredential
from fleetcore.model.message import Downlink, Inbound, MessageType, Reply
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.tls import der_of

#: Open adapters by endpoint, so that a client finds its server by URL as on every other protocol.
_OPEN: "dict[str, LocalAdapter]" = {}


@frozen(kw_only=True)
class LocalConfig:
    """``[protocols.local]`` has no keys."""


class LocalAdapter(ProtocolAdapter):
    """Listens nowhere; clients of the process find it by its endpoint."""

    def __init__(self, endpoint: str, plane: DevicePlane) -> None:
        self._endpoint, self._plane = endpoint, plane
        self._sessions: set[Session] = set()
        self._under_way: set[asyncio.Task[Reply]] = set()

    @property
    def endpoints(self) -> Sequence[str]:
        return (self._endpoint,)

    @property
    def connections(self) -> int:
        return len(self._sessions)

    @property
    def plane(self) -> DevicePlane:
        """The plane of the server."""
        return self._plane

    async def connect(self, credential: Credential) -> Session:
        """Connects a device."""
        session = await self._plane.authenticate(credential, protocol="local", peer="in process")
        self._sessions.add(session)
        session.on_end(lambda _code: self._sessions.discard(session))
        return session

    async def call(self, session: Session, message: Inbound) -> Reply:
        """Answers a message of a device; the call is under way until then, even if its sender gives up."""
        task = asyncio.ensure_future(self._plane.call(session, message))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        _OPEN.pop(self._endpoint, None)
        if self._under_way:
            await asyncio.wait(self._under_way)

    def close(self) -> None:
        """Ends every connection."""
        _OPEN.pop(self._endpoint, None)
        for session in list(self._sessions):
            session.close()


@asynccontextmanager
async def open_local(
    config: LocalConfig, context: Context, plane: DevicePlane, ingest: Ingest
) -> AsyncIterator[LocalAdapter]:
    """Opens the protocol."""
    del config, ingest
    adapter = LocalAdapter(f"local://{context.fleet}/{id(plane):x}", plane)
    _OPEN[adapter.endpoints[0]] = adapter
    try:
        yield adapter
    finally:
        adapter.close()


def open_local_client(endpoint: str, secrets: DeviceSecrets) -> "LocalClient":
    """Opens a device of this process."""
    return LocalClient(endpoint, secrets)


class LocalClient(DeviceClient):
    """The device's side: calls the plane directly, with the device's real credentials if it has any."""

    def __init__(self, endpoint: str, secrets: DeviceSecrets) -> None:
        adapter = _OPEN.get(endpoint)
        if adapter is None:
            raise Unavailable(f"There is no local server at {endpoint}", code="not_ready")
        self._adapter, self._plane, self._secrets = adapter, adapter.plane, secrets
        self._session: Session | None = None
        self._downlinks: asyncio.Queue[Downlink | None] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        if self._secrets.certificate is not None or self._secrets.token is not None:
            self._session = await self._adapter.connect(self._credential())
            self._session.on_end(lambda _code: self._downlinks.put_nowait(None))
            self._plane.listen(self._session, self._downlinks.put_nowait)
        return self

    def _credential(self) -> Credential:
        if self._secrets.certificate is not None:
            return CertificateCredential(der_of(self._secrets.certificate))
        if self._secrets.token is not None:
            return TokenCredential(self._secrets.token, self._secrets.device)
        return LocalCredential(self._secrets.device)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            self._session.close()
        else:
            self._downlinks.put_nowait(None)

    def _alive(self) -> Session:
        if self._session is None:
            raise Refused("The device has no credential yet", code="not_authenticated", remedy="Enrol first")
        if self._session.ended is not None:
            raise Unavailable(f"The session has ended: {self._session.ended}", code="not_ready")
        return self._session

    async def send(
        self,
        type: MessageType,
        body: object,
        *,
        subject: str | None = None,
        target: str | None = None,
        id: str | None = None,
    ) -> Reply:
        session = self._alive()
        payload = body if isinstance(body, bytes) else b"" if body is None else dumps(body)
        message = Inbound(type=type, subject=subject or session.identity, payload=payload, target=target, id=id)
        return await self._adapter.call(session, message)

    async def request(self, type: MessageType, body: object = None, *, subject: str | None = None) -> Reply:
        return await self.send(type, body, subject=subject)

    async def downlinks(self) -> AsyncIterator[Downlink]:
        while (downlink := await self._downlinks.get()) is not None:
            yield downlink

    async def enroll(self, request: EnrollRequest) -> Reply:
        return await self._plane.enroll(evolve(request, protocol="local"))

    async def artifact(self, sha256: str, start: int = 0, *, subject: str | None = None) -> AsyncIterator[bytes]:
        session = self._alive()
        reader = await self._plane.open_artifact(session, subject or session.identity, sha256)
        async for piece in reader.read(start):
            yield piece
