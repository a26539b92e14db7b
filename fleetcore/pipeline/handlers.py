"""Handle: messages other than readings go to the capability that registered for their type.

The body is first decoded and checked by its message type, so a handler only gets valid ones.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from fleetcore.errors import FleetError
from fleetcore.interfaces.boundary import contained
from fleetcore.model.message import Handler, Inbound, MessageType, Outcome, Rejected, Reply, Request
from fleetcore.pipeline.session import DeviceSession
from fleetcore.wire.bodies import read_body
from fleetcore.wire.replies import rejection

_log = logging.getLogger(__name__)


class Handlers:
    """The handler of each message type.

    Args:
        depth: the maximum nesting of a body.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._handlers: dict[MessageType, Handler] = {}
        self._said: list[Callable[[str], None]] = []

    def add(self, handlers: Mapping[MessageType, Handler]) -> None:
        """Registers a capability's handlers; raises ValueError for a type that already has one."""
        for row, handler in handlers.items():
            if self._handlers.setdefault(row, handler) is not handler:
                raise ValueError(f"{row.name} has a handler already")

    def on_said(self, callback: Callable[[str], None]) -> None:
        """Calls ``callback(device)`` before a message about the device is handled."""
        self._said.append(callback)

    @property
    def types(self) -> frozenset[MessageType]:
        """The types with a handler."""
        return frozenset(self._handlers)

    def read(self, message: Inbound) -> Any:
        """The message's typed body, or Rejected."""
        return read_body(message.type, message.payload, message.content_type, self._depth)

    async def handle(self, session: DeviceSession, message: Inbound) -> Outcome | Reply:
        """Handles a message of a session that may send it; never raises."""
        for callback in self._said:
            callback(message.subject)
        request = Request(
            identity=session.identity,
            subject=message.subject,
            certificate=session.credential_key,
            target=message.target or "",
            if_version=message.if_version,
        )
        return await self.run(request, message)

    async def run(self, request: Request, message: Inbound) -> Outcome | Reply:
        """Like :meth:`handle`, for a peer that is not a device."""
        handler = self._handlers.get(message.type)
        if handler is None:
            return Rejected(code="operation_unknown", reason=f"Devices do not send {message.type.name}")
        body = self.read(message)
        if isinstance(body, Rejected):
            return body
        try:
            return await handler(request, body)
        except FleetError as error:
            return rejection(error)
        except BaseException as error:
            _log.error("Handling %s failed", message.type, exc_info=contained(error, "a part of it"))
            return Rejected(code="internal", reason="The message could not be handled")
