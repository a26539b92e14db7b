"""Who is let in, by what, and how the others are told: the opening handshake, its credentials and its Origin."""

import asyncio
from base64 import b64encode

import pytest

from fleetcore.listening.limits import ListenerLimits
from fleetcore.model.credential import CertificateCredential, TokenCredential
from fleetcore.testing.recording_plane import RecordingPlane

# Opcodes (RFC 6455 §11.8).
TEXT = 1

TOKEN = RecordingPlane.token("dev1")
BEARER = f"Authorization: Bearer {TOKEN}"
BROWSER = f"fleetcore.v1, fleetcore.token.{TOKEN}"


async def test_a_certificate_opens_a_session_that_lasts(served, connect, plane):
    hello = await (await connect(served)).opened()

    assert hello["device"] == "dev1"
    assert hello["limits"]["open_requests"] == 64
    (shown,) = plane.authentications
    assert (shown.protocol, shown.lasting, shown.peer.partition(":")[0]) == ("websocket", True, "127.0.0.1")


async def test_a_bearer_token_does_without_a_certificate(served, connect, plane):
    hello = await (await connect(served, None)).opened(BEARER)

    assert hello["device"] == "dev1"
    assert plane.authentications[0].credential == TokenCredential(TOKEN)


async def test_a_certificate_wins_over_a_token(served, connect, plane):
    hello = await (await connect(served, "dev2")).opened(BEARER, protocols=BROWSER)

    assert hello["device"] == "dev2"
    assert isinstance(plane.authentications[0].credential, CertificateCredential)


async def test_the_token_of_a_browser_is_never_echoed(served, connect):
    answer = await (await connect(served, None)).ask(protocols=BROWSER)

    assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "fleetcore.v1")
    assert TOKEN not in str(answer.headers)


@pytest.mark.parametrize(("protocols", "chosen"), [
    ("fleetcore.v1", "fleetcore.v1"), ("fleetcore.v1.cbor", "fleetcore.v1.cbor"),
    ("other, fleetcore.v1.cbor, fleetcore.v1", "fleetcore.v1.cbor"),
])  # fmt: skip
async def test_the_first_subprotocol_that_is_known_is_chosen(served, connect, protocols, chosen):
    answer = await (await connect(served)).ask(protocols=protocols)

    assert answer.headers["sec-websocket-protocol"] == chosen


async def test_no_compression_is_negotiated(served, connect):
    answer = await (await connect(served)).ask("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")

    assert answer.status == 101
    assert "sec-websocket-extensions" not in answer.headers


