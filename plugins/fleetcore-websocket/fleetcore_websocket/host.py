"""The interfaces between a connection and its endpoint, so that neither imports the other."""

from typing import Protocol

from attrs import frozen

from fleetcore.interfaces import Clock, Context, DevicePlane, Ingest
from fleetcore.listening.applicants import Applicants
from fleetcore.listening.persistent import PersistentConnection, PersistentHost
from fleetcore.model.addresses import Network
from fleetcore_websocket.closing import Close
from fleetcore_websocket.config import WebSocketConfig


class HostedConnection(PersistentConnection, Protocol):
    """A connection, as its endpoint uses it."""

    def end(self, code: Close, reason: str = "") -> None:
        """Closes with a close frame. Idempotent."""


@frozen(kw_only=True)
class AppState:
    """The state that all connections of one endpoint share."""

    config: WebSocketConfig
    proxies: tuple[Network, ...]
    context: Context
    plane: DevicePlane
    ingest: Ingest

    @property
    def clock(self) -> Clock:
        """The fleet's."""
        return self.context.clock

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.context.name


class Host(PersistentHost[HostedConnection], Protocol):
    """The endpoint, as its connections use it."""

    app: AppState
    applicants: Applicants
