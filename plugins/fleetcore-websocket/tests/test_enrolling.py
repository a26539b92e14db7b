"""Peers that enrol and are not devices: what they may, how long, how often, and how many of them.

The plane here knows one claim certificate. How real ones and real tokens fare against a real fleet is tested there.
"""

import asyncio

import pytest
from fleetcore_websocket.applicant import FRAME_BYTES
from fleetcore_websocket.plugin import open_client

from fleetcore.errors import Refused
from fleetcore.interfaces import DeviceSecrets, EnrollRequest
from fleetcore.listening import applicants
from fleetcore.model.message import Reply
from fleetcore.wire import messages
from fleetcore.wire.identity import make_csr, make_key

TEXT = 1
TOKEN = "fc_enr_7_secret"
BEARER = f"Authorization: Bearer {TOKEN}"
BROWSER = f"fleetcore.v1, fleetcore.token.{TOKEN}"
PENDING = Reply(status=202, body={"retry_after_s": 10})


@pytest.fixture(autouse=True)
def batch(plane, authority):
    """``dev2`` shows the claim certificate of the batch ``spring``."""
    plane.accept_claim(authority.device("dev2").der, "spring")


@pytest.fixture(params=["claim", "token", "browser"])
def applicant(request, served, connect):
    """Opens a connection by a claim certificate, or by an enrolment token in a header or as a subprotocol."""

    async def open_one():
        raw = await connect(served, "dev2" if request.param == "claim" else None)
        lines, more = {"claim": ((), {}), "token": ((BEARER,), {}), "browser": ((), {"protocols": BROWSER})}[
            request.param
        ]
        raw.hello = await raw.opened(*lines, **more)
        return raw

    open_one.by_claim = request.param == "claim"
    return open_one


async def test_an_applicant_enrols_and_is_told_what_it_got(applicant, plane):
    raw = await applicant()
    raw.say(op="enroll", id=1, body={"csr": "PEM", "parameters": {"serial": "S1"}})

    reply = await raw.json()

    assert reply == {"re": 1, "ok": True, "status": 201, "body": {"device": "dev3", "certificate": "PEM"}}
    (asked,) = plane.enrollments
    assert (asked.csr, asked.parameters) == (b"PEM", {"serial": "S1"})
    assert asked.token == (None if applicant.by_claim else TOKEN)
    assert plane.sessions == []
    assert ("device" in raw.hello, raw.hello["limits"]["open_requests"]) == (False, 1)


async def test_one_that_has_to_wait_is_told_so_and_asks_again(applicant, plane):
    plane.enroll_reply = PENDING
    raw = await applicant()
    raw.say(op="enroll", id=1, body={"csr": "PEM"})
    waiting = await raw.json()
    plane.enroll_reply = Reply(status=201, body={"device": "dev3"})
    raw.say(op="enroll", id=1, body={"csr": "PEM"})

    assert (waiting["ok"], waiting["status"], waiting["body"]) == (True, 202, {"retry_after_s": 10})
    assert (await raw.json())["status"] == 201


async def test_the_ca_can_be_read(applicant):
    raw = await applicant()
    raw.say(op="ca.get", id="ca")

    assert "ca" in (await raw.json())["body"]


@pytest.mark.parametrize("op", ["telemetry", "twin.get", "certificate.renew", "leaf.register", "inbox", "status"])
async def test_another_message_is_refused_and_reaches_nothing(applicant, plane, op):
    raw = await applicant()
    raw.say(op=op, id=1, body={"device": "dev1", "state": "online", "csr": "PEM"})

    assert (await raw.json())["error"]["code"] == "not_authorised"
    assert (plane.received, plane.enrollments) == ([], [])
    assert plane.denials or plane.refusals


@pytest.mark.parametrize(("members", "code"), [
    ({"id": 1}, "schema_invalid"),
    ({"op": "enrol", "id": 1}, "operation_unknown"),
    ({"op": "enroll", "id": 1}, "schema_invalid"),
    ({"op": "enroll", "id": 1, "body": {"csr": 7}}, "schema_invalid"),
    ({"op": "enroll", "id": 1, "device": "dev1", "body": {"csr": "PEM"}}, "not_authorised"),
])  # fmt: skip
async def test_a_request_that_makes_no_sense_is_told_why(applicant, plane, members, code):
    raw = await applicant()
    raw.say(**members)

    refused = await raw.json()
    assert (refused["re"], refused["error"]["code"]) == (1, code)
    raw.say(op="enroll", id=2, body={"csr": "PEM"})
    assert (await raw.json())["ok"]


