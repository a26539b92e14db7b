"""A real server in a process of its own, real devices that talk to it, and the ways to end it badly."""

import asyncio
import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fleetcore_coap.plugin import open_client as coap_client
from fleetcore_http.plugin import open_client as http_client
from fleetcore_mqtt.client import MqttDeviceClient
from fleetcore_websocket.plugin import open_client as websocket_client

from fleetcore import IoTFleetManager
from fleetcore.errors import Unavailable
from fleetcore.frontends.control import serve_control
from fleetcore.frontends.control_client import ControlClient
from fleetcore.frontends.registration import registration
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_datagram_port, free_port
from fleetcore.testing.simulator import SimulatedDevice
from fleetcore.wire import messages

#: Each server answers these tests' devices as fast as they send; the rate limit has tests of its own.
_TOML = """\
[fleet]
name = "faults"
data = "."

[limits]
rate_per_s = 100000.0
burst = 100000
message_bytes = 65536
{limits}
[protocols.http]
listen = "https://127.0.0.1:{http}"

[protocols.mqtt]
listen = "mqtts://127.0.0.1:{mqtt}"

[detectors.too-much]
kind = "threshold"
above = {limit}
once = false
"""

_COAP = """
[protocols.coap]
listen = "{url}"
psk = true

[protocols.oscore]
kind = "coap"
listen = "{protected}"
oscore = true
"""
#: Readings above it are what the servers' detector must find.
LIMIT = 1_000_000


class Server:
    """``fleetcore serve`` on a data folder: started, killed and started again on the same ports."""

    def __init__(self, data, ports):
        self.data = data
        self.http, self.mqtt = (
            f"{scheme}://127.0.0.1:{port}" for scheme, port in zip(("https", "mqtts"), ports, strict=True)
        )
        #: Where it speaks CoAP, if it was asked to.
        self.coap = f"coaps://127.0.0.1:{free_datagram_port()}"
        #: And for messages under OSCORE.
        self.oscore = f"coap://127.0.0.1:{free_datagram_port()}"
        self._tokens = {}
        self.process = None
        self._reading = None

    async def start(self, *, ready=True):
        """Starts it; without ``ready`` it is not waited for until all of it is open."""
        log = (self.data / "log").open("ab")
        with log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fleetcore", "serve", "--data", str(self.data)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        if ready:
            await self.ready()

    async def ready(self):
        """Returns once it says so. Fails with the end of its log, at once where it has ended: what it started may go on
        holding its output open."""
        reading = asyncio.ensure_future(self._says_ready())
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not (await asyncio.wait({reading}, timeout=0.05))[0] and self.process.returncode is None:
                    pass
        except TimeoutError:
            pass
        finally:
            said = reading.done() and reading.result()
            reading.cancel()
            await asyncio.wait({reading})
        ended = "is not ready" if self.process.returncode is None else f"ended with {self.process.returncode}"
        assert said, f"the server {ended}; the end of its log:\n{(self.data / 'log').read_text()[-4000:]}"

    async def _says_ready(self):
        async for line in self.process.stdout:
            if line == b"ready\n":
                return True
        return False

    async def signal(self, number, timeout_s=PATIENCE_S):
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        return await self.ended(timeout_s)

    async def ended(self, timeout_s=PATIENCE_S):
        async with asyncio.timeout(timeout_s):
            # What it still prints has to be read, or it would wait for a reader.
            await self.process.stdout.read()
            return await self.process.wait()

    async def kill(self):
        assert await self.signal(signal.SIGKILL) == -signal.SIGKILL

    async def close(self):
        if self.process is not None and self.process.returncode is None:
            await self.kill()
        if self.process is not None:
            self.process._transport.close()  # what a dead server has started may hold its output open

    @property
    def caller(self):
        return ControlClient(self.data)

    async def command(self, *words, timeout_s=PATIENCE_S):
        """One command of the command line on this folder: exit code, stdout, stderr."""
        return await _command(*words, "--data", str(self.data), timeout_s=timeout_s)

    async def device(self, name, **options):
        """A registered device with a certificate, which it got over HTTP, and a token for where it is of use."""
        await self.caller.run("create_device", {"id": name, "type": "sensor", **registration(options)})
        made = await self.caller.run("create_enrollment_token", {"device": name})
        secrets = DeviceSecrets(device=name, ca=(self.data / "pki" / "ca.pem").read_bytes())
        device = SimulatedDevice(secrets, http_client, self.http, SystemClock())
        await device.enroll(made["token"])
        issued = await self.caller.run("issue_device_token", {"device_id": name})
        self._tokens[name] = issued["token"]
        return device.secrets

    def by_token(self, secrets):
        """What a device has that has its token alone."""
        return DeviceSecrets(device=secrets.device, token=self._tokens[secrets.device])

    def client(self, kind, secrets):
        """The device's side: ``http``, ``mqtt``, ``mqtt 3.1.1``, ``coap`` by certificate or key, ``oscore``, or
        ``websocket`` of a server in this process."""
        if kind.startswith("coap"):
            return coap_client(self.coap, secrets)
        if kind == "oscore":
            return coap_client(self.oscore, self.by_token(secrets))
        if kind == "websocket":
            return websocket_client(self.fleet.protocols["websocket"].adapter.endpoints[0], secrets)
        if kind == "http":
            return http_client(self.http, secrets)
        return MqttDeviceClient(self.mqtt, secrets, version="3.1.1" if kind == "mqtt 3.1.1" else "5")


