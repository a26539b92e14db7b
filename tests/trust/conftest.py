"""A fleet with its real listeners in this process, and foreign programs as its devices: curl, openssl, mosquitto_pub."""

import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fleetcore import IoTFleetManager
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S

_TOML = """\
[fleet]
name = "trust"
data = "."
hosts = ["localhost", "127.0.0.1"]
{more}
[protocols.http]
listen = "https://127.0.0.1:0"

[protocols.mqtt]
listen = "mqtts://127.0.0.1:0"

[protocols.websocket]
listen = "wss://127.0.0.1:0"

[protocols.coap]
listen = "coaps://127.0.0.1:0"
psk = true

[protocols.coap-tcp]
kind = "coap"
listen = "coaps+tcp://127.0.0.1:0"

[protocols.oscore]
kind = "coap"
listen = "coap://127.0.0.1:0"
oscore = true
"""


class Served:
    """A fleet that listens."""

    def __init__(self, manager, fleet, data):
        self.manager, self.fleet, self.data = manager, fleet, data
        self.security = fleet.security
        self.ca = data / "pki" / "ca.pem"

    def url(self, kind):
        return self.fleet.protocols[kind].adapter.endpoints[0]

    @property
    def mqtt_port(self):
        return str(urlsplit(self.url("mqtt")).port)

    async def audited(self, kind):
        await self.fleet.denials.flush()
        await self.fleet.wait_idle()
        return [row for row in await self.fleet.audit.list(limit=1000) if row.action == kind]


@pytest.fixture
def serving(tmp_path):
    """Serves a fresh fleet: ``async with serving("[ca]…", clock=…) as served``."""

    @asynccontextmanager
    async def serve(more="", *, clock=None):
        data = tmp_path / "data"
        data.mkdir(mode=0o700)
        (data / "fleet.toml").write_text(_TOML.format(more=more))
        (data / "fleet.toml").chmod(0o600)
        async with IoTFleetManager(data, clock=clock, create=True) as manager:
            fleet = await manager.open()
            await fleet.serve()
            yield Served(manager, fleet, data)

    return serve


@pytest.fixture
async def served(serving):
    async with serving() as running:
        yield running


@pytest.fixture
def past():
    """A clock that is 100 days behind: what is made under it is old now."""
    return MovableClock(time.time_ns() // 1_000_000 - 100 * 86_400_000)


async def run(*words, stdin=b"", timeout_s=PATIENCE_S):
    """Runs a program: exit code and stdout; what it complained of is in the failure."""
    process = await asyncio.create_subprocess_exec(
        *map(str, words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(timeout_s):
        out, err = await process.communicate(stdin)
    return process.returncode, out, err


class Shell:
    """A device's folder, worked on by shell programs alone."""

    def __init__(self, served, folder):
        self.served, self.folder = served, folder

    async def key(self, name, file="key.pem"):
        """A new P-256 key and a request for it: the path of the request, base64 of DER as EST takes it."""
        key, csr = self.folder / file, self.folder / f"{file}.csr"
        await self.ok("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        der = await self.ok("openssl", "req", "-new", "-key", key, "-subj", f"/CN={name}", "-outform", "DER")
        csr.write_bytes(await self.ok("openssl", "base64", stdin=der))
        return csr

    async def ok(self, *words, stdin=b""):
        code, out, err = await run(*words, stdin=stdin)
        assert code == 0, err.decode()
        return out

    async def est(self, what, *options):
        """A request to EST: status and body."""
        base = self.served.url("http").replace("127.0.0.1", "localhost")
        code, out, err = await run(
            *("curl", "-sS", "--cacert", self.served.ca, "-w", "\n%{http_code}", *options),
            f"{base}/.well-known/est/{what}",
        )
        assert code == 0, err.decode()
        body, _, status = out.rpartition(b"\n")
        return int(status), body

    async def enroll(self, what, csr, *options, into="cert.pem"):
        """Enrols, and keeps the certificate; the status."""
        status, body = await self.est(
            what, "-H", "Content-Type: application/pkcs10", "--data-binary", f"@{csr}", *options
        )
        if status == 200:
            der = await self.ok("openssl", "base64", "-d", "-A", stdin=b"".join(body.split()))
            pem = await self.ok("openssl", "pkcs7", "-inform", "DER", "-print_certs", stdin=der)
            (self.folder / into).write_bytes(pem)
        return status

    @property
    def identity(self):
        """curl's options that show the certificate."""
        return ("--cert", self.folder / "cert.pem", "--key", self.folder / "key.pem")

    def publish(self, device, *more):
        """The words of mosquitto_pub that publish readings over mutual TLS."""
        return (
            *("mosquitto_pub", "-V", "5", "-q", "1", "-h", "127.0.0.1", "-p", self.served.mqtt_port),
            *("--cafile", self.served.ca, "--cert", self.folder / "cert.pem", "--key", self.folder / "key.pem"),
            *("-t", f"fleet/v1/{device}/telemetry", *more),
        )


@pytest.fixture
def shell(served, tmp_path):
    return Shell(served, _folder(tmp_path))


@pytest.fixture
def shell_on(tmp_path):
    """A device's folder for another fleet than the usual one."""
    return lambda served: Shell(served, _folder(tmp_path))


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "device"
    folder.mkdir()
    return folder


@pytest.fixture
def program():
    return run
