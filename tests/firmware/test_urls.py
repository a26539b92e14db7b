"""No URL that a person gives lets the server reach its own network, wherever it is given."""

import asyncio
import ipaddress
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Refused, Unavailable
from fleetcore.fleet.fetch import fetch, is_public

INTERNAL = [
    *(
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "localhost",
        "0",
        "0.0.0.0",
    ),
    *(
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.0.192",
        "198.18.0.1",
        "240.0.0.1",
    ),
    *("255.255.255.255", "224.0.0.1", "239.1.1.1", "192.88.99.1", "203.0.113.1"),
    *("[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[fd12::1]", "[ff02::1]", "[fec0::1]", "[2001:db8::1]", "[3fff::1]"),
    *("[::ffff:169.254.169.254]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::7f00:1]"),
    *("[64:ff9b:1::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "[2002:7f00:1::1]", "[2001:0:a9fe:a9fe::1]", "[2001::1]"),
    *("[2a00:1450::5efe:a9fe:a9fe]", "[2a00:1450::200:5efe:7f00:1]", "[5f00::1]", "[100::1]"),
]


@pytest.mark.parametrize("host", INTERNAL)
def test_the_server_fetches_from_no_internal_address_however_it_is_written(host):
    with pytest.raises(Refused) as refused:
        next(fetch(f"http://{host}/fw", 1000))

    assert refused.value.code == "url_forbidden"


@pytest.mark.parametrize("text", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::1"])
def test_a_public_address_is_public_in_every_form(text):
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "gopher://example.com/", "ftp://example.com/x", "//example.com/x", "http://", "x", "",
     "http://user:secret@example.com/", "http://example.com:99999/", "http://[::1", "http://exa mple.com/",
     "http://example.com/\u00e9", "http://example.com/a\r\nHost: x", "javascript:alert(1)", "HTTP:///x"],
)  # fmt: skip
def test_what_is_no_plain_web_address_is_refused(url):
    with pytest.raises(Refused) as refused:
        next(fetch(url, 1000))

    assert refused.value.code == "url_forbidden"


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "a..b", "nowhere.invalid"])
def test_a_name_that_does_not_resolve_is_unavailable(host):
    with pytest.raises(Unavailable):
        next(fetch(f"http://{host}/fw", 1000))


def test_one_internal_address_among_public_ones_refuses_the_name(monkeypatch):
    answers = [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)

    with pytest.raises(Refused):
        next(fetch("http://mixed.example/fw", 1000))


def test_a_name_that_changes_between_check_and_connect_gains_nothing(monkeypatch):
    asked, connected = [], []

    def resolve(host, port, **_):
        asked.append(host)
        address = "93.184.216.34" if len(asked) == 1 else "169.254.169.254"
        return [(2, 1, 6, "", (address, port))]

    def connect(address, _timeout):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)

    with pytest.raises(Unavailable):
        next(fetch("http://rebind.example:8080/fw", 1000))
    assert (asked, connected) == (["rebind.example"], [("93.184.216.34", 8080)])


@pytest.fixture
def web():
    """A web server on the loopback that stands for one outside: ``web(answer)`` gives its URL and what it was asked."""
    servers = []

    def start(answer):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers["Host"]))
                answer(self)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://outside.example:{server.server_port}", asked

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def outside(_host, _port):
    return "127.0.0.1"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data", "https://example.com/elsewhere"])
def test_a_redirect_is_not_followed_wherever_it_leads(web, status, target):
    def redirect(handler):
        handler.send_response(status)
        handler.send_header("Location", target)
        handler.end_headers()

    url, asked = web(redirect)

    with pytest.raises(Refused) as refused:
        next(fetch(url + "/fw", 1000, outside))

    assert refused.value.code == "url_forbidden"
    assert len(asked) == 1


def test_the_name_stays_in_the_request_and_the_path_as_it_is(web):
    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"firmware")

    url, asked = web(answer)

    assert b"".join(fetch(url + "/a/b?c=d", 1000, outside)) == b"firmware"
    assert asked == [("/a/b?c=d", url.removeprefix("http://"))]


def test_endless_data_ends_at_the_limit(web):
    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(65536))
        except OSError:
            pass

    url, _ = web(answer)

    with pytest.raises(Refused) as refused:
        list(fetch(url, 100_000, outside))

    assert refused.value.code == "limit_exceeded"


def test_an_answer_that_ends_early_is_no_firmware(web):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(bytes(10))

    url, _ = web(answer)

    with pytest.raises(Unavailable):
        list(fetch(url, 100_000, outside))


async def test_a_campaign_with_an_internal_url_never_leaves_draft(tmp_path):
    async with IoTFleetManager(tmp_path / "data") as manager:
        fleet = await manager.open()
        await manager.register_device("a", "sensor")
        for number, host in enumerate(INTERNAL):
            await manager.update_firmware(f"c{number}", "2.0.0", ["a"], f"http://{host}/fw")
        while fleet.campaigns._tasks:
            await asyncio.gather(*fleet.campaigns._tasks)

        found = [await manager.get_campaign(f"c{number}") for number in range(len(INTERNAL))]
        artifacts = list((tmp_path / "data").rglob("artifacts/??/*"))

    assert {(one["state"], one["code"]) for one in found} == {("draft", "artifact_unpinned")}
    assert all("not a public address" in one["reason"] for one in found)
    assert artifacts == []
