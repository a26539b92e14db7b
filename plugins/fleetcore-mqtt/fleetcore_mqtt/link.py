"""The consumer's connection to a broker: paho in a separate thread, which owns only the socket.

Received messages go to the loop in bursts; messages and acknowledgements to be sent come back through queues. paho's
Receive Maximum admits whole windows, so memory is limited here: after :meth:`Link.stop_reading`, or while too much is
unacknowledged, the socket is not read and the broker keeps the messages.
"""

import asyncio
import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from attrs import frozen
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from fleetcore import threads
from fleetcore_mqtt import topics
from fleetcore_mqtt.addresses import Address

KEEP_ALIVE_S = 60
CONNECT_S = 10.0
#: How long the broker keeps unacknowledged messages while fleetcore is disconnected.
SESSION_S = 7 * 86_400
#: Publications waiting for the broker; more are dropped, and the store sends them again.
PENDING = 10_000
#: Packets read from the socket before the loop is told.
BURST = 256
_TURN_S = 1.0
_BACK_OFF_S = (0.5, 30.0)
_FAILURE = 0x80


@frozen
class Arrived:
    """One message of a device. ``connection`` distinguishes packet ids of different connections."""

    connection: int
    mid: int
    qos: int
    topic: str
    payload: bytes
    properties: Any


@frozen
class LinkState:
    """The state of the connection; ``reason`` is the CONNACK's or SUBACK's code if it was refused."""

    up: bool
    why: str = ""
    reason: int = 0


@frozen(kw_only=True)
class Publication:
    """One message for a device."""

    topic: str
    payload: bytes
    expiry_s: int | None = None
    correlation: bytes | None = None


