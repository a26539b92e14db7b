"""The device side: a :class:`DeviceClient` on paho, for simulated devices and for device code in Python.

paho runs in a separate thread, strictly separated from asyncio: its callbacks only post to the loop, and all state here
belongs to the loop. It has one connection and does not reconnect: the owner opens another client.
"""

import asyncio
import contextlib
import json
import secrets as chance
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

from attrs import evolve
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fleetcore import threads
from fleetcore.errors import CODES, ConfigError, NotAuthenticated, NotAuthorised, Refused, Unavailable
from fleetcore.interfaces import DeviceClient, DeviceSecrets, EnrollRequest, claiming
from fleetcore.model.message import Downlink, MessageType, Reply
from fleetcore.wire import messages
from fleetcore_mqtt import topics
from fleetcore_mqtt.addresses import read_address
from fleetcore_mqtt.bodies import to_json
from fleetcore_mqtt.packets import Reason

KEEP_ALIVE_S = 60
#: From the first byte to CONNACK and SUBACK.
CONNECT_S = 30.0
#: Downlinks waiting for a reader; the oldest are dropped first, because unfinished ones are sent again.
WAITING = 1024

# The code for a PUBACK's reason code where no reason string gives it: behind a broker.
_CODES = {0x87: "not_authorised", 0x90: "topic_invalid", 0x97: "quota_exceeded", 0x99: "payload_unreadable"}
_BAD_CREDENTIAL, _UNAVAILABLE = 0x86, frozenset({0x88, 0x89, 0x8B})


def problem(reason: int, text: str) -> dict[str, object]:
    """The problem for a reason code and the endpoint's ``code: sentence``."""
    code, _, detail = text.partition(": ")
    if code not in CODES:
        code, detail = _CODES.get(reason, "internal"), text
    known = CODES[code]
    out: dict[str, object] = {"code": code, "title": known.title, "status": known.http}
    return {**out, "detail": detail} if detail else out


