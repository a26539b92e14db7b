"""The endpoint as a well-behaved device sees it, in both versions."""

import asyncio
import itertools
import json

import mqtt5
import pytest
from fleetcore_mqtt.config import MqttConfig
from fleetcore_mqtt.plugin import open_mqtt

from fleetcore.errors import ConfigError, NotReady
from fleetcore.model.message import Accepted, Downlink, PointRefusal, Rejected
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.recording_plane import NOW_MS
from fleetcore.wire import messages

TELEMETRY = "fleet/v1/dev1/telemetry"


def packet_id(publication):
    at = 2 if publication[1] < 0x80 else 3
    at += 2 + int.from_bytes(publication[at : at + 2], "big")
    return int.from_bytes(publication[at : at + 2], "big")


async def test_a_message_is_acknowledged_only_after_its_commit(dial, plane, codec, until):
    plane.hold()
    wire = await dial.device(codec=codec)
    await wire.send(codec.publish(TELEMETRY, b'{"t": 1}', 7))
    await until(lambda: plane.waiting)
    assert await wire.silent()

    plane.commit()

    assert await wire.answer() == b"\x40\x02\x00\x07"


async def test_pubacks_go_out_in_the_order_of_the_messages(dial, plane, codec, until, monkeypatch):
    """The plane may be done with a later message first. One that is refused for now keeps no other back."""
    done = []
    monkeypatch.setattr(plane, "deliver", lambda _session, _message, told: done.append(told) or True)
    wire = await dial.device(codec=codec)
    for number in (7, 8, 9, 10):
        await wire.send(codec.publish(TELEMETRY, b"{}", number))
    await until(lambda: len(done) == 4)

    done[1](Accepted())
    done[3](Accepted())
    assert await wire.silent()
    done[0](Accepted())
    assert [await wire.answer() for _ in range(2)] == [b"\x40\x02\x00\x07", b"\x40\x02\x00\x08"]
    assert await wire.silent()
    done[2](Rejected(code="overloaded", reason="too much at once"))

    assert await wire.answer() == b"\x40\x02\x00\x0a"


async def test_a_message_arrives_as_it_was_sent(dial, plane, codec):
    wire = await dial.device(codec=codec)

    await wire.send(codec.publish("fleet/v1/dev1/commands/c-7/result", b'{"status": "succeeded"}'))
    await wire.answer()

    ((identity, message),) = plane.received
    assert (identity, message.type, message.subject, message.target, message.payload) == (
        "dev1",
        messages.COMMAND_RESULT,
        "dev1",
        "c-7",
        b'{"status": "succeeded"}',
    )


async def test_qos_0_is_accepted_and_never_acknowledged(dial, plane, codec, until):
    wire = await dial.device(codec=codec)

    await wire.send(codec.publish(TELEMETRY, b"{}", None))
    await until(lambda: plane.received)

    assert await wire.silent()


async def test_a_gateway_speaks_for_its_leaf_below_its_own_prefix(dial, plane, codec):
    wire = await dial.device(codec=codec)

    await wire.send(codec.publish("fleet/v1/dev1/leaf/leaf1/telemetry", b"{}", 3))

    assert await wire.answer() == b"\x40\x02\x00\x03"
    assert plane.received[0][1].subject == "leaf1"


async def test_version_5_carries_content_type_and_message_id(dial, plane, v5):
    wire = await dial.device(codec=v5)
    sent = v5.publish(TELEMETRY, b"[]", content_type="Application/SenML+JSON; v=1", user_properties=[("id", "m1")])

    await wire.send(sent)
    await wire.answer()

    message = plane.received[0][1]
    assert (message.content_type, message.id) == ("application/senml+json", "m1")


@pytest.mark.parametrize(
    ("payload", "expected"),
    [(b'[{"n":"t","v":1}]', "application/senml+json"), (b"\x81\xa2\x00\x61t\x02\x01", "application/senml+cbor")],
)
async def test_the_senml_topic_declares_the_content_type(dial, plane, codec, payload, expected):
    wire = await dial.device(codec=codec)

    await wire.send(codec.publish("fleet/v1/dev1/telemetry/senml", payload))
    await wire.answer()

    assert plane.received[0][1].content_type == expected


async def test_connack_of_version_5_tells_what_is_not_offered(dial, plane, v5):
    wire = await dial.wire(v5)

    await wire.send(v5.connect("", token=plane.token("dev1"), keep_alive=0, session_expiry_interval=4_000_000))
    welcome = await wire.decoded()

    assert (
        welcome.max_qos,
        welcome.retain_available,
        welcome.shared_subscription_available,
        welcome.subscription_id_available,
        welcome.max_packet_size,
        welcome.receive_max,
        welcome.server_keep_alive,
        welcome.session_expiry_interval,
        welcome.assigned_client_id,
        welcome.topic_alias_max,
    ) == (mqtt5.QoS.AT_LEAST_ONCE, False, False, False, 270_336, 32, 1200, 86_400, "dev1", 0)


