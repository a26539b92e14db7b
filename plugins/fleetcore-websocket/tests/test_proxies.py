"""Real proxies in front, with the files of the how-to page: whose certificate it is, and what a device cannot pretend."""

import asyncio
import re
import shutil
from base64 import b64encode
from pathlib import Path

import pytest

from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port
from fleetcore.testing.proxies import proxy

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "put-a-proxy-in-front.md"
TEXT = 1


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.peer(name)) for name in ("haproxy", "nginx")])
async def through(request, serve, authority, tmp_path, connect):
    """Opens raw connections through a proxy: ``await through("dev1")``; ``through.served`` is the plugin behind it."""
    name, served = request.param, await serve(tls=False, trusted_proxies=("127.0.0.1",))
    port = free_port()
    server = authority.server_identity()
    certificate, key = server.certificate_path.read_bytes(), server.key_path.read_bytes()
    (tmp_path / "server.pem").write_bytes(certificate + (key if name == "haproxy" else b""))
    (tmp_path / "server.key").write_bytes(key)
    shutil.copy(authority.path, tmp_path / "ca.pem")
    (section,) = re.findall(rf"^```{name}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    text = section.replace("127.0.0.1:8443", f"127.0.0.1:{port}").replace("127.0.0.1:8081", f"127.0.0.1:{served.port}")

    class Outside:
        """What ``connect`` dials."""

        url = "wss://localhost"

    Outside.port = port

    async def open_one(device):
        return await connect(Outside, device)

    open_one.served = served
    async with proxy(name, text, tmp_path, port):
        yield open_one


async def test_each_device_is_known_by_its_own_certificate_and_is_pushed_to(through, plane):
    one, two = await through("dev1"), await through("dev2")
    names = [(await raw.opened())["device"] for raw in (one, two)]
    two.say(op="telemetry", id=1, body={"t": 1})
    reply = await two.json()
    plane.desire("dev1", 3, {"interval": 60})

    assert names == ["dev1", "dev2"]
    assert (reply["ok"], [received.identity for received in plane.received]) == (True, ["dev2"])
    assert (await one.json())["body"]["version"] == 3


async def test_a_device_cannot_show_the_header_itself(through, authority):
    stolen = f"Client-Cert: :{b64encode(authority.device('dev1').der).decode()}:"
    hello = await (await through("dev2")).opened(stolen)
    nobody = await (await through(None)).ask(stolen)

    assert (hello["device"], nobody.status) == ("dev2", 401)


async def test_a_token_passes_and_a_device_that_loses_its_rights_is_disconnected(through, plane):
    raw = await through(None)
    hello = await raw.opened(f"Authorization: Bearer {plane.token('dev1')}")
    plane.revoke("dev1")

    assert hello["device"] == "dev1"
    assert await raw.closed() == (4403, "device_revoked")


async def test_a_long_message_and_a_burst_pass(through, plane):
    raw = await through("dev1")
    await raw.opened()
    raw.say(op="telemetry", id="long", body={"t": "x" * 200_000})
    for number in range(50):
        raw.say(op="telemetry", id=number, body={"t": number})
    async with asyncio.timeout(PATIENCE_S):
        replies = [(await raw.json())["re"] for _ in range(51)]

    assert replies == ["long", *range(50)]
