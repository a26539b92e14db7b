"""Readings over each service: in order, whole, and again where they were not taken."""

import json

import numpy as np
import pytest
from attrs import evolve
from fleetcore_aws.config import Telemetry

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.model.telemetry import Quality, TelemetryBatch
from fleetcore.testing.cloud_contract import START_MS, TwoDevices
from fleetcore.testing.http1 import Answer

QUEUE = "http://127.0.0.1/123456789012/readings"
ROUTES = [
    Telemetry(),
    Telemetry(via="kinesis", stream="readings"),
    Telemetry(via="firehose", stream="readings"),
    Telemetry(via="sqs", queue=QUEUE),
]
BATCH = TelemetryBatch.of([0, 2, 1, 0], range(START_MS, START_MS + 4), [1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.via)
async def test_each_device_has_one_message_with_its_readings_in_order(opened, front, route):
    async with opened(telemetry=route) as cloud:
        sent = await cloud.send(BATCH, TwoDevices())

    assert (sent.taken, list(sent.rest)) == (4, [])
    assert sorted(front.messages, key=lambda message: message["device"]) == [
        {
            "device": "sensor-1",
            "fleet": "default",
            "readings": [
                {"metric": "temperature", "time": START_MS, "value": 1.0},
                {"metric": "humidity", "time": START_MS + 2, "value": 3.0},
                {"metric": "temperature", "time": START_MS + 3, "value": 4.0},
            ],
        },
        {
            "device": "sensor-2",
            "fleet": "default",
            "readings": [{"metric": "temperature", "time": START_MS + 1, "value": 2.0}],
        },
    ]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.via)
async def test_many_readings_are_cut_into_messages_that_the_service_takes(opened, front, hub, route):
    count = 12_000
    batch = TelemetryBatch.of([0, 2] * (count // 2), range(START_MS, START_MS + count), [0.5] * count)
    async with opened(telemetry=route) as cloud:
        sent = await cloud.send(batch, TwoDevices())

    assert sent.taken == count
    assert max(len(json.dumps(each)) for each in front.messages) > 100_000
    for device, first in (("sensor-1", 0), ("sensor-2", 1)):
        times = [time for _, time, _ in await hub.telemetry(device)]
        assert times == list(range(START_MS + first, START_MS + count, 2))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.via)
async def test_a_throttled_service_is_asked_again_for_all(opened, front, route):
    front.faults.throttled, front.faults.retry_after_s = 1 << 30, 3.0
    async with opened(telemetry=route) as cloud:
        sent = await cloud.send(BATCH, TwoDevices())

    assert (sent.taken, list(sent.rest), sent.retry_after_s) == (0, [0, 1, 2, 3], 3.0)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.via)
async def test_refused_credentials_are_told(opened, front, route):
    front.faults.refused = "ExpiredTokenException"
    async with opened(telemetry=route) as cloud:
        with pytest.raises(CredentialsRejected):
            await cloud.send(BATCH, TwoDevices())


@pytest.mark.parametrize(
    ("route", "answer"),
    [
        (
            ROUTES[1],
            {"FailedRecordCount": 1, "Records": [{"ErrorCode": "ProvisionedThroughputExceededException"}, {}, {}]},
        ),
        (ROUTES[2], {"FailedPutCount": 1, "RequestResponses": [{"ErrorCode": "ServiceUnavailableException"}, {}, {}]}),
        (
            ROUTES[3],
            {
                "Successful": [{"Id": "1", "MessageId": "1"}, {"Id": "2", "MessageId": "2"}],
                "Failed": [{"Id": "0", "Code": "InternalError", "SenderFault": False}],
            },
        ),
    ],
    ids=["kinesis", "firehose", "sqs"],
)
async def test_after_a_record_that_failed_its_devices_later_ones_are_sent_again(opened, front, route, answer):
    count = 4000  # two messages of the first device, one of the second
    series = [0] * (count - 1) + [2]
    batch = TelemetryBatch.of(series, range(START_MS, START_MS + count), [0.5] * count)

    async def back(call):
        return Answer(body=json.dumps(answer).encode())

    front.back = back
    async with opened(telemetry=route) as cloud:
        sent = await cloud.send(batch, TwoDevices())

    assert list(sent.rest) == list(range(count - 1))
    assert sent.taken == 1