async def _command(*words, timeout_s=PATIENCE_S, env=None):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleetcore", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=None if env is None else {**os.environ, **env},
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def made():
    """``made(name)``: a folder as ``init`` made it, to be copied, and its fleet's id."""
    return _made


@pytest.fixture
def command():
    """Runs ``fleetcore WORDS``: exit code, stdout, stderr."""
    return _command


@pytest.fixture
def limit():
    return LIMIT


@functools.cache
def _made(name="faults"):
    """A data folder that ``init`` made, once for all tests, and its fleet's id."""
    folder = Path(tempfile.mkdtemp(prefix="fleetcore-faults-")) / "data"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "fleetcore", "init", str(folder), "--name", name], check=True)
    return folder, tomllib.loads((folder / "fleet.toml").read_text())["fleet"]["id"]


def _folder(data, more, limits, plugins, coap=False):
    """A data folder with its fleet.toml and one-file plugins (name → source); nothing runs on it yet."""
    made, fleet = _made()
    shutil.copytree(made, data)
    data.chmod(0o700)
    ports = free_port(), free_port()
    text = _TOML.format(http=ports[0], mqtt=ports[1], limit=LIMIT, limits=limits)
    for name, source in plugins.items():
        (data / f"{name}.py").write_text(source)
    names = ", ".join(f'"./{name}.py"' for name in plugins)
    server = Server(data, ports)
    more += _COAP.format(url=server.coap, protected=server.oscore) if coap else ""
    (data / "fleet.toml").write_text(text.replace("[fleet]", f'[fleet]\nid = "{fleet}"\nplugins = [{names}]') + more)
    (data / "fleet.toml").chmod(0o600)
    return server


@pytest.fixture
def serving(tmp_path):
    """Serves a fresh folder in a process of its own; ``more`` goes into its fleet.toml."""

    @asynccontextmanager
    async def serve(more="", *, limits="", plugins=(), ready=True, coap=False):
        server = _folder(tmp_path / "data", more, limits, dict(plugins), coap)
        try:
            await server.start(ready=ready)
            yield server
        finally:
            await server.close()

    return serve


@pytest.fixture
async def server(serving):
    """A running server."""
    async with serving() as running:
        yield running


#: The real store behind `fleetcore.testing.faults`, as a plugin would offer it.
_FAULTY = """\
from contextlib import asynccontextmanager

from fleetcore import hookimpl, offer_storage
from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.storage import open_sqlite
from fleetcore.testing.faults import faulty


@asynccontextmanager
async def open_faulty(config, context):
    async with open_sqlite(config, context) as inner:
        storage, handle = faulty(inner)
        yield storage
        handle.heal()


@hookimpl
def fleetcore_storages():
    return [offer_storage("faulty", SqliteConfig, open_faulty)]
"""


@pytest.fixture
def in_process(tmp_path):
    """A whole server in this process, real listeners included, whose store has levers: ``server.disk``."""

    @asynccontextmanager
    async def serve(more="", *, limits="", clock=None, coap=False):
        text = f'{more}\n[storage]\nkind = "faulty"\n'
        server = _folder(tmp_path / "data", text, limits, {"faulty_store": _FAULTY}, coap)
        async with IoTFleetManager(server.data, clock=clock) as manager:
            server.manager, server.fleet = manager, await manager.open()
            server.disk = server.fleet.storage
            await server.fleet.serve()
            async with serve_control(manager, server.data):
                try:
                    yield server
                finally:
                    server.disk.heal()

    return serve


