"""The data path from the device plane's door: what is stored, what is refused, what is found."""

import gc

import cbor2
import pytest

from fleetcore import IoTFleetManager
from fleetcore.interfaces.provider import Limits
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Accepted, Inbound, Rejected
from fleetcore.runtime.config import Config, Instance
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages
from fleetcore.wire.strict_json import dumps


@pytest.fixture
async def send(manager):
    fleet = await manager.open()
    await manager.register_device("dev", "sensor")
    session = await fleet.plane.authenticate(LocalCredential("dev"), protocol="test")

    async def deliver(body, *, subject="dev", content_type=None, id=None, type=messages.TELEMETRY, target=None):
        payload = body if isinstance(body, bytes) else dumps(body)
        message = Inbound(type=type, subject=subject, payload=payload, content_type=content_type, id=id, target=target)
        return await fleet.ingest.submit(session, message)

    return deliver


async def points(manager, metric, device="dev"):
    view = await manager.query_telemetry(device, metric)
    return list(zip(view.time.tolist(), view.value.tolist(), strict=True))


async def test_every_form_of_readings_is_stored(manager, send):
    t = 1_700_000_000_000
    bodies = [
        {"a": 1.5, "b": True},
        {"time": t, "values": {"a": 2.5}},
        [{"time": t + 1, "values": {"a": 3.5}}, {"metric": "a", "value": 4.5, "time": t + 2}],
        {"metric": "a", "value": 5.5, "time": "2023-11-14T22:13:20.003Z"},
    ]

    outcomes = [await send(body) for body in bodies]

    assert [one.stored for one in outcomes] == [2, 1, 2, 1]
    assert [one for one in await points(manager, "a") if one[0] < t + 10] == [
        (t, 2.5), (t + 1, 3.5), (t + 2, 4.5), (t + 3, 5.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "declared"),
    [
        (b'[{"bn": "hall/", "n": "temp", "v": 21.5}]', "application/json"),
        (cbor2.dumps([{-2: "hall/", 0: "temp", 2: 21.5}]), "application/cbor"),
        (b'[{"bn": "hall/", "n": "temp", "v": 21.5}]', None),
    ],
)
async def test_a_pack_is_senml_also_where_it_is_declared_as_json_or_cbor(manager, send, payload, declared):
    outcome = await send(payload, content_type=declared)

    assert outcome == Accepted(stored=1)
    assert [value for _, value in await points(manager, "hall/temp")] == [21.5]


async def test_what_is_declared_as_json_is_not_read_as_cbor(send):
    outcome = await send(cbor2.dumps([{-2: "hall/", 0: "temp", 2: 21.5}]), content_type="application/json")

    assert outcome.code == "payload_unreadable"


async def test_text_is_given_back_in_the_order_of_its_times(manager, send):
    t = 1_700_000_000_000
    await send([{"time": t + 2, "values": {"mode": "idle", "a": 1.5}}, {"time": t, "values": {"mode": "heating"}}])
    await send({"time": t + 1, "values": {"a": "off"}})

    mode, mixed = await manager.query_telemetry("dev", "mode"), await manager.query_telemetry("dev", "a")

    assert [value for _, value in mode.to_plain()["points"]] == ["heating", "idle"]
    assert mixed.time.tolist() == [t + 1, t + 2]
    assert mixed.value.tolist() == ["off", 1.5]
    assert "<td>off</td>" in mixed._repr_html_()
    assert (await manager.query_telemetry("dev", "a", start=t + 2)).value.dtype == float


async def test_a_bad_reading_is_named_and_the_others_are_stored(manager, send):
    outcome = await send([{"metric": "good", "value": 1}, {"metric": "bad name", "value": 1}])

    assert isinstance(outcome, Accepted)
    assert outcome.stored == 1
    assert [(one.index, one.metric, one.code) for one in outcome.refused] == [(1, "bad name", "metric_name_invalid")]


async def test_a_message_id_used_again_gets_the_first_answer_and_stores_nothing(manager, send):
    first = await send({"x": 1.0}, id="m1")
    again = await send({"x": 2.0}, id="m1")

    assert again == first
    assert [value for _, value in await points(manager, "x")] == [1.0]
    tally = (await manager.get_status()).readings
    assert (tally["sent"], tally["stored"], tally["duplicates"]) == (2, 1, 1)


async def test_latest_is_the_newest_event_time_not_the_last_received(manager, send):
    t = 1_700_000_000_000
    await send({"time": t + 1000, "values": {"x": 2.0}})
    await send({"time": t, "values": {"x": 1.0}})

    latest = await manager.list_device_latest_readings("dev")

    assert latest[0]["value"] == 2.0


