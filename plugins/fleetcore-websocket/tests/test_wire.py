"""What stands in the frames: bodies of every form, versions, leaves, refusals with code and limit."""

import base64

import cbor2
import pytest

from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Accepted, PointRefusal, Rejected

# Opcodes (RFC 6455 §11.8).
TEXT, BINARY = 1, 2


@pytest.fixture
async def cbor(served, connect):
    """``dev1`` in CBOR: ``await cbor(op=…)`` gives the reply."""
    raw = await connect(served)
    assert (await raw.ask(protocols="fleetcore.v1.cbor")).status == 101
    opcode, hello = await raw.frame()
    assert (opcode, cbor2.loads(hello)["op"]) == (BINARY, "hello")

    async def ask(payload: bytes | None = None, **members: object) -> dict[str, object]:
        raw.write((BINARY, cbor2.dumps({"id": 1, **members}) if payload is None else payload))
        return cbor2.loads((await raw.frame())[1])

    return ask


@pytest.mark.parametrize(("members", "payload", "content_type"), [
    ({"body": {"t": 1}}, b'{"t": 1}', "application/json"),
    ({"body": [{"n": "t", "v": 1}], "content_type": "application/SenML+JSON; charset=utf-8"}, b'[{"n": "t", "v": 1}]', "application/senml+json"),
    ({"data_base64": base64.b64encode(b"\xa1\x61t\x01").decode()}, b"\xa1at\x01", None),
    ({"data_base64": "oWF0AQ==", "content_type": "application/cbor"}, b"\xa1at\x01", "application/cbor"),
    ({"body": None}, b"", None),
    ({}, b"", None),
])  # fmt: skip
async def test_a_body_in_json_arrives_as_its_bytes(device, plane, members, payload, content_type):
    device.say(op="telemetry", id=1, **members)

    assert (await device.json())["ok"]
    (message,) = plane.messages
    assert (message.payload, message.content_type) == (payload, content_type)


@pytest.mark.parametrize(("body", "payload", "content_type"), [
    ({"t": 21.5}, cbor2.dumps({"t": 21.5}), "application/cbor"),
    ([{0: "t", 2: 1}], cbor2.dumps([{0: "t", 2: 1}]), "application/cbor"),
    (b'{"t": 1}', b'{"t": 1}', None),
    (None, b"", None),
])  # fmt: skip
async def test_a_body_in_cbor_arrives_with_its_value(cbor, plane, body, payload, content_type):
    assert (await cbor(op="telemetry", body=body))["ok"]

    (message,) = plane.messages
    assert (message.payload, message.content_type) == (payload, content_type)


@pytest.mark.parametrize(("payload", "code"), [
    (b"", "payload_unreadable"), (b"\xff", "payload_unreadable"), (b"{}", "payload_unreadable"),
    (cbor2.dumps([1]), "schema_invalid"), (cbor2.dumps({"op": 1}), "schema_invalid"),
    (b"\xa2\x62op\x64time\x62op\x64time", "payload_unreadable"), (b"\x81" * 5000 + b"\x01", "payload_unreadable"),
    (cbor2.dumps({"op": "telemetry", "body": cbor2.CBORTag(1, 5)}), "payload_unreadable"),
])  # fmt: skip
async def test_what_is_no_frame_in_cbor_is_refused_and_the_next_passes(cbor, plane, payload, code):
    refused = await cbor(payload)
    passed = await cbor(op="telemetry", body={"t": 1})

    assert (refused["op"], refused["body"]["code"]) == ("errors", code)
    assert passed["ok"]
    assert len(plane.received) == 1


async def test_a_frame_without_a_number_is_taken_without_a_word(device, plane):
    device.say(op="telemetry", body={"t": 1})
    device.say(op="telemetry", id=2, body={"t": 2})

    assert (await device.json())["re"] == 2
    assert len(plane.received) == 2


async def test_the_version_of_the_reported_section_is_compared(device, plane):
    device.say(op="twin.report", id=1, if_version=39, body={"a": 1})
    device.say(op="twin.report", id=2, if_version=40, body={"a": 1})
    refused, taken = await device.json(), await device.json()

    assert (refused["error"]["code"], refused["version"]) == ("version_conflict", 40)
    assert (taken["ok"], taken["version"]) == (True, 41)
    assert "r41" in taken["etag"]


async def test_a_gateway_speaks_for_its_leaf_and_for_no_other(device, plane):
    device.say(op="telemetry", id=1, device="leaf1", body={"t": 1})
    device.say(op="telemetry", id=2, device="leaf2", body={"t": 2})
    taken, refused = await device.json(), await device.json()

    assert taken["ok"]
    assert refused["error"]["code"] == "not_your_device"
    assert [one.message.subject for one in plane.received] == ["leaf1"]


async def test_a_temporary_refusal_says_when_to_come_again(device, plane):
    plane.outcomes = [Rejected(code="rate_limited", reason="slower", limit=100, unit="messages/s", retry_after_s=2.0)]
    device.say(op="telemetry", id=1, body={"t": 1})
    device.say(op="telemetry", id=2, body={"t": 1})
    refused, passed = await device.json(), await device.json()

    error = refused["error"]
    assert (error["code"], error["limit"], error["unit"], error["retry_after_s"]) == (
        "rate_limited", 100, "messages/s", 2.0,
    )  # fmt: skip
    assert passed["ok"]


async def test_readings_that_were_left_out_are_named(device, plane):
    plane.outcome = Accepted(stored=1, refused=(PointRefusal(1, "t", "time_in_future"),))
    device.say(op="telemetry", id=1, body={"t": 1})

    reply = await device.json()
    assert (reply["ok"], reply["status"], reply["body"]["stored"]) == (True, 200, 1)
    assert reply["body"]["rejected"][0]["code"] == "time_in_future"


async def test_a_body_beyond_the_limit_is_refused_and_the_connection_stays(serve, connect, plane):
    served = await serve(limits=Limits(message_bytes=1000))
    raw = await connect(served)
    hello = await raw.opened()
    raw.say(op="telemetry", id=1, body={"t": "x" * 1000})
    raw.say(op="telemetry", id=2, body={"t": 1})
    refused, passed = await raw.json(), await raw.json()

    error = refused["error"]
    assert (error["code"], error["limit"], error["unit"], error["scope"]) == (
        "limit_exceeded",
        1000,
        "bytes",
        "message",
    )
    assert passed["ok"]
    assert hello["limits"]["frame_bytes"] > 1000
