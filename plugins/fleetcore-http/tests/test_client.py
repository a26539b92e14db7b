"""The device's side against the server's side, over mutual TLS."""

import asyncio
import hashlib

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from fleetcore_http.plugin import open_client

from fleetcore.errors import NotAuthenticated, NotAuthorised, NotFound, Refused, Unavailable
from fleetcore.interfaces import DeviceSecrets, EnrollRequest
from fleetcore.model.message import Accepted, PointRefusal, Rejected, Reply
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.recording_plane import REPORTED_VERSION
from fleetcore.wire import messages

#: A poll that nothing ends lasts 55 s.
_BELOW_A_POLL_S = 45


@pytest.fixture
async def device(served, authority):
    async with open_client(served.url, authority.secrets("dev1")) as client:
        yield client


async def take(client, count: int) -> list:
    found = []
    async with asyncio.timeout(PATIENCE_S):
        async for downlink in client.downlinks():
            found.append(downlink)
            if len(found) == count:
                return found
    return found


async def test_an_uplink_returns_once_it_is_committed(device, plane):
    reply = await device.send(messages.TELEMETRY, {"t": 1.5}, id="m-1")

    assert (reply.status, reply.error) == (204, None)
    assert (plane.messages[0].payload, plane.messages[0].id) == (b'{"t":1.5}', "m-1")


async def test_ready_bytes_go_without_a_declared_type(device, plane):
    await device.send(messages.TELEMETRY, b"\xa1at\x01")

    assert (plane.messages[0].payload, plane.messages[0].content_type) == (b"\xa1at\x01", None)


async def test_all_messages_go_over_one_connection(device, plane):
    await asyncio.gather(*(device.send(messages.TELEMETRY, {"n": n}) for n in range(20)))

    assert len(plane.authentications) == 1
    assert [m.payload for m in plane.messages] == [b'{"n":%d}' % n for n in range(20)]


async def test_a_partial_batch_and_a_refusal_come_as_replies(device, plane):
    plane.outcomes = [
        Accepted(stored=1, refused=(PointRefusal(1, "t", "time_unit"),)),
        Rejected(code="rate_limited", reason="slow down", retry_after_s=7),
    ]

    partial, refused = await device.send(messages.TELEMETRY, []), await device.send(messages.TELEMETRY, [])

    assert (partial.status, partial.body["stored"]) == (200, 1)
    assert (refused.status, refused.error["code"], refused.error["retry_after_s"]) == (429, "rate_limited", 7)


async def test_a_leafs_message_and_a_commands_result_find_their_address(device, plane):
    await device.send(messages.COMMAND_RESULT, {"status": "succeeded"}, subject="leaf1", target="c-7")

    assert (plane.messages[0].subject, plane.messages[0].target) == ("leaf1", "c-7")


async def test_requests_are_answered_with_content(device, plane):
    plane.report("dev1", 4, {})

    twin = await device.request(messages.TWIN_GET)
    time = await device.request(messages.TIME, {"client": 5})
    leaf = await device.request(messages.LEAF_REGISTER, {"device": "leaf2"})
    empty = await device.request(messages.INBOX, {"since": 0})

    assert (twin.version, twin.etag) == (4, '"d0.r4"')
    assert (time.body["client"], leaf.status, empty.status) == (5, 201, 204)


async def test_a_twin_report_returns_the_new_version(device, plane):
    reply = await device.send(messages.TWIN_REPORT, {"interval": 60})

    assert (reply.status, reply.version) == (204, REPORTED_VERSION + 1)
    assert plane.reported("dev1")["interval"] == 60


async def test_an_operation_without_an_address_is_refused_here(device):
    with pytest.raises(Refused, match="cannot be sent"):
        await device.send(messages.ERRORS, {})


async def test_downlinks_are_what_waits_and_then_what_comes(device, plane, until):
    plane.desire("dev1", 3, {"x": 1})
    reading = asyncio.create_task(take(device, 3))
    await until(lambda: plane.polls)

    plane.command("dev1", {"id": "c1", "attempt": 1, "expires_in_ms": 500})
    plane.offer("dev1", {"offer": {"version": "2"}})

    found = await reading
    assert [d.type for d in found] == [messages.TWIN_DESIRED, messages.COMMAND, messages.FIRMWARE]
    assert (found[1].body["id"], found[1].expires_ms, found[1].subject) == ("c1", 500, "dev1")


async def test_a_command_is_handed_out_once_per_attempt_and_its_cancellation_once(device, plane, until):
    plane.command("dev1", {"id": "c1", "attempt": 1})
    found = []

    async def read():
        async for downlink in device.downlinks():
            one = downlink.type, downlink.body.get("attempt"), downlink.target
            found.append(one)

    reading = asyncio.create_task(read())
    await until(lambda: len(found) == 1)
    plane.command("dev1", {"id": "c1", "attempt": 2})
    await device.send(messages.COMMAND_RESULT, {"status": "running"}, target="c1")
    await until(lambda: len(found) == 2)
    plane.cancel("dev1", "c1")
    await device.send(messages.COMMAND_RESULT, {"status": "running"}, target="c1")
    await until(lambda: len(found) == 3)
    await asyncio.sleep(0.1)  # and no more of them
    reading.cancel()

    assert found == [
        (messages.COMMAND, 1, None),
        (messages.COMMAND, 2, None),
        (messages.COMMAND_CANCEL, 2, "c1"),
    ]


