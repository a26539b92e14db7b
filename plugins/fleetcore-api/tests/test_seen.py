"""Readings, anomalies, refused messages, metrics and events over the operators' API."""

import asyncio
import json
import re

import httpx
import pytest
from fleetcore_api.app import build
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore.testing.patience import PATIENCE_S


@pytest.fixture(autouse=True)
async def readings(manager, clock):
    for name in ("a", "b"):
        await manager.register_device(name, "sensor", {"tags": [name]})
        for number in range(5):
            time = clock.now_ms() - 10_000 + 1000 * number
            await manager.collect_telemetry(name, "hvac/temp", 20.0 + number, "celsius", time=time)
    await manager.collect_telemetry("a", "note", "=HYPERLINK(1)")


async def test_points_come_in_their_range_page_by_page(admin, clock):
    asked = {"device": "a", "metric": "hvac/temp", "start": clock.now_ms() - 9000, "points": 2}

    first = (await admin.get("/telemetry", params=asked)).json()
    rest = (await admin.get("/telemetry", params={**asked, "cursor": first["next"]})).json()

    assert [value for _, value in first["items"][0]["points"]] == [21.0, 22.0]
    assert [value for _, value in rest["items"][0]["points"]] == [23.0, 24.0]
    assert rest["next"] is None
    assert first["items"][0]["unit"] == "celsius"


@pytest.mark.parametrize("points", range(1, 12))
@pytest.mark.parametrize(("path", "member"), [("/telemetry", "points"), ("/telemetry/buckets", "buckets")])
async def test_pages_of_any_size_give_every_point_of_every_device_once(admin, path, member, points):
    found, cursor, pages = {}, None, 0
    while cursor is not None or pages == 0:
        asked = {"metric": "hvac/temp", "bucket_s": 1, "points": points, "limit": 1, "cursor": cursor}
        wanted = {name: value for name, value in asked.items() if value is not None}
        if path == "/telemetry":
            del wanted["bucket_s"]
        page = (await admin.get(path, params=wanted)).json()
        assert sum(len(series[member]) for series in page["items"]) <= points
        for series in page["items"]:
            found.setdefault(series["device"], []).extend(series[member])
        cursor, pages = page["next"], pages + 1

    values = {
        device: [point[1] if path == "/telemetry" else point["sum"] for point in of] for device, of in found.items()
    }
    assert values == {device: [20.0, 21.0, 22.0, 23.0, 24.0] for device in ("a", "b")}


@pytest.mark.parametrize("cursor", ["YQBiAGM", "YQAxAA", "YQAtMQAxMA", "YQAxADEAMQ", "YQA5"])
async def test_a_cursor_that_no_page_gave_is_refused(admin, cursor):
    answer = await admin.get("/telemetry", params={"metric": "hvac/temp", "cursor": cursor})

    assert answer.status_code == 422
    assert answer.json()["ids"]["pointer"] == "/cursor"


async def test_a_query_selects_whose_points_and_buckets_come(admin):
    answer = await admin.get(
        "/telemetry/buckets", params={"where": "tags has 'b'", "metric": "hvac/temp", "bucket_s": 3600}
    )

    (series,) = answer.json()["items"]
    assert series["device"] == "b"
    assert sum(one["count"] for one in series["buckets"]) == 5


async def test_a_table_is_no_formula(admin):
    answer = await admin.get("/telemetry", params={"device": "a", "metric": "note", "format": "csv"})

    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text.splitlines()[0] == "device,metric,time,value,unit"
    assert ",'=HYPERLINK(1)," in answer.text


async def test_the_newest_readings_of_a_device_and_of_many(admin):
    one = (await admin.get("/devices/a/telemetry")).json()["items"]
    many = (await admin.get("/telemetry/latest", params={"limit": 1})).json()

    assert {item["metric"]: item["value"] for item in one} == {"hvac/temp": 24.0, "note": "=HYPERLINK(1)"}
    assert {item["device"] for item in many["items"]} == {"a"}
    assert many["next"] is not None


async def test_readings_outside_a_scope_are_not_there(as_role):
    client = await as_role("viewer", scope="tags has 'b'")

    foreign = await client.get("/telemetry", params={"device": "a", "metric": "hvac/temp"})
    seen = await client.get("/telemetry", params={"metric": "hvac/temp"})

    assert foreign.status_code == 404
    assert [one["device"] for one in seen.json()["items"]] == ["b"]