class Link:
    """The connection; see the module. ``arrived`` and ``changed`` are called in the loop."""

    def __init__(
        self,
        address: Address,
        client_id: str,
        *,
        tls: ssl.SSLContext | None,
        credentials: tuple[str, str | None] | None,
        unacked: int,
        arrived: Callable[[Sequence[Arrived]], None],
        changed: Callable[[LinkState], None],
    ) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._arrived, self._changed = arrived, changed
        self._limit = unacked
        self._paho = self._make(client_id, tls, credentials)
        self._thread = threading.Thread(target=self._run, name="fleetcore-mqtt broker", daemon=True)
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        # Written by one side and read by the other; deque and int assignment are atomic under the interpreter lock.
        self._stopping = threading.Event()
        self._reading_stopped = False
        self._acks: deque[tuple[int, int]] = deque()
        self._publications: deque[Publication] = deque(maxlen=PENDING)
        # The thread's own state.
        self._connection = 0
        self._unacked = 0
        self._burst: list[Arrived] = []
        self._answered = False

    # -- from the loop --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts connecting."""
        threads.stop_at_exit(self._stop)
        threads.start(self._thread)

    def acknowledge(self, message: Arrived) -> None:
        """Acknowledges a message: the broker may delete it."""
        if message.qos:
            self._acks.append((message.connection, message.mid))
            self._wake()

    def publish(self, publication: Publication) -> None:
        """Publishes a message to the broker, at QoS 1."""
        self._publications.append(publication)
        self._wake()

    def stop_reading(self) -> None:
        """Stops reading the socket from the next packet on."""
        self._reading_stopped = True

    def read_on(self) -> None:
        """Reads again."""
        self._reading_stopped = False
        self._wake()

    async def close(self) -> None:
        """Sends what waits, disconnects and joins the thread."""
        self._stop()
        if self._thread.ident is not None:
            await asyncio.shield(asyncio.to_thread(self._thread.join))
        self._wake_in.close()
        self._wake_out.close()

    def _stop(self) -> None:
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"\0")
        except (BlockingIOError, OSError):
            return  # it is already awake, or closed

    # -- in the thread --------------------------------------------------------------------------------------------

    def _make(
        self, client_id: str, tls: ssl.SSLContext | None, credentials: tuple[str, str | None] | None
    ) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, manual_ack=True)
        client.connect_timeout = CONNECT_S
        client.max_queued_messages_set(PENDING)
        if tls is not None:
            client.tls_set_context(tls)
        if credentials is not None:
            client.username_pw_set(*credentials)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _tell(self, state: LinkState) -> None:
        self._post(self._changed, state)

    def _post(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            self._stopping.set()  # the loop is closed, so no task waits

    def _run(self) -> None:
        wait_s, longest_s = _BACK_OFF_S
        while not self._stopping.is_set():
            self._answered = False
            try:
                self._connect()
                why = self._serve()
            except (OSError, ValueError) as error:
                why = str(error)
            self._flush_burst()
            self._tell(LinkState(up=False, why=why))
            if self._answered:
                wait_s = _BACK_OFF_S[0]
            # Full jitter: not all clients reconnect at once to a restarted broker.
            until_s = time.monotonic() + random.uniform(0, wait_s)  # noqa: S311 - no secret hangs on it
            wait_s = min(wait_s * 2, longest_s)
            # A session that is not read would not even see that it is there: it is checked when reading resumes.
            while not self._stopping.is_set() and (self._reading_stopped or time.monotonic() < until_s):
                _ready([self._wake_out], [], min(_TURN_S, max(0.01, until_s - time.monotonic())))
                self._drain_wake()

    def _connect(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's, untyped
        properties.SessionExpiryInterval = SESSION_S
        self._connection += 1
        self._unacked = 0
        self._paho.connect(
            self._address.host, self._address.port, KEEP_ALIVE_S, clean_start=False, properties=properties
        )

    def _serve(self) -> str:
        client = self._paho
        while (sock := client.socket()) is not None:
            unsent = self._answered and (self._acks or self._publications or client.want_write())
            if self._stopping.is_set() and not unsent:
                client.disconnect()
                return "closed"
            readable = not self._reading_stopped and self._unacked < self._limit and not self._stopping.is_set()
            # select does not see what TLS has already decrypted.
            pending = readable and self._address.secure and cast("ssl.SSLSocket", sock).pending() > 0
            wanted: list[Any] = [self._wake_out, sock] if readable else [self._wake_out]
            ready, writable = _ready(wanted, [sock] if client.want_write() else [], 0 if pending else _TURN_S)
            if self._wake_out in ready:
                self._drain_wake()
            if pending or sock in ready:
                self._read()
            self._send_queued()
            if writable or client.want_write():
                client.loop_write()
            client.loop_misc()
            self._flush_burst()
        return "the connection is lost"

    def _read(self) -> None:
        for _ in range(BURST):
            before = len(self._burst)
            self._paho.loop_read()
            if len(self._burst) == before or self._unacked >= self._limit or self._reading_stopped:
                return

    def _send_queued(self) -> None:
        while self._acks:
            connection, mid = self._acks.popleft()
            # On another connection the same number may be another message.
            if connection == self._connection:
                self._unacked -= 1
                self._paho.ack(mid, 1)
        while self._publications and self._answered:
            each = self._publications.popleft()
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's, untyped
            properties.ContentType = "application/json"
            if each.expiry_s is not None:
                properties.MessageExpiryInterval = each.expiry_s
            if each.correlation is not None:
                properties.CorrelationData = each.correlation
            self._paho.publish(each.topic, each.payload, qos=1, properties=properties)

    def _flush_burst(self) -> None:
        if self._burst:
            burst, self._burst = self._burst, []
            self._post(self._arrived, burst)

    def _drain_wake(self) -> None:
        try:
            while self._wake_out.recv(4096):
                pass
        except BlockingIOError:
            return

    # -- paho's callbacks, in the same thread ---------------------------------------------------------------------

    def _on_connect(self, client: paho.Client, _data: object, _flags: object, code: Any, _properties: object) -> None:
        if code.is_failure:
            self._tell(LinkState(up=False, why=str(code), reason=code.value))
            return
        # Retained messages are not part of the protocol: what a broker retained is not wanted.
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        names = topics.filters([name for name, _ in topics.WRITE])
        client.subscribe([(name, options) for name in names])

    def _on_subscribe(self, _client: object, _data: object, _mid: int, codes: Sequence[Any], _more: object) -> None:
        refused = [code for code in codes if code.value >= _FAILURE]
        if refused:
            self._tell(LinkState(up=False, why=f"a subscription is refused: {refused[0]}", reason=refused[0].value))
        else:
            self._answered = True
            self._tell(LinkState(up=True))

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if message.qos:
            self._unacked += 1
        self._burst.append(
            Arrived(
                self._connection, message.mid, message.qos, message.topic, bytes(message.payload), message.properties
            )
        )


def _ready(readable: Sequence[Any], writable: Sequence[Any], seconds: float) -> tuple[list[Any], list[Any]]:
    """Which of these can be read and written, within a time; like ``select``, which takes no descriptor above 1023."""
    poll = select.poll()
    wanted: dict[int, int] = {}
    for sockets, event in ((readable, select.POLLIN), (writable, select.POLLOUT)):
        for each in sockets:
            wanted[each.fileno()] = wanted.get(each.fileno(), 0) | event
    for number, events in wanted.items():
        poll.register(number, events)
    found = dict(poll.poll(seconds * 1000))
    ended = select.POLLHUP | select.POLLERR
    return (
        [each for each in readable if found.get(each.fileno(), 0) & (select.POLLIN | ended)],
        [each for each in writable if found.get(each.fileno(), 0) & (select.POLLOUT | ended)],
    )
