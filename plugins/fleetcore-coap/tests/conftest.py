"""The plugin served over a recording plane, and libcoap's clients as independent peers."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack

import pytest
from attrs import frozen
from fleetcore_coap.codec import Kind, Packet, decode, encode, options
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.plugin import open_client, open_coap

from fleetcore.interfaces.protocol import ProtocolAdapter
from fleetcore.interfaces.provider import Limits
from fleetcore.listening.limits import ListenerLimits
from fleetcore.testing import context, peers
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.testing.throwaway_ca import ThrowawayCa

PEERS = ("coap-client-openssl", "coap-client-gnutls")


pytest_runtest_setup = peers.require


@frozen(kw_only=True)
class Served:
    """An open adapter and where it listens."""

    adapter: ProtocolAdapter
    clock: MovableClock
    reached: Mapping[tuple[str, str], int]

    @property
    def url(self) -> str:
        return self.adapter.endpoints[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCa:
    return ThrowawayCa(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def plane() -> RecordingPlane:
    return RecordingPlane(leaves={"leaf1": "dev1", "foreign1": "dev2"})


@pytest.fixture
async def serve(authority: ThrowawayCa, plane: RecordingPlane):
    """Opens the plugin: ``await serve(limits=…, idle_s=…)``; plain CoAP with ``tls=False``."""
    async with AsyncExitStack() as stack:

        async def open_one(
            *, tls: bool = True, limits: Limits | None = None, listeners: ListenerLimits | None = None, **config: object
        ) -> Served:
            lent = context("coap", limits=limits, tls=authority, listeners=listeners)
            settings = CoapConfig(listen=f"coap{'s' if tls else ''}://127.0.0.1:0", **config)
            adapter = await stack.enter_async_context(open_coap(settings, lent, plane, plane))
            return Served(adapter=adapter, clock=lent.clock, reached=lent.listening.reached)

        yield open_one


@pytest.fixture(scope="session")
def with_oscore() -> None:
    """Skips where the extra is not installed."""
    pytest.importorskip("filelock", reason='OSCORE is the extra "fleetcore-coap[oscore]"')


@pytest.fixture
async def served(serve) -> Served:
    return await serve()


@frozen
class Said:
    """What libcoap's client printed; it exits 0 whatever comes, so the code is read from what it shows."""

    text: str

    @property
    def codes(self) -> list[str]:
        """Codes of the responses, in order; empty acknowledgements left out."""
        found = re.findall(r"v:1 t:(?:ACK|CON|NON) c:(\d\.\d\d)", self.text)
        return [code for code in found if code[0] in "245"]

    @property
    def pending(self) -> str:
        """Option 65020 of a response, which libcoap shows as escaped bytes."""
        escaped = re.search(r"65020:((?:\\x[0-9A-F]{2})+)", self.text)
        return "" if escaped is None else bytes.fromhex(escaped[1].replace("\\x", "")).decode()


@pytest.fixture
def coap_client(authority: ThrowawayCa):
    """Runs libcoap's client: ``await coap_client(url, "-m", "get", program=…, device="dev1")``."""

    async def run(url: str, *options: str, program: str = PEERS[0], device: str | None = "dev1") -> Said:
        identity: list[str] = []
        if device is not None:
            own = authority.device(device)
            identity = ["-c", str(own.certificate_path), "-j", str(own.key_path)]
        process = await asyncio.create_subprocess_exec(
            *(program, "-v", "7", "-B", str(int(PATIENCE_S)), "-R", str(authority.path), *identity, *options, url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
        return Said(out.decode("utf-8", "replace"))

    return run


@pytest.fixture
def until():
    """Waits, bounded, for something that another task will do."""

    async def wait(condition) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)

    return wait


class Wire:
    """A device's association, spoken on by hand: what comes is decoded, and nothing is acknowledged by itself."""

    def __init__(self, client):
        self.client, self.heard = client, []
        client._channel._message = lambda message: self.heard.append(decode(message))

    def send(self, code, given, payload=b"", *, mid=1, token=b"t", kind=Kind.CON):
        packet = Packet(kind=kind, code=code, mid=mid, token=token, options=options(given), payload=payload)
        self.client._channel._association.send(encode(packet))

    async def ask(self, code, given, payload=b"", **more):
        """Sends a request and returns the next answer to it."""
        before = len(self.heard)
        self.send(code, given, payload, **more)
        async with asyncio.timeout(PATIENCE_S):
            while len(self.heard) == before:
                await asyncio.sleep(0.002)
        return self.heard[before]

    def signal(self, kind, mid):
        self.client._channel._association.send(encode(Packet(kind=kind, code=0, mid=mid)))

    def vanish(self):
        """Without a goodbye."""
        self.client._channel._transport.abort()
        self.client._channel._end("it has vanished")


@pytest.fixture
async def wires(request, authority):
    """Makes wires: ``await wires("dev2")``, to the listener of ``served`` or another one."""
    opened = []

    async def make(device: str = "dev1", served: Served | None = None) -> Wire:
        served = served or request.getfixturevalue("served")
        client = open_client(served.url, authority.secrets(device))
        opened.append(client)
        return Wire(await client.__aenter__())

    yield make
    for client in opened:
        await client.__aexit__(None, None, None)


UNJUDGED: tuple[object, ...] = ()


@pytest.fixture
def oracle():
    """aiocoap's reading of a datagram: kind, code, mid, token, options, payload; None where it is not a message.

    What it refuses for the meaning of an option, which is not the codec's to judge, is UNJUDGED.
    """
    aiocoap = pytest.importorskip("aiocoap", reason="the tests' oracle of the codec")

    def read(datagram: bytes) -> tuple[object, ...] | None:
        try:
            message = aiocoap.Message.decode(datagram)
        except aiocoap.error.UnparsableMessage:
            return None
        except ValueError:
            return UNJUDGED
        given = [(int(option.number), option.encode()) for option in message.opt.option_list()]
        return int(message.mtype), int(message.code), message.mid, message.token, given, message.payload

    return read
