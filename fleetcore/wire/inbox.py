"""The client's record of its inbox: from each snapshot it returns only new downlinks.

The answer to ``inbox`` has ``desired``, ``commands`` (``{"commands": […], "more": bool}``) and ``firmware``; a member
is absent where nothing is pending. A command is new by its id and attempt, an offer by its content.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress

from fleetcore.model.message import Downlink
from fleetcore.wire import messages

#: With known pending messages a poll is answered at once, again and again: the pauses grow between these bounds.
_REST_S, _MAX_REST_S = 0.2, 5.0

#: How many ids are remembered; a snapshot has at most 10 commands, so this is far more than can come back.
_REMEMBERED = 1024


class Inbox:
    """The record of one client."""

    def __init__(self, device: str) -> None:
        self.desired_version = 0
        self._device = device
        self._commands: dict[tuple[str, object], None] = {}
        self._offer: str | None = None
        self._stirred = asyncio.Event()
        self._rest_s = _REST_S

    def fresh(self, body: Mapping[str, object]) -> list[Downlink]:
        """The downlinks in ``body`` that were not in an earlier one, cancellations first."""
        found: list[Downlink] = []
        commands = body.get("commands")
        if isinstance(commands, Mapping) and isinstance(commands.get("commands"), list):
            found += [d for command in commands["commands"] if (d := self._command(command)) is not None]
        found.sort(key=lambda downlink: downlink.type is not messages.COMMAND_CANCEL)
        desired = body.get("desired")
        if isinstance(desired, Mapping):
            version = desired.get("version")
            if isinstance(version, int) and version > self.desired_version:
                self.desired_version = version
                found.append(Downlink(type=messages.TWIN_DESIRED, subject=self._device, body=desired))
        firmware = body.get("firmware")
        if isinstance(firmware, Mapping):
            content = json.dumps(firmware, sort_keys=True, default=str)
            if content != self._offer:
                self._offer = content
                found.append(Downlink(type=messages.FIRMWARE, subject=self._device, body=firmware))
        return found

    def _command(self, command: object) -> Downlink | None:
        if not isinstance(command, Mapping) or not isinstance(command.get("id"), str):
            return None
        cancelled = command.get("cancel") is True
        key = (command["id"], "cancel" if cancelled else command.get("attempt"))
        if key in self._commands:
            return None
        self._commands[key] = None
        if len(self._commands) > _REMEMBERED:
            del self._commands[next(iter(self._commands))]
        if cancelled:
            kind = messages.COMMAND_CANCEL
            return Downlink(type=kind, subject=self._device, body=command, target=command["id"])
        expires = command.get("expires_in_ms")
        return Downlink(
            type=messages.COMMAND,
            subject=self._device,
            body=command,
            expires_ms=expires if isinstance(expires, int) else None,
        )

    def stir(self) -> None:
        """Notes that a message was answered: the pending ones have changed, so no pause is needed."""
        self._stirred.set()

    async def rest(self, closing: asyncio.Event, *, idle: bool) -> None:
        """Pauses before the next poll: not after something new, longer each time after nothing new."""
        if not idle:
            self._rest_s = _REST_S
            return
        await self.pause(self._rest_s, closing)
        self._rest_s = min(self._rest_s * 2, _MAX_REST_S)

    async def pause(self, seconds: float, closing: asyncio.Event) -> None:
        """Waits ``seconds``, or less where something was answered; ``closing`` is set together with a stir."""
        if closing.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        if self._stirred.is_set():
            self._rest_s = _REST_S
        self._stirred.clear()
