"""Commands: queued in the store, sent in order, at most one unfinished per lane, finished by the device's result.

``sent`` is committed before a command is passed to a transport, so a crash leads to a repeat with the same id and
sequence (which a device answers from its memory), never to a command that ran without a record. Where a device is
connected and the lane is free, a command is queued and sent in one commit.
"""

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from attrs import define, evolve, field
from msgspec import UNSET, to_builtins

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.fleet.ids import ordered_id
from fleetcore.fleet.process_state.open_commands import DeviceFlag, OpenCommands
from fleetcore.fleet.repository import Pairs, Repository, in_time
from fleetcore.fleet.search import Search
from fleetcore.fleet.shielding import Shield
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.command import COMMAND_TRANSITIONS, FINISHED, Command, CommandState
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.message import Accepted, Downlink, Handler, MessageType, Outcome, Rejected, Waiting
from fleetcore.model.names import check_device_id
from fleetcore.model.store import Commit, Event
from fleetcore.model.store import Counter as StoreCounter
from fleetcore.query.explain import deciding
from fleetcore.query.fitting import parse_new
from fleetcore.wire import messages
from fleetcore.wire.strict_json import EXACT_INTEGER, dumps, loads
from fleetcore.wire.times import format_time

#: A command that the device does not accept within this time is sent again (wire.md §9).
ACK_TIMEOUT_MS = 30_000
#: A device that has just come back does not get commands again that were sent this recently: they may still be in
#: transit.
_JUST_SENT_MS = 1_000
#: The longest interval at which a waiting caller checks, seconds.
_LOOK_S = 1.0
#: The most unfinished commands in a snapshot (wire.md §9).
SNAPSHOT = 10
#: The states in which the device has started it.
_BEGUN = frozenset({CommandState.DELIVERED, CommandState.RUNNING})
_ARGS_BYTES = 64 * 1024
_ARGS_DEPTH = 10
#: The unique value of a supersede key: one queued command of a device holds it.
_SUPERSEDE = "command-supersede"
#: Ten years.
_MAX_S = 10 * 365 * 86_400.0

_REPORTED = {
    "accepted": CommandState.DELIVERED,
    "running": CommandState.RUNNING,
    "succeeded": CommandState.SUCCEEDED,
    "failed": CommandState.FAILED,
    "rejected": CommandState.REJECTED,
    "cancelled": CommandState.CANCELLED,
}

#: The index entry of every command without an end state.
UNFINISHED = ("unfinished", "yes")
#: The highest sequence of a device's commands; it outlives them, since the device remembers it.
SEQUENCE = "command-sequence"

#: Waits until a commit was made.
Pause = Callable[[Coroutine[Any, Any, bool]], Awaitable[None]]


async def _pause(news: Coroutine[Any, Any, bool]) -> None:
    await news


Signer = Callable[[Mapping[str, object]], Mapping[str, object]]


#: From a command to its new state and the events, or None for "nothing to do".
Step = Callable[[Command], tuple[Command, Sequence[Event]] | None]


@define(eq=False)
class _Joint:
    """Steps of one command that go into one commit; they start together, and end with the task."""

    steps: list[Step]
    task: "asyncio.Task[Command]" = field(init=False)


def _unfinished(command: Command) -> bool:
    return command.state not in FINISHED


def _refs(command: Command) -> Pairs:
    refs = [("device", command.device)]
    if command.bulk is not None:
        refs.append(("bulk", command.bulk))
    return [*refs, ("open", command.device), UNFINISHED] if _unfinished(command) else refs


def _counter(command: Command) -> StoreCounter | None:
    return None if command.bulk is None else (bulk_space(command.bulk), command.state.value)


def bulk_space(operation: str) -> str:
    """The counter of an operation's commands by state."""
    return f"bulk/{operation}"


def selection(device: str | None, *, unfinished: bool = False) -> tuple[str, str] | None:
    """The index entry of a device's commands, or of all; None for all commands of all devices."""
    if device is None:
        return UNFINISHED if unfinished else None
    return ("open" if unfinished else "device", device)


