"""Downlinks: what is sent to a device, and over which connection.

A change goes to the sinks of the device's own sessions, else to those of the nearest connected gateway above it, else
to those of brokers in between.
Unfinished items are sent again when a device returns. Sending counts as *sent*, never as delivered. A sleeping device
is not woken: its items wait until it sends or returns.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

from attrs import evolve, frozen

from fleetcore.errors import FleetError
from fleetcore.fleet.commands import Commands
from fleetcore.fleet.process_state.presence import PresenceBoard
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.twins import Twins
from fleetcore.fleet.updates import Updates
from fleetcore.interfaces.boundary import contained
from fleetcore.interfaces.protocol import Session, Sink
from fleetcore.model.command import Command
from fleetcore.model.device import Connectivity, Device, Lifecycle
from fleetcore.model.message import Downlink, MessageType
from fleetcore.model.message import Waiting as Source
from fleetcore.pipeline.session import DeviceSession
from fleetcore.runtime.plane.sessions import Sessions
from fleetcore.wire import messages

_log = logging.getLogger(__name__)


#: Ticks between two searches for devices whose sleep may have ended without a message.
_OVERSLEPT = 60

#: Longer ways are read from the registry.
_KNOWN_GATEWAYS = 16
#: The lifecycle states in which a device gets downlinks.
SERVED = frozenset({Lifecycle.REGISTERED, Lifecycle.PROVISIONED, Lifecycle.ACTIVE})


@frozen
class _Way:
    """A device, and the gateways above it, the nearest first."""

    device: Device
    above: Sequence[Device]

    @property
    def is_served(self) -> bool:
        """Whether the device, and every gateway above it, may get downlinks."""
        return all(each.lifecycle in SERVED for each in (self.device, *self.above))


class Downlinks:
    """Takes changes from the capabilities and sends them over whatever reaches the device.

    Args:
        sources: the waiting items of devices, by message type.
        changed: called with the device before anything is sent.
        presence: knows which devices sleep, and which have sent.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        twins: Twins,
        commands: Commands,
        updates: Updates,
        sessions: Sessions,
        sources: Mapping[MessageType, Source],
        changed: Callable[[str], None],
        presence: PresenceBoard,
    ) -> None:
        self._registry, self._commands, self._sessions = registry, commands, sessions
        self._sources, self._changed, self._presence = sources, changed, presence
        #: Sleeping devices → those whose items are held back: itself, and its leaves.
        self._held: dict[str, set[str]] = {}
        self._ticks = 0
        self._listeners: dict[str, dict[DeviceSession, Sink]] = defaultdict(dict)
        self._brokers: list[Sink] = []
        self._dirty: dict[str, list[Downlink | Command | MessageType]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        twins.on_desired(
            lambda device, body: self.push(device, Downlink(type=messages.TWIN_DESIRED, subject=device, body=body))
        )
        commands.on_queued(lambda device: self.push(device, messages.COMMAND))
        commands.on_cancel(self._cancel_asked)
        commands.connect(self._reaches, lambda command: self.push(command.device, command))
        updates.on_offer(lambda device: self.push(device, messages.FIRMWARE))
        updates.on_withdrawn(self._offer_withdrawn)

    def listen(self, session: Session, sink: Sink) -> None:
        """See :meth:`fleetcore.interfaces.protocol.DevicePlane.listen`."""
        assert isinstance(session, DeviceSession)
        if session.ended is not None:
            return
        first = session not in self._listeners[session.identity]
        self._listeners[session.identity][session] = sink
        if first:
            session.on_end(lambda _code: self._forget(session))
        self.spawn(self._greet(session, sink), f"greet {session.identity}")

    def _forget(self, session: DeviceSession) -> None:
        listeners = self._listeners[session.identity]
        listeners.pop(session, None)
        if not listeners:
            del self._listeners[session.identity]

    def add_broker_sink(self, sink: Sink) -> Callable[[], None]:
        """See :meth:`fleetcore.interfaces.protocol.DevicePlane.add_broker_sink`."""
        self._brokers.append(sink)

        def end() -> None:
            if sink in self._brokers:
                self._brokers.remove(sink)

        return end

    def came_back(self, device: str) -> None:
        """A device reports that it is online or awake: all unfinished items are sent."""
        if device in self._held:
            self._held[device].discard(device)
        self.spawn(self._greet_back(device), f"greet {device}")

    def heard(self, devices: Iterable[str]) -> None:
        """Messages of these devices were handled: items held back for them are sent while they are awake."""
        if not self._held:
            return
        for sleeper in self._held.keys() & set(devices):
            if self._presence.is_asleep(sleeper):
                continue
            for device in self._held.pop(sleeper):
                # It may sleep again before this is done; it was awake for it.
                self.spawn(self._greet_subject(device, None, awake=sleeper), f"greet {device}")

    async def _greet(self, session: DeviceSession, sink: Sink) -> None:
        def hand(downlink: Downlink) -> bool | None:
            return sink(downlink) if session.ended is None else False

        await self._greet_subject(session.identity, hand, awake=session.identity)
        for leaf in await self._registry.below(session.identity):
            await self._greet_subject(leaf.id, hand)

    async def _greet_back(self, device: str) -> None:
        await self._greet_subject(device, None)
        if self._brokers and device not in self._listeners:  # a gateway's leaves are not greeted by its own session
            for leaf in await self._registry.below(device):
                await self._greet_subject(leaf.id, None)

    async def _greet_subject(self, subject: str, sink: Sink | None, *, awake: str = "") -> None:
        """Sends all unfinished items, unless the device or its gateway sleeps; ``awake`` has just sent something."""
        device = await self._registry.find(subject)
        if device is None:
            return
        way = await self._way(device)
        if not way.is_served or self._holds_back(way, awake):
            return
        sinks = [sink] if sink is not None else self._sinks(way)
        if not sinks:
            return
        for source in self._sources.values():
            for downlink in await source.unfinished(subject):
                self._hand(sinks, way, downlink)

    async def _way(self, device: Device) -> "_Way":
        return self._known_way(device) or _Way(device, await self._registry.path(device))

    def _known_way(self, device: Device) -> "_Way | None":
        """The way to a device, where every gateway on it has a session."""
        above: list[Device] = []
        at = device
        while at.gateway is not None and len(above) < _KNOWN_GATEWAYS:
            gateway = self._sessions.known(at.gateway)
            if gateway is None:
                return None
            above.append(gateway)
            at = gateway
        return _Way(device, above) if at.gateway is None else None

    def _sinks(self, way: "_Way") -> list[Sink]:
        for each in (way.device, *way.above):
            if listeners := self._listeners.get(each.id):
                return list(listeners.values())
        return list(self._brokers)

    def _served(self, way: "_Way") -> list[Sink]:
        """The sinks of a device that gets downlinks; none for others, nor through a gateway that gets none."""
        return [] if not way.is_served or self._holds_back(way) else self._sinks(way)

    def _holds_back(self, way: "_Way", awake: str = "") -> bool:
        """Whether the device, or a gateway above it, sleeps; held back items are noted."""
        for each in (way.device, *way.above):
            if each.id != awake and self._presence.is_asleep(each.id):
                self._held.setdefault(each.id, set()).add(way.device.id)
                return True
        return False

    def _through(self, way: "_Way") -> str | None:
        """The gateway through which a device is reached: of several above it, the nearest that is connected."""
        if len(way.above) > 1:
            for gateway in way.above:
                if gateway.id in self._listeners or self._presence.of(gateway.id).connectivity is Connectivity.ONLINE:
                    return gateway.id
        return way.device.gateway

    def _give(self, sinks: list[Sink], way: "_Way", what: Downlink | Command) -> None:
        """Sends an item; a command is already stored as sent, so the store is told if no sink takes it."""
        if not isinstance(what, Command):
            self._hand(sinks, way, what)
        elif not sinks:
            self._commands.not_taken(what.device, what.id)
        elif self._commands.may_be_given(what):
            self._hand(sinks, way, self._commands.downlink(what))

    def _hand(self, sinks: list[Sink], way: "_Way", downlink: Downlink) -> None:
        """Passes an item on; a command is stored as sent, so the store is told if no sink could."""
        if way.device.gateway is not None:
            downlink = evolve(downlink, gateway=self._through(way))
        taken = False
        for sink in sinks:
            try:
                taken = sink(downlink) is not False or taken
            except BaseException as error:
                failure = contained(error, "it")
                _log.error("An adapter failed to send a downlink for %s", downlink.subject, exc_info=failure)
        if not taken and downlink.type is messages.COMMAND:
            self._commands.not_taken(downlink.subject, str(downlink.body["id"]))

    def _cancel_asked(self, command: Command) -> None:
        body = {"id": command.id}
        self.push(
            command.device,
            Downlink(type=messages.COMMAND_CANCEL, subject=command.device, target=command.id, body=body),
        )

    def _offer_withdrawn(self, device: str, execution: str) -> None:
        body = {"offer": None, "cancel": execution}
        self.push(device, Downlink(type=messages.FIRMWARE, subject=device, body=body))

    def _reaches(self, device: str) -> bool:
        """Whether a sink would take an item for a device now, and no earlier one waits."""
        known = self._sessions.known(device)
        if known is None or device in self._dirty:
            return False
        return bool(self._served(self._known_way(known) or _Way(known, ())))

    def push(self, device: str, what: Downlink | Command | MessageType) -> None:
        """Something changed for a device: it is sent, in order.

        A command in ``what`` is already stored as sent; for a message type its source gives the items.
        """
        self._changed(device)
        if not self._listeners and not self._brokers:
            if isinstance(what, Command):
                self._commands.not_taken(what.device, what.id)
            return
        queue = self._dirty.get(device)
        if what is messages.COMMAND and queue is None and self._commands.is_idle(device):
            return
        if queue is not None:
            if what not in queue:
                queue.append(what)
            return
        known = self._sessions.known(device)
        way = None if known is None else self._known_way(known)
        if way is not None and not isinstance(what, MessageType):
            self._give(self._served(way), way, what)
            return
        self._dirty[device] = [what]
        self.spawn(self._pump(device), f"push {device}")

    async def _pump(self, subject: str) -> None:
        try:
            while queue := self._dirty[subject]:
                what = queue.pop(0)
                device = await self._sessions.current(subject)
                way = None if device is None else await self._way(device)
                sinks = [] if way is None else self._served(way)
                if way is None or not sinks:
                    if isinstance(what, Command):
                        self._commands.not_taken(what.device, what.id)
                elif not isinstance(what, MessageType):
                    self._give(sinks, way, what)
                elif what is messages.COMMAND:
                    for command in await self._commands.hand_out(subject):
                        self._give(sinks, way, command)
                else:
                    body = await self._sources[what].read(subject, 0)
                    if body is not None:
                        self._hand(sinks, way, Downlink(type=what, subject=subject, body=body))
        finally:
            self._dirty.pop(subject, None)

    async def tick(self) -> None:
        """Ends expired commands, and sends again unaccepted items and those held back."""
        self._ticks += 1
        heard = self._presence.last
        for sleeper in list(self._held):
            # An ended sleep is found once a minute; otherwise a message of the device ends it.
            if (sleeper in heard or self._ticks % _OVERSLEPT == 0) and not self._presence.is_asleep(sleeper):
                for device in self._held.pop(sleeper):
                    self.came_back(device)
        for device in await self._commands.tick():
            self.push(device, messages.COMMAND)

    def spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        """Runs ``work`` in a task of the plane; its errors are logged."""
        task = asyncio.create_task(_logged(work, name), name=f"fleetcore {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait_idle(self) -> None:
        """Returns once the tasks under way are finished."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Cancels the tasks under way."""
        for task in list(self._tasks):
            task.cancel()
        await self.wait_idle()


async def _logged(work: Coroutine[object, object, None], name: str) -> None:
    try:
        await work
    except FleetError as error:
        _log.warning("%s: %s", name, error)
    except Exception:
        _log.exception("%s failed", name)
