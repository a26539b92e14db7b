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
PROXIES = [pytest.param(name, marks=pytest.mark.peer(name)) for name in ("haproxy", "nginx")]


def section(name):
    (found,) = re.findall(rf"^```{name}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
async def proxied(serve, authority, tmp_path, request):
    """A proxy in front of the plugin; gives its port and the plugin."""
    served = await serve(tls=False, trusted_proxies=("127.0.0.1",))
    name, port, server = request.param, free_port(), authority.server_identity()
    certificate, key = server.certificate_path.read_bytes(), server.key_path.read_bytes()
    (tmp_path / "server.pem").write_bytes(certificate + (key if name == "haproxy" else b""))
    (tmp_path / "server.key").write_bytes(key)
    shutil.copy(authority.path, tmp_path / "ca.pem")
    text = section(name).replace("127.0.0.1:8443", f"127.0.0.1:{port}")
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{served.port}")
    async with proxy(name, text, tmp_path, port):
        yield port, served


async def curl(authority, port, path, *options, device=None):
    """Status and body."""
    secrets = []
    if device is not None:
        own = authority.device(device)
        secrets = ["--cert", own.certificate_path, "--key", own.key_path]
    command = ["curl", "-sS", "--cacert", authority.path, *secrets, "-w", "\n%{http_code}", *options]
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        f"https://127.0.0.1:{port}/device/v1/{path}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, complaints = await process.communicate()
    body, _, status = out.decode().rpartition("\n")
    assert status, complaints.decode()
    return int(status), body


@pytest.mark.parametrize("proxied", PROXIES, indirect=True)
async def test_each_device_is_known_by_its_own_certificate(proxied, authority, plane):
    port, _ = proxied
    for device in ("dev1", "dev2", "dev1"):
        status, body = await curl(authority, port, "", device=device)
        assert (status, f'"device":"{device}"' in body) == (200, True), body
    status, _ = await curl(
        authority, port, "telemetry", "-d", '{"t": 1}', "-H", "Content-Type: application/json", device="dev2"
    )

    assert status == 204
    assert [received.identity for received in plane.received] == ["dev2"]


@pytest.mark.parametrize("proxied", PROXIES, indirect=True)
async def test_a_device_cannot_show_the_header_itself(proxied, authority):
    port, _ = proxied
    stolen = f"Client-Cert: :{b64encode(authority.device('dev1').der).decode()}:"
    status, body = await curl(authority, port, "", "-H", stolen, device="dev2")
    nobody, _ = await curl(authority, port, "twin", "-H", stolen)

    assert (status, '"device":"dev2"' in body) == (200, True), body
    assert nobody == 401


@pytest.mark.parametrize("proxied", PROXIES, indirect=True)
async def test_without_a_certificate_a_token_counts_and_a_revoked_device_is_refused(proxied, authority, plane):
    port, _ = proxied
    token = f"Authorization: Bearer {plane.token('dev1')}"
    with_token, _ = await curl(authority, port, "twin", "-H", token)
    plane.revoke("dev2")
    revoked, body = await curl(authority, port, "twin", device="dev2")

    assert (with_token, revoked) == (200, 403)
    assert "device_revoked" in body


@pytest.mark.parametrize("proxied", PROXIES, indirect=True)
async def test_a_download_goes_on_through_a_proxy(proxied, authority, plane):
    port, _ = proxied
    digest = plane.put_artifact(b"0123456789" * 10)
    path = f"artifacts/{digest}"
    rest = await curl(authority, port, path, "-H", "Range: bytes=95-", "-H", f'If-Range: "{digest}"', device="dev1")
    changed = await curl(authority, port, path, "-H", "Range: bytes=95-", "-H", 'If-Range: "other"', device="dev1")
    known, _ = await curl(authority, port, path, "-H", f'If-None-Match: "{digest}"', device="dev1")
    head, _ = await curl(authority, port, path, "-I", device="dev1")

    assert rest == (206, "56789")
    assert (changed[0], len(changed[1])) == (200, 100)
    assert (known, head) == (304, 200)
