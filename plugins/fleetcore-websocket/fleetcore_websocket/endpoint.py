"""The endpoint: the listener that devices connect to.

Identity, takeover and closing are shared with other protocols (:mod:`fleetcore.listening.persistent`).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ssl import SSLContext

from fleetcore.interfaces import Context, DevicePlane, Ingest, ProtocolAdapter
from fleetcore.listening.applicants import Applicants
from fleetcore.listening.persistent import PersistentConnections
from fleetcore.wire.proxies import proxies
from fleetcore_websocket.closing import Close
from fleetcore_websocket.config import WebSocketConfig
from fleetcore_websocket.connection import CLOSING_S, Connection
from fleetcore_websocket.handshake import PATH
from fleetcore_websocket.host import AppState, HostedConnection


class Endpoint(PersistentConnections[HostedConnection], ProtocolAdapter):
    """The open listener and its connections."""

    def __init__(self, app: AppState) -> None:
        context = app.context
        super().__init__(context.name, context.listening, context.clock, context.logger, closing_s=CLOSING_S)
        self.app = app
        self.applicants = Applicants()

    def connection(self, lost: Callable[[], None]) -> Connection:
        return Connection(self, lost)

    def replace(self, earlier: HostedConnection) -> None:
        earlier.end(Close.REPLACED, "session_taken_over")

    def dismiss(self, connection: HostedConnection) -> None:
        connection.end(Close.RESTART, "the server is stopping")


def _tls(config: WebSocketConfig, context: Context) -> SSLContext:
    return context.server_tls(
        config.listen, plain="ws://127.0.0.1:PORT", client_certificates=config.client_certificates
    )


@asynccontextmanager
async def open_endpoint(
    config: WebSocketConfig, context: Context, plane: DevicePlane, ingest: Ingest
) -> AsyncIterator[Endpoint]:
    """Listens while the context lasts; raises as :func:`fleetcore_websocket.plugin.open_websocket`."""
    config.check()
    url, listener = config.listen, config.listener()
    trusted = proxies(config.trusted_proxies)
    tls = _tls(config, context) if listener.tls else None
    endpoint = Endpoint(AppState(config=config, proxies=trusted, context=context, plane=plane, ingest=ingest))
    async with endpoint.listening(url, listener.host, listener.port, tls, PATH):
        yield endpoint