async def test_an_answer_with_too_few_records_is_no_success(opened, front):
    async def back(call):
        return Answer(body=b'{"FailedRecordCount": 0, "Records": [{}]}')

    front.back = back
    async with opened(telemetry=ROUTES[1]) as cloud:
        with pytest.raises(Unavailable):
            await cloud.send(BATCH, TwoDevices())


async def test_what_is_no_number_is_refused_and_truth_stays_truth(cloud, front):
    batch = evolve(
        TelemetryBatch.of([0, 1, 0], range(START_MS, START_MS + 3), [1.0, 1.0, 2.0]),
        value=np.array([np.nan, 1.0, 2.0]),
        quality=np.array([0, int(Quality.BOOLEAN), 0], dtype=np.uint8),
    )

    sent = await cloud.send(batch, TwoDevices())

    assert list(sent.refused) == [0]
    assert sent.taken == 2
    assert [each["value"] for each in front.messages[0]["readings"]] == [True, 2.0]


async def test_messages_go_to_a_topic_of_their_thing(opened, front):
    topics = []
    back = front.back

    async def noting(call):
        topics.append((call.name, call.request.query))
        return await back(call)

    front.back = noting
    async with opened(thing_prefix="p-", telemetry=Telemetry(topic="plant/7", qos=0)) as cloud:
        await cloud.send(TelemetryBatch.of([0], [START_MS], [1.0]), TwoDevices())

    assert topics == [("plant/7/default/p-sensor-1/telemetry", {"qos": "0"})]


async def test_nothing_of_a_device_is_sent_after_what_was_not_taken(opened, front):
    count = 4000  # two messages
    batch = TelemetryBatch.of([0] * count, range(START_MS, START_MS + count), [0.5] * count)
    front.faults.errors = 1
    async with opened() as cloud:
        sent = await cloud.send(batch, TwoDevices())

    assert list(sent.rest) == list(range(count))
    assert front.messages == []
    assert front.calls["iot:Publish"] == 1


async def test_a_hub_that_is_down_is_unavailable_however_many_messages_a_device_has(opened, front):
    batch = TelemetryBatch.of([0] * 4000, range(START_MS, START_MS + 4000), [0.5] * 4000)
    front.faults.down = True
    async with opened() as cloud:
        with pytest.raises(Unavailable):
            await cloud.send(batch, TwoDevices())


@pytest.mark.parametrize("cut", ["cut_heads", "cut_bodies"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.via)
async def test_readings_of_a_request_that_was_cut_are_sent_again_and_each_arrives_once(opened, front, route, cut):
    count = 4000  # more than a connection takes at once
    batch = TelemetryBatch.of([0] * count, range(START_MS, START_MS + count), [0.5] * count)
    setattr(front.faults, cut, 1)
    async with opened(telemetry=route) as cloud:
        with pytest.raises(Unavailable):
            await cloud.send(batch, TwoDevices())
        left = list(front.messages)
        sent = await cloud.send(batch, TwoDevices())

    assert left == []
    assert sent.taken == count
    times = [reading["time"] for message in front.messages for reading in message["readings"]]
    assert times == list(range(START_MS, START_MS + count))


@pytest.mark.parametrize("skew_s", [7200.0, -7200.0])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.via)
async def test_another_time_at_aws_is_told_and_the_readings_wait(opened, front, route, skew_s):
    front.faults.skew_s = skew_s
    async with opened(telemetry=route) as cloud:
        with pytest.raises(Unavailable, match="the clock of this machine is"):
            await cloud.send(BATCH, TwoDevices())
        front.faults.heal()
        sent = await cloud.send(BATCH, TwoDevices())

    assert sent.taken == 4
