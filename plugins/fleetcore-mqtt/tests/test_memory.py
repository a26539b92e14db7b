"""What a client can have kept for it. Guards against bounds in bytes that leave out what the client chooses beside it."""

import mqtt5
from fleetcore_mqtt.outbox import PENDING_BYTES, Message, Outbox
from fleetcore_mqtt.sessions import SESSION_BYTES, Sessions

#: MQTT 5.0 §1.5.6: binary data is at most this long.
MAX_LENGTH = bytes(65_535)


def reply(correlation=MAX_LENGTH):
    return Message(topic="fleet/v1/dev1/reply/r1", payload=b"{}", qos=1, correlation=correlation)


def test_correlation_data_counts_in_what_waits_for_a_client():
    outbox = Outbox(lambda *_: True, 1, lambda: 0.0)
    taken = 0
    while outbox.put(reply()):
        taken += 1

    assert taken <= PENDING_BYTES // len(MAX_LENGTH) + 1  # and the one that is on its way


def test_correlation_data_counts_in_what_is_kept_of_a_session():
    sessions = Sessions(lambda: 0.0)
    sessions.keep("dev1", {}, {packet_id: reply() for packet_id in range(1, 21)}, 600)

    kept = sessions.take("dev1")
    assert kept is not None
    assert sum(len(each.correlation) for each in kept.unacked.values()) <= SESSION_BYTES


async def test_a_message_id_beyond_any_bound_does_not_wait_with_its_message(dial, plane, v5, until):
    plane.hold()
    wire = await dial.device(codec=v5)
    await wire.send(v5.publish("fleet/v1/dev1/telemetry", b"{}", 1, user_properties=[("id", "x" * 65_535)]))
    await until(lambda: plane.waiting)
    plane.commit()
    assert isinstance(await wire.decoded(), mqtt5.PubAckPacket)

    (message,) = plane.messages
    assert 64 < len(message.id) < 1024  # still none that the data path takes