@pytest.mark.parametrize(
    ("time", "code"),
    [
        (1_700_000_000, "time_unit"),
        (5 * 10**12, "time_unit"),
        (3_900_000_000_000, "time_in_future"),
        ("yesterday", "time_invalid"),
    ],
)
async def test_a_bad_time_is_refused_and_never_clamped(send, time, code):
    outcome = await send({"time": time, "values": {"x": 1.0}})

    assert isinstance(outcome, Rejected)
    assert outcome.code == code


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1e999}', b"[" * 100_000, b'{"a": 1, "a": 2}', b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 18446744073709551616}', b'{"a": "\\ud800"}', b'\xef\xbb\xbf{"a": 1}', b'{"a": "\xff"}', b'{"a": 1} x', b"hello", b"",
        b'{"a\\u0000": 1}',
    ],
)  # fmt: skip
async def test_hostile_json_is_refused_with_a_code_and_the_next_message_is_stored(send, payload):
    outcome = await send(payload)
    after = await send({"fine": 1.0})

    assert isinstance(outcome, Rejected)
    assert after == Accepted(stored=1)


async def test_a_device_has_at_most_200_metrics(send):
    outcome = await send({f"m{i}": 1.0 for i in range(250)})

    assert isinstance(outcome, Accepted)
    assert (outcome.stored, len(outcome.refused)) == (200, 50)
    assert {one.code for one in outcome.refused} == {"too_many_metrics"}


async def test_a_convertible_unit_is_converted_and_another_is_refused(manager, send):
    t = 1_700_000_000_000
    await send({"metric": "t", "value": 20.0, "unit": "Cel", "time": t})
    await send({"metric": "t", "value": 293.15, "unit": "K", "time": t + 1})
    outcome = await send({"metric": "t", "value": 1.0, "unit": "kg", "time": t + 2})

    assert [round(value, 6) for _, value in await points(manager, "t")] == [20.0, 20.0]
    assert outcome.code == "unit_mismatch"


async def test_nobody_speaks_for_another_device(manager, send):
    await manager.register_device("victim", "sensor")

    outcome = await send({"x": 1.0}, subject="victim")

    assert outcome.code == "not_your_device"


async def test_a_gateway_speaks_for_its_leaf(manager, send):
    await manager.register_device("leaf", "sensor")
    await manager.register_gateway("dev")
    await manager.attach_leaf("dev", "leaf")

    outcome = await send({"x": 1.0}, subject="leaf")

    assert outcome == Accepted(stored=1)
    assert len(await points(manager, "x", "leaf")) == 1


async def test_what_a_gateway_says_of_a_leaf_makes_the_leaf_active_and_seen(moved, clock):
    fleet = await moved.open()
    await moved.register_gateway("gw")
    for leaf in ("by-topic", "by-name", "by-read", "silent"):
        await moved.register_device(leaf, "sensor", {"gateway": "gw"})
    session = await fleet.plane.authenticate(LocalCredential("gw"), protocol="test")
    urn = f"urn:fleetcore:device:{fleet.config.fleet.name}:by-name/"

    for _ in range(2):  # the second takes the fast path
        await fleet.ingest.submit(session, Inbound(type=messages.TELEMETRY, subject="by-topic", payload=b'{"x": 1}'))
        await fleet.ingest.submit(
            session,
            Inbound(type=messages.TELEMETRY, subject="gw", payload=dumps([{"bn": urn, "n": "x", "v": 1}])),
        )
        await fleet.plane.call(session, Inbound(type=messages.TWIN_GET, subject="by-read", payload=b""))
        await fleet.plane.wait_idle()
        clock.jump(1_000)

    states = {one["id"]: (one["lifecycle"], one["connectivity"]) for one in await moved.list_devices()}
    assert states["silent"] == ("registered", "never")
    assert {states[leaf] for leaf in ("by-topic", "by-name", "by-read")} == {("active", "online")}
    assert (await moved.get_device("by-topic"))["last_seen"] > (await moved.get_device("by-name"))["created"]


async def test_a_suspended_device_is_refused_and_a_quarantined_one_is_kept_and_flagged(manager, send):
    await send({"x": 0.0})
    await manager.set_lifecycle("dev", "suspended")
    refused = await send({"x": 1.0})
    await manager.set_lifecycle("dev", "quarantined")
    kept = await send({"x": 2.0})

    assert refused.code == "device_suspended"
    assert kept == Accepted(stored=1)
    view = await manager.query_telemetry("dev", "x")
    assert view.quality.tolist()[-1] & 2


async def test_a_refused_message_is_kept_as_a_dead_letter(manager, send):
    await send({"time": 1, "values": {"x": 1.0}})

    letters = await manager.list_dead_letters()

    assert [(one["device"], one["code"]) for one in letters] == [("dev", "time_unit")]


async def test_the_first_message_makes_a_device_active(manager, send):
    await send({"x": 1.0})
    await manager.wait_idle()

    assert (await manager.get_device("dev"))["lifecycle"] == "active"


