"""How often a device may send and ask: one token bucket per device for messages, calls and long polls."""

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Rejected
from fleetcore.pipeline.session import OWNER, DeviceSession


class RateLimit:
    """Takes a token for each request of a device."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock, self._rate_per_s, self._burst = clock, limits.rate_per_s, limits.burst
        self._too_often = Rejected(
            code="rate_limited",
            reason=f"The device sends too often: it may send {limits.rate_per_s:g} messages a second",
            limit=max(1, int(limits.rate_per_s)),
            unit="messages/s" if limits.rate_per_s >= 1 else f"messages in {1 / limits.rate_per_s:g} s",
            scope="device",
            retry_after_s=max(1.0, 1 / limits.rate_per_s),
        )

    def refusal(self, session: DeviceSession) -> Rejected | None:
        """Why the device has to wait, or None.

        The limit applies to devices; sessions of the fleet's owner are not limited.
        """
        if session.protocol == OWNER or session.state.take_token(
            self._clock.monotonic_s(), self._rate_per_s, self._burst
        ):
            return None
        return self._too_often