def _due(command: Command) -> int | None:
    if not _unfinished(command):
        return None
    if command.state is CommandState.QUEUED:
        return min(command.deliver_by, command.expires_at, command.result_by)
    if command.state is CommandState.SENT and command.sent_at is not None:
        return min(command.sent_at + ACK_TIMEOUT_MS, command.expires_at, command.result_by)
    return command.result_by


class Commands:
    """Sends commands and stores their states."""

    def __init__(
        self, storage: Storage, clock: Clock, sign: Signer | None = None, search: Search | None = None
    ) -> None:
        self._clock, self._sign, self._search = clock, sign, search
        self._storage = storage
        self.records = Repository(
            storage,
            "command",
            Command,
            unique=_unique,
            refs=_refs,
            due=_due,
            sort=lambda command: f"{in_time(command.issued_at)}/{command.sequence:016d}",
            counted=_counter,
        )
        self._listeners: list[Callable[[str], None]] = []
        self._cancels: list[Callable[[Command], None]] = []
        self._reaches: Callable[[str], bool] = lambda _device: False
        self._hand: Callable[[Command], None] = lambda _command: None
        # Commands that are being stored, by device and lane.
        self._entering: Counter[tuple[str, str]] = Counter()
        self._sequences: dict[str, int] = {}
        self._open = OpenCommands(lambda device: self.records.find(ref=("open", device)))
        devices = Repository(storage, "device", Device)
        self._retired = DeviceFlag(lambda device: device.lifecycle is Lifecycle.RETIRED, devices.get)
        #: The device gets its commands from the hub that it is connected to, so that none reaches it twice.
        self._away = DeviceFlag(lambda device: device.home is not None, devices.get)
        self._shield = Shield("fleetcore command change")
        self._joint: dict[tuple[str, str], _Joint] = {}

    def on_queued(self, callback: Callable[[str], None]) -> None:
        """Calls ``callback(device)`` whenever there may be a new command to send."""
        self._listeners.append(callback)

    def on_cancel(self, callback: Callable[[Command], None]) -> None:
        """Calls ``callback(command)`` when a command that the device may have is to be cancelled."""
        self._cancels.append(callback)

    def connect(self, reaches: Callable[[str], bool], hand: Callable[[Command], None]) -> None:
        """``reaches(device)`` says whether it takes commands now; ``hand(command)`` passes it one, stored as ``sent``.

        Without it commands wait until :meth:`hand_out` requests them.
        """
        self._reaches, self._hand = reaches, hand

    def device_changed(self, device: Device) -> None:
        """The registry's listener for changes of a device."""
        self._retired.changed(device)
        if self._away.changed(device):
            self._wake(device.id)

    def forget(self, device: str) -> None:
        """Drops what is in memory of a device that was erased, or whose commands were changed elsewhere."""
        self._open.forget(device)
        self._retired.forget(device)
        self._away.forget(device)

    async def _change(self, device: str, command: str, step: Step, *, code: str = "not_found") -> Command:
        """Changes a command of a device; the change completes even if the caller is cancelled.

        It starts from memory and reads the store only where that has a newer version. Steps that arrive before the
        first of them has started are applied in order and stored in one commit.
        """
        name = (device, command)
        joint = self._joint.get(name)
        if joint is not None:
            joint.steps.append(step)
            return await asyncio.shield(joint.task)
        joint = self._joint[name] = _Joint([step])
        joint.task = self._shield.start(self._changed(device, command, joint, code))
        return await asyncio.shield(joint.task)

    async def _changed(self, device: str, command: str, joint: "_Joint", code: str) -> Command:
        tried = False

        def begun() -> None:
            if self._joint.get((device, command)) is joint:
                del self._joint[device, command]

        async def load() -> Command:
            nonlocal tried
            known = None if tried else self._open.get(device, command)
            if tried:
                self._open.forget(device)
            tried = True
            return known or await self.records.need(command, code=code)

        def step(old: Command) -> tuple[Command, Sequence[Event]] | None:
            begun()
            new, events = old, list[Event]()
            for part in joint.steps:
                result = part(new)
                if result is not None:
                    new = result[0]
                    events += result[1]
            return None if new is old else (new, events)

        try:
            changed = await self.records.compare_and_set(load, step, key=command)
        except NotFound:
            raise
        except BaseException:
            # It is unknown whether it was committed.
            self._open.forget(device)
            raise
        finally:
            begun()
        self._open.note(changed)
        return changed

    def _wake(self, device: str) -> None:
        for callback in self._listeners:
            callback(device)

    async def _next_sequence(self, device: str) -> int:
        last = self._sequences.get(device)
        if last is None:
            highest = await self._storage.floor(SEQUENCE, device)
            last = self._sequences.get(device, highest)
        self._sequences[device] = last + 1
        return last + 1

    async def send(
        self,
        device: str,
        name: str,
        args: Mapping[str, object] | None = None,
        *,
        lane: str = "default",
        respond: str = "result",
        deliver_within_s: float = 86_400,
        execute_within_s: float = 86_400,
        result_within_s: float = 90_000,
        idempotency_key: str | None = None,
        supersede: str | None = None,
        precondition: str | None = None,
        bulk: str | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> Command:
        """Queues a command and returns it at once.

        Args:
            idempotency_key: a second call with the same key for the device returns the first command.
            supersede: queued commands with the same key are cancelled in favour of this one, in the same commit.
            precondition: a query; a device that it does not select when the command is sent does not get it.
            bulk: the operation that sends it.

        Raises:
            Refused: an invalid name or answer mode, arguments that are not JSON or too long, a time that is not
                positive; ``idempotency_mismatch`` where the key was used with another command.
            Conflict: ``illegal_transition``, the device is retired.
        """
        check_device_id(device)
        self.check(
            name,
            args,
            lane=lane,
            respond=respond,
            deliver_within_s=deliver_within_s,
            execute_within_s=execute_within_s,
            result_within_s=result_within_s,
            precondition=precondition,
        )
        if await self._retired.has(device):
            raise Conflict(f"Device {device!r} is retired", code="illegal_transition", device=device)
        await self._away.has(device)  # so that it is cached when the command is queued
        now = self._clock.now_ms()
        command = Command(
            id=ordered_id(now) if idempotency_key is None else _keyed_id(device, idempotency_key),
            device=device,
            name=name,
            args=dict(args or {}),
            sequence=await self._next_sequence(device),
            lane=lane,
            respond=respond,
            issued_at=now,
            deliver_by=now + int(deliver_within_s * 1000),
            expires_at=now + int(execute_within_s * 1000),
            result_by=now + int(result_within_s * 1000),
            supersede_key=supersede,
            precondition=precondition,
            bulk=bulk,
            issued_by=actor,
            version=1,
        )
        event = Event(
            type="command.queued", subject=command.id, time=now, actor=actor, reason=reason, data=_event_data(command)
        )
        # With its sequence, so that earlier commands in its lane have been counted before it.
        self._entering[device, lane] += 1
        queued = await self._shield.run(self._entered(command, event, keyed=idempotency_key is not None))
        if await self._retired.has(device):
            # It was retired meanwhile, perhaps after its commands were cancelled.
            await self.cancel_all(device, "device_retired", actor=actor, reason=reason)
            raise Conflict(f"Device {device!r} is retired", code="illegal_transition", device=device)
        return queued

    async def _entered(self, command: Command, event: Event, *, keyed: bool) -> Command:
        place = (command.device, command.lane)
        try:
            return await self._queue(command, event, keyed=keyed)
        finally:
            self._entering[place] -= 1
            if not self._entering[place]:
                del self._entering[place]

    def _goes_at_once(self, command: Command) -> bool:
        """Whether a new command is at the head of its lane, and its device takes it now unconditionally.

        A command without an answer ends when it is sent: it is stored as queued first, so that it waits where no
        transport takes it.
        """
        return (
            command.precondition is None
            and command.respond != "none"
            and self._in_time(command)
            and self._entering[command.device, command.lane] == 1
            and self._open.has_room(command.device, command.lane, SNAPSHOT)
            and self._reaches(command.device)
            and not self._away.seems(command.device)
        )

    def _in_time(self, command: Command) -> bool:
        return min(command.deliver_by, command.expires_at) > self._clock.now_ms()

    def may_be_given(self, command: Command) -> bool:
        """Whether a command that is stored as sent may be passed to a transport now.

        Storing it took time: a command that no device has started is not passed on after its time, nor once it has
        ended.
        """
        begun = command.state in _BEGUN
        return (begun or self._in_time(command)) and not self._open.has_ended(command)

    def not_taken(self, device: str, command: str) -> None:
        """Records that no transport took a command stored as sent: it goes out when the device comes back."""
        self._open.note_untaken(device, command)

    async def _queue(self, command: Command, event: Event, *, keyed: bool) -> Command:
        device, now, actor = command.device, command.issued_at, event.actor
        while True:
            old = await self._superseded(device, command.supersede_key)
            new = evolve(command, supersedes=tuple(item.id for item in old)) if old else command
            ended = [
                evolve(item, state=CommandState.CANCELLED, code="superseded", finished_at=now, version=item.version + 1)
                for item in old
            ]
            events = [event, *(_cancelled(item, now, actor, f"superseded by {command.id}") for item in old)]
            at_once = self._goes_at_once(new)
            if at_once:
                new, sent = _sent(new, now, version=new.version)
                events.append(sent)
            extra = Commit(floors={(SEQUENCE, device): new.sequence})
            for before, after in zip(old, ended, strict=True):
                extra += self.records.changing(before, after)
            try:
                # It is noted before the next change, so the notes on a command are in order.
                async with self.records.turn(new.id):
                    queued = await self.records.create(new, events, extra)
                    self._open.note(queued)
            except Conflict as conflict:
                self._open.forget(device)
                first = await self.records.get(command.id) if keyed else None
                superseded = conflict.ids.get("space") == _SUPERSEDE or any(
                    conflict.ids.get("key") == item.id for item in old
                )
                if first is None and superseded:
                    # Another command came first, or one was sent: read again what is still queued. A command that came
                    # meanwhile may have gone out already, so this one comes after it.
                    command = evolve(command, sequence=await self._next_sequence(device))
                    continue
                if first is None:
                    raise
                if (first.name, _as_json(first.args)) != (command.name, _as_json(command.args)):
                    raise Refused(
                        f"This key was used with another command, {first.name!r}",
                        code="idempotency_mismatch",
                        remedy="Use a new key for a new command",
                        command=first.id,
                    ) from None
                return first
            except BaseException:
                # It is unknown whether it was committed.
                self._open.forget(device)
                raise
            break
        for after in ended:
            self._open.note(after)
        if at_once:
            self._hand(queued)
        self._wake(device)
        return queued

    def check(
        self,
        name: str,
        args: Mapping[str, object] | None = None,
        *,
        lane: str = "default",
        respond: str = "result",
        deliver_within_s: float = 86_400,
        execute_within_s: float = 86_400,
        result_within_s: float = 90_000,
        precondition: str | None = None,
        supersede: str | None = None,
    ) -> None:
        """Raises Refused where :meth:`send` would for any device."""
        if not 1 <= len(name) <= 128:
            raise Refused("A command's name has 1-128 characters", code="name_invalid")
        _check_args(dict(args or {}))
        if any(text is not None and not 1 <= len(text) <= 128 for text in (lane, supersede)):
            raise Refused("A lane and a supersede key have 1-128 characters", code="name_invalid")
        if respond not in ("result", "ack", "none"):
            raise Refused(f"respond is one of result, ack, none, not {respond!r}")
        if not all(0 < within <= _MAX_S for within in (deliver_within_s, execute_within_s, result_within_s)):
            raise Refused(f"A command's times are seconds above 0 and up to {_MAX_S:.0f}")
        if precondition is not None:
            parse_new(precondition)

    async def _superseded(self, device: str, key: str | None) -> Sequence[Command]:
        if key is None:
            return ()
        unfinished = await self._open.of(device)
        return [item for item in unfinished if item.supersede_key == key and item.state is CommandState.QUEUED]

    def of_bulk(self, operation: str) -> AsyncIterator[Command]:
        """The commands that an operation sent, in the order of issue."""
        return self.records.iterate(ref=("bulk", operation))

    async def bulk_counts(self, operation: str) -> Mapping[str, int]:
        """The number of an operation's commands in each state."""
        return await self._storage.counters(bulk_space(operation))

    async def get(self, command: str) -> Command:
        """The command; raises NotFound (``command_unknown``)."""
        return await self.records.need(command, code="command_unknown")

    async def keyed(self, device: str, idempotency_key: str) -> Command | None:
        """The command sent with a key, or None."""
        return await self.records.get(_keyed_id(device, idempotency_key))

    async def list(self, device: str | None = None, *, unfinished: bool = False) -> list[Command]:
        """Commands of a device (or of all) by device and sequence."""
        found = await self.records.find(ref=selection(device, unfinished=unfinished))
        return sorted(found, key=lambda command: (command.device, command.sequence))

    async def cancel(self, command: str, *, actor: str = "system", reason: str = "") -> Command:
        """Cancels a command: at once if it was not sent, else by asking the device. Repeating it changes nothing.

        Raises Conflict (``illegal_transition``) where it has another end state.
        """
        current = await self.get(command)
        if not _unfinished(current) and current.state is not CommandState.CANCELLED:
            raise Conflict(f"The command has ended: {current.state}", code="illegal_transition", command=command)
        if current.state is CommandState.QUEUED:
            current = await self._end(
                current, CommandState.CANCELLED, code="cancelled", only=CommandState.QUEUED, actor=actor, reason=reason
            )
        if _unfinished(current) and not current.cancel_requested:
            event = Event(
                type="command.cancel_requested",
                subject=command,
                time=self._clock.now_ms(),
                actor=actor,
                reason=reason,
                data=_event_data(current),
            )
            current = await self._change(
                current.device,
                command,
                lambda old: (
                    (evolve(old, cancel_requested=True), [event])
                    if _unfinished(old) and not old.cancel_requested
                    else None
                ),
            )
            if current.cancel_requested:
                for callback in self._cancels:
                    callback(current)
        return current

    async def _end(
        self,
        ending: Command,
        state: CommandState,
        *,
        code: str,
        only: CommandState | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> Command:
        now = self._clock.now_ms()

        def step(old: Command) -> tuple[Command, list[Event]] | None:
            if not _unfinished(old) or (only is not None and old.state is not only):
                return None
            event = Event(
                type=f"command.{state}",
                subject=old.id,
                time=now,
                actor=actor,
                reason=reason or code,
                data=_event_data(old),
            )
            return evolve(old, state=state, code=code, finished_at=now, version=old.version + 1), [event]

        ended = await self._change(ending.device, ending.id, step)
        self._wake(ended.device)
        return ended

    async def cancel_all(self, device: str, code: str, *, actor: str = "system", reason: str = "") -> None:
        """Ends every unfinished command of a device that no longer takes any. May be repeated."""
        for command in await self.records.find(ref=("open", device)):
            await self._end(command, CommandState.CANCELLED, code=code, actor=actor, reason=reason)

    async def wait(self, command: Command, timeout_s: float, *, pause: Pause = _pause) -> Command:
        """The command in its end state, or in its present state after the time.

        ``pause(news)`` waits between two checks, at most for news; an exception from it ends the wait.
        """
        until = self._clock.monotonic_s() + timeout_s
        while _unfinished(command) and (left := until - self._clock.monotonic_s()) > 0:
            position = await self._storage.position()
            command = await self.get(command.id)
            if _unfinished(command):
                await pause(self._storage.wait_feed(position, min(_LOOK_S, left)))
        return command

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers for devices' reports about commands."""
        return {
            messages.COMMAND_RESULT: lambda request, body: self.result(request.subject, request.target, body),
        }

    @property
    def waiting(self) -> Mapping[MessageType, Waiting]:
        """What is pending for a device."""
        return {messages.COMMAND: Waiting(read=self._list, count=self.count_unfinished, unfinished=self._again)}

    async def _list(self, device: str, _after: int) -> Mapping[str, object] | None:
        """The snapshot (wire.md §9), including commands that become sent by it; empty for a device at a cloud hub."""
        if await self._away.has(device):
            return None
        given = {command.id: command for command in await self.hand_out(device)}
        left = [command for command in await self.snapshot(device) if command.id not in given]
        listed = sorted((*given.values(), *left), key=lambda command: command.sequence)[:SNAPSHOT]
        if not listed:
            return None
        unfinished = await self.count_unfinished(device)
        return {"commands": [self.wire(command) for command in listed], "more": unfinished > len(listed)}

    async def _again(self, device: str) -> Sequence[Downlink]:
        return [self.downlink(command) for command in await self.hand_out(device, again=True)]

    def downlink(self, command: Command) -> Downlink:
        """A command ready to be passed to a transport."""
        return Downlink(
            type=messages.COMMAND,
            subject=command.device,
            body=self.wire(command),
            expires_ms=max(1, command.expires_at - self._clock.now_ms()),
        )

    async def count_unfinished(self, device: str) -> int:
        """How many commands of a device are unfinished and may still start."""
        now = self._clock.now_ms()
        return sum(not _is_past(command, now) for command in await self._open.of(device))

    async def snapshot(self, device: str) -> Sequence[Command]:
        """The oldest unfinished commands in sequence order, only the head of each lane, without expired ones."""
        heads = _heads(await self._open.lanes(device), self._clock.now_ms())
        return sorted(heads, key=lambda command: command.sequence)[:SNAPSHOT]

    def is_idle(self, device: str) -> bool:
        """Whether memory alone shows that :meth:`hand_out` would give nothing new."""
        now = self._clock.now_ms()
        lanes = self._open.lanes_held(device)
        return lanes is not None and not any(_waits(head, now) for head in _heads(lanes, now))

    async def hand_out(self, device: str, *, again: bool = False) -> Sequence[Command]:
        """The commands to pass to a transport now, already committed as ``sent``.

        These are queued heads of lanes, and sent ones whose ``ack_timeout`` has passed; with ``again`` (the device has
        just come back) every unfinished head. Commands for a device that is connected to a cloud hub wait.
        """
        if await self._away.has(device):
            return []
        now = self._clock.now_ms()
        going: list[Command] = []
        for command in await self.snapshot(device):
            old = now - (command.sent_at or 0) >= _JUST_SENT_MS or self._open.take_untaken(command)
            if command.state is CommandState.QUEUED and not await self._may_go(command):
                continue
            if _waits(command, now) or (again and old):
                going.append(command)
        if len(going) == 1:
            marked = [await self._mark_sent(going[0], now)]
        else:
            # Concurrently: the store joins their commits.
            marked = await asyncio.gather(*(self._mark_sent(command, now) for command in going))
        given = [command for command in marked if command is not None]
        if not all(_unfinished(command) for command in given):
            self._wake(device)  # a command without an answer frees its lane when it is sent
        return given

    async def _may_go(self, command: Command) -> bool:
        """Whether the precondition holds now; where it does not, the command ends with the clause that decided."""
        if command.precondition is None or self._search is None:
            return True
        why = await self._search.explain(command.precondition, command.device)
        if why.truth is True:
            return True
        item = deciding(why)
        seen = f"{item.seen!r}" if item.present else "absent"
        reason = f"{item.clause} ({seen})"
        await self._end(
            command, CommandState.CANCELLED, code="precondition_failed", only=CommandState.QUEUED, reason=reason
        )
        return False

    async def _mark_sent(self, command: Command, now: int) -> Command | None:
        """The command to send now, or None where it has ended meanwhile."""
        ended = False

        def step(old: Command) -> tuple[Command, list[Event]] | None:
            nonlocal ended
            ended = not _unfinished(old)
            if ended:
                return None
            if old.state not in (CommandState.QUEUED, CommandState.SENT):
                return evolve(old, attempt=old.attempt + 1), []
            new, event = _sent(old, now, version=old.version + 1)
            return new, [event]

        marked = await self._change(command.device, command.id, step)
        return None if ended else marked

    def wire(self, command: Command) -> dict[str, object]:
        """The command in the form that devices get (wire.md §9)."""
        body: dict[str, object] = {
            "id": command.id,
            "name": command.name,
            "args": dict(command.args),
            "sequence": command.sequence,
            "lane": command.lane,
            "respond": command.respond,
            "issued_at": format_time(command.issued_at),
            "expires_at": format_time(command.expires_at),
            "expires_in_ms": max(0, command.expires_at - self._clock.now_ms()),
            "result_by": format_time(command.result_by),
            "attempt": command.attempt,
        }
        if command.supersedes:
            body["supersedes"] = list(command.supersedes)
        if command.cancel_requested:
            body["cancel"] = True
        if self._sign is not None:
            signed = {key: body[key] for key in ("id", "name", "args", "sequence", "lane", "respond", "expires_at")}
            body["signed"] = self._sign({"device": command.device, **signed})
        return body

    async def result(self, device: str, command: str, body: messages.CommandResult) -> Outcome:
        """Handles a device's result for a command; the first end state wins (wire.md §9)."""
        output = None if body.output is UNSET else body.output
        if output is not None and len(dumps(output)) > messages.OUTPUT_BYTES:
            return Rejected(
                code="limit_exceeded",
                reason="output is too long",
                pointer="/output",
                limit=messages.OUTPUT_BYTES,
                unit="bytes",
                scope="command",
            )
        extend, progress, code, reason = body.extend_ms or 0, body.progress, body.code, body.reason
        state = _REPORTED[body.status]
        digest = _result_hash(body)
        now = self._clock.now_ms()
        outcome: list[Outcome] = []

        def step(old: Command) -> tuple[Command, list[Event]] | None:
            outcome.clear()
            if old.device != device:
                outcome.append(Rejected(code="command_unknown", reason="This device has no such command"))
                return None
            if not _unfinished(old):
                outcome.append(_after_the_end(old, state, digest))
                if isinstance(outcome[0], Accepted) and outcome[0].late and old.late is None:
                    return evolve(old, late=to_builtins(body, enc_hook=str)), []
                return None
            outcome.append(Accepted())
            if state not in COMMAND_TRANSITIONS[old.state]:
                return None  # a repeated or overtaken progress report changes nothing
            ended = state in FINISHED or (old.respond == "ack" and state is CommandState.DELIVERED)
            new = evolve(
                old,
                state=CommandState.SUCCEEDED if ended and state is CommandState.DELIVERED else state,
                progress=old.progress if progress is None else progress,
                output=old.output if body.output is UNSET else output,
                code=code,
                reason=reason,
                result_by=max(old.result_by, now + extend) if extend else old.result_by,
                finished_at=now if ended else None,
                result_hash=digest if ended else None,
                version=old.version + 1,
            )
            event = Event(type=f"command.{new.state}", subject=command, time=now, actor=device, data=_event_data(new))
            return new, [event]

        try:
            changed = await self._change(device, command, step, code="command_unknown")
        except NotFound as error:
            return Rejected(code=error.code, reason=error.message)
        if _unfinished(changed):
            return outcome[0]  # its lane is still taken
        self._wake(device)
        return outcome[0]

    async def tick(self) -> Sequence[str]:
        """Ends commands past their time; returns the devices that have something to send (again)."""
        now = self._clock.now_ms()
        devices: dict[str, None] = {}
        for command in await self.records.due(now):
            if command.state is CommandState.QUEUED and min(command.deliver_by, command.expires_at) <= now:
                await self._end(command, CommandState.EXPIRED, code="command_expired")
            elif command.state is CommandState.SENT and command.expires_at <= now:
                # It may have been started in time without our knowledge: only the result's time ends it.
                if command.result_by <= now:
                    await self._end(command, CommandState.TIMED_OUT, code="no_result")
            elif command.result_by <= now:
                await self._end(command, CommandState.TIMED_OUT, code="no_result")
            else:
                devices[command.device] = None
        return list(devices)


def _sent(command: Command, now: int, *, version: int) -> tuple[Command, Event]:
    """The command as passed to a transport, and its event; one without an answer has its end state."""
    attempt = command.attempt + 1
    data = {**_event_data(command), "attempt": attempt}
    event = Event(type="command.sent", subject=command.id, time=now, data=data)
    new = evolve(command, state=CommandState.SENT, attempt=attempt, sent_at=now, version=version)
    if command.respond == "none":
        new = evolve(new, state=CommandState.SUCCEEDED, finished_at=now, code="no_answer_asked")
    return new, event


def _heads(lanes: Sequence[Sequence[Command]], now: int) -> list[Command]:
    """The first of each lane that is not past its time; a started command never is."""
    heads = []
    for lane in lanes:
        for command in lane:
            if not _is_past(command, now):
                heads.append(command)
                break
    return heads


def _is_past(command: Command, now: int) -> bool:
    """Whether a command may no longer be started; if it was sent, the device may have it, and does not get it again."""
    unstarted = command.state is CommandState.QUEUED or command.state is CommandState.SENT
    return unstarted and min(command.deliver_by, command.expires_at) <= now


def _waits(command: Command, now: int) -> bool:
    """Whether a command at the head of its lane is to be sent (again)."""
    if command.state is CommandState.SENT:
        return now - (command.sent_at or 0) >= ACK_TIMEOUT_MS
    return command.state is CommandState.QUEUED


def _as_json(args: Mapping[str, object]) -> object:
    return loads(dumps(args), depth=_ARGS_DEPTH + 1)


def _check_args(args: Mapping[str, object]) -> None:
    try:
        length = len(dumps(args))
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"The arguments are not JSON: {error}") from None
    if length > _ARGS_BYTES:
        raise Refused(
            f"A command's arguments are at most {_ARGS_BYTES} bytes",
            code="limit_exceeded",
            limit=_ARGS_BYTES,
            unit="bytes",
            scope="command",
        )
    waiting: list[tuple[object, int]] = [(args, 1)]
    while waiting:
        here, depth = waiting.pop()
        if depth > _ARGS_DEPTH + 1:
            raise Refused(f"The arguments are nested deeper than {_ARGS_DEPTH}", code="limit_exceeded")
        if isinstance(here, Mapping):
            waiting.extend((value, depth + 1) for value in here.values())
        elif isinstance(here, list | tuple):
            waiting.extend((value, depth + 1) for value in here)
        elif isinstance(here, float) and not math.isfinite(here):
            raise Refused("A number in the arguments is not finite")
        elif isinstance(here, int) and abs(here) > EXACT_INTEGER:
            raise Refused("An integer in the arguments is beyond 2^53 - 1")


def _cancelled(command: Command, now: int, actor: str, reason: str) -> Event:
    return Event(
        type="command.cancelled", subject=command.id, time=now, actor=actor, reason=reason, data=_event_data(command)
    )


def _event_data(command: Command) -> dict[str, object]:
    """The data of a command's event."""
    return {"device": command.device, "name": command.name}


def _unique(command: Command) -> Pairs:
    unique = [("command-sequence", f"{command.device}/{command.sequence}")]
    if command.supersede_key is not None and command.state is CommandState.QUEUED:
        unique.append((_SUPERSEDE, f"{command.device}/{command.supersede_key}"))
    return unique


def _keyed_id(device: str, key: str) -> str:
    return hashlib.sha256(f"{device}\0{key}".encode()).hexdigest()[:32]


def _result_hash(body: messages.CommandResult) -> str:
    output = None if body.output is UNSET else body.output
    result = {"status": body.status, "output": output, "code": body.code, "reason": body.reason}
    return hashlib.sha256(dumps(result)).hexdigest()


def _after_the_end(old: Command, state: CommandState, digest: str) -> Outcome:
    if old.state in (CommandState.TIMED_OUT, CommandState.EXPIRED):
        return Accepted(late=True)
    if old.result_hash == digest or state not in FINISHED:
        return Accepted()
    return Rejected(code="command_finished", reason=f"The command has ended as {old.state}")