async def test_a_token_of_nobody_is_refused(dial, codec):
    wire = await dial.wire(codec)

    await wire.send(codec.connect(token="fc_dev_dev1_wrong", user="dev1"))

    assert (await wire.answer())[3] == (0x86 if codec.version == 5 else 4)
    assert await wire.closed() == []


async def test_a_connection_without_any_credential_is_refused(dial, codec):
    wire = await dial.wire(codec)

    await wire.send(codec.connect())

    assert (await wire.answer())[3] == (0x87 if codec.version == 5 else 5)
    assert await wire.closed() == []


async def test_a_foreign_client_id_is_refused_and_its_owner_stays(dial, plane, codec):
    victim = await dial.device("dev2", codec)
    attacker = await dial.wire(codec)

    await attacker.send(codec.connect("dev2", token=plane.token("dev1"), user="dev1"))

    assert (await attacker.answer())[3] == (0x85 if codec.version == 5 else 2)
    await victim.send(codec.publish("fleet/v1/dev2/telemetry"))
    assert (await victim.answer())[0] == 0x40


async def test_an_unauthenticated_connect_does_not_touch_the_connection_of_the_device(dial, codec):
    victim = await dial.device("dev2", codec)
    attacker = await dial.wire(codec)

    await attacker.send(codec.connect("dev2", token="wrong", user="dev2"))
    await attacker.closed()

    await victim.send(b"\xc0\x00")
    assert await victim.answer() == b"\xd0\x00"


async def test_a_second_connection_of_a_device_takes_over(dial, codec, endpoint, until):
    first = await dial.device(codec=codec)

    second = await dial.device(codec=codec)

    assert await first.closed() == ([b"\xe0\x01\x8e"] if codec.version == 5 else [])
    await until(lambda: endpoint.connections == 1)
    await second.send(codec.publish(TELEMETRY))
    assert (await second.answer())[0] == 0x40


async def test_a_message_about_another_device_is_acknowledged_refused_and_explained(dial, plane, codec):
    wire = await dial.device(codec=codec)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/errors", 1)))
    await wire.answer()

    await wire.send(codec.publish("fleet/v1/dev3/telemetry", b"{}", 9))

    ack = await wire.answer()
    assert ack[4:5] == (b"\x87" if codec.version == 5 else b"")
    assert ack[2:4] == b"\x00\x09"
    topic, problem = await wire.publication()
    assert topic == "fleet/v1/dev1/errors"
    assert (problem["code"], problem["packet_id"], problem["topic"]) == (
        "not_your_device",
        9,
        "fleet/v1/dev3/telemetry",
    )
    assert plane.received == []
    assert [denial[:2] for denial in plane.denials] == [("dev1", "dev3")]


async def test_a_leaf_below_another_gateway_is_judged_as_itself(dial, plane, codec):
    wire = await dial.device("dev2", codec)

    await wire.send(codec.publish("fleet/v1/dev1/leaf/leaf1/telemetry"))
    await wire.answer()

    assert [denial[:2] for denial in plane.denials] == [("dev2", "leaf1")]


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("fleet/v1/dev1/nonsense", 0x90),
        ("fleet/v1/dev1/logs", 0x90),
        ("fleet/v1/dev1/commands", 0x90),
        ("fleet/v2/dev1/telemetry", 0x90),
        ("other", 0x90),
        ("fleet/v1/dev1/commands/a/b/result", 0x90),
        ("fleet/v1/dev1/leaf/leaf1", 0x90),
        ("fleet/v1/-dev/telemetry", 0x90),
    ],
)
async def test_a_topic_that_means_nothing_is_acknowledged_as_invalid(dial, plane, v5, topic, reason):
    wire = await dial.device(codec=v5)

    await wire.send(v5.publish(topic))

    assert (await wire.decoded()).reason_code == reason
    assert plane.received == []


async def test_a_refusal_for_good_names_the_code_in_the_reason_string(dial, v5):
    wire = await dial.device(codec=v5)

    await wire.send(v5.publish(TELEMETRY, b"!"))
    ack = await wire.decoded()

    assert (ack.reason_code, ack.reason_str) == (0x99, "payload_unreadable: cannot be read")


async def test_a_client_that_wants_no_reasons_gets_the_code_alone(dial, v5):
    wire = await dial.device(codec=v5, request_problem_info=False)

    await wire.send(v5.publish(TELEMETRY, b"!"))

    assert (await wire.decoded()).reason_str is None


async def test_a_partly_refused_message_is_acknowledged_and_explained(dial, plane, codec):
    plane.outcome = Accepted(stored=1, refused=(PointRefusal(1, "t", "time_in_future"),))
    wire = await dial.device(codec=codec)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/#", 1)))
    await wire.answer()

    await wire.send(codec.publish(TELEMETRY, b"[]", 2))

    assert await wire.answer() == b"\x40\x02\x00\x02"
    assert (await wire.publication())[1]["rejected"] == [{"index": 1, "metric": "t", "code": "time_in_future"}]


