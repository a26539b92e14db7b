"""The inbox of a mirror: commands from its hub, each run once, and reports of changes there.

The hub's id identifies a command: one that arrives again, after a crash or because the hub repeats it, is the same
command. The position in the hub's stream is saved after its messages were stored.
"""

import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from typing import cast

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.fleet.commands import Commands
from fleetcore.interfaces.boundary import in_a_line
from fleetcore.interfaces.cloud import Arrived, CloudCommand
from fleetcore.interfaces.storage import Storage
from fleetcore.model.mirror import EntityKey
from fleetcore.model.names import check_device_id
from fleetcore.model.store import Commit, Put
from fleetcore.pipeline.mirror.hub import Hub
from fleetcore.pipeline.mirror.sender import StateSender

_log = logging.getLogger(__name__)

KIND = "mirror_inbox"
#: Refused commands that are listed; the newest.
_NAMED = 100


class Inbox:
    """The inbox; see the module.

    Args:
        names: the commands that the hub may send; ``*`` for all.
        mirrored: whether this mirror includes a device.
        heard_at_hub: whether a device receives the hub's commands there, or did when one was given, ms since the epoch.

    Attributes:
        counts: since the start: ``commands``, ``refused`` ones, ``changes`` and ``invalid`` messages.
        error: why nothing is received from the hub, or empty.
        refused: the newest refused commands: the hub's id, device, name and reason.
    """

    def __init__(
        self,
        sender: StateSender,
        commands: Commands,
        storage: Storage,
        *,
        names: Collection[str],
        mirrored: Callable[[EntityKey], Awaitable[object | None]],
        heard_at_hub: Callable[[str, int | None], Awaitable[bool]],
    ) -> None:
        self._sender, self._commands, self._storage = sender, commands, storage
        self._names, self._mirrored, self._heard_at_hub = names, mirrored, heard_at_hub
        self.counts: Counter[str] = Counter()
        self.error = ""
        self.refused: deque[tuple[str, str, str, str]] = deque(maxlen=_NAMED)

    async def run(self, hub: Hub) -> None:
        """Handles messages until cancelled; returns if the hub sends nothing."""
        record = await self._storage.get(KIND, self._sender.name)
        after = None if record is None else cast("str", record.body["position"])
        async with aclosing(hub.inbound(after)) as arriving:
            async for arrived in arriving:
                await self.take(arrived)
                self.error = ""

    async def take(self, arrived: Arrived) -> None:
        """Stores the messages, and then the position in the hub's stream."""
        for reason in arrived.invalid:
            self.counts["invalid"] += 1
            _log.warning("Mirror %s cannot read a message of the hub: %s", self._sender.name, reason)
        changed = []
        for event in arrived.events:
            if isinstance(event, CloudCommand):
                await self._command(event)
            elif _is_text(event.entity.id):
                changed.append(event.entity)
            else:
                self.counts["invalid"] += 1
        extra = Commit()
        if arrived.position is not None:
            extra = Commit(puts=(Put(kind=KIND, key=self._sender.name, body={"position": arrived.position}),))
        await self._sender.enqueue(changed, extra)
        self.counts["changes"] += len(changed)

    async def _command(self, command: CloudCommand) -> None:
        actor = self._sender.actor
        try:
            if not (_is_text(command.id) and _is_text(command.name)):
                raise Refused("The command's id or name is not valid Unicode", code="name_invalid")
            if not (command.name in self._names or "*" in self._names):
                raise Refused(f"[clouds.{self._sender.name}] commands does not name {command.name!r}", code="forbidden")
            if await self._mirrored(EntityKey("registry", check_device_id(command.device))) is None:
                raise NotFound(
                    f"Mirror {self._sender.name!r} does not include device {command.device!r}", code="device_unknown"
                )
            if await self._heard_at_hub(command.device, command.given):
                said = f"Device {command.device!r} was connected to the hub then, and receives it there"
                raise Refused(said, code="forbidden")
            await self._commands.send(
                command.device,
                command.name,
                command.args,
                idempotency_key=f"{actor}/{command.id}",
                actor=actor,
                reason="it was given at the hub",
            )
        except (Refused, NotFound, Conflict) as error:
            self.counts["refused"] += 1
            self.refused.append((command.id, command.device, command.name, in_a_line(error)))
            _log.warning("Mirror %s refuses a command of the hub: %s", self._sender.name, error)
            return
        self.counts["commands"] += 1


def _is_text(text: str) -> bool:
    """Whether a text is valid Unicode: the store raises for a lone surrogate, and the message would arrive forever."""
    return not any("\ud800" <= char <= "\udfff" for char in text)
