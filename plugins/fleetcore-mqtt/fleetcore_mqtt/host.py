"""What a connection needs of the endpoint it belongs to, so that neither imports the other."""

from collections.abc import Coroutine
from logging import Logger
from typing import TYPE_CHECKING, Any, Protocol

from fleetcore.interfaces import Clock, DevicePlane, Ingest
from fleetcore_mqtt.claimant import Room
from fleetcore_mqtt.sessions import Sessions

if TYPE_CHECKING:
    from fleetcore_mqtt.connection import Connection


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
    claimants: Room

    def opened(self, connection: "Connection") -> None:
        """A transport is connected."""

    def authenticated(self, device: str, connection: "Connection") -> None:
        """The connection speaks for ``device`` from now on; an earlier one is taken over from."""

    def lost(self, connection: "Connection") -> None:
        """The transport is gone."""

    def current(self, device: str) -> "Connection | None":
        """The connection that speaks for ``device``."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs ``work`` until it ends or the endpoint closes."""

    def count(self, name: str) -> None:
        """Counts an event for the metrics."""
