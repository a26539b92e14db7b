"""The service ``uplink``: wires a gateway's own fleet to the core."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from fleetcore.errors import ConfigError, FleetError
from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets
from fleetcore.interfaces.provider import Context
from fleetcore.model.message import Downlink
from fleetcore_edge.uplink.config import UplinkConfig
from fleetcore_edge.uplink.courier import Courier
from fleetcore_edge.uplink.lanes import Backlog, Live
from fleetcore_edge.uplink.leaves import ACTOR, Leaves
from fleetcore_edge.uplink.link import Link
from fleetcore_edge.uplink.state import State

if TYPE_CHECKING:
    from fleetcore.runtime.app import Fleet

_log = logging.getLogger(__name__)


@frozen
class Uplink:
    """The parts of an uplink; ``status`` is what ``edge status`` shows."""

    link: Link
    leaves: Leaves
    live: Courier
    backlog: Courier
    behind: Backlog
    state: State

    def status(self) -> dict[str, object]:
        """The state of the connection, what waits, and what was sent, as plain data."""
        return {
            "connected": self.link.state.connected,
            "since": self.link.state.since_ms,
            "error": self.link.state.error,
            "connections": self.link.connections,
            "waiting": self.behind.left(),
            "lost": self.behind.status.lost,
            "readings": {"live": dict(self.live.counts), "backlog": dict(self.backlog.counts)},
            "state": dict(self.state.counts),
            "leaves": list(self.leaves.known()),
            "refused_leaves": dict(self.leaves.refused),
            "refused_readings": [*self.live.refused, *self.backlog.refused],
        }


@asynccontextmanager
async def open_uplink(config: UplinkConfig, context: Context, fleet: "Fleet") -> AsyncIterator[Uplink]:
    """Connects in the background, and keeps on trying.

    Raises:
        ConfigError: the protocol is not installed or has no client, or the credentials cannot be read.
    """
    client = _client(config, context, fleet)
    client()  # the credentials are read now, so that a mistake is told at the start
    heard: asyncio.Queue[Downlink] = asyncio.Queue()

    link = Link(client, fleet.clock, heard=heard.put, came=lambda: looked.set())
    looked = asyncio.Event()
    leaves = Leaves(config.gateway, link, fleet.devices, fleet.lifecycles, fleet.clock)
    live = Courier(link, leaves, fleet.storage, at_once=config.at_once)
    old = Courier(link, leaves, fleet.storage, at_once=config.at_once)
    backlog = Backlog(link, old, fleet.storage, fleet.clock)
    state = State(
        link, leaves, fleet.storage, fleet.clock, twins=fleet.twins, commands=fleet.commands, anomalies=fleet.anomalies
    )
    if await fleet.devices.find(config.gateway) is None:
        await fleet.devices.register(config.gateway, "gateway", actor=ACTOR, reason="it is this gateway")

    async def take() -> None:
        while True:
            await state.heard(await heard.get())

    async def look() -> None:
        while True:
            await link.connected()
            try:
                await leaves.look()
            except FleetError as error:
                _log.warning("The core does not list the leaves: %s", error)
            looked.clear()
            try:
                async with asyncio.timeout(config.look_s):
                    await looked.wait()
            except TimeoutError:
                continue

    fleet.supervisor.keep("uplink link", link.run)
    fleet.supervisor.keep("uplink downlinks", take)
    fleet.supervisor.keep("uplink leaves", look)
    await fleet.consume(backlog)
    await fleet.consume(
        Live(
            link, live, backlog, fleet.storage, fleet.clock, far=config.live_commits, batch_s=config.batch_s
        )
    )
    await fleet.consume(state)
    yield Uplink(link, leaves, live, old, backlog, state)


def _client(config: UplinkConfig, context: Context, fleet: "Fleet") -> Callable[[], DeviceClient]:
    provider = fleet.host.offers("protocols").get(config.protocol)
    if provider is None or provider.client is None:
        raise ConfigError(
            f"[services.{context.name}] protocol: {config.protocol!r} is not installed, or has no client",
            remedy=f"pip install fleetcore-{config.protocol}",
        )
    make, folder = provider.client, context.data or Path()
    root = fleet.config.data or folder

    def read(name: str) -> bytes:
        try:
            return (root / name).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"[services.{context.name}] {name} cannot be read: {error.strerror}",
                remedy="Enrol the gateway: fleetcore edge enroll",
            ) from error

    def client() -> DeviceClient:
        token = None if config.token is None else context.secret(config.token)
        made: DeviceClient = make(
            config.url,
            DeviceSecrets(
                device=config.gateway,
                certificate=None if token else read(config.certificate),
                key=None if token else read(config.key),
                ca=read(config.ca) if (root / config.ca).exists() else None,
                token=token,
            ),
        )
        return made

    return client
