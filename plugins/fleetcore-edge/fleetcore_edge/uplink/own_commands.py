"""The gateway's own commands: a table of names, and what runs them.

A command is in the gateway's own store, as those of its leaves are, so it runs again after a restart of the agent where
it had not ended, its end is told once, and the uplink tells it to the core. A handler may thus run more than once and
changes nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fleetcore.errors import FleetError, Refused
from fleetcore.fleet.commands import Commands
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.waits import end_tasks, first_of
from fleetcore.model.command import FINISHED, Command
from fleetcore.model.message import Rejected
from fleetcore.wire import messages

_log = logging.getLogger(__name__)

#: Tells how far a command is, percent.
Progress = Callable[[float], None]
#: Runs a command: its arguments in, its output out, JSON of at most ``OUTPUT_BYTES``. A FleetError is its failure.
OwnCommand = Callable[[Mapping[str, object], Progress], Awaitable[object]]

#: How often commands are looked for even without news, and how often progress is told at most, s.
_LOOK_S, _PROGRESS_S = 30.0, 2.0


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
                await self._commands.hand_out(self._gateway)
                for command in await self._commands.snapshot(self._gateway):
                    if command.id not in self._running and command.state not in FINISHED:
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
        if command.respond == "ack":
            _log.info("Command %s is acknowledged; its output is not asked for", command.name)
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
        except Exception as error:  # a fault of one command must not end the others
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


class LogKeeper(logging.Handler):
    """Keeps the newest lines of the log of the agent and of its functions in memory."""

    def __init__(self, lines: int = 2000) -> None:
        super().__init__(logging.INFO)
        self._lines: list[dict[str, object]] = []
        self._most = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # the caller's format is wrong; logging reports it elsewhere
            text = str(record.msg)
        time_ms = round(record.created * 1000)
        self._lines.append({"time": time_ms, "level": record.levelname, "from": record.name, "text": text[:_LINE]})
        if len(self._lines) > 2 * self._most:
            del self._lines[: -self._most]

    async def logs(self, arguments: Mapping[str, object], _progress: Progress) -> object:
        """``edge.logs``: the last ``lines`` lines, at most as many as an output holds; ``of`` selects a function."""
        wanted, of = arguments.get("lines", 100), arguments.get("function")
        if type(wanted) is not int or not 1 <= wanted <= self._most:
            raise Refused(f"lines is from 1 to {self._most}", pointer="/lines")
        if of is not None and not isinstance(of, str):
            raise Refused("function is the name of a function", pointer="/function")
        found: list[Any] = [each for each in self._lines[-self._most :] if of is None or _is_of(each, of)]
        kept: list[Any] = []
        size = 0
        for line in reversed(found[-wanted:]):
            size += len(messages.dumps(line)) + 1 if hasattr(messages, "dumps") else _size(line)
            if size > messages.OUTPUT_BYTES - 256:
                break
            kept.append(line)
        return {"lines": kept[::-1], "cut": len(kept) < min(wanted, len(found))}
