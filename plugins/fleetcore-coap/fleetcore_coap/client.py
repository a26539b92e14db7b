"""The device side of CoAP: for simulated devices, for gateways in Python, and for the tests of the server.

It behaves as a good device: one request at a time (NSTART of RFC 7252 §4.7), states observed beside it, long bodies
block by block, an artifact resumed from the byte where it broke off. It saves nothing: its owner decides what to do
after :class:`~fleetcore.errors.Unavailable`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Self

from attrs import define

from fleetcore.errors import Refused, Unavailable
from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets, EnrollRequest
from fleetcore.model.message import Downlink, MessageType, Reply
from fleetcore.wire import messages
from fleetcore.wire.asking_again import AskAgain
from fleetcore.wire.csr import as_pem
from fleetcore.wire.inbox import Inbox
from fleetcore.wire.replies import error_of
from fleetcore.wire.strict_cbor import loads as load_cbor
from fleetcore.wire.strict_json import StrictJsonError, dumps, loads
from fleetcore_coap import problems
from fleetcore_coap.blocks import BLOCK_BYTES, EXPONENT
from fleetcore_coap.channel import Channel
from fleetcore_coap.codec import CONTINUE, Block, Kind, Method, Option, Packet, options, uint
from fleetcore_coap.config import needs_oscore, takes_keys
from fleetcore_coap.etags import unpacked
from fleetcore_coap.formats import CBOR, CONCISE_PROBLEM, JSON, number_of
from fleetcore_coap.routes import methods_of
from fleetcore_coap.stream_channel import StreamChannel

_BASE = ("device", "v1")
#: A registration is renewed after this long without a notification: the server may have lost it, or a NAT the mapping.
_RENEW_S = 60.0
_DEPTH = 32
_OBSERVED = (messages.TWIN_DESIRED, messages.COMMAND, messages.FIRMWARE)
#: Success codes as statuses of replies; every other one of class 2 is 204.
_STATUSES = {(2, 1): 201, (2, 3): 304, (2, 5): 200}


@define(kw_only=True)
class _Ask:
    """A request before it is cut into blocks."""

    method: int
    path: tuple[str, ...]
    query: tuple[str, ...] = ()
    body: bytes = b""
    content_format: int | None = None

    def packet(self, payload: bytes, *given: tuple[int, bytes | None]) -> Packet:
        """The request with one block, or without blocks."""
        made: list[tuple[int, bytes | None]] = [(Option.URI_PATH, segment.encode()) for segment in self.path]
        made += [(Option.URI_QUERY, text.encode()) for text in self.query]
        if self.content_format is not None:
            made.append((Option.CONTENT_FORMAT, uint(self.content_format)))
        return Packet(kind=Kind.CON, code=self.method, options=options([*made, *given]), payload=payload)


class CoapDeviceClient(DeviceClient):
    """A device on CoAP over DTLS, or over TLS on TCP. Requests use one association in turn, so they stay in order.

    Downlinks are those of the device itself; a gateway asks for those of its leaves with ``messages.INBOX`` and a
    ``subject``. It authenticates with its certificate, or with the key of its device token in the DTLS handshake; on
    ``coap://`` OSCORE protects its messages.
    """

    def __init__(self, endpoint: str, secrets: DeviceSecrets) -> None:
        self._secrets = secrets
        self._protected = secrets.token is not None and endpoint.partition(":")[0] == "coap"
        self._takes_token = self._protected or takes_keys(endpoint)
        self._channel: Channel | StreamChannel = _channel(endpoint, secrets, protected=self._protected)
        self._in_order = asyncio.Lock()
        self._inbox = Inbox(secrets.device)

    async def __aenter__(self) -> Self:
        """Shakes hands; fails if the certificate or key, if there is one, is refused.

        Raises:
            Unavailable: no answer, or the handshake fails.
            NotAuthenticated, NotAuthorised: the certificate or key is refused.
        """
        if self._secrets.token is not None and not (self._takes_token and self._secrets.certificate is None):
            raise Refused(
                "CoAP accepts a device token only over coaps:// and coap://, and without a certificate",
                code="not_authenticated",
                remedy="Use the device's certificate",
            )
        await self._channel.open()
        try:
            reply = await self._exchange(_Ask(method=Method.GET, path=(*_BASE, "")))
            if reply.error is not None:
                raise error_of(reply)
        except BaseException:
            self._channel.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    async def send(
        self,
        type: MessageType,
        body: object,
        *,
        subject: str | None = None,
        target: str | None = None,
        id: str | None = None,
    ) -> Reply:
        if type.path is None or not type.coap_method or Method.GET in methods_of(type):
            raise Refused(f"{type} cannot be sent over CoAP", code="operation_unknown")
        content_format = None
        if isinstance(body, bytes | bytearray | memoryview):
            data = bytes(body)  # ready bytes are already encoded; the server checks them
        else:
            data = dumps(body)
            content_format = number_of(next(iter(type.media_types), "application/json"))
        method = Method.IPATCH if Method.IPATCH in methods_of(type) else Method.POST
        ask = _Ask(
            method=method,
            path=self._path(type, subject, target),
            query=() if id is None else (f"id={id}",),
            body=data,
            content_format=content_format,
        )
        async with self._in_order:
            return await self._exchange(ask, type)

    async def request(self, type: MessageType, body: object = None, *, subject: str | None = None) -> Reply:
        if not type.coap_method or Method.GET not in methods_of(type):
            return await self.send(type, {} if body is None else body, subject=subject)
        members = body if isinstance(body, Mapping) else {}
        query = tuple(f"{name}={value}" for name, value in members.items())
        async with self._in_order:
            return await self._exchange(
                _Ask(method=Method.GET, path=self._path(type, subject, None), query=query), type
            )

    async def downlinks(self) -> AsyncIterator[Downlink]:
        """Yields the server's messages, by observing the three states; ends when the client closes.

        A state is a snapshot, so items yielded before are left out.

        Raises:
            Unavailable: the association is lost.
        """
        tokens = {row: self._channel.correlation.new_token() for row in _OBSERVED}
        rows = {token: row for row, token in tokens.items()}
        heard: asyncio.Queue[Packet | None] = asyncio.Queue()
        with self._channel.correlation.observing(tokens.values(), heard):
            while True:
                for row, token in tokens.items():
                    first = await self._ask(self._observation(row), token=token)
                    for downlink in await self._fresh(row, first):
                        yield downlink
                while True:
                    try:
                        async with asyncio.timeout(_RENEW_S):
                            notification = await heard.get()
                    except TimeoutError:
                        break
                    if notification is None:
                        if self._channel.closing:
                            return
                        raise Unavailable("The association is lost", code="not_ready")
                    for downlink in await self._fresh(rows[notification.token], notification):
                        yield downlink

    def _observation(self, row: MessageType) -> Packet:
        return _Ask(method=Method.GET, path=self._path(row, None, None)).packet(b"", (Option.OBSERVE, b""))

    async def _fresh(self, row: MessageType, packet: Packet) -> list[Downlink]:
        """The items of a state that were not yielded before."""
        block = packet.block(Option.BLOCK2)
        if block is not None and block.more:
            reply = await self.request(row)
        else:
            reply = _reply(packet, packet.payload, row)
        if reply.error is not None:
            raise error_of(reply)
        body = reply.body or {}
        if row is messages.FIRMWARE and body.get("offer") is None and "cancel" not in body:
            return []  # absent over HTTP
        return self._inbox.fresh({row.waits: body})

    async def enroll(self, request: EnrollRequest) -> Reply:
        body: dict[str, object] = {"csr": as_pem(request.csr).decode("ascii"), "parameters": dict(request.parameters)}
        if request.token is not None:
            body["token"] = request.token
        async with self._in_order:
            return await self._exchange(
                _Ask(method=Method.POST, path=(*_BASE, "enroll"), body=dumps(body), content_format=JSON)
            )

    async def artifact(self, sha256: str, start: int = 0, *, subject: str | None = None) -> AsyncIterator[bytes]:
        """Downloads from byte ``start``, a block at a time. Does not check the digest.

        Raises:
            NotFound: ``artifact_unknown``, no open offer names it.
            Refused: the artifact was replaced meanwhile.
            Unavailable: the server had no slot for the download for an hour.
        """
        ask = _Ask(method=Method.GET, path=self._path(messages.ARTIFACT, subject, sha256))
        number, skip = divmod(start, BLOCK_BYTES)
        again = AskAgain()
        while True:
            packet = await self._ask(ask.packet(b"", (Option.BLOCK2, Block(number, False, EXPONENT).encode())))
            if packet.code >= 128:
                reply = _reply(packet, packet.payload, messages.ARTIFACT)
                if number and reply.error is not None and reply.error.get("code") == "range_invalid":
                    return  # the whole artifact was there already
                error = error_of(reply)
                if await again.wait(error):
                    continue
                raise error
            if packet.get(Option.ETAG) != bytes.fromhex(sha256)[:8]:
                raise Refused("The artifact has changed", code="hash_mismatch")
            if packet.payload[skip:]:
                yield packet.payload[skip:]
            skip = 0
            block = packet.block(Option.BLOCK2)
            if block is None or not block.more:
                return
            number += 1

    def _path(self, type: MessageType, subject: str | None, target: str | None) -> tuple[str, ...]:
        assert type.path is not None
        leaf = ("leaf", subject) if subject is not None and subject != self._secrets.device else ()
        own = tuple(target or "" if segment == "{target}" else segment for segment in type.path.split("/"))
        return (*_BASE, *leaf, *own)

    async def _exchange(self, ask: _Ask, row: MessageType | None = None) -> Reply:
        """Sends all blocks of a request and reads all blocks of its answer."""
        packet = await self._sent(ask)
        content = packet.payload
        block = packet.block(Option.BLOCK2)
        first = packet
        while block is not None and block.more:
            wanted = Block(block.number + 1, False, block.exponent)
            packet = await self._ask(ask.packet(b"", (Option.BLOCK2, wanted.encode())))
            block = packet.block(Option.BLOCK2)
            if packet.code != first.code or block is None or block.number != wanted.number:
                return _reply(packet, packet.payload, row)
            if packet.get(Option.ETAG) != first.get(Option.ETAG):
                # It changed during the read (RFC 7959 §2.4): start again.
                return await self._exchange(ask, row)
            content += packet.payload
        return _reply(first, content, row)

    async def _sent(self, ask: _Ask) -> Packet:
        if len(ask.body) <= BLOCK_BYTES:
            return await self._ask(ask.packet(ask.body))
        size = uint(len(ask.body))
        number = 0
        while True:
            start = number * BLOCK_BYTES
            block = Block(number, start + BLOCK_BYTES < len(ask.body), EXPONENT)
            given = [(Option.BLOCK1, block.encode()), (Option.SIZE1, size if number == 0 else None)]
            packet = await self._ask(ask.packet(ask.body[start : start + BLOCK_BYTES], *given))
            if packet.code != CONTINUE or not block.more:
                return packet
            number += 1

    async def _ask(self, packet: Packet, *, token: bytes | None = None) -> Packet:
        return await self._channel.ask(packet, token=token)


def _channel(endpoint: str, secrets: DeviceSecrets, *, protected: bool) -> Channel | StreamChannel:
    if protected:
        needs_oscore()
        from fleetcore_coap.oscore.channel import ProtectedChannel  # needs the extra

        return ProtectedChannel(endpoint, secrets)
    stream = endpoint.partition(":")[0].endswith("+tcp")
    return (StreamChannel if stream else Channel)(endpoint, secrets)


def _reply(packet: Packet, content: bytes, row: MessageType | None) -> Reply:
    """An answer as the reply type of all protocols."""
    number = packet.uint(Option.CONTENT_FORMAT)
    if packet.code >= 128:
        members = problems.members(content if number == CONCISE_PROBLEM else b"", packet.code)
        wait = packet.uint(Option.MAX_AGE)
        if wait is not None:
            members.setdefault("retry_after_s", wait)
        status = members["status"]
        if members["code"] == "enrollment_pending":
            return Reply(status=202, body={"retry_after_s": members.get("retry_after_s", 60)})
        return Reply(status=status if isinstance(status, int) and status >= 400 else 500, error=members)
    body: Mapping[str, object] | None = None
    try:
        parsed = (
            load_cbor(content, depth=_DEPTH) if number == CBOR else loads(content, depth=_DEPTH) if content else None
        )
    except StrictJsonError:
        parsed = None
    if isinstance(parsed, dict):
        body = parsed
    status = _STATUSES.get((packet.code >> 5, packet.code & 31), 204 if body is None else 200)
    tag = packet.get(Option.ETAG)
    etag = unpacked(tag) if tag is not None and row in {messages.TWIN_GET, messages.TWIN_REPORT} else None
    return Reply(status=status, body=body, etag=etag, version=None if etag is None else int(etag.rpartition("r")[2]))
