"""A connection under one device's name, with MQTT 3.1.1: the only way to write its reported properties.

It blocks, and runs only during a call: it has no thread. It receives nothing unrequested, because it only subscribes to
answers, and it is closed before a keep-alive is due. Source of topics, names and codes:
https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub
"""

import itertools
import json
import re
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, cast

from attrs import frozen
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fleetcore.errors import ConfigError
from fleetcore.wire.tls import ClosingSocket

#: The version of the device's API over MQTT.
_API = "2021-04-12"
#: The hub drops a connection that is silent for 1.5 times this; ours are closed long before (links.py).
_KEEP_ALIVE_S = 240
_ANSWERS = "$iothub/twin/res/#"
_ANSWER = re.compile(r"\$iothub/twin/res/(\d{3})/\?(.+)")
#: CONNACK return codes of MQTT 3.1.1 (§3.2.2.3) about the client.
_NOT_LET_IN = frozenset({2, 4, 5})


class LinkLost(Exception):
    """The connection has ended, or could not be opened.

    Attributes:
        reached: whether the hub's endpoint was reached at all.
        let_in: False if the hub refused the device.
    """

    def __init__(self, said: str, *, reached: bool = True, let_in: bool = True) -> None:
        super().__init__(said)
        self.reached, self.let_in = reached, let_in


class Unanswered(Exception):
    """The hub did not answer; it may have executed the request."""


@frozen(kw_only=True)
class LinkAnswer:
    """The hub's answer; ``version`` of the reported properties, None if it is not given."""

    status: int
    version: int | None
    body: str


@frozen(kw_only=True)
class Door:
    """The hub's MQTT endpoint, and the time limits."""

    hub: str
    host: str
    port: int
    tls: ssl.SSLContext
    connect_timeout_s: float
    read_timeout_s: float


class Link:
    """See the module. One thread at a time uses it; its methods wait for each other.

    Args:
        token: the password, valid until ``until_s`` of the machine's clock: the hub closes the connection then.
    """

    def __init__(self, door: Door, name: str, token: str, until_s: float) -> None:
        self._door, self.name, self.until_s = door, name, until_s
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._code: int | None = None
        self._subscribed = False
        self._answers: dict[str, LinkAnswer] = {}
        client = self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=True,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = door.connect_timeout_s
        client.tls_set_context(door.tls)
        client.username_pw_set(f"{door.hub}/{name}/?api-version={_API}", token)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message

    # -- answers of the hub -----------------------------------------------------------------------------------------

    def _on_connect(self, _client: object, _data: object, flags: object, code: Any, _properties: object) -> None:
        del flags
        self._code = _return_code(code)

    def _on_subscribe(self, _client: object, _data: object, _mid: int, codes: Any, _properties: object) -> None:
        self._subscribed = not any(each.is_failure for each in codes)

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        found = _ANSWER.fullmatch(message.topic)
        if found is None:
            return
        given = dict(each.partition("=")[::2] for each in found[2].split("&"))
        version = given.get("$version", "")
        self._answers[given.get("$rid", "")] = LinkAnswer(
            status=int(found[1]),
            version=int(version) if version.isdigit() else None,
            body=message.payload.decode("utf-8", "replace"),
        )

    # -- requests ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connects. Raises LinkLost."""
        with self._lock:
            try:
                self._client.connect(self._door.host, self._door.port, _KEEP_ALIVE_S)
            except (OSError, ValueError) as error:
                self._end()
                raise LinkLost(str(error), reached=False) from error
            try:
                end_s = time.monotonic() + self._door.read_timeout_s
                while self._code is None:
                    self._pump(end_s)
                if self._code:
                    raise LinkLost(f"CONNACK {self._code}", let_in=self._code not in _NOT_LET_IN)
                self._client.subscribe(_ANSWERS)
                while not self._subscribed:
                    self._pump(end_s)
            except Unanswered as error:
                self._end()
                raise LinkLost(str(error), reached=False) from error
            except LinkLost:
                self._end()
                raise

    def report(self, changes: Mapping[str, object]) -> LinkAnswer:
        """Merges into the reported properties; a member that is None is removed. Raises LinkLost, Unanswered."""
        with self._lock:
            number = str(next(self._numbers))
            self._pump(0.0)  # this detects an end that happened meanwhile
            topic = f"$iothub/twin/PATCH/properties/reported/?$rid={number}"
            self._client.publish(topic, json.dumps(changes).encode(), qos=0)
            end_s = time.monotonic() + self._door.read_timeout_s
            while number not in self._answers:
                self._pump(end_s)
            return self._answers.pop(number)

    def _pump(self, end_s: float) -> None:
        """Reads and writes available data, waiting for it until ``end_s``; 0 does not wait.

        paho's own loop uses ``select``, which supports no file descriptor above 1,023.
        """
        client, connection = self._client, cast("ssl.SSLSocket | None", self._client.socket())
        if connection is None:
            raise LinkLost("the hub closed the connection")
        if not connection.pending():
            left_s = end_s - time.monotonic() if end_s else 0.0
            if end_s and left_s <= 0:
                raise Unanswered(f"no answer within {self._door.read_timeout_s:g} s")
            with selectors.DefaultSelector() as selector:
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.want_write() else 0)
                selector.register(connection, wanted)
                selector.select(left_s)
        client.loop_read()
        if client.socket() is not None and client.want_write():
            client.loop_write()
        if client.socket() is None and self._code is None:
            raise LinkLost("the hub closed the connection before it answered")

    def close(self) -> None:
        """Disconnects, after another thread's current use."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._client.socket() is not None:
            self._client.disconnect()  # this also closes, if it can be written at once
        if (connection := self._client.socket()) is not None:
            connection.close()


def reach(door: Door) -> None:
    """Shakes hands and disconnects: shows that the endpoint can be reached from here. Raises OSError."""
    with (
        socket.create_connection((door.host, door.port), door.connect_timeout_s) as bare,
        door.tls.wrap_socket(bare, server_hostname=door.host),
    ):
        return


def trusting(ca: str | None) -> ssl.SSLContext:
    """A context that trusts the root in a file, or the public ones. Raises ConfigError."""
    try:
        made = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigError(f"The file {ca} contains no readable root: {error}", remedy="Set ca to a PEM file") from error
    made.sslsocket_class = ClosingSocket
    return made


def _return_code(code: Any) -> int:
    """The CONNACK code of 3.1.1: paho reports it as the equivalent one of MQTT 5."""
    return 0 if not code.is_failure else {0x84: 1, 0x85: 2, 0x88: 3, 0x86: 4, 0x87: 5}.get(code.value, 3)
