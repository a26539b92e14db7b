"""Peers under OSCORE: aiocoap's client, with its context in a folder as aiocoap keeps it, and one spoken by hand."""

import asyncio
import json
import socket
from contextlib import AsyncExitStack

import pytest
from fleetcore_coap.codec import Kind, Option, Packet, decode, encode, options
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.plugin import open_coap

from fleetcore.testing import context
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire.shared_keys import SharedKey, shared_key


class OscorePeer:
    """A client whose requests to one server go under OSCORE."""

    def __init__(self, context, url: str) -> None:
        self.context, self.url = context, url

    def request(self, code: str, path: str, payload: bytes = b"", **given):
        """A request under way."""
        from aiocoap import Message
        from aiocoap.numbers.codes import Code

        return self.context.request(
            Message(code=getattr(Code, code), uri=f"{self.url}{path}", payload=payload, **given)
        )

    async def ask(self, code: str, path: str, payload: bytes = b"", **given):
        """One request, and its answer as aiocoap reads it."""
        return await self.request(code, path, payload, **given).response


@pytest.fixture
async def oscore_peer(tmp_path, plane):
    """Opens the client: ``await oscore_peer(url, "dev1")``; ``folder`` is of one that was there before."""
    aiocoap = pytest.importorskip("aiocoap", reason="the independent peer")
    pytest.importorskip("lakers", reason="what aiocoap's client under OSCORE needs")
    async with AsyncExitStack() as stack:

        async def opened(url: str, device: str = "dev1", *, key: SharedKey | None = None) -> OscorePeer:
            key = key or shared_key(device, plane.token(device))
            folder = tmp_path / f"oscore-{device}"
            if not folder.exists():
                folder.mkdir()
                settings = {"sender-id_hex": "", "recipient-id_hex": "01", "id-context_ascii": key.token}
                settings["secret_ascii"] = key.key.decode()
                (folder / "settings.json").write_text(json.dumps(settings))
            context = await aiocoap.Context.create_client_context(transports=["oscore", "simple6"])
            stack.push_async_callback(context.shutdown)
            context.client_credentials.load_from_dict({f"{url}/*": {"oscore": {"basedir": str(folder)}}})
            return OscorePeer(context, url)

        yield opened


class Hand:
    """A device under OSCORE whose datagrams are made, kept and sent by hand, from sockets as wanted."""

    def __init__(self, port: int, key: SharedKey) -> None:
        from fleetcore_coap.oscore.security import DEVICE, SERVER, Security

        self.port, self.key = port, key
        self.number = 0
        self.security = Security(key, DEVICE, SERVER, self._next, None)
        self.bindings = {}
        self.sockets = []
        self.mid = 0
        self.socket = self.new_socket()

    def _next(self) -> int:
        self.number += 1
        return self.number - 1

    def new_socket(self) -> socket.socket:
        """Another address to send from."""
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.connect(("127.0.0.1", self.port))
        self.sockets.append(made)
        return made

    def made(self, code, given, payload=b"", *, token=None, kind=Kind.CON, outer=()) -> bytes:
        """A protected request as a datagram; ``outer`` are options that an attacker adds."""
        self.mid += 1
        token = token or b"t%d" % self.mid
        inner = Packet(kind=kind, code=code, mid=self.mid, token=token, options=options(given), payload=payload)
        packet, self.bindings[token] = self.security.request(inner)
        return encode(Packet(
            kind=kind, code=packet.code, mid=self.mid, token=token, options=options([*packet.options, *outer]),
            payload=packet.payload,
        ))  # fmt: skip

    async def heard(self, sender=None) -> Packet:
        """The next datagram, as it lies."""
        async with asyncio.timeout(PATIENCE_S):
            return decode(await asyncio.get_running_loop().sock_recv(sender or self.socket, 4096))

    def opened(self, packet: Packet) -> Packet:
        """What a protected answer says; an unprotected one as it is."""
        if packet.get(Option.OSCORE) is None:
            return packet
        return self.security.response(packet, self.bindings[packet.token])

    async def ask(self, datagram: bytes, sender=None) -> Packet:
        """Sends a datagram, and what is answered."""
        (sender or self.socket).send(datagram)
        return self.opened(await self.heard(sender))

    async def tell(self, code, given, payload=b"", **more) -> Packet:
        """A request, sent again with the Echo value where one is asked for."""
        answer = await self.ask(self.made(code, given, payload, **more))
        echo = answer.get(Option.ECHO)
        if echo is None:
            return answer
        return await self.ask(self.made(code, [*given, (Option.ECHO, echo)], payload, **more))


@pytest.fixture
async def hand(plane, with_oscore):
    """Makes such a device: ``hand(served, "dev1")``."""
    made = []

    def make(served, device: str = "dev1", *, key: SharedKey | None = None) -> Hand:
        made.append(Hand(served.port, key or shared_key(device, plane.token(device))))
        return made[-1]

    yield make
    for each in made:
        for opened in each.sockets:
            opened.close()


@pytest.fixture
async def protected(serve, with_oscore):
    """The listener."""
    return await serve(tls=False, oscore=True)


class Restarting:
    """A listener that is stopped and started again on its port; what its state kept stays."""

    def __init__(self, plane, authority) -> None:
        self.plane, self.lent = plane, context("coap", tls=authority)
        self.port = 0

    @property
    def url(self) -> str:
        return f"coap://127.0.0.1:{self.port}"

    @property
    def clock(self):
        return self.lent.clock

    async def start(self) -> None:
        config = CoapConfig(listen=self.url, oscore=True)
        self._opened = open_coap(config, self.lent, self.plane, self.plane)
        self.adapter = await self._opened.__aenter__()
        self.port = int(self.adapter.endpoints[0].rpartition(":")[2])

    async def stop(self) -> None:
        await self._opened.__aexit__(None, None, None)


@pytest.fixture
async def restarting(plane, authority, with_oscore):
    made = Restarting(plane, authority)
    await made.start()
    yield made
    await made.stop()
