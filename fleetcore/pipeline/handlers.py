"""Handle: messages other than readings go to the capability that registered for their type.

The body is first decoded and checked by its message type, so a handler only gets valid ones.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fleetcore.errors import FleetError, StorageError, Unavailable
from fleetcore.interfaces.boundary import contained
from fleetcore.model.message import Handler, Inbound, JointHandler, MessageType, Outcome, Rejected, Reply, Request
from fleetcore.pipeline.session import DeviceSession
from fleetcore.wire.bodies import read_body
from fleetcore.wire.replies import rejection

_log = logging.getLogger(__name__)

#: The outcome of a message on which the server failed.
INTERNAL = Rejected(code="internal", reason="The message could not be handled")


class Handlers:
    """The handler of each message type.

    Args:
        depth: the maximum nesting of a body.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._handlers: dict[MessageType, Handler] = {}
        self._joint: dict[MessageType, JointHandler] = {}
        self._said: list[Callable[[str], None]] = []

    def add(self, handlers: Mapping[MessageType, Handler]) -> None:
        """Registers a capability's handlers; raises ValueError for a type that already has one."""
        for row, handler in handlers.items():
            if self._handlers.setdefault(row, handler) is not handler:
                raise ValueError(f"{row.name} has a handler already")

    def add_joint(self, handlers: Mapping[MessageType, JointHandler]) -> None:
        """Registers handlers for messages of a type that have come together; a single one is a call with one."""
        for row, handler in handlers.items():

            async def alone(request: Request, body: Any, handler: JointHandler = handler) -> Outcome:
                (outcome,) = await handler([(request, body)])
                return outcome

            self.add({row: alone})
            self._joint[row] = handler

    def on_said(self, callback: Callable[[str], None]) -> None:
        """Calls ``callback(device)`` before a message about the device is handled."""
        self._said.append(callback)

    @property
    def types(self) -> frozenset[MessageType]:
        """The types with a handler."""
        return frozenset(self._handlers)

    def is_joint(self, row: MessageType) -> bool:
        """Whether messages of a type that come together are handled together."""
        return row in self._joint

    def read(self, message: Inbound) -> Any:
        """The message's typed body, or Rejected."""
        return read_body(message.type, message.payload, message.content_type, self._depth)

    async def handle(self, session: DeviceSession, message: Inbound) -> Outcome | Reply:
        """Handles a message of a session that may send it; never raises."""
        return await self.run(self._request(session, message), message)

    def _request(self, session: DeviceSession, message: Inbound) -> Request:
        for callback in self._said:
            callback(message.subject)
        return Request(
            identity=session.identity,
            subject=message.subject,
            certificate=session.credential_key,
            target=message.target or "",
            if_version=message.if_version,
        )

    async def handle_joint(
        self, row: MessageType, messages: Sequence[tuple[DeviceSession, Inbound]]
    ) -> Sequence[Outcome]:
        """Handles messages of a type that is handled jointly; never raises. Their outcomes, in their order."""
        outcomes: list[Outcome] = [INTERNAL] * len(messages)
        valid: list[tuple[int, tuple[Request, Any]]] = []
        for place, (session, message) in enumerate(messages):
            request, body = self._request(session, message), self.read(message)
            if isinstance(body, Rejected):
                outcomes[place] = body
            else:
                valid.append((place, (request, body)))
        for place, outcome in zip(
            (place for place, _ in valid), await self._jointly(row, [item for _, item in valid]), strict=True
        ):
            outcomes[place] = outcome
        return outcomes

    async def _jointly(self, row: MessageType, some: Sequence[tuple[Request, Any]]) -> Sequence[Outcome]:
        if not some:
            return ()
        try:
            return await self._joint[row](some)
        except (Unavailable, StorageError) as error:
            return [rejection(error)] * len(some)  # the store failed: each message alone would fail too
        except BaseException as error:
            refused = _answer_to(error, row, len(some))
            if len(some) == 1:
                return [refused]
        return [outcome for each in some for outcome in await self._jointly(row, [each])]

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
        except BaseException as error:
            return _answer_to(error, message.type)


def _answer_to(error: BaseException, row: MessageType, count: int = 1) -> Rejected:
    """The outcome of a message on which a handler raised; what is not an error of the fleet's own is logged."""
    if isinstance(error, FleetError):
        return rejection(error)
    what = row.name if count == 1 else f"{count} messages {row.name} at once, which are now tried alone,"
    _log.error("Handling %s failed", what, exc_info=contained(error, "a part of it"))
    return INTERNAL
