"""What waits to be sent to one client, and what it has not acknowledged yet: both bounded.

A client that reads slowly first loses messages that are about a state it will be told again, and then its
connection: its queue must never become the server's memory.
"""

from collections import deque
from collections.abc import Callable

from attrs import frozen

#: What may wait for one client; commands come at most ten at a time, so this is far beyond a healthy one.
PENDING_MESSAGES = 256
PENDING_BYTES = 1024 * 1024


@frozen(kw_only=True)
class Message:
    """One publication to the client.

    Attributes:
        qos: 0 or 1.
        expires_s: when it makes no sense any more, by the monotonic clock, or None.
        replaceable: it may be left out where the queue is full, because a later one or a read tells the same.
    """

    topic: str
    payload: bytes
    qos: int
    expires_s: float | None = None
    replaceable: bool = False
    correlation: bytes | None = None


class Outbox:
    """Sends through ``send(message, packet_id)`` while the window is open, keeps the rest in order.

    ``send`` returns False for a message that it left out: nothing will acknowledge it.
    """

    __slots__ = ("_bytes", "_next", "_now_s", "_paused", "_pending", "_send", "_unacked", "_window")

    def __init__(self, send: Callable[[Message, int | None], bool], window: int, now_s: Callable[[], float]) -> None:
        self._send = send
        self._window = window
        self._now_s = now_s
        self._pending: deque[Message] = deque()
        self._bytes = 0
        self._unacked: set[int] = set()
        self._next = 0
        self._paused = False

    @property
    def waiting(self) -> int:
        """Messages that are not sent yet."""
        return len(self._pending)

    def put(self, message: Message) -> bool:
        """Sends or keeps a message; False where the queue is full of messages that cannot be left out."""
        self._pending.append(message)
        self._bytes += len(message.payload)
        self._advance()
        while len(self._pending) > PENDING_MESSAGES or self._bytes > PENDING_BYTES:
            victim = next((each for each in self._pending if each.replaceable), None)
            if victim is None:
                return False
            self._pending.remove(victim)
            self._bytes -= len(victim.payload)
        return True

    def acknowledged(self, packet_id: int) -> None:
        """The client has taken that message; an id that is not in flight is ignored (MQTT 5.0 §4.4 allows repeats)."""
        self._unacked.discard(packet_id)
        self._advance()

    def pause(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume(self) -> None:
        """It has room again."""
        self._paused = False
        self._advance()

    def _advance(self) -> None:
        while self._pending and not self._paused:
            message = self._pending[0]
            expired = message.expires_s is not None and message.expires_s <= self._now_s()
            if not expired and message.qos and len(self._unacked) >= self._window:
                return
            self._pending.popleft()
            self._bytes -= len(message.payload)
            if not expired:
                packet_id = self._take_id() if message.qos else None
                if not self._send(message, packet_id) and packet_id is not None:
                    self._unacked.discard(packet_id)

    def _take_id(self) -> int:
        while True:
            self._next = self._next % 65_535 + 1
            if self._next not in self._unacked:
                self._unacked.add(self._next)
                return self._next
