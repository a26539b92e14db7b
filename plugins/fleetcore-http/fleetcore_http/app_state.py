"""The state that all connections of one listener share."""

from attrs import define

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import DevicePlane
from fleetcore.interfaces.provider import Context
from fleetcore.model.addresses import Network
from fleetcore_http.config import Deadlines, HttpConfig
from fleetcore_http.holders import Holders


@define(kw_only=True, eq=False)
class AppState:
    """The plane, the way into the data path, the settings, and whether the listener is closing."""

    config: HttpConfig
    context: Context
    plane: DevicePlane
    ingest: Ingest
    proxies: tuple[Network, ...]
    clock: Clock
    deadlines: Deadlines
    holders: Holders
    polls: Holders
    draining: bool = False
