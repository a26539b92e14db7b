"""The side under test, each in a process of its own: a real fleet, and the null services that it is compared with.

``python -m benchmarks.serving`` reads its task as one JSON line, prints one when it serves, and answers every further
line with what it has counted, its CPU time and its memory.
"""

import asyncio
import asyncio.sslproto
import gc
import json
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from benchmarks.loops import run_on
from fleetcore.interfaces.protocol import Session
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Accepted, Inbound, Outcome
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, FleetSection, Instance
from fleetcore.runtime.process import settle_memory

Count = Callable[[], int]
Served = tuple[dict[str, object], Count]


@asynccontextmanager
async def _fleet(task: dict[str, Any]) -> AsyncIterator[Served]:
    """A fleet on a data folder, its limits on rates out of the way, with registered devices and their credentials."""
    config = Config(
        fleet=FleetSection(name="bench", data=task["data"]),
        limits=Limits(rate_per_s=1e9, burst=1 << 30, future_ms=1 << 50),
        protocols=tuple(Instance(name=kind, kind=kind, table=table) for kind, table in task["protocols"].items()),
    )
    fleet = await Fleet.open(config)
    try:
        tokens = []
        for device in task["devices"]:
            await fleet.devices.register(device, "bench")
            if task.get("certificates"):
                await _issue(fleet, device, Path(task["certificates"]))
            else:
                tokens.append([device, await fleet.security.device_tokens.issue(device)])
        if twin := task.get("twin"):
            await fleet.twins.desire(task["devices"][-1], twin)
        if image := task.get("image"):
            await _offer(fleet, task["devices"], Path(image))
        count: Count = lambda: fleet.path.accepted  # noqa: E731 - one of two
        if task.get("null"):
            count = _acknowledge_at_once(fleet)
        await fleet.serve()
        if task.get("tls_read_bytes"):
            cast("Any", asyncio.sslproto.SSLProtocol).max_size = task["tls_read_bytes"]
        endpoints = {name: list(item.adapter.endpoints) for name, item in fleet.protocols.items()}
        yield {"endpoints": endpoints, "tokens": tokens}, count
    finally:
        await fleet.close()


async def _offer(fleet: Fleet, devices: list[str], image: Path) -> None:
    """A campaign that offers an image to the devices."""
    stored = await fleet.campaigns.add_artifact(await asyncio.to_thread(image.read_bytes))
    await fleet.campaigns.create("c", "2.0.0", devices, sha256=stored.sha256)


def _acknowledge_at_once(fleet: Fleet) -> Count:
    """Makes the data path a null one: connections are judged as ever, what they send is acknowledged and dropped."""
    seen = 0
    outcome = Accepted(stored=3)

    def deliver(_session: Session, _message: Inbound, done: Callable[[Outcome], None]) -> bool:
        nonlocal seen
        seen += 1
        done(outcome)
        return True

    cast("Any", fleet.ingest).deliver = deliver
    return lambda: seen