async def test_a_spike_is_found_with_its_reason(manager, send):
    t = 1_700_000_000_000
    for i in range(300):
        await send({"time": t + i * 60_000, "values": {"x": 20.0 + (i % 7) * 0.1 + (30.0 if i == 250 else 0.0)}})

    await manager.wait_idle()

    found = await manager.list_anomalies("dev")
    assert [one["observed"] for one in found if one["observed"] > 40] != []
    assert found[0]["explanation"]


async def test_a_device_that_sends_too_often_is_told_to_wait():
    clock = MovableClock()
    config = Config(limits=Limits(rate_per_s=1.0, burst=2))
    async with IoTFleetManager(config=config, clock=clock) as manager:
        fleet = await manager.open()
        await manager.register_device("dev", "sensor")
        session = await fleet.plane.authenticate(LocalCredential("dev"), protocol="test")
        message = Inbound(type=messages.TELEMETRY, subject="dev", payload=b'{"x": 1}')

        outcomes = [await fleet.ingest.submit(session, message) for _ in range(3)]
        await clock.advance(1.5)
        after = await fleet.ingest.submit(session, message)

    assert [getattr(one, "code", "ok") for one in outcomes] == ["ok", "ok", "rate_limited"]
    assert isinstance(after, Accepted)


async def test_a_new_connection_is_no_new_token_bucket(clock):
    config = Config(limits=Limits(rate_per_s=1.0, burst=2))
    async with IoTFleetManager(config=config, clock=clock) as manager:
        fleet = await manager.open()
        await manager.register_device("dev", "sensor")

        async def connect_and_send():
            session = await fleet.plane.authenticate(LocalCredential("dev"), protocol="test")
            message = Inbound(type=messages.TELEMETRY, subject="dev", payload=b'{"x": 1}')
            outcome = await fleet.ingest.submit(session, message)
            session.close()
            del session
            gc.collect()
            return getattr(outcome, "code", "ok")

        codes = [await connect_and_send() for _ in range(3)]
        await clock.advance(1.5)
        later = [await connect_and_send() for _ in range(2)]
        await clock.advance(5)
        full = [await connect_and_send() for _ in range(3)]

    assert codes == ["ok", "ok", "rate_limited"]
    assert later == ["ok", "rate_limited"]
    assert full == ["ok", "ok", "rate_limited"]


async def test_more_metrics_than_a_device_may_have_name_the_limit(manager, send):
    await send({f"m{n}": n for n in range(200)})

    outcome = await send({"m200": 1})

    assert (outcome.code, outcome.limit, outcome.unit, outcome.scope) == ("too_many_metrics", 200, "metrics", "device")


async def test_a_body_nested_too_deep_names_the_limit(manager, send):
    outcome = await send(b'{"a":' * 11 + b"1" + b"}" * 11, type=messages.TWIN_REPORT)

    assert (outcome.code, outcome.limit, outcome.unit, outcome.scope) == ("payload_unreadable", 10, "levels", "message")


async def test_two_readings_without_a_time_in_one_millisecond_are_both_kept():
    clock = MovableClock()
    async with IoTFleetManager(config=Config(), clock=clock) as manager:
        await manager.register_device("dev", "sensor")
        await manager.collect_telemetry("dev", "x", 1.0)
        await manager.collect_telemetry("dev", "x", 1.0)

        assert len(await manager.query_telemetry("dev", "x")) == 2


async def test_a_configured_threshold_sees_its_metrics_only():
    config = Config(detectors=(Instance(name="hot", kind="threshold", table={"above": 50.0, "metrics": ["t"]}),))
    async with IoTFleetManager(config=config) as manager:
        await manager.register_device("dev", "sensor")
        await manager.collect_telemetry("dev", "t", 60.0)
        await manager.collect_telemetry("dev", "other", 60.0)
        await manager.wait_idle()

        assert [(one["metric"], one["detector"]) for one in await manager.list_anomalies()] == [("t", "hot")]


async def test_a_gateways_senml_pack_may_name_its_own_leaves_and_nobody_else(manager):
    fleet = await manager.open()
    await manager.register_gateway("gw")
    await manager.register_device("leaf", "sensor", {"gateway": "gw"})
    await manager.register_device("stranger", "sensor")
    session = await fleet.plane.authenticate(LocalCredential("gw"), protocol="test")
    urn = f"urn:fleetcore:device:{fleet.config.fleet.name}:"
    pack = [{"n": f"{urn}leaf/t", "v": 1}, {"n": "own", "v": 2}, {"n": f"{urn}stranger/t", "v": 3}]

    outcome = await fleet.ingest.submit(
        session,
        Inbound(type=messages.TELEMETRY, subject="gw", payload=dumps(pack), content_type="application/senml+json"),
    )

    assert outcome.stored == 2
    assert [(one.index, one.code) for one in outcome.refused] == [(2, "not_your_device")]
    assert [value for _, value in await points(manager, "t", "leaf")] == [1]
    assert [value for _, value in await points(manager, "own", "gw")] == [2]
    assert (await manager.list_series("stranger")).items == []