class MqttDeviceClient(DeviceClient):
    """Uses MQTT 5, or 3.1.1 with ``version="3.1.1"``.

    A ``status`` sent without a ``session`` gets this connection's, which its will has too, so that the fleet can tell
    an old will from a new one. Leaving the context disconnects cleanly: then the will is dropped.

    With a claim certificate in its secrets it can only enrol and ask for the time and the CA bundle.
    """

    def __init__(self, endpoint: str, secrets: DeviceSecrets, *, version: str = "5") -> None:
        if version not in {"5", "3.1.1"}:
            raise ConfigError(f"MQTT {version} is not supported", remedy='Use "5" or "3.1.1"')
        self.session = chance.token_hex(4)
        self._url, self._address = endpoint, read_address(endpoint)
        self._secrets = secrets
        self._claim = None if secrets.certificate is None else _claim_name(secrets.certificate)
        #: The level of every topic that identifies this client.
        self._own = self._claim or secrets.device
        self._v5 = version == "5"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._paho: paho.Client | None = None
        self._up: asyncio.Future[None] | None = None
        self._published: dict[int, asyncio.Future[Reply]] = {}
        self._replies: dict[str, asyncio.Future[Reply]] = {}
        self._waiting: deque[Downlink] = deque(maxlen=WAITING)
        self._came = asyncio.Event()
        self._lost: str | None = None
        self._is_taken_over = False

    # -- opening and closing --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._up = self._loop.create_future()
        client = self._paho = self._make()
        try:
            async with asyncio.timeout(CONNECT_S):
                # paho resolves, connects and shakes hands in the calling thread.
                await asyncio.to_thread(
                    client.connect,
                    self._address.host,
                    self._address.port,
                    KEEP_ALIVE_S,
                )
                threads.stop_at_exit(self._cut)
                client.loop_start()
                await self._up
        except (OSError, TimeoutError) as error:
            await self._stop()
            raise Unavailable(f"{self._url} cannot be reached: {error}") from error
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        self._fall("the client is closed")
        client, self._paho = self._paho, None
        if client is not None:
            client.disconnect()
            # Joins the thread, which first sends its queue.
            await asyncio.shield(asyncio.to_thread(client.loop_stop))

    def _cut(self) -> None:
        """At exit, if the context was not left: the thread ends, and the will is published as after a crash."""
        connection = None if self._paho is None else self._paho.socket()
        if connection is not None:
            with contextlib.suppress(OSError):  # it is already gone
                socket.socket.shutdown(cast("socket.socket", connection), socket.SHUT_RDWR)

    def _make(self) -> paho.Client:
        device = self._secrets.device
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=device if self._claim is None else "",
            clean_session=None if self._v5 else True,
            protocol=paho.MQTTv5 if self._v5 else paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_S / 3
        if self._address.secure:
            client.tls_set_context(self._secrets.tls())
        if self._secrets.token is not None:
            client.username_pw_set(device, self._secrets.token)
        if self._claim is None:
            will = to_json({"state": "offline", "session": self.session})
            client.will_set(topics.below(device, device, "status"), will, qos=1)
        client.on_connect = self._on_connect
        client.on_connect_fail = lambda *_: self._post(self._fall, "the connection failed")
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    # -- in paho's thread: only posting to the loop ---------------------------------------------------------------

    def _post(self, call: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no task waits
            self._loop.call_soon_threadsafe(call, *args)

    def _on_connect(self, client: paho.Client, _data: object, _flags: object, code: Any, properties: Any) -> None:
        threads.adopt(threads.PLUGIN_EXIT_S)
        if code.is_failure:
            self._post(self._refused, code.value, getattr(properties, "ReasonString", "") or str(code))
        else:
            wanted = (
                topics.filters(topics.READ, self._own) if self._claim is None else [f"fleet/v1/{self._own}/reply/+"]
            )
            client.subscribe([(name, 1) for name in wanted])

    def _on_subscribe(self, _client: object, _data: object, _mid: int, _codes: object, _properties: object) -> None:
        self._post(self._connected)

    def _on_disconnect(self, _client: object, _data: object, _flags: object, code: Any, properties: Any) -> None:
        if code.value == Reason.TAKEN_OVER:
            self._post(self._taken_over)
        self._post(self._fall, getattr(properties, "ReasonString", "") or str(code))

    def _on_publish(self, _client: object, _data: object, mid: int, code: Any, properties: Any) -> None:
        self._post(self._acknowledged, mid, code.value, getattr(properties, "ReasonString", ""))

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self._post(self._take, message.topic, message.payload, message)

    # -- in the loop ----------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        if self._up is not None and not self._up.done():
            self._up.set_result(None)

    def _refused(self, reason: int, text: str) -> None:
        if self._up is None or self._up.done():
            return
        # The endpoint gives the code as the reason string; a broker does not.
        code = text if text in CODES else None
        error: Exception
        if reason in _UNAVAILABLE:
            error = Unavailable(f"the connection was refused: {text}", code=code)
        elif reason == _BAD_CREDENTIAL or code == "not_authenticated":
            error = NotAuthenticated(f"the connection was refused: {text}", code=code)
        else:
            error = NotAuthorised(f"the connection was refused: {text}", code=code)
        self._up.set_exception(error)

    def _fall(self, why: str) -> None:
        """Called when the connection is lost: waiting calls fail."""
        if self._lost is None:
            self._lost = why
        waiting: list[asyncio.Future[Any]] = [*self._published.values(), *self._replies.values()]
        if self._up is not None:
            waiting.append(self._up)
        for each in waiting:
            if not each.done():
                each.set_exception(Unavailable(f"the connection is lost: {why}"))
                # Some waiting calls may have been cancelled.
                each.exception()
        self._published.clear()
        self._replies.clear()
        self._came.set()

    def _taken_over(self) -> None:
        """Called when another connection of the device has replaced this one; MQTT 5 says so."""
        self._is_taken_over = True

    def _acknowledged(self, mid: int, reason: int, text: str) -> None:
        found = self._published.pop(mid, None)
        if found is None or found.done():
            return
        if reason >= 0x80:
            error = problem(reason, text)
            status = error["status"]
            assert isinstance(status, int)
            found.set_result(Reply(status=status, error=error))
        else:
            found.set_result(Reply(status=204))

    def _take(self, topic: str, payload: bytes, _message: object) -> None:
        meaning = topics.parse_downlink(topic)
        try:
            body = json.loads(payload)
        except ValueError:
            return
        if meaning is None or not isinstance(body, dict):
            return
        kind, subject, target = meaning
        if kind is not None:
            self._waiting.append(Downlink(type=kind, subject=subject, body=body, target=target))
            self._came.set()
            return
        waiting = self._replies.pop(target or "", None)
        if waiting is not None and not waiting.done():
            waiting.set_result(_reply(body))

    # -- DeviceClient ---------------------------------------------------------------------------------------------

    @property
    def ended(self) -> str:
        return "session_taken_over" if self._is_taken_over else ""

    async def send(
        self,
        type: MessageType,
        body: object,
        *,
        subject: str | None = None,
        target: str | None = None,
        id: str | None = None,
    ) -> Reply:
        about = subject or self._secrets.device
        topic = topics.uplink_topic(self._secrets.device, type, about, target)
        if topic is None:
            raise Refused(f"{type} cannot be published over MQTT", code="operation_unknown", remedy="Use request()")
        if type is messages.STATUS and isinstance(body, Mapping) and "session" not in body:
            body = {**body, "session": self.session}
        payload = body if isinstance(body, bytes) else to_json(body)
        return await self._publish(topic, payload, id)

    async def _publish(self, topic: str, payload: bytes, message_id: str | None = None) -> Reply:
        if self._paho is None or self._loop is None or self._lost is not None:
            raise Unavailable(f"the connection is lost: {self._lost or 'it was never opened'}")
        if self._claim is not None and topics.claim_request(self._claim, topic) is None:
            # The server refuses it too, but 3.1.1 has no reasons, and a claimant no topic to read them on.
            error = problem(0x87, "not_authorised: a claim certificate can only enrol devices")
            return Reply(status=CODES["not_authorised"].http, error=error)
        properties = None
        if message_id is not None and self._v5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's, untyped
            properties.UserProperty = ("id", message_id)
        done: asyncio.Future[Reply] = self._loop.create_future()
        # The acknowledgement is handled in this loop, so never before the id is recorded.
        info = self._paho.publish(topic, payload, qos=1, properties=properties)
        if info.rc not in {paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_NO_CONN}:
            raise Unavailable(f"the message cannot be sent: {paho.error_string(info.rc)}")
        self._published[info.mid] = done
        try:
            return await done
        finally:
            self._published.pop(info.mid, None)

    async def request(self, type: MessageType, body: object = None, *, subject: str | None = None) -> Reply:
        if self._loop is None:
            raise Unavailable("the client is not open")
        request_id = chance.token_hex(8)
        device = self._own
        message: dict[str, object] = {"op": type.name}
        if body is not None:
            message["body"] = body
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._replies[request_id] = answer
        try:
            sent = await self._publish(
                topics.below(device, subject or device, f"request/{request_id}"), to_json(message)
            )
            return sent if sent.error is not None else await answer
        finally:
            self._replies.pop(request_id, None)

    async def downlinks(self) -> AsyncIterator[Downlink]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._lost is not None:
                return
            self._came.clear()
            await self._came.wait()

    async def enroll(self, request: EnrollRequest) -> Reply:
        """Enrols with the claim certificate in the secrets; ``at_once`` takes both steps."""
        if self._claim is None:
            raise Refused(
                "MQTT can only enrol with a claim certificate", code="operation_unknown", remedy="Enrol over HTTP"
            )
        # A token is never sent over MQTT (docs/reference/wire.md §1).
        return await claiming.enroll(evolve(request, token=None), partial(self.request, messages.ENROLL))

    def artifact(self, sha256: str, start: int = 0, *, subject: str | None = None) -> AsyncIterator[bytes]:
        del sha256, start, subject
        raise Refused("MQTT cannot transfer artifacts", code="operation_unknown", remedy="Download over HTTP or CoAP")


def _claim_name(certificate: bytes) -> str | None:
    """The common name of a claim certificate (PEM, leaf first); None for any other, and for invalid PEM."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        names = x509.load_pem_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return None  # the TLS library reports the fault better
    name = str(names[0].value) if len(names) == 1 else ""
    return name if name.startswith(topics.CLAIM) else None


def _reply(body: Mapping[str, Any]) -> Reply:
    error = body.get("error")
    if not body.get("ok") or error is not None:
        error = error if isinstance(error, dict) else {"code": "internal"}
        return Reply(status=int(error.get("status", 500)), error=error)
    return Reply(
        status=int(body.get("status", 200)), body=body.get("body"), etag=body.get("etag"), version=body.get("version")
    )