async def _issue(fleet: Fleet, device: str, folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    from fleetcore.interfaces.protocol import EnrollRequest

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    token = await fleet.security.enrollment_tokens.create(device=device)
    reply = await fleet.security.enroll(
        EnrollRequest(csr=csr.public_bytes(serialization.Encoding.PEM), token=token, source=device)
    )
    assert reply.status == 201, reply
    assert isinstance(reply.body, dict)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{device}.pem").write_bytes(private + str(reply.body["certificate"]).encode())
    (folder / "ca.pem").write_bytes(fleet.security.authority.ca_pem())


@asynccontextmanager
async def _aiohttp(_task: dict[str, Any]) -> AsyncIterator[Served]:
    """An aiohttp application whose one handler reads the body and answers 204."""
    from aiohttp import web

    seen = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal seen
        await request.read()
        seen += 1
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/device/v1/telemetry", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield {"endpoints": {"http": [f"http://127.0.0.1:{runner.addresses[0][1]}"]}}, lambda: seen
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _aiohttp_file(task: dict[str, Any]) -> AsyncIterator[Served]:
    """Aiohttp's own answer with a file, over TLS where there is a certificate."""
    import ssl

    from aiohttp import web

    async def handler(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(task["image"])

    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    context: ssl.SSLContext | None = None
    if certificate := task.get("certificate"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    scheme = "http" if context is None else "https"
    try:
        yield {"endpoints": {"http": [f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"]}}, lambda: 0
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _own_echo(_task: dict[str, Any]) -> AsyncIterator[Served]:
    """The WebSocket of our endpoint and nothing behind it: it says what it hears."""
    from fleetcore_websocket.closing import Close
    from fleetcore_websocket.stream import MessageStream
    from websockets.http11 import Request

    seen = 0

    class Echo(MessageStream):
        def requested(self, request: Request) -> None:
            self.upgrade(self.wire.accept(request))

        def message(self, payload: bytes) -> None:
            nonlocal seen
            seen += 1
            self.send(payload)

        def violated(self, code: int, reason: str) -> None:
            raise AssertionError(code, reason)

        def end(self, code: Close, reason: str = "") -> None:
            self.say_close(code, reason)

        def left(self) -> None:
            self.flush()

    server = await asyncio.get_running_loop().create_server(lambda: Echo(1 << 20), "127.0.0.1", 0)
    async with server:
        yield _websocket_at(server), lambda: seen


@asynccontextmanager
async def _websockets_echo(_task: dict[str, Any]) -> AsyncIterator[Served]:
    """The server of websockets, which says what it hears."""
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed
    from websockets.typing import Subprotocol

    seen = 0

    async def echo(connection: ServerConnection) -> None:
        nonlocal seen
        with suppress(ConnectionClosed):  # the load ends without a word
            async for message in connection:
                seen += 1
                await connection.send(message)

    async with serve(
        echo, "127.0.0.1", 0, compression=None, subprotocols=[Subprotocol("fleetcore.v1")], ping_interval=None
    ) as server:
        yield _websocket_at(server), lambda: seen


@asynccontextmanager
async def _picows_echo(_task: dict[str, Any]) -> AsyncIterator[Served]:
    """The server of picows, which is written in Cython."""
    picows: Any = import_module("picows")  # for comparison alone: it is not among what development installs

    seen = 0

    class Echo(picows.WSListener):  # type: ignore[misc]  # it is untyped here
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            nonlocal seen
            seen += 1
            transport.send(frame.msg_type, frame.get_payload_as_bytes())

    server = await picows.ws_create_server(lambda _request: Echo(), "127.0.0.1", 0)
    async with server:
        yield _websocket_at(server), lambda: seen


def _websocket_at(server: Any) -> dict[str, object]:
    return {"endpoints": {"websocket": [f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/device/v1/ws"]}}


@asynccontextmanager
async def _paho(task: dict[str, Any]) -> AsyncIterator[Served]:
    """A paho consumer that acknowledges by hand and does nothing else, in paho's own thread."""
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    seen = 0
    subscribed = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="null", protocol=paho.MQTTv5, manual_ack=True)

    def taken(client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        nonlocal seen
        seen += 1
        client.ack(message.mid, message.qos)

    client.on_message = taken
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect(task["host"], task["port"])
    client.subscribe("fleet/v1/+/telemetry", qos=1)
    client.loop_start()
    await asyncio.to_thread(subscribed.wait, 10)
    try:
        yield {}, lambda: seen
    finally:
        client.disconnect()
        client.loop_stop()


@asynccontextmanager
async def _aiocoap(_task: dict[str, Any]) -> AsyncIterator[Served]:
    """Aiocoap's server with two resources that do nothing: one takes readings, one answers with a small body."""
    import socket

    import aiocoap
    from aiocoap import resource

    seen = 0
    body = b'{"fleet":"bench","time_ms":1767225600000,"limits":{"message_bytes":262144,"json_depth":10}}'

    class Readings(resource.Resource):  # type: ignore[misc]  # aiocoap has no types
        async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
            nonlocal seen
            del request
            seen += 1
            return aiocoap.Message(code=aiocoap.CHANGED)

    class Small(resource.Resource):  # type: ignore[misc]  # aiocoap has no types
        async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
            del request
            return aiocoap.Message(payload=body, content_format=50)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    site = resource.Site()
    site.add_resource(["device", "v1", "telemetry"], Readings())
    site.add_resource(["device", "v1", ""], Small())
    context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port), transports=["udp6"])
    try:
        yield {"port": port}, lambda: seen
    finally:
        await context.shutdown()


_KINDS = {
    "fleet": _fleet,
    "aiohttp": _aiohttp,
    "aiohttp file": _aiohttp_file,
    "paho": _paho,
    "aiocoap": _aiocoap,
    "own echo": _own_echo,
    "websockets echo": _websockets_echo,
    "picows echo": _picows_echo,
}


def _rss_bytes() -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


async def _serve(task: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        told, count = await stack.enter_async_context(_KINDS[task["kind"]](task))
        settle_memory()
        print(json.dumps(told), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line == "memory\n":
                gc.collect()
            told = {"count": count(), "cpu_s": time.process_time(), "rss": _rss_bytes()}
            print(json.dumps(told), flush=True)


def main() -> None:
    task = json.loads(sys.stdin.readline())
    run_on(task.get("loop", "uvloop"), _serve(task))


if __name__ == "__main__":
    main()
