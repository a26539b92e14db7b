"""Messages waiting for one client, and those it has not acknowledged yet: both limited.

A client that reads slowly first loses messages about a state that it will get again, and then its connection: its queue
must not fill the server's memory.
"""

from collections import deque
from collections.abc import Callable, Mapping

from attrs import frozen

#: Messages waiting for one client; at most ten commands come at a time, so a healthy one stays far below.
PENDING_MESSAGES = 256
PENDING_BYTES = 1024 * 1024


@frozen(kw_only=True)
class Message:
    """One publication to the client.

    Attributes:
        qos: 0 or 1.
        expires_s: when it becomes useless, by the monotonic clock, or None.
        replaceable: it may be left out if the queue is full, because a later message or a read has the same content.
        about: identifies what the plane sends again, in its new state, when the device listens again; None for all
            else.
    """

    topic: str
    payload: bytes
    qos: int
    expires_s: float | None = None
    replaceable: bool = False
    correlation: bytes | None = None
    about: str | None = None

    @property
    def size(self) -> int:
        """Its bytes in memory; correlation data comes from the client and has up to 64 KiB."""
        return len(self.topic) + len(self.payload) + len(self.correlation or b"")


class Outbox:
    """Sends through ``send(message, packet_id, again)`` while the window is open, and queues the rest in order.

    ``send`` returns False for a message that it left out, which will not be acknowledged.
    """

    __slots__ = (
        "_again",
        "_awaited",
        "_bytes",
        "_next",
        "_now_s",
        "_paused",
        "_pending",
        "_send",
        "_unacked",
        "_window",
    )

    def __init__(
        self, send: Callable[[Message, int | None, bool], bool], window: int, now_s: Callable[[], float]
    ) -> None:
        self._send = send
        self._window = window
        self._now_s = now_s
        self._pending: deque[Message] = deque()
        self._bytes = 0
        self._unacked: dict[int, Message] = {}
        #: Of an earlier connection: messages to send again, and packet ids of those that the plane sends again.
        self._again: deque[tuple[int, Message]] = deque()
        self._awaited: dict[str, int] = {}
        self._next = 0
        self._paused = False

    @property
    def waiting(self) -> int:
        """The number of unsent messages."""
        return len(self._pending)

    @property
    def unacked(self) -> Mapping[int, Message]:
        """Sent and unacknowledged messages, by packet id, in the order of sending."""
        return {**self._unacked, **dict(self._again)}

    def resume_with(self, unacked: Mapping[int, Message]) -> None:
        """Sends what an earlier connection left unacknowledged, before anything else (MQTT 5.0 §4.4).

        What the plane sends again waits for that and then uses its old packet id: its old content may be outdated, such
        as a command cancelled meanwhile. The window is this connection's, which may be smaller.
        """
        for packet_id, message in unacked.items():
            if message.about is None:
                self._again.append((packet_id, message))
            else:
                self._awaited[message.about] = packet_id
        self._advance()

    def put(self, message: Message) -> bool:
        """Sends or queues a message; False if the queue is full of messages that cannot be left out."""
        before = None if message.about is None else self._awaited.pop(message.about, None)
        if before is not None and message.qos:
            self._again.append((before, message))
            self._advance()
            return True
        self._pending.append(message)
        self._bytes += message.size
        self._advance()
        while len(self._pending) > PENDING_MESSAGES or self._bytes > PENDING_BYTES:
            victim = next((each for each in self._pending if each.replaceable), None)
            if victim is None:
                return False
            self._pending.remove(victim)
            self._bytes -= victim.size
        return True

    def acknowledged(self, packet_id: int) -> None:
        """Handles an acknowledgement; an id that is not in flight is ignored (MQTT 5.0 §4.4 allows repeats)."""
        self._unacked.pop(packet_id, None)
        self._advance()

    def pause(self) -> None:
        """Called when the transport's buffer is full."""
        self._paused = True

    def resume(self) -> None:
        """Called when it has room again."""
        self._paused = False
        self._advance()

    def _advance(self) -> None:
        while self._again and not self._paused and len(self._unacked) < self._window:
            before, message = self._again.popleft()
            if not self._expired(message) and self._send(message, before, True):
                self._unacked[before] = message
        while self._pending and not self._paused and not self._again:
            message = self._pending[0]
            expired = self._expired(message)
            if not expired and message.qos and len(self._unacked) >= self._window:
                return
            self._pending.popleft()
            self._bytes -= message.size
            if not expired:
                packet_id = self._take_id() if message.qos else None
                if self._send(message, packet_id, False) and packet_id is not None:
                    self._unacked[packet_id] = message

    def _expired(self, message: Message) -> bool:
        return message.expires_s is not None and message.expires_s <= self._now_s()

    def _take_id(self) -> int:
        taken = {*self._unacked, *self._awaited.values()} if self._awaited else self._unacked
        while True:
            self._next = self._next % 65_535 + 1
            if self._next not in taken:
                return self._next
