"""Who is speaking, once per connection, and what happens to a connection whose device loses its rights."""

from base64 import b64encode

import pytest

from fleetcore.model.credential import CertificateCredential, TokenCredential

GET_TWIN = ("GET /device/v1/twin HTTP/1.1", "Host: x")


async def test_a_kept_alive_connection_is_authenticated_once(served, connect, plane):
    raw = await connect(served)

    for _ in range(3):
        await raw.say(*GET_TWIN)
        assert (await raw.answer()).status == 200

    assert len(plane.authentications) == 1
    assert plane.authentications[0].peer.startswith("127.0.0.1:")


async def test_the_session_closes_with_the_connection(served, connect, plane, until):
    raw = await connect(served)
    await raw.say(*GET_TWIN)
    await raw.answer()

    raw.writer.close()

    await until(lambda: plane.opened[0].ended)
    assert plane.opened[0].ended == "closed"
    await until(lambda: served.adapter.connections == 0)


async def test_a_connection_says_nothing_of_whether_the_device_is_there(served, connect, plane):
    raw = await connect(served)

    await raw.say(*GET_TWIN)
    await raw.answer()

    assert [one.lasting for one in plane.authentications] == [False]


async def test_revocation_closes_the_kept_alive_connection(served, connect, plane):
    raw, other = await connect(served), await connect(served, "dev2")
    for each in (raw, other):
        await each.say(*GET_TWIN)
        await each.answer()

    plane.revoke("dev1")

    assert await raw.rest() == b""
    await other.say(*GET_TWIN)
    assert (await other.answer()).status == 200


async def test_revocation_cuts_a_long_poll_off(served, connect, plane, until):
    raw = await connect(served)
    await raw.say("GET /device/v1/inbox?wait=55 HTTP/1.1", "Host: x")
    await until(lambda: plane.polls)

    plane.revoke("dev1")

    assert await raw.rest() == b""
    await until(lambda: not plane.polls)


async def test_a_revoked_device_that_comes_back_is_refused(served, connect, plane):
    plane.revoke("dev1")
    raw = await connect(served)

    await raw.say(*GET_TWIN)

    answer = await raw.answer()
    assert (answer.status, b"device_revoked" in answer.body) == (403, True)


async def test_a_session_that_ended_quietly_is_not_used_again(serve, connect, plane):
    served = await serve(tls=False, trusted_proxies=("127.0.0.1",))
    raw = await connect(served)
    token = f"Authorization: Bearer {plane.token('dev1')}"
    await raw.say(*GET_TWIN, token)
    assert (await raw.answer()).status == 200

    plane.revoke("dev1")
    await raw.say(*GET_TWIN, token)

    assert (await raw.answer()).status == 403


async def test_a_session_is_looked_at_again_with_every_request(served, connect, plane):
    raw = await connect(served)
    await raw.say(*GET_TWIN)
    await raw.answer()

    plane.opened[0].end_silently("replaced")  # without a word to the connection
    await raw.say(*GET_TWIN)

    assert (await raw.answer()).status == 200
    assert len(plane.authentications) == 2


async def test_a_client_cert_header_from_anybody_but_a_proxy_is_ignored(served, connect, plane, authority):
    raw = await connect(served, "dev2")

    await raw.say(*GET_TWIN, f"Client-Cert: :{b64encode(authority.device('dev1').der).decode()}:")

    assert (await raw.answer()).status == 200
    assert [one.credential for one in plane.authentications] == [CertificateCredential(authority.device("dev2").der)]


@pytest.mark.parametrize("proxies", [(), ("192.0.2.1", "10.0.0.0/8", "::1")])
async def test_a_client_cert_header_without_a_certificate_is_no_credential(serve, connect, authority, proxies):
    served = await serve(tls=False, trusted_proxies=proxies)
    raw = await connect(served)

    await raw.say(*GET_TWIN, f"Client-Cert: :{b64encode(authority.device('dev1').der).decode()}:")

    assert (await raw.answer()).status == 401


