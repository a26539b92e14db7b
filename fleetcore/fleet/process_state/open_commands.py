"""What one process keeps in memory of commands: the unfinished ones of the devices in use, sequences, who is retired.

All of it assumes that this process alone writes commands, which the lease on the data folder sees to. Several nodes
would need another answer, and this is the place for it. The store stays the truth: every change is made with the
version that is known here, and where that is refused, the device is read again.
"""

import asyncio
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from attrs import define, field

from fleetcore.model.command import FINISHED, Command
from fleetcore.model.device import Device
from fleetcore.wire.strict_json import dumps

#: Commands in memory, by their arguments and outputs and what a record costs beside them.
LIMIT_BYTES = 64 * 1024 * 1024
#: A command without arguments, and a device without commands (measured: tracemalloc over 10,000 of each).
_COMMAND_BYTES, _DEVICE_BYTES = 1500, 1000
#: Devices of which it is remembered whether they are retired; each is a hundred bytes.
_DEVICES = 100_000


@define(eq=False)
class _Device:
    """The open commands of one device: by id, and by lane in the order of their sequence.

    Attributes:
        loaded: done when they have been read from the store.
        noted: what was committed while they were being read.
        stale: they are not to be used any more: something unknown may have happened to them.
        untaken: ids of those that are stored as handed out although no transport took them.
    """

    loaded: "asyncio.Future[None]"
    commands: dict[str, Command] = field(factory=dict)
    lanes: dict[str, list[Command]] = field(factory=dict)
    noted: list[Command] = field(factory=list)
    size: int = _DEVICE_BYTES
    stale: bool = False
    untaken: set[str] = field(factory=set)

    def put(self, command: Command) -> None:
        """Takes up a command as it was committed; an older version than the known one says nothing."""
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
    """The unfinished commands of the devices that were used last.

    Each commit of a command is told with :meth:`note`, in the order of the commits of one command, and
    where it does not know how a commit ended, with :meth:`forget`.

    Args:
        load: reads the unfinished commands of a device from the store.
    """

    def __init__(self, load: Callable[[str], Awaitable[Sequence[Command]]], limit_bytes: int = LIMIT_BYTES) -> None:
        self._load, self._limit_bytes = load, limit_bytes
        self._devices: OrderedDict[str, _Device] = OrderedDict()
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """What is kept, in bytes."""
        return self._size

    def held(self, device: str) -> Sequence[Command] | None:
        """What is in memory of a device, by sequence; None where nothing is."""
        known = self._devices.get(device)
        if known is None or not known.loaded.done():
            return None
        return sorted(known.commands.values(), key=_sequence)

    def get(self, device: str, command: str) -> Command | None:
        """An unfinished command as it is in memory, without waiting; None says nothing."""
        known = self._devices.get(device)
        return None if known is None else known.commands.get(command)

    def lanes_held(self, device: str) -> Sequence[Sequence[Command]] | None:
        """As :meth:`lanes`, from memory alone, without waiting; None where nothing is there."""
        known = self._devices.get(device)
        return None if known is None or not known.loaded.done() else list(known.lanes.values())

    def has_room(self, device: str, lane: str, lanes: int) -> bool:
        """Whether it is known from memory that a lane has no unfinished command, and fewer than ``lanes`` have any."""
        known = self._devices.get(device)
        return known is not None and known.loaded.done() and lane not in known.lanes and len(known.lanes) < lanes

    def has_ended(self, command: Command) -> bool:
        """Whether it is known from memory that an unfinished command has ended meanwhile."""
        known = self._devices.get(command.device)
        if known is None or not known.loaded.done() or command.state in FINISHED:
            return False
        return command.id not in known.commands

    def note_untaken(self, command: Command) -> None:
        """A command is stored as handed out, and no transport took it."""
        known = self._devices.get(command.device)
        if known is not None and command.id in known.commands:
            known.untaken.add(command.id)

    def take_untaken(self, command: Command) -> bool:
        """Whether that is so; not any more afterwards."""
        known = self._devices.get(command.device)
        if known is None or command.id not in known.untaken:
            return False
        known.untaken.discard(command.id)
        return True

    async def of(self, device: str) -> Sequence[Command]:
        """The unfinished commands of a device by sequence."""
        return sorted((await self._of(device)).commands.values(), key=_sequence)

    async def lanes(self, device: str) -> Sequence[Sequence[Command]]:
        """The unfinished commands of a device, lane by lane, by sequence. To be read before anything is awaited."""
        return list((await self._of(device)).lanes.values())

    def note(self, command: Command) -> None:
        """A command was committed as it is here."""
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
        """What is known of a device may be wrong: it is read again, also by reads under way."""
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
            # Those who wait for it try themselves.
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
    """Of which devices something is known to be true, or not to be: what a command to them asks first.

    Args:
        says: whether it is true of a device.
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
        """Whether it is true of a device; of one that is not registered it is not."""
        known = self._known.get(device)
        if known is None:
            there = await self._look(device)
            found = there is not None and self._says(there)
            # What was changed while it was read has been put here since.
            known = self._known.setdefault(device, found)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        return known

    def seems(self, device: str) -> bool:
        """The same, of a device that :meth:`has` was asked of before, without a look."""
        return self._known.get(device, False)

    def changed(self, device: Device) -> bool:
        """A device was changed; whether it was known to be true and is not any more."""
        before = self._known.get(device.id, False)
        if device.id in self._known or self._says(device):
            self._known[device.id] = self._says(device)
        return before and not self._known[device.id]

    def forget(self, device: str) -> None:
        """A device was erased."""
        self._known.pop(device, None)
