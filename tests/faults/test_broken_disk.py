"""A full and a broken disk: refused by each protocol's own word for *later*, lost nowhere, over without a restart."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest

from fleetcore.errors import Unavailable
from fleetcore.testing.faults import files_cannot_grow
from fleetcore.wire import messages

#: How the disk is broken, by the code that a device sees, and the HTTP status of wire.md §4.
FAULTS = {"storage_full": ("fill", 507), "storage_failed": ("fail", 503)}
#: What a device sends, and nothing of it may be acknowledged while it cannot be kept.
UPLINKS = {
    "telemetry": {"heat": 21.5},
    "location": {"lat": 1.5, "lon": 2.5},
    "status": {"state": "sleeping", "for_s": 60},
    "twin.report": {"mode": "eco"},
}
#: wire.md §4: a temporary refusal is followed by the end of the connection.
_SILENCE_S = 31


@pytest.fixture(params=FAULTS)
def fault(request):
    """The code, what breaks the disk, and the HTTP status."""
    name, status = FAULTS[request.param]
    return request.param, lambda disk: getattr(disk, name)(), status


@asynccontextmanager
async def _ticking(clock):
    """Time goes on, some fifty times as fast as outside."""

    async def tick():
        while True:
            await clock.advance(0.1)
            await asyncio.sleep(0.002)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()


async def _rejected(server):
    return (await server.manager.get_status())["messages"]["rejected"]


async def test_http_says_that_the_disk_is_at_fault_and_when_to_come_again(in_process, fault):
    code, breaks, status = fault
    async with in_process() as server:
        secrets = await server.device("d")
        breaks(server.disk)

        url, tls = f"{server.http}/device/v1/telemetry", aiohttp.TCPConnector(ssl=secrets.tls())
        async with aiohttp.ClientSession(connector=tls) as http, http.post(url, json=UPLINKS["telemetry"]) as response:
            problem = await response.json()

        assert response.status == status
        assert response.content_type == "application/problem+json"
        assert int(response.headers["Retry-After"]) >= 1
        assert problem["code"] == code
        assert problem["type"] == f"urn:fleetcore:error:{code}"
        assert await _rejected(server) == {code: 1}
        assert (await server.manager.list_dead_letters()).items == []


async def test_http_refuses_every_uplink_serves_every_read_and_heals_without_a_restart(in_process, fault):
    code, breaks, status = fault
    async with in_process() as server, server.client("http", await server.device("d")) as device:
        breaks(server.disk)

        for name, body in UPLINKS.items():
            reply = await device.send(messages.NAMED[name], body)
            assert (name, reply.status, reply.error["code"]) == (name, status, code)
        twin = await device.request(messages.TWIN_GET)
        assert (twin.status, twin.body["reported"]) == (200, {})

        server.disk.heal()
        for name, body in UPLINKS.items():
            assert (await device.send(messages.NAMED[name], body)).error is None
        assert (await device.request(messages.TWIN_GET)).body["reported"] == {"mode": "eco"}
        assert [one["value"] for one in await server.manager.list_device_latest_readings("d")] == [21.5]
        assert await _rejected(server) == {code: len(UPLINKS)}


@pytest.mark.parametrize("kind", ["mqtt", "mqtt 3.1.1"])
async def test_mqtt_stays_silent_then_closes_and_takes_the_message_when_it_comes_again(
    in_process, fault, kind, clock, until
):
    code, breaks, _ = fault
    async with in_process(clock=clock) as server:
        secrets = await server.device("d")
        body = {"time": clock.now_ms(), "values": {"heat": 21.5}}
        async with server.client(kind, secrets) as device:
            breaks(server.disk)
            sending = asyncio.create_task(device.send(messages.TELEMETRY, body))
            await until(lambda: _is_rejected(server, code, 1))

            # Reading has stopped: what comes now is not even looked at.
            unread = asyncio.create_task(device.send(messages.TELEMETRY, body))
            await clock.advance(_SILENCE_S - 5)
            assert not sending.done()
            await clock.advance(5)
            for one in (sending, unread):
                with pytest.raises(Unavailable, match="lost"):
                    await one
            assert set(await _rejected(server)) == {code}  # the server itself has tried again meanwhile

        server.disk.heal()
        async with server.client(kind, secrets) as device:
            assert (await device.send(messages.TELEMETRY, body)).error is None
        assert (await server.manager.query_telemetry("d", "heat")).value.tolist() == [21.5]


@pytest.mark.parametrize("kind", ["mqtt", "mqtt 3.1.1"])
async def test_an_mqtt_sender_is_answered_within_a_second_after_the_disk_has_healed(
    in_process, fault, kind, clock, until
):
    code, breaks, _ = fault
    async with in_process(clock=clock) as server:
        secrets = await server.device("d")
        async with server.client(kind, secrets) as device:
            breaks(server.disk)
            body = {"time": clock.now_ms(), "values": {"heat": 21.5}}
            sending = asyncio.create_task(device.send(messages.TELEMETRY, body))
            await until(lambda: _is_rejected(server, code, 1))
            await clock.advance(0.5)
            server.disk.heal()
            await clock.advance(0.5)

            assert (await sending).error is None
        assert (await server.manager.query_telemetry("d", "heat")).value.tolist() == [21.5]


async def _is_rejected(server, code, count):
    return (await _rejected(server)).get(code) == count


async def test_senders_that_do_not_give_up_lose_nothing_to_a_disk_that_comes_and_goes(
    in_process, fault, senders, clock, until, readings
):
    code, breaks, _ = fault
    async with in_process(clock=clock) as server, _ticking(clock):
        async with senders(server) as at_work:
            for _ in range(2):
                counts = [one.count for one in at_work]
                await until(lambda counts=counts: all(o.count > n + 30 for o, n in zip(at_work, counts, strict=True)))
                breaks(server.disk)
                await _felt(at_work, until)
                counts = [one.count for one in at_work]
                await _felt(at_work, until)
                assert counts == [one.count for one in at_work]
                server.disk.heal()
            counts = [one.count for one in at_work]
            await until(lambda: all(one.count > n + 30 for one, n in zip(at_work, counts, strict=True)))

        assert {problem["code"] for problem in at_work[0].refused} == {code}
        for one in at_work:
            for metric in ("timed", "named"):
                stored = await readings(server.manager, one.device, metric)
                assert {one.value(number) for number in one.acknowledged[metric]} <= set(stored)
                assert len(stored) == len(set(stored))
        status = await server.manager.get_status()
        assert status["readings"]["stored"] >= sum(one.count for one in at_work)
        assert status["storage"] == []


async def _felt(at_work, until):
    """Returns once every sender has felt the fault: HTTP was refused, and each MQTT connection cut off."""
    before = [len(one.refused) + len(one.lost) for one in at_work]
    await until(lambda: all(len(o.refused) + len(o.lost) > n for o, n in zip(at_work, before, strict=True)))


# --- the system's own errors, in a server of its own process ---


async def test_files_that_cannot_grow_are_a_broken_disk_until_they_can(serving, senders, until, opened, readings):
    async with serving() as server:
        async with senders(server, ("http",)) as (one,):
            await until(lambda: one.count > 30)
            with files_cannot_grow(server.process.pid):
                await until(lambda: one.refused)
                count = one.count
                await until(lambda: len(one.refused) > 20)
                assert count == one.count

            await until(lambda: one.count > count + 30)
        assert {problem["code"] for problem in one.refused} <= {"storage_failed", "storage_full"}
        assert (await server.caller.run("get_status", {}))["storage"] == []
        await server.kill()
        async with opened(server.data) as manager:
            await _check_stored(manager, one, readings)


async def test_a_store_at_its_limit_answers_507_and_goes_on_where_the_limit_is_raised(
    serving, until, opened, command, tmp_path
):
    limit = "[storage]\nlimit_bytes = {}\n"
    async with serving(limit.format(1_500_000)) as server:
        secrets = await server.device("d")
        stored = 0
        async with server.client("http", secrets) as device:
            while True:
                body = [{"time": 1_750_000_000_000 + stored + n, "values": {"heat": stored + n}} for n in range(1000)]
                reply = await device.send(messages.TELEMETRY, body)
                if reply.error is not None:
                    break
                stored += 1000
            assert (reply.status, reply.error["code"]) == (507, "storage_full")
            assert (await device.request(messages.TWIN_GET)).status == 200
        code, out, _ = await server.command("doctor")
        assert code == 0, out
        await server.kill()

        file = server.data / "fleet.toml"
        file.write_text(file.read_text().replace(limit.format(1_500_000), limit.format(50_000_000)))
        await server.start()
        async with server.client("http", secrets) as device:
            assert (await device.send(messages.TELEMETRY, body)).error is None
        await server.kill()
        async with opened(server.data) as manager:
            assert len(await manager.query_telemetry("d", "heat")) == stored + 1000


async def _check_stored(manager, one, readings):
    for metric in one.METRICS:
        stored = await readings(manager, one.device, metric)
        assert {one.value(number) for number in one.acknowledged[metric]} <= set(stored)
        assert metric == "plain" or len(stored) == len(set(stored))