@pytest.fixture
def quick_coap(monkeypatch):
    """The times of RFC 7252 §4.8 are for links over the world: in this process a twentieth of them.

    A server in a process of its own keeps to the real ones.
    """
    monkeypatch.setattr("fleetcore_coap.exchanges.ACK_TIMEOUT_S", 0.1)
    monkeypatch.setattr("fleetcore_coap.exchanges.PROCESSING_S", 0.01)
    for module in ("channel", "datagram_adapter"):
        monkeypatch.setattr(f"fleetcore_coap.{module}._TICK_S", 0.02)
    for name in ("ANSWER_S", "HANDSHAKE_S"):
        monkeypatch.setattr(f"fleetcore_coap.channel.{name}", 3.0)


@pytest.fixture
def until():
    """Waits for a condition, awaited where it is a coroutine's: ``await until(lambda: …)``."""

    async def wait(condition, timeout_s=PATIENCE_S):
        async with asyncio.timeout(timeout_s):
            while True:
                found = condition()
                found = await found if asyncio.iscoroutine(found) else found
                if found:
                    return found
                await asyncio.sleep(0.01)

    return wait


class Sender:
    """A device's program that gives nothing up: it connects again, and sends again what was not acknowledged.

    It sends readings with a time, with a message id, and with neither, numbered from 1; ``acknowledged`` are the
    numbers by metric, ``tries`` how often each was sent. Every seventh is above the detector's limit.
    """

    METRICS = ("timed", "named", "plain")
    START_MS = 1_750_000_000_000

    def __init__(self, server, kind, secrets):
        self.server, self.kind, self.secrets = server, kind, secrets
        self.device = secrets.device
        self.acknowledged = {metric: set() for metric in self.METRICS}
        self.tries = {}
        self.refused, self.lost = [], []
        self._client = None
        self._connecting = asyncio.Lock()
        self.stopping = False

    @property
    def count(self):
        return sum(map(len, self.acknowledged.values()))

    @staticmethod
    def value(number):
        return number + (2 * LIMIT if number % 7 == 0 else 0)

    async def run(self):
        try:
            async with asyncio.TaskGroup() as group:
                for metric in self.METRICS:
                    group.create_task(self._send_all(metric))
        finally:
            await self._drop(self._client)

    async def _send_all(self, metric):
        number = 0
        while not self.stopping:
            number += 1
            body = {"values": {metric: self.value(number)}}
            if metric == "timed":
                body["time"] = self.START_MS + number
            if metric == "named":
                body["id"] = f"m{number}"
            while not await self._sent(metric, number, body):
                if self.stopping:
                    return
            # Two readings without a time in one millisecond would be one point with two values: a conflict.
            await asyncio.sleep(0.002)

    async def _sent(self, metric, number, body):
        client = None
        try:
            client = await self._connected()
            self.tries[metric, number] = self.tries.get((metric, number), 0) + 1
            reply = await client.send(messages.TELEMETRY, body)
        except Unavailable as error:
            self.lost.append(str(error))
            await self._drop(client)
            return False
        if reply.error is None:
            self.acknowledged[metric].add(number)
            return True
        self.refused.append(reply.error)
        await asyncio.sleep(0.05)
        return False

    async def _connected(self):
        async with self._connecting:
            while self._client is None:
                client = self.server.client(self.kind, self.secrets)
                try:
                    self._client = await client.__aenter__()
                except Unavailable as error:
                    self.lost.append(str(error))
                    if self.stopping:
                        raise
                    await asyncio.sleep(0.05)
            return self._client

    async def _drop(self, client):
        if client is not None and self._client is client:
            self._client = None
            await client.__aexit__(None, None, None)


@pytest.fixture
def sender():
    return Sender


@pytest.fixture
def senders():
    """Senders at work in the block: HTTP, MQTT 5 and MQTT 3.1.1."""

    @asynccontextmanager
    async def at_work(server, kinds=("http", "mqtt", "mqtt 3.1.1")):
        made = [Sender(server, kind, await server.device(f"sender-{number}")) for number, kind in enumerate(kinds)]
        async with asyncio.TaskGroup() as group:
            for one in made:
                group.create_task(one.run())
            try:
                yield made
            finally:
                for one in made:
                    one.stopping = True

    return at_work


@pytest.fixture
def readings():
    """What a folder that no server holds has stored of a metric: a list of numbers."""

    async def read(manager, device, metric):
        try:
            return [round(one) for one in (await manager.query_telemetry(device, metric)).value.tolist()]
        except KeyError:
            return []

    return read


@pytest.fixture
def opened():
    """Opens a folder in this process, without its network, after every detector has seen what is stored."""

    @asynccontextmanager
    async def open_folder(data):
        async with IoTFleetManager(data) as manager:
            await manager.wait_idle()
            yield manager

    return open_folder


@pytest.fixture
def clock():
    """Stands still at the present: certificates are judged by it."""
    return MovableClock(time.time_ns() // 1_000_000)
