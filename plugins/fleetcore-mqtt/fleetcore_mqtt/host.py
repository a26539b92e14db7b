"""The interfaces between a connection and its endpoint, so that neither imports the other."""

from logging import Logger
from typing import Protocol

from fleetcore.interfaces import Clock, DevicePlane, Ingest
from fleetcore.listening.applicants import Applicants
from fleetcore.listening.persistent import PersistentConnection, PersistentHost
from fleetcore_mqtt.packets import Reason
from fleetcore_mqtt.sessions import Sessions


class HostedConnection(PersistentConnection, Protocol):
    """A connection, as its endpoint uses it."""

    def end(self, reason: Reason, text: str = "", *, will: bool = False) -> None:
        """Gives the reason, if the version can, and closes. Idempotent."""


class Host(PersistentHost[HostedConnection], Protocol):
    """The endpoint, as its connections use it.

    ``connect_s`` is the time from the end of the TLS handshake to a complete CONNECT; ``message_bytes`` limits a
    payload and ``packet_bytes`` a packet; ``in_flight`` is the Receive Maximum.
    """

    plane: DevicePlane
    ingest: Ingest
    clock: Clock
    logger: Logger
    name: str
    connect_s: float
    message_bytes: int
    packet_bytes: int
    in_flight: int
    sessions: Sessions
    claimants: Applicants

    def count(self, name: str) -> None:
        """Counts an event for the metrics."""
