"""Temporarily refused messages of one connection: kept unacknowledged and tried again.

While they wait the connection is not read, so its order stays and its memory is limited. The client notices a delay.
Beyond the limit the client must send again: the connection ends when the wait is over, and unacknowledged messages come
again.
"""

from collections.abc import Callable

from fleetcore_mqtt.host import Host
from fleetcore_mqtt.packets import Reason
from fleetcore_mqtt.stream import Hold, PacketStream

#: From the first temporary refusal without a later success to the close that makes the client send again.
REFUSED_S = 30.0
#: Bytes of messages kept for one connection.
KEPT_BYTES = 64 * 1024
#: How long to wait if the refusal does not say, and the minimum wait.
_WAIT_S, _MIN_WAIT_S = 1.0, 0.05


class Retries:
    """Belongs to one open connection."""

    def __init__(self, stream: PacketStream, host: Host) -> None:
        self._stream, self._host = stream, host
        self._kept: list[Callable[[], None]] = []
        self._bytes = 0
        self._left_out = 0
        self._trying = 0
        self._since_s: float | None = None
        self._waiting = False

    @property
    def count(self) -> int:
        """Temporarily refused messages."""
        return len(self._kept) + self._left_out

    def overdue(self, now_s: float) -> bool:
        """Whether nothing has succeeded for so long that the client must connect and send again."""
        return self._since_s is not None and now_s - self._since_s >= REFUSED_S

    def give_up(self) -> None:
        """Ends the connection, so that the client sends unacknowledged messages again."""
        self._stream.end(Reason.BUSY, "temporarily refused: connect and send again")

    def keep(self, size: int, after_s: float | None, again: Callable[[], None]) -> None:
        """Keeps a temporarily refused message of ``size`` bytes; ``again`` submits it once more, after ``after_s``."""
        self._host.count("mqtt_temporary_refusal")
        if self._since_s is None:
            self._since_s = self._host.clock.monotonic_s()
        if self._bytes + size > KEPT_BYTES:
            self._left_out += 1
        else:
            self._bytes += size
            self._kept.append(again)
        self._stream.hold(Hold.REFUSED)
        self._tried()
        if not self._waiting:
            self._waiting = True
            wait_s = _WAIT_S if after_s is None else min(max(after_s, _MIN_WAIT_S), REFUSED_S)
            self._host.spawn(self._try_again(wait_s), "mqtt retry")

    def succeeded(self) -> None:
        """Called when a message has its final answer."""
        self._since_s = None
        if self._trying:
            self._tried()

    def _tried(self) -> None:
        self._trying = max(0, self._trying - 1)
        if not self._trying and not self.count:
            self._stream.release(Hold.REFUSED)

    async def _try_again(self, wait_s: float) -> None:
        await self._host.clock.sleep(wait_s)
        self._waiting = False
        if self._stream.closed or self._stream.holds(Hold.DRAIN):
            return
        if self._left_out:
            self.give_up()
            return
        kept, self._kept, self._bytes = self._kept, [], 0
        self._trying = len(kept)
        for again in kept:
            again()