async def test_a_payload_beyond_the_limit_is_refused_for_good(dial, plane, v5):
    wire = await dial.device(codec=v5)

    await wire.send(v5.publish(TELEMETRY, b"x" * (256 * 1024 + 1)))

    assert (await wire.decoded()).reason_code == 0x97
    assert plane.received == []


async def test_a_temporary_refusal_is_not_acknowledged_and_ends_after_half_a_minute(dial, plane, codec, clock, until):
    plane.outcome = Rejected(code="storage_full", reason="full")
    wire = await dial.device(codec=codec, will=("fleet/v1/dev1/status", b'{"state":"offline"}'))
    await wire.send(codec.publish(TELEMETRY))
    assert await wire.silent()
    await clock.advance(29)
    assert await wire.silent()

    await clock.advance(2)

    ends = await wire.closed()
    assert [end[:3] for end in ends] == ([end[:1] + end[1:2] + b"\x89" for end in ends] if codec.version == 5 else [])
    assert len(ends) == (1 if codec.version == 5 else 0)
    await until(lambda: not plane.sessions)
    assert plane.received == []


async def test_reading_stops_after_a_temporary_refusal(dial, plane, codec, until):
    plane.outcome = Rejected(code="overloaded", reason="busy")
    wire = await dial.device(codec=codec)
    await wire.send(codec.publish(TELEMETRY, b"{}", 1))
    await asyncio.sleep(0.05)
    plane.outcome = None

    await wire.send(codec.publish(TELEMETRY, b"{}", 2))

    assert await wire.silent()
    assert plane.received == []


async def test_a_refused_message_is_taken_when_the_client_sends_it_again(dial, plane, codec, clock):
    plane.outcome = Rejected(code="storage_full", reason="full")
    wire = await dial.device(codec=codec)
    await wire.send(codec.publish(TELEMETRY, b"{}", 5))
    await asyncio.sleep(0.05)
    await clock.advance(31)
    await wire.closed()
    plane.outcome = None

    again = await dial.device(codec=codec)
    await again.send(codec.publish(TELEMETRY, b"{}", 5, dup=True))

    assert await again.answer() == b"\x40\x02\x00\x05"


async def test_a_message_that_was_refused_for_now_is_taken_as_soon_as_it_may_be(
    dial, plane, codec, clock, counts, until
):
    plane.outcome = Rejected(code="rate_limited", reason="slow", retry_after_s=1.0)
    wire = await dial.device(codec=codec)
    await wire.send(*(codec.publish(TELEMETRY, b'{"n":%d}' % n, n) for n in range(1, 6)))
    await until(lambda: counts["mqtt_temporary_refusal"])
    plane.outcome = None

    await clock.advance(1)

    assert [await wire.answer() for _ in range(5)] == [b"\x40\x02\x00" + bytes((n,)) for n in range(1, 6)]
    assert plane.bodies == [b'{"n":%d}' % n for n in range(1, 6)]


async def test_more_than_is_kept_of_one_connection_is_left_to_its_client_at_the_end_of_the_wait(
    dial, plane, codec, clock, counts, until
):
    plane.outcome = Rejected(code="overloaded", reason="full", retry_after_s=2.0)
    plane.hold()
    wire = await dial.device(codec=codec)
    await wire.send(*(codec.publish(TELEMETRY, b'{"n":%s1}' % (b" " * 30_000), n) for n in range(1, 4)))
    await until(lambda: len(plane.waiting) == 3)
    plane.commit()
    await until(lambda: counts["mqtt_temporary_refusal"] == 3)

    await clock.advance(1)
    assert await wire.silent()
    await clock.advance(1)

    assert [end[2] for end in await wire.closed()] == ([0x89] if codec.version == 5 else [])


async def test_at_qos_0_a_temporary_refusal_slows_reading_down(dial, plane, codec, clock, until):
    plane.outcome = Rejected(code="rate_limited", reason="slow", retry_after_s=3.0)
    wire = await dial.device(codec=codec)
    await wire.send(codec.publish(TELEMETRY, b"{}", None))
    await asyncio.sleep(0.05)
    plane.outcome = None
    await wire.send(codec.publish(TELEMETRY, b"{}", 2))
    assert await wire.silent()

    await clock.advance(3)

    assert await wire.answer() == b"\x40\x02\x00\x02"


async def test_a_full_queue_stops_reading_until_there_is_room(dial, plane, codec, until):
    wire = await dial.device(codec=codec)
    plane.fill()
    await wire.send(*(codec.publish(TELEMETRY, b"{}", n) for n in range(1, 11)))
    assert await wire.answer() == b"\x40\x02\x00\x01"
    assert await wire.silent()
    assert len(plane.received) == 1

    plane.make_room()

    assert [await wire.answer() for _ in range(9)] == [b"\x40\x02\x00" + bytes((n,)) for n in range(2, 11)]