async def test_a_proxys_connection_carries_several_devices_each_with_a_session(serve, connect, plane, authority):
    served = await serve(tls=False, trusted_proxies=("127.0.0.0/8",))
    raw = await connect(served)
    shown = {name: f"Client-Cert: :{b64encode(authority.device(name).der).decode()}:" for name in ("dev1", "dev2")}

    for name in ("dev1", "dev2", "dev1"):
        await raw.say("GET /device/v1/ HTTP/1.1", "Host: x", shown[name])
        assert f'"device":"{name}"'.encode() in (await raw.answer()).body
    plane.revoke("dev1")
    await raw.say(*GET_TWIN, shown["dev2"])
    other = await raw.answer()
    await raw.say(*GET_TWIN, shown["dev1"])
    revoked = await raw.answer()

    assert (other.status, revoked.status) == (200, 403)
    assert len(plane.authentications) == 3


async def test_the_proxys_own_certificate_is_no_devices(serve, connect):
    served = await serve(trusted_proxies=("127.0.0.1",))
    raw = await connect(served, "dev1")

    await raw.say(*GET_TWIN)

    assert (await raw.answer()).status == 401


@pytest.mark.parametrize("value", ["nonsense", ":", "::", ":###:", ":AAAA", "AAAA:"])
async def test_a_client_cert_that_is_no_byte_sequence_is_refused(serve, connect, value):
    served = await serve(tls=False, trusted_proxies=("127.0.0.1",))
    raw = await connect(served)

    await raw.say(*GET_TWIN, f"Client-Cert: {value}")

    assert (await raw.answer()).status in {401, 403}


async def test_two_client_cert_headers_are_refused(serve, connect, authority):
    served = await serve(tls=False, trusted_proxies=("127.0.0.1",))
    raw = await connect(served)
    shown = f"Client-Cert: :{b64encode(authority.device('dev1').der).decode()}:"

    await raw.say(*GET_TWIN, shown, shown)

    assert (await raw.answer()).status == 400


async def test_a_revoked_devices_poll_behind_a_proxy_ends_without_hurting_the_connection(serve, connect, plane, until):
    served = await serve(tls=False, trusted_proxies=("127.0.0.1",))
    raw = await connect(served)
    token = f"Authorization: Bearer {plane.token('dev1')}"
    await raw.say("GET /device/v1/inbox?wait=55 HTTP/1.1", "Host: x", token)
    await until(lambda: plane.polls)

    plane.revoke("dev1")

    assert (await raw.answer()).status == 403
    await raw.say("GET /device/v1/ HTTP/1.1", "Host: x")
    assert (await raw.answer()).status == 200


async def test_a_certificate_wins_over_a_token(served, connect, plane):
    raw = await connect(served, "dev2")

    await raw.say("GET /device/v1/ HTTP/1.1", "Host: x", f"Authorization: Bearer {plane.token('dev1')}")

    assert b'"device":"dev2"' in (await raw.answer()).body
    assert not any(isinstance(credential, TokenCredential) for credential, *_ in plane.authentications)


async def test_sessions_of_a_proxys_connection_are_bounded(serve, connect, plane):
    served = await serve(tls=False, trusted_proxies=("127.0.0.1",))
    raw = await connect(served)
    plane.devices = {f"d{number}" for number in range(70)}

    for device in plane.devices:
        await raw.say(*GET_TWIN, f"Authorization: Bearer {plane.token(device)}")
        assert (await raw.answer()).status == 200

    assert len(plane.sessions) == 64


async def test_a_connection_lost_during_authentication_leaves_no_session(served, connect, plane, until):
    plane.hold_authentication()
    raw = await connect(served)
    await raw.say(*GET_TWIN)
    await until(lambda: plane.authentications)

    [connection] = served.adapter._server.open
    raw.writer.transport.abort()
    await until(lambda: connection.transport is None)
    plane.let_in()

    await until(lambda: plane.opened)
    await until(lambda: plane.opened[0].ended == "closed")
    assert len(served.adapter._state.holders) == 0
