"""Commands to many devices: planned, confirmed, sent at a rate, counted, stopped.

Each device gets its command under an idempotency key made of the operation and the device, so a step that is repeated
after a crash sends nothing twice.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from fleetcore.errors import Conflict, FleetError, Refused
from fleetcore.fleet.commands import Commands
from fleetcore.fleet.operations import Kind, Operations, check_plan
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.search import Search
from fleetcore.model.command import FINISHED, CommandState
from fleetcore.model.operation import Operation
from fleetcore.query.ast import Clause
from fleetcore.wire.strict_json import dumps

KIND = "command"
#: Without more words, a bulk command reaches at most so many devices.
CAP = 1000
_SAMPLE = 10
#: Devices that are looked at, or sent to, at once.
_TOGETHER = 100
_OPTIONS = frozenset(
    {"lane", "respond", "deliver_within_s", "execute_within_s", "result_within_s", "supersede", "precondition"}
)


@frozen(kw_only=True)
class Plan:
    """What a bulk command would do; ``plan`` names exactly these devices and this command."""

    plan: str
    count: int
    sample: tuple[str, ...]
    cap: int


class BulkCommands:
    """Plans and starts bulk commands; the operations do the sending."""

    def __init__(self, commands: Commands, operations: Operations, registry: Registry, search: Search) -> None:
        self._commands, self._operations = commands, operations
        self._registry, self._search = registry, search
        operations.register(KIND, Kind(handler=self._send, undo=self._cancel_sent))

    async def plan(
        self,
        name: str,
        args: Mapping[str, object] | None = None,
        *,
        where: str | Clause | None = None,
        devices: Sequence[str] = (),
        cap: int = CAP,
        **options: Any,
    ) -> Plan:
        """Whom it would reach; raises Refused for unknown options, for neither or both of ``where`` and ``devices``."""
        ids, spec = await self._wanted(name, args, where, devices, options)
        return Plan(plan=_digest(ids, spec), count=len(ids), sample=tuple(ids[:_SAMPLE]), cap=cap)

    async def send(
        self,
        name: str,
        args: Mapping[str, object] | None = None,
        *,
        where: str | Clause | None = None,
        devices: Sequence[str] = (),
        plan: str | None = None,
        cap: int = CAP,
        rate_per_s: float | None = None,
        key: str | None = None,
        actor: str = "system",
        reason: str = "",
        **options: Any,
    ) -> Operation:
        """Starts it and returns at once.

        Args:
            key: a second call with it returns the first operation.
            plan: what :meth:`plan` gave: then it reaches exactly the devices of the plan, or none.
            cap: more devices than this are refused.

        Raises:
            Conflict: ``plan_changed``, other devices are selected now.
            Refused: ``limit_exceeded`` beyond the cap.
        """
        ids, spec = await self._wanted(name, args, where, devices, options)
        check_plan(plan, _digest(ids, spec), len(ids), cap)
        return await self._operations.start(
            KIND, ids, spec=spec, rate_per_s=rate_per_s, key=key, actor=actor, reason=reason
        )  # fmt: skip

    async def counts(self, operation: str) -> Mapping[str, int]:
        """How many of an operation's commands are in each state."""
        counts = await self._commands.bulk_counts(operation)
        return {state.value: counts[state] for state in CommandState if state in counts}

    async def _cancel_sent(self, operation: Operation, actor: str, reason: str) -> None:
        """Cancels what has no end yet: at once where it is queued, else by asking the device."""
        async for command in self._commands.of_bulk(operation.id):
            if command.state in FINISHED:
                continue
            with contextlib.suppress(Conflict):  # it has ended meanwhile
                await self._commands.cancel(command.id, actor=actor, reason=reason)

    async def _wanted(
        self,
        name: str,
        args: Mapping[str, object] | None,
        where: str | Clause | None,
        devices: Sequence[str],
        options: Mapping[str, Any],
    ) -> tuple[list[str], dict[str, object]]:
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise Refused(
                f"A command has no option {', '.join(unknown)}", remedy=f"Known: {', '.join(sorted(_OPTIONS))}"
            )
        if (where is None) is not bool(devices):
            raise Refused("Say which devices: either by a query or by their ids")
        if where is not None:
            ids = await self._search.ids(where)
        else:
            ids = sorted(set(devices))
            for at in range(0, len(ids), _TOGETHER):
                await asyncio.gather(*(self._registry.get(device) for device in ids[at : at + _TOGETHER]))
        # What is wrong with the command itself is known before anything is sent.
        self._commands.check(name, args, **options)
        return ids, {"name": name, "args": dict(args or {}), "options": dict(options)}

    async def _send(self, operation: Operation, devices: Sequence[str]) -> Mapping[int, FleetError]:
        spec: Any = operation.spec

        async def send(device: str) -> FleetError | None:
            try:
                await self._commands.send(
                    device,
                    spec["name"],
                    spec["args"],
                    idempotency_key=f"bulk/{operation.id}",
                    bulk=operation.id,
                    actor=operation.actor,
                    reason=operation.reason,
                    **spec["options"],
                )
            except FleetError as error:
                return error
            return None

        failed: dict[int, FleetError] = {}
        for at in range(0, len(devices), _TOGETHER):
            # Side by side: the store joins their commits.
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(send(device)) for device in devices[at : at + _TOGETHER]]
            for place, task in enumerate(tasks, at):
                error = task.result()
                if error is not None:
                    failed[place] = error
        return failed


def _digest(ids: Sequence[str], spec: Mapping[str, object]) -> str:
    return "sha256:" + hashlib.sha256(dumps([sorted(ids), spec])).hexdigest()
