"""Commands in the memory of one process: the unfinished ones of active devices, sequences, retired devices.

All of it relies on this process being the only writer of commands, which the lease on the data folder ensures. Several
nodes would need another solution in this module. The store is authoritative: every change is made with the cached
version, and where the store refuses that, the device is read again.
"""

import asyncio
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from attrs import define, field

from fleetcore.model.command import FINISHED, Command
from fleetcore.model.device import Device
from fleetcore.wire.strict_json import dumps

#: The limit for commands in memory: their arguments and outputs and the overhead of a record.
LIMIT_BYTES = 64 * 1024 * 1024
#: The size of a command without arguments, and of a device without commands (measured: tracemalloc over 10,000 of
#: each).
_COMMAND_BYTES, _DEVICE_BYTES = 1500, 1000
#: How many devices have their retirement cached; each takes a hundred bytes.
_DEVICES = 100_000


@define(eq=False)
class _Device:
    """The open commands of one device: by id, and by lane in the order of their sequence.

    Attributes:
        loaded: done when they are read from the store.
        noted: the commands committed during the read.
        stale: whether they must not be used any more, because of an unknown change.
        untaken: the ids of commands stored as sent although no transport took them.
    """

    loaded: "asyncio.Future[None]"
    commands: dict[str, Command] = field(factory=dict)
    lanes: dict[str, list[Command]] = field(factory=dict)
    noted: list[Command] = field(factory=list)
    size: int = _DEVICE_BYTES
    stale: bool = False
    untaken: set[str] = field(factory=set)

    def put(self, command: Command) -> None:
        """Records a command as it was committed; an older version than the known one is ignored."""
        known = self.commands.get(command.id)
        if known is not None:
            if known.version >= command.version:
                return
            lane = self.lanes[known.lane]
            del lane[bisect_left(lane, known.sequence, key=_sequence)]
            if not lane:
                del self.lanes[known.lane]
            del self.commands[known.id]
            self.size -= _size(known)
        if command.state in FINISHED:
            self.untaken.discard(command.id)
        else:
            self.commands[command.id] = command
            insort(self.lanes.setdefault(command.lane, []), command, key=_sequence)
            self.size += _size(command)


def _sequence(command: Command) -> int:
    return command.sequence


def _size(command: Command) -> int:
    size = _COMMAND_BYTES
    if command.args:
        size += len(dumps(command.args))
    return size if command.output is None else size + len(dumps(command.output))