async def test_acknowledgements_of_one_commit_leave_in_one_write(dial, plane, codec, monkeypatch, endpoint, until):
    plane.hold()
    wire = await dial.device(codec=codec)
    await wire.send(*(codec.publish(TELEMETRY, b"{}", n) for n in range(1, 21)))
    await until(lambda: len(plane.waiting) == 20)

    plane.commit()

    async with asyncio.timeout(PATIENCE_S):
        assert len(await wire.reader.read(1000)) == 20 * 4


async def test_only_own_topics_of_the_read_list_can_be_subscribed_to(dial, codec):
    wire = await dial.device(codec=codec)
    wanted = [
        ("fleet/v1/dev1/commands", 1),
        ("fleet/v1/dev1/twin/desired", 0),
        ("fleet/v1/dev1/#", 2),
        ("fleet/v1/dev1/leaf/+/commands", 1),
        ("fleet/v1/dev1/reply/+", 1),
        ("fleet/v1/dev3/commands", 1),
        ("fleet/v1/+/commands", 1),
        ("#", 1),
        ("fleet/#", 1),
        ("fleet/v1/dev1", 1),
        ("$SYS/#", 1),
        ("$share/g/fleet/v1/dev1/commands", 1),
        ("fleet/v1/dev1/telemetry", 1),
        ("fleet/v1/dev1/commands/#/x", 1),
        ("fleet/v1/dev1/comm+", 1),
    ]

    await wire.send(codec.subscribe(4, *wanted))
    answer = await wire.answer()

    refused, invalid = (0x87, 0x8F) if codec.version == 5 else (0x80, 0x80)
    assert list(answer[-15:]) == [1, 0, 1, 1, 1, *[refused] * 8, invalid, invalid]


async def test_subscribing_brings_all_that_is_unfinished(dial, plane, codec):
    desired = plane.desire("dev1", 3, {})
    plane.command("dev1", {"id": "c1"})
    plane.offer("dev1", {"offer": None})
    wire = await dial.device(codec=codec)

    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/commands", 1), ("fleet/v1/dev1/twin/desired", 1)))
    await wire.answer()

    assert [await wire.publication() for _ in range(2)] == [
        ("fleet/v1/dev1/twin/desired", desired),
        ("fleet/v1/dev1/commands", {"id": "c1"}),
    ]
    assert await wire.silent()


async def test_the_plane_is_told_of_a_downlink_that_the_device_has_not_subscribed_to(dial, plane, codec, monkeypatch):
    sinks = []
    monkeypatch.setattr(plane, "listen", lambda _session, sink: sinks.append(sink))
    command = Downlink(type=messages.COMMAND, subject="dev1", body={"id": "c1"})
    wire = await dial.device(codec=codec)

    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/firmware", 1)))
    await wire.answer()
    not_yet = sinks[-1](command)
    await wire.send(codec.subscribe(2, ("fleet/v1/dev1/commands", 1)))
    await wire.answer()

    assert (not_yet, sinks[-1](command)) == (False, True)
    assert await wire.publication() == ("fleet/v1/dev1/commands", {"id": "c1"})


async def test_a_later_subscription_brings_what_the_first_push_left_out(dial, plane, codec):
    plane.offer("dev1", {"offer": None})
    wire = await dial.device(codec=codec)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/commands", 1)))
    await wire.answer()

    await wire.send(codec.subscribe(2, ("fleet/v1/dev1/firmware", 1)))
    await wire.answer()

    assert (await wire.publication())[0] == "fleet/v1/dev1/firmware"
    assert await wire.silent()


async def test_nothing_comes_after_unsubscribing(dial, plane, codec):
    wire = await dial.device(codec=codec)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/commands", 1)))
    await wire.answer()
    await wire.send(codec.unsubscribe(2, "fleet/v1/dev1/commands", "fleet/v1/dev1/none"))
    answer = await wire.answer()

    plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": "c1"}))

    assert answer == (b"\xb0\x05\x00\x02\x00\x00\x11" if codec.version == 5 else b"\xb0\x02\x00\x02")
    assert await wire.silent()


async def test_downlinks_of_a_leaf_come_below_its_level(dial, plane, codec):
    wire = await dial.device(codec=codec)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/leaf/+/commands/+/cancel", 1)))
    await wire.answer()

    plane.push(Downlink(type=messages.COMMAND_CANCEL, subject="leaf1", body={}, target="c9"))

    assert (await wire.publication())[0] == "fleet/v1/dev1/leaf/leaf1/commands/c9/cancel"


async def test_a_command_carries_its_expiry_in_version_5(dial, plane, v5):
    wire = await dial.device(codec=v5)
    await wire.send(v5.subscribe(1, ("fleet/v1/dev1/commands", 1)))
    await wire.answer()

    plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": "c1"}, expires_ms=12_001))

    assert (await wire.decoded()).message_expiry_interval == 13


