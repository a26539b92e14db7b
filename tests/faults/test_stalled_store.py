"""A store that stalls: memory stays within the stated bound, every message gets one outcome, and it goes on after."""

import asyncio
from collections import Counter

import aiohttp
import pytest

from fleetcore.errors import Unavailable
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Accepted, Inbound, Rejected
from fleetcore.wire import messages

#: What a queued message counts beside its payload (docs/explanation/guarantees.md).
_OVERHEAD_BYTES = 600
_MESSAGES, _BYTES = 100, 100_000
_LIMITS = f"queue_messages = {_MESSAGES}\nqueue_bytes = {_BYTES}\n"


@pytest.fixture
async def stalled(in_process, clock, until):
    """A server whose store hangs over one batch, and the session of a device."""
    async with in_process(limits=_LIMITS, clock=clock) as server:
        await server.manager.register_device("d", "sensor")
        await server.manager.collect_telemetry("d", "heat", 0, time=1_750_000_000_000)
        session = await server.fleet.plane.authenticate(LocalCredential("d"), protocol="test")
        server.disk.stall()
        under_way = asyncio.create_task(
            server.manager.collect_telemetry("d", "heat", 1, time=1_750_000_000_001), name="under way"
        )
        commits = server.disk.reading_commits
        await until(lambda: server.disk.reading_commits > commits)
        yield server, session
        server.disk.heal()
        await under_way


def _message(number, padding=0):
    body = f'{{"time": {1_750_000_001_000 + number}, "values": {{"heat": {number}}}}}' + " " * padding
    return Inbound(type=messages.TELEMETRY, subject="d", payload=body.encode())


@pytest.mark.parametrize(("padding", "bound"), [(0, "messages"), (4000, "bytes")])
async def test_what_waits_stays_within_the_bound_and_each_message_has_one_outcome(stalled, until, padding, bound):
    server, session = stalled
    ingest, outcomes, went_on = server.fleet.ingest, {}, []
    sent = 10 * _MESSAGES

    for number in range(sent):
        outcomes[number] = []
        went_on.append(ingest.deliver(session, _message(number, padding), outcomes[number].append))

    waiting = server.fleet.ingest.waiting
    size = len(_message(0, padding).payload) + _OVERHEAD_BYTES
    if bound == "messages":
        assert waiting == _MESSAGES
    else:
        assert _BYTES - 2 * size < waiting * size <= _BYTES
    # Adapters are asked to stop reading long before anything is refused.
    assert went_on.index(False) <= waiting // 2 + 1
    refused = [number for number, got in outcomes.items() if got]
    assert refused == list(range(waiting, sent))
    assert all(got[0].code == "overloaded" and got[0].retry_after_s for got in outcomes.values() if got)
    assert (await server.manager.get_status())["queue"] == {"waiting": waiting, "refused_full": sent - waiting}

    server.disk.heal()
    await until(lambda: all(outcomes.values()))
    await ingest.ready()

    kinds = Counter(type(got[0]) for got in outcomes.values() if len(got) == 1)
    assert kinds == {Accepted: waiting, Rejected: sent - waiting}
    assert ingest.deliver(session, _message(sent), outcomes.setdefault(sent, []).append) is True
    await until(lambda: outcomes[sent])
    stored = (await server.manager.query_telemetry("d", "heat", start=1_750_000_001_000)).value.tolist()
    assert stored == [*range(waiting), sent]


async def _fill(server, session):
    """Fills the queue to its bound and returns the outcomes of what is in it."""
    outcomes, before = [], server.fleet.ingest.refused_full
    for number in range(10 * _MESSAGES):
        if server.fleet.ingest.refused_full > before:
            return outcomes[:-1]
        outcomes.append([])
        server.fleet.ingest.deliver(session, _message(number), outcomes[-1].append)
    raise AssertionError("the queue has no bound")