async def test_what_is_known_already_does_not_make_the_poll_spin(device, plane, until):
    plane.command("dev1", {"id": "c1", "attempt": 1})
    polls = 0
    inner = plane.wait

    async def counted(*arguments, **keywords):
        nonlocal polls
        polls += 1
        return await inner(*arguments, **keywords)

    plane.wait = counted
    reading = asyncio.create_task(take(device, 99))
    await until(lambda: polls > 1)
    first = polls
    await asyncio.sleep(0.5)
    reading.cancel()

    assert polls - first <= 4


async def test_downlinks_end_when_the_client_closes(served, authority, plane, until):
    client = open_client(served.url, authority.secrets("dev1"))
    async with client:
        reading = asyncio.create_task(take(client, 1))
        await until(lambda: plane.polls)

    async with asyncio.timeout(_BELOW_A_POLL_S):
        assert await reading == []


async def test_revocation_ends_downlinks_with_an_error(device, plane, until):
    reading = asyncio.create_task(take(device, 1))
    await until(lambda: plane.polls)

    plane.revoke("dev1")

    with pytest.raises((Unavailable, NotAuthorised)):
        await reading
    with pytest.raises(NotAuthorised, match="lost its rights"):
        await take(device, 1)


async def test_entering_tells_a_refused_credential_from_a_silent_server(served, authority, plane):
    plane.revoke("dev2")

    with pytest.raises(NotAuthorised):
        async with open_client(served.url, authority.secrets("dev2")):
            pass
    with pytest.raises(NotAuthenticated):
        async with open_client(served.url, authority.secrets("dev1", token="fc_dev_dev1_wrong")):
            pass
    with pytest.raises(Unavailable):
        async with open_client("https://127.0.0.1:9", authority.secrets("dev1")):
            pass


async def test_a_token_is_enough(served, authority, plane):
    async with open_client(served.url, authority.secrets("dev1", token=plane.token("dev1"))) as client:
        assert (await client.send(messages.STATUS, {"state": "online"})).status == 204


async def test_a_server_of_another_ca_is_not_believed(served, authority):
    own = authority.secrets("dev1")

    with pytest.raises(Unavailable):
        async with open_client(served.url, DeviceSecrets(device="dev1", certificate=own.certificate, key=own.key)):
            pass


async def test_a_closed_server_is_unavailable(served, device):
    await served.adapter.drain()

    with pytest.raises(Unavailable):
        await device.send(messages.TELEMETRY, {"t": 1})


async def test_enrolling_needs_no_certificate(served, authority, plane, csr):
    async with open_client(served.url, DeviceSecrets(device="dev1", ca=authority.pem)) as client:
        pem = await client.enroll(
            EnrollRequest(csr=csr.public_bytes(Encoding.PEM), token="fc_enr_x", parameters={"serial": "7"})
        )
        der = await client.enroll(EnrollRequest(csr=csr.public_bytes(Encoding.DER)))

    assert (pem.status, pem.body["certificate"], der.status) == (201, "PEM", 201)
    first, second = plane.enrollments
    assert (first.token, first.parameters, first.source.startswith("127.0.0.1:")) == ("fc_enr_x", {"serial": "7"}, True)
    assert first.csr.strip() == second.csr.strip() == csr.public_bytes(Encoding.PEM).strip()


async def test_a_pending_enrolment_says_when_to_come_back(served, authority, plane, csr):
    plane.enroll_reply = Reply(status=202, body={"retry_after_s": 20})
    async with open_client(served.url, DeviceSecrets(device="dev1", ca=authority.pem)) as client:
        reply = await client.enroll(EnrollRequest(csr=csr.public_bytes(Encoding.PEM)))

    assert (reply.status, reply.body["retry_after_s"]) == (202, 20)


async def test_an_artifact_is_downloaded_and_continued_from_a_byte(device, plane):
    content = bytes(range(256)) * 1000
    sha = plane.put_artifact(content)

    whole = b"".join([piece async for piece in device.artifact(sha)])
    tail = b"".join([piece async for piece in device.artifact(sha, start=200_000)])
    done = [piece async for piece in device.artifact(sha, start=len(content))]

    assert (hashlib.sha256(whole).hexdigest(), tail, done) == (sha, content[200_000:], [])


async def test_a_download_that_breaks_off_is_resumed(device, plane):
    content = bytes(range(256)) * 1000
    sha = plane.put_artifact(content, breaks_at=100_000, breaks=1)

    whole = b"".join([piece async for piece in device.artifact(sha)])

    assert whole == content


async def test_a_download_that_never_brings_a_byte_is_given_up(device, plane):
    sha = plane.put_artifact(b"x" * 5000, breaks=99)

    with pytest.raises(Unavailable):
        _ = [piece async for piece in device.artifact(sha)]


async def test_a_download_waits_until_the_server_has_a_slot(device, plane, monkeypatch):
    content = b"x" * 5000
    sha = plane.put_artifact(content)
    slept, refused, opened = [], [5.2, 7.0], plane.open_artifact

    async def sleep(seconds):
        slept.append(seconds)

    async def full(*arguments):
        if refused:
            raise Unavailable("1 devices download already", retry_after_s=refused.pop(0))
        return await opened(*arguments)

    monkeypatch.setattr(plane, "open_artifact", full)
    monkeypatch.setattr("fleetcore.wire.asking_again.asyncio.sleep", sleep)
    whole = b"".join([piece async for piece in device.artifact(sha)])

    assert whole == content
    assert [seconds for seconds in slept if seconds > 1] == [5.2, 7.0]


async def test_an_artifact_that_is_not_offered_is_not_found(device):
    with pytest.raises(NotFound):
        _ = [piece async for piece in device.artifact("0" * 64)]
