"""The gateway's own commands: a table of names, and what runs them.

A command is in the gateway's own store, as those of its leaves are, so it runs again after a restart of the agent where
it had not ended, its end is told once, and the uplink tells it to the core. A handler may thus run more than once and
changes nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from fleetcore.errors import FleetError
from fleetcore.fleet.commands import Commands
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.waits import end_tasks, first_of
from fleetcore.model.command import Command
from fleetcore.model.message import Rejected
from fleetcore.wire import messages

_log = logging.getLogger(__name__)

#: Tells how far a command is, percent.
Progress = Callable[[float], None]
#: Runs a command: its arguments in, its output out, JSON of at most ``OUTPUT_BYTES``. A FleetError is its failure.
OwnCommand = Callable[[Mapping[str, object], Progress], Awaitable[object]]

#: How often commands are looked for even without news, and how often progress is told at most, s.
_LOOK_S, _PROGRESS_S = 30.0, 2.0
#: The wait after an end that could not be stored, s.
_AGAIN_S = 10.0


class OwnCommands:
    """Runs the commands to the gateway itself, one after the other in each lane.

    Args:
        table: the commands by name.
    """

    def __init__(self, gateway: str, commands: Commands, clock: Clock, table: Mapping[str, OwnCommand]) -> None:
        self._gateway, self._commands, self._clock, self._table = gateway, commands, clock, table
        self._news = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        commands.on_queued(self._queued)
        commands.on_cancel(self._cancelled)

    def _queued(self, device: str) -> None:
        if device == self._gateway:
            self._news.set()

    def _cancelled(self, command: Command) -> None:
        if command.id in self._running:
            self._running[command.id].cancel()

    async def run(self) -> None:
        """Runs commands until cancelled; those that a process before this one had begun are run again."""
        try:
            while True:
                self._news.clear()
                # One without an answer has ended by being handed out.
                handed = await self._commands.hand_out(self._gateway)
                heads = await self._commands.snapshot(self._gateway)
                for command in {each.id: each for each in (*handed, *heads)}.values():
                    if command.id not in self._running:
                        task = asyncio.create_task(self._do(command), name=f"own command {command.id}")
                        self._running[command.id] = task
                await first_of(self._news.wait(), self._clock.sleep(_LOOK_S))
        finally:
            await end_tasks(*self._running.values())
            self._running.clear()

    async def _do(self, command: Command) -> None:
        try:
            await self._tell(command, await self._ended(command))
        except FleetError as error:
            _log.warning("The end of command %s cannot be stored: %s", command.name, error)
            await self._clock.sleep(_AGAIN_S)  # then it runs again
        finally:
            self._running.pop(command.id, None)
            self._news.set()

    async def _ended(self, command: Command) -> messages.CommandResult:
        handler = self._table.get(command.name)
        if handler is None:
            there = ", ".join(sorted(self._table))
            reason = f"This gateway has no command {command.name!r}; it has {there}"
            return messages.CommandResult(status="rejected", code="command_unknown", reason=reason)
        if command.cancel_requested:
            return messages.CommandResult(status="cancelled")
        await self._tell(command, messages.CommandResult(status="accepted"))
        told_s, telling = self._clock.monotonic_s(), set[asyncio.Task[None]]()

        def progress(percent: float) -> None:
            nonlocal told_s
            if self._clock.monotonic_s() - told_s >= _PROGRESS_S:
                told_s = self._clock.monotonic_s()
                body = messages.CommandResult(status="running", progress=percent)
                task = asyncio.create_task(self._tell(command, body))
                telling.add(task)
                task.add_done_callback(telling.discard)

        try:
            output = await handler(command.args, progress)
        except FleetError as error:
            return messages.CommandResult(status="failed", code=error.code, reason=error.message)
        except asyncio.CancelledError:
            if not (await self._commands.get(command.id)).cancel_requested:
                raise  # the agent ends
            return messages.CommandResult(status="cancelled")
        except Exception as error:  # noqa: BLE001  # a fault of one command must not end the others
            _log.exception("Command %s failed", command.name)
            return messages.CommandResult(status="failed", code="internal", reason=f"{type(error).__name__}: {error}")
        finally:
            await end_tasks(*telling)
        return messages.CommandResult(status="succeeded", output=output)

    async def _tell(self, command: Command, result: messages.CommandResult) -> None:
        outcome = await self._commands.result(self._gateway, command.id, result)
        if isinstance(outcome, Rejected) and outcome.code == "limit_exceeded":
            failed = messages.CommandResult(status="failed", code=outcome.code, reason=outcome.reason)
            await self._commands.result(self._gateway, command.id, failed)