async def test_no_more_than_the_window_is_in_flight_to_a_client(dial, plane, v5):
    wire = await dial.device(codec=v5, receive_max=3)
    await wire.send(v5.subscribe(1, ("fleet/v1/dev1/commands", 1)))
    await wire.answer()
    for n in range(5):
        plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": n}))
    first = [await wire.decoded() for _ in range(3)]
    assert await wire.silent()

    await wire.send(mqtt5.PubAckPacket(first[0].packet_id).write())

    assert json.loads((await wire.decoded()).payload) == {"id": 3}


async def test_a_client_that_acknowledges_nothing_loses_notifications_and_then_the_connection(dial, plane, v5, counts):
    wire = await dial.device(codec=v5, receive_max=1)
    await wire.send(v5.subscribe(1, ("fleet/v1/dev1/#", 1)))
    await wire.answer()
    for n in range(400):
        plane.push(Downlink(type=messages.TWIN_DESIRED, subject="dev1", body={"version": n}))
    await wire.send(b"\xc0\x00")
    assert (await wire.answer())[0] & 0xF0 == 0x30
    assert await wire.answer() == b"\xd0\x00"

    for n in range(400):
        plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": n}))

    assert (await wire.closed())[-1][2] == 0x97
    assert counts["mqtt_slow_consumer"] == 1


async def test_a_downlink_larger_than_the_client_takes_is_left_out(dial, plane, v5):
    wire = await dial.device(codec=v5, max_packet_size=200)
    await wire.send(v5.subscribe(1, ("fleet/v1/dev1/#", 1)))
    await wire.answer()

    plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": "x" * 300}))
    plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": "y"}))

    assert (await wire.publication())[1] == {"id": "y"}


async def test_a_request_is_answered_below_reply(dial, plane, codec):
    wire = await dial.device(codec=codec)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/reply/+", 1)))
    await wire.answer()

    request = {"op": "twin.report", "body": {"a": 1}, "if_version": 40}
    await wire.send(codec.publish("fleet/v1/dev1/request/r7", json.dumps(request).encode(), 2))

    assert await wire.answer() == b"\x40\x02\x00\x02"
    assert await wire.publication() == (
        "fleet/v1/dev1/reply/r7",
        {"ok": True, "status": 204, "version": 41, "etag": "d0.r41"},
    )
    ((_, call),) = plane.calls
    assert (call.type, call.payload, call.if_version) == (messages.TWIN_REPORT, b'{"a": 1}', 40)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b'{"op": "fly"}', "operation_unknown"),
        (b"\xff", "payload_unreadable"),
        (b"[" * 5000, "payload_unreadable"),
        (b'{"body": 1}', "payload_unreadable"),
    ],
)
async def test_a_request_that_cannot_be_understood_is_answered_too(dial, codec, payload, code):
    wire = await dial.device(codec=codec)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/reply/+", 1)))
    await wire.answer()

    await wire.send(codec.publish("fleet/v1/dev1/request/r7", payload, 2))

    assert await wire.answer() == b"\x40\x02\x00\x02"
    topic, body = await wire.publication()
    assert (topic, body["ok"], body["error"]["code"]) == ("fleet/v1/dev1/reply/r7", False, code)


async def test_a_response_topic_of_its_own_is_used_with_its_correlation(dial, v5):
    wire = await dial.device(codec=v5)
    await wire.send(v5.subscribe(1, ("fleet/v1/dev1/reply/+", 1)))
    await wire.answer()

    await wire.send(
        v5.publish(
            "fleet/v1/dev1/request/r7",
            b'{"op":"time"}',
            2,
            response_topic="fleet/v1/dev1/reply/mine",
            correlation_data=b"\x00\x01",
        )
    )
    await wire.answer()
    reply = await wire.decoded()

    assert (reply.topic, reply.correlation_data) == ("fleet/v1/dev1/reply/mine", b"\x00\x01")


@pytest.mark.parametrize("topic", ["fleet/v1/dev3/reply/x", "fleet/v1/dev1/commands", "x", "fleet/v1/dev1/reply/a/b"])
async def test_a_response_topic_elsewhere_is_refused(dial, plane, v5, topic):
    wire = await dial.device(codec=v5)

    await wire.send(v5.publish("fleet/v1/dev1/request/r7", b'{"op":"time"}', 2, response_topic=topic))

    assert (await wire.decoded()).reason_code == 0x90
    assert plane.calls == []


async def test_asking_for_the_twin_brings_the_twin(dial, codec, plane):
    plane.desire("dev1", 1, {"a": 1})
    wire = await dial.device(codec=codec)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/twin", 1)))
    await wire.answer()

    await wire.send(codec.publish("fleet/v1/dev1/twin/get", b"", 2))

    assert await wire.answer() == b"\x40\x02\x00\x02"
    topic, twin = await wire.publication()
    assert (topic, twin["desired"]) == ("fleet/v1/dev1/twin", {"a": 1})


