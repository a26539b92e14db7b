"""What a connection and its endpoint need of each other, so that neither imports the other."""

from collections.abc import Coroutine
from logging import Logger
from typing import Any, Protocol

from fleetcore.interfaces import Clock, DevicePlane, Ingest
from fleetcore_mqtt.limiter import ConnectionLimiter
from fleetcore_mqtt.packets import Reason
from fleetcore_mqtt.sessions import Sessions


class HostedConnection(Protocol):
    """A connection, as its endpoint sees it."""

    @property
    def identity(self) -> str:
        """The device, or empty before it is authenticated."""

    @property
    def busy(self) -> bool:
        """Whether something that was read is not answered yet."""

    def drain(self) -> None:
        """Reads nothing more; what was read is answered."""

    def sweep(self, now_s: float) -> None:
        """Ends what has waited too long at this moment of the monotonic clock."""

    def end(self, reason: Reason, text: str = "", *, will: bool = False) -> None:
        """Says why, where the version can, and closes. Idempotent."""

    def abort(self) -> None:
        """Drops the transport without a word."""


class Host(Protocol):
    """The endpoint, as its connections see it.

    ``message_bytes`` bounds a payload and ``packet_bytes`` a packet; ``in_flight`` is the Receive Maximum.
    """

    plane: DevicePlane
    ingest: Ingest
    clock: Clock
    logger: Logger
    name: str
    message_bytes: int
    packet_bytes: int
    in_flight: int
    sessions: Sessions
    claimants: ConnectionLimiter

    def opened(self, connection: HostedConnection) -> None:
        """A transport is connected."""

    def authenticated(self, device: str, connection: HostedConnection) -> None:
        """The connection speaks for ``device`` from now on; an earlier one is taken over from."""

    def lost(self, connection: HostedConnection) -> None:
        """The transport is gone."""

    def current(self, device: str) -> HostedConnection | None:
        """The connection that speaks for ``device``."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs ``work`` until it ends or the endpoint closes."""

    def count(self, name: str) -> None:
        """Counts an event for the metrics."""
