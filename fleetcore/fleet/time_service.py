"""The server's clock for devices that set theirs by it."""

from collections.abc import Mapping

from fleetcore.interfaces.clock import Clock
from fleetcore.model.message import Handler, MessageType, Reply, Request
from fleetcore.wire import messages
from fleetcore.wire.times import format_time


class TimeService:
    """Answers requests for the time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers for devices' requests for the time."""
        return {messages.TIME: self._tell}

    async def _tell(self, _request: Request, body: messages.TimeRequest) -> Reply:
        now = self._clock.now_ms()
        text = format_time(now)
        return Reply(body={"client": body.client, "received": text, "sent": text, "received_ms": now, "sent_ms": now})