class OpenCommands:
    """The unfinished commands of the most recently used devices.

    Call :meth:`note` for each commit of a command, in order per command, and :meth:`forget` where the result of a
    commit is unknown.

    Args:
        load: reads the unfinished commands of a device from the store.
    """

    def __init__(self, load: Callable[[str], Awaitable[Sequence[Command]]], limit_bytes: int = LIMIT_BYTES) -> None:
        self._load, self._limit_bytes = load, limit_bytes
        self._devices: OrderedDict[str, _Device] = OrderedDict()
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """The size of the cached commands, in bytes."""
        return self._size

    def held(self, device: str) -> Sequence[Command] | None:
        """The cached commands of a device, by sequence; None where it is not cached."""
        known = self._devices.get(device)
        if known is None or not known.loaded.done():
            return None
        return sorted(known.commands.values(), key=_sequence)

    def get(self, device: str, command: str) -> Command | None:
        """An unfinished command from memory, without waiting; None means unknown."""
        known = self._devices.get(device)
        return None if known is None else known.commands.get(command)

    def lanes_held(self, device: str) -> Sequence[Sequence[Command]] | None:
        """As :meth:`lanes`, from memory alone, without waiting; None where the device is not cached."""
        known = self._devices.get(device)
        return None if known is None or not known.loaded.done() else list(known.lanes.values())

    def has_room(self, device: str, lane: str, lanes: int) -> bool:
        """Whether memory shows that a lane has no unfinished command, and fewer than ``lanes`` have any."""
        known = self._devices.get(device)
        return known is not None and known.loaded.done() and lane not in known.lanes and len(known.lanes) < lanes

    def has_ended(self, command: Command) -> bool:
        """Whether memory shows that an unfinished command has ended meanwhile."""
        known = self._devices.get(command.device)
        if known is None or not known.loaded.done() or command.state in FINISHED:
            return False
        return command.id not in known.commands

    def note_untaken(self, device: str, command: str) -> None:
        """Records that a command is stored as sent, and no transport took it."""
        known = self._devices.get(device)
        if known is not None and command in known.commands:
            known.untaken.add(command)

    def take_untaken(self, command: Command) -> bool:
        """Whether that is so; the record is then cleared."""
        known = self._devices.get(command.device)
        if known is None or command.id not in known.untaken:
            return False
        known.untaken.discard(command.id)
        return True

    async def of(self, device: str) -> Sequence[Command]:
        """The unfinished commands of a device by sequence."""
        return sorted((await self._of(device)).commands.values(), key=_sequence)

    async def lanes(self, device: str) -> Sequence[Sequence[Command]]:
        """The unfinished commands of a device, lane by lane, by sequence. Read them before the next await."""
        return list((await self._of(device)).lanes.values())

    def note(self, command: Command) -> None:
        """Records a command as it was committed."""
        known = self._devices.get(command.device)
        if known is None:
            return
        if not known.loaded.done():
            known.noted.append(command)
            return
        before = known.size
        known.put(command)
        self._size += known.size - before
        if self._size > self._limit_bytes:
            self._shorten()

    def forget(self, device: str) -> None:
        """Drops a device's commands, which may be wrong: they are read again, also by reads in progress."""
        known = self._devices.pop(device, None)
        if known is not None:
            known.stale = True
            self._size -= known.size

    async def _of(self, device: str) -> _Device:
        while True:
            known = self._devices.get(device)
            if known is None:
                known = await self._read(device)
            elif known.loaded.done():
                self._devices.move_to_end(device)
                return known
            else:
                await asyncio.wait([known.loaded])
            if known.loaded.done() and not known.stale:
                return known

    async def _read(self, device: str) -> _Device:
        known = self._devices[device] = _Device(asyncio.get_running_loop().create_future())
        self._size += known.size
        try:
            found = await self._load(device)
        except BaseException:
            # Waiters try again themselves.
            if not known.stale:
                self.forget(device)
            known.loaded.set_result(None)
            raise
        before = known.size
        for command in (*found, *known.noted):
            known.put(command)
        known.noted.clear()
        known.loaded.set_result(None)
        if not known.stale:
            self._size += known.size - before
            if self._size > self._limit_bytes:
                self._shorten()
        return known

    def _shorten(self) -> None:
        excess = self._size - self._limit_bytes
        gone = []
        for device, known in self._devices.items():
            if excess <= 0:
                break
            if known.loaded.done():
                gone.append(device)
                excess -= known.size
        for device in gone:
            self._size -= self._devices.pop(device).size


class DeviceFlag:
    """Caches whether a property holds for devices, which a command to them checks first.

    Args:
        says: whether the property holds for a device.
        look: reads the device; None where it is not registered.
    """

    def __init__(
        self,
        says: Callable[[Device], bool],
        look: Callable[[str], Awaitable[Device | None]],
        limit: int = _DEVICES,
    ) -> None:
        self._says, self._look, self._limit = says, look, limit
        self._known: OrderedDict[str, bool] = OrderedDict()

    async def has(self, device: str) -> bool:
        """Whether it holds for a device; False for one that is not registered."""
        known = self._known.get(device)
        if known is None:
            there = await self._look(device)
            found = there is not None and self._says(there)
            # Changes made during the read have been stored here since.
            known = self._known.setdefault(device, found)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        return known

    def seems(self, device: str) -> bool:
        """The same, for a device whose property :meth:`has` has read before, without a read."""
        return self._known.get(device, False)

    def changed(self, device: Device) -> bool:
        """Records a changed device; returns whether the property held before and no longer does."""
        before = self._known.get(device.id, False)
        if device.id in self._known or self._says(device):
            self._known[device.id] = self._says(device)
        return before and not self._known[device.id]

    def forget(self, device: str) -> None:
        """Drops a device that was erased."""
        self._known.pop(device, None)