async def test_a_frame_without_an_id_is_refused_as_errors(applicant, plane):
    raw = await applicant()
    raw.say(op="enroll", body={"csr": "PEM"})

    told = await raw.json()
    assert (told["op"], told["body"]["code"], plane.enrollments) == ("errors", "schema_invalid", [])


async def test_nobody_is_taken_over_from(served, connect, device, applicant, plane):
    raws = [await applicant() for _ in range(3)]

    for number, raw in enumerate(raws):
        raw.say(op="enroll", id=number, body={"csr": "PEM"})
        assert (await raw.json())["re"] == number
    device.say(op="telemetry", id=1, body={"t": 1})
    assert (await device.json())["ok"]
    assert [session.identity for session in plane.sessions] == ["dev1"]


async def test_one_request_at_a_time_and_none_is_lost(served, connect, plane, until):
    raw = await connect(served, "dev2")
    await raw.opened()
    plane.hold_calls()
    for number in range(3):
        raw.say(op="enroll", id=number, body={"csr": "PEM"})
    await until(lambda: plane.calls)
    await asyncio.sleep(0.05)
    asked = len(plane.calls)
    plane.answer_calls()

    assert [(await raw.json())["re"] for _ in range(3)] == [0, 1, 2]
    assert asked == 1


async def test_a_disabled_batch_is_refused_and_what_is_open_by_it_ends(served, connect, plane):
    raw = await connect(served, "dev2")
    await raw.opened()

    plane.disable_claim("spring")

    assert await raw.closed() == (4403, "not_authorised")
    assert (await (await connect(served, "dev2")).ask()).status == 403


async def test_so_many_are_connected_and_a_place_that_is_left_is_given_again(
    served, connect, applicant, until, monkeypatch
):
    monkeypatch.setattr(applicants, "CONNECTIONS_IN_ALL", 2)
    first, _second = await applicant(), await applicant()
    third = await (await connect(served, None)).ask(BEARER)
    first.writer.transport.abort()
    await until(lambda: served.adapter.connections == 1)

    assert (third.status, third.code) == (503, "overloaded")
    await applicant()


async def test_a_connection_ends_at_its_deadline(applicant, served):
    raw = await applicant()
    for _ in range(int(applicants.CONNECTED_S / 20) + 1):
        raw.write((9, b""))  # a ping: it is alive all the while
        await served.clock.advance(20)

    code, reason = await raw.closed()
    assert (code, "enrolling" in reason) == (1008, True)


async def test_one_that_asks_too_much_is_disconnected(applicant, plane):
    raw = await applicant()
    for number in range(applicants.MESSAGES + 1):
        raw.say(op="enrol", id=number)

    assert (await raw.closed())[0] == 1008


async def test_a_message_beyond_what_enrolling_takes_ends_the_connection(applicant):
    raw = await applicant()
    raw.write((TEXT, b" " * (FRAME_BYTES + 1)))

    assert (await raw.closed())[0] == 1009


async def test_the_client_enrols_by_a_token_on_a_connection_of_its_own(served, authority, plane):
    request = EnrollRequest(csr=make_csr("dev3", make_key()[1]), token=TOKEN, parameters={"serial": "S1"})
    async with open_client(served.url, DeviceSecrets(device="dev3", ca=authority.ca_bundle())) as client:
        reply = await client.enroll(request)
        with pytest.raises(Refused):
            await client.send(messages.TELEMETRY, {"t": 1})
        with pytest.raises(Refused):
            await client.enroll(EnrollRequest(csr=request.csr))

    assert (reply.status, reply.body["device"]) == (201, "dev3")
    assert plane.enrollments[0].csr == request.csr
    assert (plane.enrollments[0].token, plane.enrollments[0].protocol) == (TOKEN, "websocket")


async def test_the_client_takes_both_steps_of_a_claim(served, authority, plane):
    plane.enroll_reply = Reply(status=201, body={"device": "dev3", "ownership_token": "own"})
    async with open_client(served.url, authority.secrets("dev2")) as client:
        await client.enroll(EnrollRequest(csr=make_csr("dev3", make_key()[1]), at_once=True))

    assert [asked.ownership for asked in plane.enrollments] == [None, "own"]