async def test_asking_for_the_time_at_qos_0_brings_the_time(dial, codec):
    wire = await dial.device(codec=codec)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/time", 0)))
    await wire.answer()

    await wire.send(codec.publish("fleet/v1/dev1/time/get", b"", None))

    topic, told = await wire.publication()
    assert (topic, told["received_ms"]) == ("fleet/v1/dev1/time", NOW_MS)


async def test_a_will_is_published_when_the_connection_breaks(dial, plane, codec, until):
    wire = await dial.device(codec=codec, will=("fleet/v1/dev1/status", b'{"state":"offline","session":"k9"}'))

    wire.writer.transport.abort()

    await until(lambda: plane.received)
    message = plane.received[0][1]
    assert (message.type, message.payload) == (messages.STATUS, b'{"state":"offline","session":"k9"}')
    await until(lambda: not plane.sessions)


async def test_a_will_is_forgotten_by_a_clean_disconnect(dial, plane, codec, until):
    wire = await dial.device(codec=codec, will=("fleet/v1/dev1/status", b"{}"))

    await wire.send(b"\xe0\x00")
    await wire.closed()

    await until(lambda: not plane.sessions)
    assert plane.received == []


async def test_a_disconnect_with_reason_4_publishes_the_will(dial, plane, v5, until):
    wire = await dial.device(codec=v5, will=("fleet/v1/dev1/status", b"{}"))

    await wire.send(b"\xe0\x01\x04")

    await until(lambda: plane.received)


async def test_a_delayed_will_waits_and_is_dropped_when_the_device_comes_back(dial, plane, v5, clock, until, endpoint):
    more = {"session_expiry_interval": 600, "will_more": {"will_delay_interval": 60}}
    for _ in range(2):
        wire = await dial.device(codec=v5, will=("fleet/v1/dev1/status", b"{}"), **more)
        wire.writer.transport.abort()
        await until(lambda: endpoint.connections == 0)
        more = {"session_expiry_interval": 600, "will_more": {"will_delay_interval": 60}}
    back = await dial.device(codec=v5)

    await clock.advance(61)

    assert plane.received == []
    await back.send(b"\xe0\x00")


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ("fleet/v1/dev3/status", "not_your_device"),
        ("fleet/v1/dev1/request/x", "topic_invalid"),
        ("$SYS/broker/connection/dev1/state", "topic_invalid"),
        ("fleet/v1/dev1/twin", "topic_invalid"),
    ],
)
async def test_a_will_outside_the_own_topics_is_dropped_and_explained(dial, plane, codec, topic, code, until):
    wire = await dial.wire(codec)
    await wire.send(codec.connect(token=plane.token("dev1"), user="dev1", will=(topic, b"{}")))
    answer = await wire.answer()

    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/errors", 1)))
    await wire.answer()
    about, explained = await wire.publication()
    wire.writer.transport.abort()

    assert answer[3] == 0
    assert (code.encode() in answer) == (codec.version == 5)
    assert (about, explained["code"], explained["topic"]) == ("fleet/v1/dev1/errors", code, topic)
    assert [each.rejected.code for each in plane.refusals] == [code]
    await until(lambda: not plane.sessions)
    assert plane.received == []


async def test_the_reasons_of_a_close_are_told_to_3_1_1_on_errors(dial, plane, v4):
    wire = await dial.device(codec=v4)
    await wire.send(v4.subscribe(1, ("fleet/v1/dev1/errors", 0)))
    await wire.answer()

    await wire.send(b"\x34\x1b" + b"\x00\x17fleet/v1/dev1/telemetry\x00\x07")
    _, explained = await wire.publication()

    assert (explained["code"], explained["closed"]) == ("protocol_violation", True)
    assert "QoS 1" in explained["detail"]
    assert await wire.closed() == []
    assert [each.rejected.code for each in plane.refusals] == ["protocol_violation"]


async def test_a_client_of_3_1_1_hears_that_it_was_taken_over(dial, v4):
    wire = await dial.device(codec=v4)
    await wire.send(v4.subscribe(1, ("fleet/v1/dev1/errors", 0)))
    await wire.answer()

    await dial.device(codec=v4)

    assert (await wire.publication())[1]["code"] == "session_taken_over"


async def test_a_kept_session_remembers_subscriptions(dial, plane, codec):
    more = {"session_expiry_interval": 600} if codec.version == 5 else {}
    wire = await dial.device(codec=codec, clean=False, **more)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/commands", 1)))
    await wire.answer()
    await wire.send(b"\xe0\x00")
    await wire.closed()
    plane.command("dev1", {"id": "c1"})

    again = await dial.wire(codec)
    await again.send(codec.connect(token=plane.token("dev1"), user="dev1", clean=False, **more))

    assert (await again.answer())[2] == 1
    assert (await again.publication())[1] == {"id": "c1"}


