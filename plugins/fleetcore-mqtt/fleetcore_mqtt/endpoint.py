"""The MQTT endpoint: fleetcore's own listener, to which devices connect without a broker.

Identity, takeover and closing are shared with other protocols (:mod:`fleetcore.listening.persistent`). Packets are
handled in :mod:`.connection`. It is not a broker: it retains nothing, and routes nothing from one device to another.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fleetcore.interfaces import Context, DevicePlane, Ingest, ProtocolAdapter
from fleetcore.listening.applicants import Applicants
from fleetcore.listening.persistent import PersistentConnections
from fleetcore_mqtt.addresses import read_address
from fleetcore_mqtt.connection import LINGER_S, Connection
from fleetcore_mqtt.framing import PACKET_BYTES
from fleetcore_mqtt.host import HostedConnection
from fleetcore_mqtt.packets import Reason
from fleetcore_mqtt.sessions import Sessions

_OVERHEAD_BYTES = PACKET_BYTES - 256 * 1024


class Endpoint(PersistentConnections[HostedConnection], ProtocolAdapter):
    """The open listener and its connections."""

    def __init__(self, context: Context, plane: DevicePlane, ingest: Ingest, *, in_flight: int) -> None:
        super().__init__(context.name, context.listening, context.clock, context.logger, closing_s=LINGER_S)
        self.plane, self.ingest = plane, ingest
        self.clock, self.count = context.clock, context.count
        self.connect_s = context.listening.limits.head_s
        self.message_bytes = context.limits.message_bytes
        self.packet_bytes = context.limits.message_bytes + _OVERHEAD_BYTES
        self.in_flight = in_flight
        self.sessions = Sessions(context.clock.monotonic_s)
        self.claimants = Applicants()

    def connection(self, lost: Callable[[], None]) -> Connection:
        return Connection(self, lost)

    def replace(self, earlier: HostedConnection) -> None:
        earlier.end(Reason.TAKEN_OVER)

    def dismiss(self, connection: HostedConnection) -> None:
        connection.end(Reason.SHUTTING_DOWN)


@asynccontextmanager
async def open_endpoint(
    url: str, context: Context, plane: DevicePlane, ingest: Ingest, *, in_flight: int
) -> AsyncIterator[Endpoint]:
    """Listens on ``url`` while the context lasts.

    Raises ConfigError for an invalid URL and NotReady if the address is in use.
    """
    address = read_address(url)
    tls = context.server_tls(url, plain="mqtt://127.0.0.1") if address.secure else None
    endpoint = Endpoint(context, plane, ingest, in_flight=in_flight)
    async with endpoint.listening(url, address.host, address.port, tls):
        end_watch = plane.watch_revocations(endpoint.sessions.forget)
        try:
            yield endpoint
        finally:
            end_watch()
