"""The service ``uplink``: wires a gateway's own fleet to the core."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from fleetcore.errors import FleetError, Refused
from fleetcore.fleet.mapping import MAP, read_wanted, summarise
from fleetcore.interfaces.protocol import DeviceClient
from fleetcore.interfaces.provider import Context
from fleetcore.interfaces.waits import end_task, first_of
from fleetcore.model.message import Downlink
from fleetcore.wire import messages
from fleetcore_edge.agent.slots import FOLDER as AGENT
from fleetcore_edge.agent.slots import Slots
from fleetcore_edge.agent.starting import running_site
from fleetcore_edge.agent.updating import AgentUpdate
from fleetcore_edge.clock.upkeep import GatewayTime
from fleetcore_edge.functions.manager import FunctionManager
from fleetcore_edge.functions.wanted import Verifier
from fleetcore_edge.runner.runner import open_runner
from fleetcore_edge.uplink.clients import client_for
from fleetcore_edge.uplink.config import UplinkConfig
from fleetcore_edge.uplink.courier import Courier
from fleetcore_edge.uplink.credential_care import CredentialCare
from fleetcore_edge.uplink.credentials import Credentials
from fleetcore_edge.uplink.downloads import Downloads
from fleetcore_edge.uplink.firmware import CARE_S, LeafFirmware
from fleetcore_edge.uplink.lanes import Backlog, Live
from fleetcore_edge.uplink.leaves import ACTOR, Leaves
from fleetcore_edge.uplink.link import Link
from fleetcore_edge.uplink.logs import kept_log
from fleetcore_edge.uplink.own_commands import OwnCommands, Progress
from fleetcore_edge.uplink.room import Room
from fleetcore_edge.uplink.state import State

if TYPE_CHECKING:
    from fleetcore.runtime.app import Fleet

_log = logging.getLogger(__name__)


@frozen
class Uplink:
    """The parts of an uplink; ``status`` is what ``edge status`` shows."""

    link: Link
    leaves: Leaves
    credentials: Credentials
    live: Courier
    backlog: Courier
    behind: Backlog
    room: Room
    state: State
    firmware: LeafFirmware
    functions: FunctionManager
    own: OwnCommands
    times: GatewayTime

    def status(self) -> dict[str, object]:
        """The state of the connection, what waits, and what was sent, as plain data."""
        return {
            "connected": self.link.state.connected,
            "since": self.link.state.since_ms,
            "error": self.link.state.error,
            "connections": self.link.connections,
            "taken_over": self.link.taken_over,
            "waiting": self.behind.left(),
            "clock": self.times.status(),
            "lost": self.room.counts["lost"],
            "dropped": self.room.counts["dropped"],
            "trimmed": self.behind.status.lost,
            "readings": {"live": dict(self.live.counts), "backlog": dict(self.backlog.counts)},
            "state": dict(self.state.counts),
            "firmware": dict(self.firmware.counts),
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
    async with AsyncExitStack() as stack:
        yield await _opened(config, context, fleet, stack)


async def _opened(config: UplinkConfig, context: Context, fleet: "Fleet", stack: AsyncExitStack) -> Uplink:
    make, root = client_for(fleet.host, config.url), fleet.config.data or Path()
    folder = root / config.folder
    token = config.token
    credentials = Credentials(
        folder, config.gateway, fleet.clock, token=None if token is None else lambda: context.secret(token)
    )
    credentials.secrets()  # read now, so that a mistake is told at the start
    heard: asyncio.Queue[Downlink] = asyncio.Queue()
    connected = asyncio.Event()

    def came() -> None:
        credentials.connected()
        connected.set()

    times = GatewayTime.of(fleet)

    def client() -> DeviceClient:
        times.opening()
        return make(config.url, credentials.secrets())

    link = Link(
        client, fleet.clock, heard=heard.put, came=came,
        greet=times.greet, refused=credentials.refused,
    )  # fmt: skip
    leaves = Leaves(config.gateway, link, fleet.storage, fleet.devices, fleet.lifecycles, fleet.clock)
    http = None if config.http is None else (client_for(fleet.host, config.http), config.http)
    downloads = Downloads(link, http, credentials.secrets)

    async def admit(size_bytes: int) -> None:
        await room.admit(size_bytes)

    firmware = LeafFirmware(link, fleet.storage, fleet.clock, fleet.passed_offers, downloads.artifact, admit)
    state = State(
        link,
        leaves,
        fleet.storage,
        fleet.clock,
        twins=fleet.twins,
        commands=fleet.commands,
        anomalies=fleet.anomalies,
        firmware=firmware,
    )

    def secret(function: str, name: str) -> bytes:
        reference = config.secrets.get(f"{function}.{name}")
        if reference is None:
            raise Refused(
                f"Function {function!r} needs the secret {name!r}",
                code="secret_missing",
                remedy=f'Add "{function}.{name}" to [services.{context.name}.secrets]',
            )
        return context.secret(reference).encode()

    if await fleet.devices.find(config.gateway) is None:
        await fleet.devices.register(config.gateway, "gateway", actor=ACTOR, reason="it is this gateway")

    async def take() -> None:
        while True:
            await state.heard(await heard.get())

    async def look() -> None:
        while True:
            await link.connected()
            try:
                await state.compare()
                await leaves.look()
            except FleetError as error:
                _log.warning("The core's leaves cannot be followed: %s", error)
            connected.clear()
            await first_of(connected.wait(), fleet.clock.sleep(config.look_s))

    care = CredentialCare(credentials, link, fleet.clock)
    state.on_ours(care.obey)
    runner = await stack.enter_async_context(open_runner(root / "functions" / "compiled", clock=fleet.clock))
    verifier = Verifier(folder, config.model, fleet.clock)
    functions = FunctionManager(
        fleet, runner, config.gateway, verifier, root / "functions",
        download=downloads.artifact, secret=secret, tell=lambda body: link.send(messages.FIRMWARE_STATUS, body),
        beside=lambda: {
            "uplink": {
                "connections": link.connections, "taken_over": link.taken_over, "waiting": backlog.left(),
                "refused": live.counts["refused"] + old.counts["refused"], **room.counts,
            },
            "clock": times.status(),
        },
    )  # fmt: skip

    agent = AgentUpdate(
        Slots(root / AGENT), fleet.clock, verify=verifier.manifest, download=downloads.artifact,
        tell=lambda body: link.send(messages.FIRMWARE_STATUS, body),
        connected=lambda: link.request(messages.LEAF_LIST, {}),
        admit=admit, settled=functions.settled.wait,
        report=lambda patch: fleet.twins.report(config.gateway, patch),
        restart=lambda: os.kill(os.getpid(), signal.SIGTERM), site=running_site(),
        proved=lambda: signal.alarm(0),
    )  # fmt: skip
    state.on_own_firmware(agent.heard)

    def courier() -> Courier:
        return Courier(link, leaves, fleet.storage, at_once=config.at_once, names=functions)

    live, old = courier(), courier()
    backlog = Backlog(link, old, fleet.storage, fleet.clock)
    room = Room(fleet.storage, fleet.clock, backlog, config.disk_mib, held=times.make_room)
    times.keep(fleet.supervisor, reconnect=link.reconnect, report=functions.report_soon)
    fleet.supervisor.keep("uplink link", link.run)
    fleet.supervisor.keep("uplink downlinks", take)
    fleet.supervisor.keep("uplink leaves", look)
    fleet.supervisor.keep("uplink firmware", firmware.run)
    fleet.supervisor.every("uplink images", CARE_S, firmware.care)
    fleet.supervisor.keep("uplink agent", agent.run)
    fleet.supervisor.keep("uplink credentials", care.run)
    await fleet.consume(backlog)
    await fleet.consume(
        Live(link, live, backlog, fleet.storage, fleet.clock, far=config.live_commits, batch_s=config.batch_s)
    )
    await fleet.consume(state)
    fleet.supervisor.keep("uplink room", room.run)
    task = fleet.supervisor.keep("uplink functions", functions.run)
    stack.push_async_callback(end_task, task)

    async def map_readings(arguments: Mapping[str, object], progress: Progress) -> object:
        return await summarise(fleet.storage, read_wanted(arguments), progress)

    async def status(_arguments: Mapping[str, object], _progress: Progress) -> object:
        return uplink.status()

    own = OwnCommands(
        config.gateway,
        fleet.commands,
        fleet.clock,
        {MAP: map_readings, "edge.logs": stack.enter_context(kept_log(fleet.clock)).logs, "edge.status": status},
    )
    uplink = Uplink(link, leaves, credentials, live, old, backlog, room, state, firmware, functions, own, times)
    stack.push_async_callback(end_task, fleet.supervisor.keep("uplink commands", own.run))
    return uplink