async def test_a_resumed_session_gets_again_what_it_has_not_acknowledged(dial, plane, codec):
    more = {"session_expiry_interval": 600} if codec.version == 5 else {}
    wire = await dial.device(codec=codec, clean=False, **more)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/#", 1)))
    await wire.answer()
    await wire.send(codec.publish("fleet/v1/dev1/request/r1", b'{"op":"time.get"}', 7))
    sent = [await wire.answer() for _ in range(2)]
    reply = next(each for each in sent if each[0] & 0xF0 == 0x30)
    plane.command("dev1", {"id": "c1"})
    command = await wire.answer()
    wire.writer.transport.abort()

    again = await dial.wire(codec)
    await again.send(codec.connect(token=plane.token("dev1"), user="dev1", clean=False, **more))

    assert (await again.answer())[2] == 1
    # The same packets with DUP; what the store says again is not sent twice.
    assert [await again.answer() for _ in range(2)] == [bytes((each[0] | 8,)) + each[1:] for each in (reply, command)]
    assert await again.silent()


async def test_a_command_that_is_sent_again_is_what_it_is_by_then(dial, plane, codec):
    more = {"session_expiry_interval": 600} if codec.version == 5 else {}
    wire = await dial.device(codec=codec, clean=False, **more)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/commands", 1)))
    await wire.answer()
    for number in range(2):
        plane.command("dev1", {"id": f"c{number}", "expires_in_ms": 60_000})
    done, open_ = [await wire.answer() for _ in range(2)]
    assert done[0] & 0xF0 == open_[0] & 0xF0 == 0x30
    wire.writer.transport.abort()
    plane._commands["dev1"] = [{"id": "c1", "expires_in_ms": 20_000, "cancel": True}]

    again = await dial.wire(codec)
    await again.send(codec.connect(token=plane.token("dev1"), user="dev1", clean=False, **more))

    assert (await again.answer())[2] == 1
    found = await again.answer()
    # Once, with DUP and its old packet id; what is finished does not come any more.
    assert found[0] & 8
    assert b'"cancel":true' in found
    assert packet_id(found) == packet_id(open_)
    assert await again.silent()


@pytest.mark.parametrize(("code", "reason"), [("closed", 0x8B), ("device_revoked", 0x98)])
async def test_a_client_is_told_a_server_that_stops_from_rights_that_end(dial, plane, v5, code, reason):
    wire = await dial.device(codec=v5)
    plane.opened[0].end(code)

    assert [end[2] for end in await wire.closed()] == [reason]


async def test_a_resumed_session_keeps_to_the_window_of_the_new_connection(dial, plane, v5):
    more = {"session_expiry_interval": 600}
    wire = await dial.device(codec=v5, clean=False, **more)
    await wire.send(v5.subscribe(1, ("fleet/v1/dev1/#", 1)))
    await wire.answer()
    for number in range(3):
        plane.command("dev1", {"id": f"c{number}"})
    sent = [await wire.decoded() for _ in range(3)]
    wire.writer.transport.abort()

    for _ in range(2):  # what did not fit into the window of the second connection is not lost for the third
        again = await dial.wire(v5)
        connect = v5.connect(token=plane.token("dev1"), user="dev1", clean=False, receive_max=1, **more)
        await again.send(connect)
        assert (await again.answer())[2] == 1
        first = await again.decoded()
        assert (first.packet_id, first.payload) == (sent[0].packet_id, sent[0].payload)
        assert await again.silent()
    for before, after in itertools.pairwise(sent):
        await again.send(mqtt5.PubAckPacket(before.packet_id).write())
        found = await again.decoded()
        assert (found.packet_id, found.payload, found.duplicate) == (after.packet_id, after.payload, True)


@pytest.mark.parametrize("online", [True, False])
async def test_what_was_on_its_way_to_a_device_that_lost_its_rights_does_not_reach_the_next_of_its_name(
    dial, plane, codec, endpoint, until, online
):
    more = {"session_expiry_interval": 600} if codec.version == 5 else {}
    wire = await dial.device(codec=codec, clean=False, **more)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/commands", 1)))
    await wire.answer()
    plane.command("dev1", {"id": "c1"})
    await wire.answer()
    if not online:
        wire.writer.transport.abort()
        await until(lambda: endpoint.connections == 0)
    plane.revoke("dev1", "device_retired")
    await until(lambda: endpoint.connections == 0)
    plane.register_again("dev1")

    again = await dial.wire(codec)
    await again.send(codec.connect(token=plane.token("dev1"), user="dev1", clean=False, **more))

    assert (await again.answer())[2] == 0
    assert await again.silent()