async def test_metrics_can_be_scraped(served, admin, fleet):
    fleet._context("late", "protocols").count("knocked")
    text = (await admin.get(served.url + "/metrics")).text

    assert 'fleetcore_plugin_counts_total{component="protocols.late",name="knocked"} 1' in text

    assert 'fleetcore_readings_total{outcome="stored"} 11' in text
    for name in ('retention_dropped_total{kind="number"}', "retention_freed_bytes_total", "storage_free_bytes"):
        assert f"fleetcore_{name} " in text
    assert re.search(r'^fleetcore_storage_bytes\{part="\w+"\} [1-9]', text, re.MULTILINE)
    for line in text.splitlines():
        assert line.startswith("#") or float(line.rpartition(" ")[2]) >= 0, line


class Events:
    """Reads a stream message by message."""

    def __init__(self, answer):
        self._lines = answer.aiter_lines()

    async def next(self):
        found = {}
        async with asyncio.timeout(PATIENCE_S):
            async for line in self._lines:
                if not line and "event" in found:
                    return found
                if ": " in line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    found[name] = value
        raise AssertionError("the stream ended")


async def test_events_come_as_they_happen_and_go_on_after_the_last_one(admin, manager):
    async with admin.stream("GET", "/events") as answer:
        events = Events(answer)
        await manager.register_device("c", "sensor")
        first = await events.next()
    await manager.register_device("d", "sensor")

    async with admin.stream("GET", "/events", headers={"Last-Event-ID": first["id"]}) as answer:
        second = await Events(answer).next()

    assert (first["event"], json.loads(first["data"])["subject"]) == ("device.registered", "c")
    assert (second["event"], json.loads(second["data"])["subject"]) == ("device.registered", "d")


async def test_a_position_that_is_gone_or_never_was_is_a_reset(admin):
    async with admin.stream("GET", "/events", headers={"Last-Event-ID": "999999"}) as answer:
        first = await Events(answer).next()

    assert first["event"] == "reset"


async def test_events_of_foreign_devices_are_not_shown(as_role, manager):
    client = await as_role("viewer", scope="id = 'mine'")
    async with client.stream("GET", "/events") as answer:
        events = Events(answer)
        await manager.register_device("theirs", "sensor")
        await manager.register_device("mine", "sensor")
        first = await events.next()

    assert json.loads(first["data"])["subject"] == "mine"


async def test_a_reader_that_leaves_before_it_is_answered_is_no_fault_of_ours(served, admin, caplog):
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    token = admin.headers["authorization"].encode()
    scope = {"type": "http", "method": "GET", "path": "/api/v1/devices", "raw_path": b"/api/v1/devices"}
    scope |= {"query_string": b"", "headers": [(b"authorization", token)], "client": None, "http_version": "1.1"}

    await build(served.state)(scope, receive, send)

    assert sent == []
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_stream_ends_where_its_reader_leaves(admin, fleet):
    watches = fleet.operators._watches
    async with admin.stream("GET", "/events") as answer:
        async for _ in answer.aiter_lines():
            break
        assert len(watches) == 1

    async with asyncio.timeout(PATIENCE_S):
        while watches:
            await asyncio.sleep(0.01)


async def test_a_stream_ends_with_the_server(fleet, as_role):
    token = (await fleet.operators.create_token("x")).token
    await fleet.operators.grant("x", "viewer")
    async with (
        httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        async with open_api(ApiConfig(listen="http://127.0.0.1:0"), fleet._context("api2"), fleet) as server:
            answer = await client.send(client.build_request("GET", server.url + "/api/v1/events"), stream=True)
        lines = [line async for line in answer.aiter_lines()]
        await answer.aclose()

    assert lines[0] == "retry: 2000"


async def test_refused_messages_wait_in_quarantine(admin, fleet):
    from fleetcore.model.credential import LocalCredential
    from fleetcore.model.message import Inbound
    from fleetcore.wire import messages

    session = await fleet.plane.authenticate(LocalCredential("a"), protocol="test")
    await fleet.ingest.submit(
        session,
        Inbound(type=messages.TELEMETRY, subject="a", payload=b"no json", content_type="application/json"),
    )

    (letter,) = (await admin.get("/quarantine")).json()["items"]

    assert (letter["device"], letter["code"]) == ("a", "payload_unreadable")


async def test_erasing_leaves_nothing_but_what_happened(admin, fleet):
    await admin.patch("/devices/a/twin/desired", json={"rate": 5}, headers={"If-Match": "*"})
    await admin.post("/devices/a/commands", json={"name": "reboot"})

    gone = await admin.delete("/devices/a", params={"purge": True, "reason": "asked to"})
    await fleet.wait_idle()
    rows = (await admin.get("/audit", params={"object": "a", "after": 0})).json()["items"]

    assert gone.status_code == 204
    assert (await admin.get("/devices/a")).status_code == 404
    assert await fleet.telemetry.series("a") == []
    assert await fleet.commands.list("a") == []
    assert await fleet.storage.get("twin", "a") is None
    assert (rows[-1]["action"], rows[-1]["reason"]) == ("device.erased", "asked to")
