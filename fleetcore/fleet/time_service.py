"""The server's clock for devices that set theirs by it."""

from collections.abc import Mapping

from fleetcore.errors import Unavailable
from fleetcore.interfaces.clock import Clock
from fleetcore.model.message import Handler, MessageType, Reply, Request
from fleetcore.wire import messages
from fleetcore.wire.times import format_time

#: When a device asks again where the time is not known.
_AGAIN_S = 10.0


class TimeService:
    """Answers requests for the time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers for devices' requests for the time."""
        return {messages.TIME: self._tell}

    async def _tell(self, _request: Request, body: messages.TimeRequest) -> Reply:
        if not self._clock.is_known:
            raise Unavailable("The server does not know the time yet", code="not_ready", retry_after_s=_AGAIN_S)
        now = self._clock.now_ms()
        text = format_time(now)
        return Reply(body={"client": body.client, "received": text, "sent": text, "received_ms": now, "sent_ms": now})