async def test_closing_answers_clients_that_are_being_authenticated(dial, plane, context, v5, until):
    plane.hold_authentication()
    async with open_mqtt(MqttConfig(listen="mqtt://127.0.0.1:0"), context, plane, plane) as dial.endpoint:
        wires = [await dial.wire(v5) for _ in range(2)]
        for wire in wires:
            await wire.send(v5.connect(token=plane.token("dev1"), user="dev1"))
        await until(lambda: len(plane.authentications) == 2)

    # Server unavailable: that it is shutting down is no reason code of a CONNACK.
    assert [[end[3] for end in await wire.closed()] for wire in wires] == [[0x88], [0x88]]


async def test_a_clean_start_forgets_the_session(dial, plane, codec):
    more = {"session_expiry_interval": 600} if codec.version == 5 else {}
    wire = await dial.device(codec=codec, clean=False, **more)
    await wire.send(codec.subscribe(1, ("fleet/v1/dev1/commands", 1)), b"\xe0\x00")
    await wire.closed()
    await dial.device(codec=codec, clean=True)

    again = await dial.wire(codec)
    await again.send(codec.connect(token=plane.token("dev1"), user="dev1", clean=False, **more))

    assert (await again.answer())[2] == 0


async def test_a_silent_client_is_closed_after_one_and_a_half_keep_alives(dial, codec, clock, plane, until):
    wire = await dial.device(codec=codec, keep_alive=10, will=("fleet/v1/dev1/status", b"{}"))
    await clock.advance(14)
    await wire.send(b"\xc0\x00")
    assert await wire.answer() == b"\xd0\x00"
    await clock.advance(14)
    assert await wire.silent()

    await clock.advance(4)

    ends = await wire.closed()
    assert [end[2] for end in ends] == ([0x8D] if codec.version == 5 else [])
    await until(lambda: plane.received)


async def test_a_connection_without_connect_is_closed_at_its_deadline(dial, clock, until, endpoint):
    wire = await dial.wire()
    await wire.send(b"\x10")
    await until(lambda: endpoint.connections == 1)

    await clock.advance(11)

    assert await wire.closed() == []


async def test_revocation_closes_the_live_connection(dial, plane, codec):
    wire = await dial.device(codec=codec, will=("fleet/v1/dev1/status", b"{}"))

    plane.revoke("dev1")

    ends = await wire.closed()
    assert [end[2] for end in ends] == ([0x98] if codec.version == 5 else [])
    assert plane.received == []


async def test_draining_answers_what_was_read_and_takes_nothing_more(dial, plane, codec, endpoint, until):
    plane.hold()
    wire = await dial.device(codec=codec)
    await wire.send(codec.publish(TELEMETRY, b"{}", 1))
    await until(lambda: plane.waiting)
    draining = asyncio.ensure_future(endpoint.drain())
    await asyncio.sleep(0.05)
    await wire.send(codec.publish(TELEMETRY, b"{}", 2))
    assert not draining.done()

    plane.commit()
    await draining

    assert await wire.answer() == b"\x40\x02\x00\x01"
    assert await wire.silent()
    with pytest.raises(OSError):
        await dial.wire()


async def test_closing_the_endpoint_says_so_and_publishes_no_will(plane, context, v5, until):
    dialler = None
    async with open_mqtt(MqttConfig(listen="mqtt://127.0.0.1:0"), context, plane, plane) as opened:
        host, port = opened.endpoints[0].rpartition("/")[2].split(":")
        reader, dialler = await asyncio.open_connection(host, int(port))
        dialler.write(v5.connect(token=plane.token("dev1"), will=("fleet/v1/dev1/status", b"{}")))
        assert (await reader.read(1000))[0] == 0x20
    rest = await reader.read(1000)

    assert rest[2] == 0x8B
    assert plane.received == []
    assert not plane.sessions
    dialler.close()


async def test_connections_are_counted(dial, endpoint, codec, until):
    await dial.device("dev1", codec)
    wire = await dial.device("dev2", codec)
    assert endpoint.connections == 2

    await wire.send(b"\xe0\x00")

    await until(lambda: endpoint.connections == 1)


@pytest.mark.parametrize(
    "config",
    [
        MqttConfig(),
        MqttConfig(listen="mqtts://127.0.0.1:0", url="mqtts://broker:8883"),
        MqttConfig(listen="mqtt://0.0.0.0:0"),
        MqttConfig(listen="mqtt://localhost.example:0"),
        MqttConfig(listen="http://127.0.0.1:0"),
        MqttConfig(listen="mqtt://127.0.0.1:0", in_flight=0),
    ],
)
async def test_a_wrong_configuration_is_told_before_anything_opens(plane, context, config):
    with pytest.raises(ConfigError):
        async with open_mqtt(config, context, plane, plane):
            pass


async def test_a_taken_port_is_not_ready(plane, context, endpoint):
    with pytest.raises(NotReady):
        async with open_mqtt(MqttConfig(listen=endpoint.endpoints[0]), context, plane, plane):
            pass