async def test_http_answers_503_with_a_time_to_come_again_and_takes_it_then(stalled, until):
    server, session = stalled
    waiting = await _fill(server, session)
    server.disk.heal()
    secrets = await server.device("h")
    await until(lambda: all(waiting))
    server.disk.stall()
    waiting = await _refill(server, session, until)
    body = {"time": 1_750_000_000_000, "values": {"heat": 7}}

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=secrets.tls())) as http:
        url = f"{server.http}/device/v1/telemetry"
        async with http.post(url, json=body) as response:
            problem = await response.json()
        assert (response.status, problem["code"], problem["scope"]) == (503, "overloaded", "server")
        assert int(response.headers["Retry-After"]) >= 1

        server.disk.heal()
        await until(lambda: all(waiting))
        async with http.post(url, json=body) as response:
            assert response.status == 204
    assert (await server.manager.query_telemetry("h", "heat")).value.tolist() == [7]


async def _refill(server, session, until):
    """Has one batch hang in the store, and the queue full behind it."""
    commits = server.disk.reading_commits
    first = []
    server.fleet.ingest.deliver(session, _message(0), first.append)
    await until(lambda: server.disk.reading_commits > commits)
    return [first, *await _fill(server, session)]


@pytest.mark.parametrize("kind", ["mqtt", "mqtt 3.1.1"])
async def test_mqtt_gets_no_acknowledgement_and_the_message_is_stored_when_it_comes_again(stalled, until, clock, kind):
    server, session = stalled
    server.disk.heal()
    secrets = await server.device("m")
    async with server.client(kind, secrets) as device:
        server.disk.stall()
        waiting = await _refill(server, session, until)
        body = {"time": 1_750_000_000_000, "values": {"heat": 7}}
        refused = server.fleet.ingest.refused_full

        sending = asyncio.create_task(device.send(messages.TELEMETRY, body))
        await until(lambda: server.fleet.ingest.refused_full > refused)
        await clock.advance(31)
        with pytest.raises(Unavailable) as caught:
            await sending
        if kind == "mqtt":
            assert "temporarily refused" in str(caught.value)

        server.disk.heal()
        await until(lambda: all(waiting))
    async with server.client(kind, secrets) as device:
        assert (await device.send(messages.TELEMETRY, body)).error is None
    assert (await server.manager.query_telemetry("m", "heat")).value.tolist() == [7]


async def test_a_flood_over_both_protocols_is_held_back_and_then_stored_to_the_last_reading(
    in_process, until, readings, senders
):
    async with in_process(limits=_LIMITS) as server:
        async with senders(server) as at_work:
            await until(lambda: all(one.count > 30 for one in at_work))
            server.disk.stall()
            commits = server.disk.reading_commits
            await until(lambda: server.disk.reading_commits > commits)
            counts = [one.count for one in at_work]
            for one in at_work:
                one.stopping = True

            assert server.fleet.ingest.waiting <= _MESSAGES
            server.disk.heal()
        for one, count in zip(at_work, counts, strict=True):
            assert one.count > count
            for metric in one.METRICS:
                stored = await readings(server.manager, one.device, metric)
                assert {one.value(number) for number in one.acknowledged[metric]} <= set(stored)
                assert len(stored) == len(set(stored))


async def test_a_client_that_gives_up_waiting_takes_nothing_back(in_process, until):
    async with in_process() as server:
        secrets = await server.device("d")
        server.disk.stall()
        commits = server.disk.reading_commits
        async with server.client("http", secrets) as device:
            sending = asyncio.create_task(
                device.send(messages.TELEMETRY, {"time": 1_750_000_000_000, "values": {"heat": 7}})
            )
            await until(lambda: server.disk.reading_commits > commits)
            await end_tasks(sending)

        server.disk.heal()

        await until(lambda: _stored(server))
        assert (await server.manager.query_telemetry("d", "heat")).value.tolist() == [7]
        assert (await server.manager.get_status())["queue"]["waiting"] == 0


async def _stored(server):
    return (await server.manager.get_status()).readings["stored"]