@pytest.mark.parametrize(
    ("status", "code", "request_", "lines"),
    [
        (401, "not_authenticated", {}, []),
        (401, "not_authenticated", {}, ["Authorization: Bearer fc_op_x"]),
        (401, "not_authenticated", {}, ["Authorization: Basic ZGV2MTp4"]),
        (401, "not_authenticated", {}, [f"Authorization: Bearer {TOKEN[:-1]}"]),
        (401, "not_authenticated", {"path": f"/device/v1/ws?token={TOKEN}"}, []),
        (401, "not_authenticated", {"protocols": BROWSER}, [BEARER]),
        (401, "not_authenticated", {}, ["Client-Cert: :AAAA:", "X-Client-Cert: dev1"]),
        (400, "payload_unreadable", {}, [BEARER, BEARER]),
        (404, "operation_unknown", {"path": "/"}, [BEARER]),
        (400, "protocol_violation", {"protocols": None}, [BEARER]),
        (400, "protocol_violation", {"protocols": "mqtt"}, [BEARER]),
        (405, "protocol_violation", {"method": "POST"}, [BEARER]),
        (426, "protocol_violation", {"left_out": "Upgrade"}, [BEARER]),
        (400, "protocol_violation", {"left_out": "Sec-WebSocket-Key"}, [BEARER]),
        (400, "protocol_violation", {"left_out": "Sec-WebSocket-Version"}, [BEARER, "Sec-WebSocket-Version: 8"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else None,
)
async def test_a_request_that_cannot_be_served_is_answered_with_a_problem(
    served, connect, plane, until, status, code, request_, lines
):
    raw = await connect(served, None)
    answer = await raw.ask(*lines, **request_)

    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    await raw.rest()
    await until(lambda: served.adapter.connections == 0)
    assert plane.sessions == []


async def test_an_unknown_device_gets_403_and_a_script_4403(served, connect):
    stranger = RecordingPlane.token("stranger")
    refused = await (await connect(served, "stranger")).ask()
    script = await connect(served, None)
    await script.ask(protocols=f"fleetcore.v1, fleetcore.token.{stranger}")

    assert (refused.status, refused.code) == (403, "device_unknown")
    assert await script.closed() == (4401, "not_authenticated")


async def test_a_script_of_a_revoked_device_reads_4403(served, connect, plane):
    plane.revoke("dev1")
    script = await connect(served, None)
    await script.ask(protocols=BROWSER)

    assert await script.closed() == (4403, "device_revoked")


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example.evil", "null", "HTTPS://app.example"])
async def test_another_origin_is_refused_whatever_the_credential(serve, connect, plane, origin):
    served = await serve(origins=("https://app.example",))
    with_certificate = await (await connect(served)).ask(f"Origin: {origin}")
    with_token = await (await connect(served, None)).ask(f"Origin: {origin}", protocols=BROWSER)

    assert (with_certificate.status, with_certificate.code) == (403, "not_authorised")
    assert (with_token.status, with_token.code) == (403, "not_authorised")
    assert plane.authentications == []


async def test_an_origin_that_is_configured_is_let_in_and_two_are_not(serve, connect):
    served = await serve(origins=("https://app.example",))
    good = await (await connect(served, None)).ask("Origin: https://app.example", protocols=BROWSER)
    two = await (await connect(served, None)).ask("Origin: https://app.example", "Origin: https://evil.example")

    assert (good.status, two.status) == (101, 400)


async def test_what_is_sent_with_the_request_is_read_after_it(served, connect, plane):
    raw = await connect(served)
    plane.hold_authentication()
    asking = asyncio.ensure_future(raw.ask(then=raw.encoded(TEXT, b'{"op":"telemetry","id":1,"body":{"t":1}}')))
    await asyncio.sleep(0.05)
    assert plane.arrived == []
    plane.let_in()

    assert (await asking).status == 101
    assert (await raw.json())["op"] == "hello"
    assert (await raw.json())["re"] == 1


async def test_a_header_section_without_end_is_cut_off(serve, connect, until):
    served = await serve(tls=False)
    raw = await connect(served)
    raw.writer.write(b"GET /device/v1/ws HTTP/1.1\r\nX: " + b"a" * 20_000)

    assert (await raw.answer()).status == 431
    await raw.rest()
    await until(lambda: served.adapter.connections == 0)


@pytest.mark.parametrize("said", [b"GET /device", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_peer_that_never_finishes_its_request_is_cut_off_in_time(serve, connect, until, said):
    served = await serve(tls=False)
    raw = await connect(served)
    raw.writer.write(said)
    await until(lambda: served.adapter.connections == 1)

    await served.clock.advance(12)

    assert await raw.rest() == b""
    await until(lambda: served.adapter.connections == 0)
    assert served.counted["websocket_no_handshake"] == 1


@pytest.mark.parametrize(
    "said", [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nnone\r\n\r\n"]
)
async def test_what_is_no_http_is_closed_at_once(serve, connect, until, said):
    served = await serve(tls=False)
    raw = await connect(served)
    raw.writer.write(said)

    await raw.rest()
    await until(lambda: served.adapter.connections == 0)


@pytest.fixture
def client_cert(authority):
    """The header by which a proxy shows a device's certificate."""
    return lambda device: f"Client-Cert: :{b64encode(authority.device(device).der).decode()}:"


async def test_a_certificate_that_a_trusted_proxy_shows_is_the_devices(serve, connect, plane, authority, client_cert):
    served = await serve(tls=False, trusted_proxies=("127.0.0.0/8",))
    raws = {name: await connect(served, None) for name in ("dev1", "dev2")}
    hellos = {name: await raw.opened(client_cert(name)) for name, raw in raws.items()}
    plane.revoke("dev1")

    assert {name: hello["device"] for name, hello in hellos.items()} == {"dev1": "dev1", "dev2": "dev2"}
    assert plane.authentications[0].credential == CertificateCredential(authority.device("dev1").der)
    assert await raws["dev1"].closed() == (4403, "device_revoked")
    raws["dev2"].say(op="telemetry", id=1, body={"t": 1})
    assert (await raws["dev2"].json())["ok"]


async def test_a_client_cert_header_from_anybody_but_a_proxy_is_ignored(served, connect, client_cert):
    hello = await (await connect(served, "dev2")).opened(client_cert("dev1"))

    assert hello["device"] == "dev2"


@pytest.mark.parametrize("proxies", [(), ("192.0.2.1", "10.0.0.0/8", "::1")])
async def test_a_client_cert_header_without_a_certificate_is_no_credential(serve, connect, client_cert, proxies):
    served = await serve(tls=False, trusted_proxies=proxies)
    answer = await (await connect(served, None)).ask(client_cert("dev1"))

    assert (answer.status, answer.code) == (401, "not_authenticated")


async def test_the_proxys_own_certificate_is_no_devices_and_a_token_passes_through_it(serve, connect):
    served = await serve(trusted_proxies=("127.0.0.1",))
    bare = await (await connect(served, "dev2")).ask()
    hello = await (await connect(served, "dev2")).opened(BEARER)

    assert (bare.status, hello["device"]) == (401, "dev1")


@pytest.mark.parametrize("value", ["nonsense", ":", "::", ":###:", ":AAAA", "AAAA:", BEARER])
async def test_a_client_cert_that_is_no_byte_sequence_is_refused(serve, connect, value):
    served = await serve(tls=False, trusted_proxies=("127.0.0.1",))
    answer = await (await connect(served, None)).ask(f"Client-Cert: {value}", BEARER)

    assert (answer.status, answer.code) == (403, "certificate_invalid")


async def test_two_client_cert_headers_are_refused(serve, connect, client_cert):
    served = await serve(tls=False, trusted_proxies=("127.0.0.1",))
    answer = await (await connect(served, None)).ask(client_cert("dev1"), client_cert("dev1"))

    assert answer.status == 400


async def test_an_address_has_so_many_connections_and_one_that_is_left_is_given_again(serve, connect, plane, until):
    served = await serve(tls=False, listeners=ListenerLimits(per_address=2))
    first, _second = await connect(served, None), await connect(served, None)
    await until(lambda: served.adapter.connections == 2)
    third = await connect(served, None)
    turned_away = await third.rest()
    first.writer.transport.abort()
    await until(lambda: served.adapter.connections == 1)

    assert turned_away == b""
    await (await connect(served, None)).opened(BEARER)


async def test_a_listener_for_pages_asks_for_no_certificate_and_takes_none(serve, connect):
    """Chromium gives up a WebSocket whose server asks for one; tests/examples has the real one."""
    served = await serve(client_certificates=False)
    with_certificate = await (await connect(served, "dev2")).ask()
    hello = await (await connect(served, "dev2")).opened(protocols=BROWSER)

    assert (with_certificate.status, hello["device"]) == (401, "dev1")
