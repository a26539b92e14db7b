"""A right that is lost ends what lives longer than a request: streams, waiting, exports, uploads, kept answers."""

import asyncio
import json

import pytest
from fleetcore_api import streams

from fleetcore.calls.events import watch_events
from fleetcore.errors import NotAuthenticated, NotAuthorised, Unavailable
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.store import Commit, Put
from fleetcore.testing.patience import PATIENCE_S


async def token_of(fleet, client):
    """The record of a client's token."""
    shown = client.headers["authorization"].removeprefix("Bearer ").split("_")[2]
    return await fleet.operators.token(shown)


async def take_away(fleet, client, what):
    """Ends the client's token, or withdraws every role of its principal."""
    record = await token_of(fleet, client)
    if what == "token":
        await fleet.operators.revoke_token(record.id)
    else:
        for grant in await fleet.operators.grants(record.principal):
            await fleet.operators.withdraw(grant.id)


class Stream:
    """What an event stream shows."""

    def __init__(self, answer):
        self._lines = answer.aiter_lines()

    async def subjects(self, until=None):
        """The subjects of the devices' events up to one, or to the stream's end."""
        found = []
        async with asyncio.timeout(PATIENCE_S):
            async for line in self._lines:
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if event["type"].startswith("device."):
                        found.append(event["subject"])
                    if event["subject"] == until:
                        return found
        return found


@pytest.mark.parametrize("what", ["token", "role"])
async def test_events_end_with_the_right_while_the_fleet_is_busy(as_role, fleet, manager, what):
    client = await as_role("viewer")
    async with client.stream("GET", "/events") as answer:
        stream = Stream(answer)
        await manager.register_device("before", "sensor")
        assert await stream.subjects(until="before") == ["before"]

        await take_away(fleet, client, what)
        for number in range(44):
            await manager.register_device(f"after-{number}", "sensor")

        assert await stream.subjects() == []


@pytest.mark.parametrize("what", ["token", "role", "expiry"])
async def test_events_end_with_the_right_in_the_midst_of_one_commit(as_role, fleet, caller_of, clock, what):
    client = await as_role("viewer", days=1)
    after = await fleet.storage.position()
    prepared = [await fleet.devices.prepared(f"d-{number}", "sensor") for number in range(10)]
    await fleet.storage.commit(fleet.devices.registrations(prepared))
    stream = watch_events(await caller_of(client), after=after, type=("device.",))
    assert (await anext(stream)).subject == "d-0"

    if what == "expiry":
        clock.jump(86_400_000)
    else:
        await take_away(fleet, client, what)

    with pytest.raises((NotAuthenticated, NotAuthorised)):
        await anext(stream)


class Sent:
    """What an application sends over ASGI."""

    def __init__(self):
        self.pieces = asyncio.Queue()

    async def send(self, message):
        if message.get("body"):
            await self.pieces.put(message["body"])

    async def receive(self):
        await asyncio.Event().wait()


async def test_a_stream_that_has_nothing_to_show_is_kept_open_while_the_fleet_is_busy(
    as_role, fleet, served, caller_of, clock
):
    caller = await caller_of(await as_role("viewer", scope="type = 'nothing'"))
    sent, stream = Sent(), streams.EventStream(served.state, watch_events(caller), None)
    sending = asyncio.create_task(stream({}, sent.receive, sent.send))
    assert b"retry" in await sent.pieces.get()

    while sent.pieces.empty():
        await fleet.devices.register(f"d-{await fleet.storage.position()}", "sensor")
        await clock.advance(5)

    assert await sent.pieces.get() == b": here\n\n"
    await end_tasks(sending)


@pytest.mark.parametrize("what", ["token", "role"])
async def test_events_end_with_the_right_while_nothing_happens(as_role, fleet, manager, what):
    client = await as_role("viewer")
    async with client.stream("GET", "/events") as answer:
        stream = Stream(answer)
        await manager.register_device("before", "sensor")
        await stream.subjects(until="before")

        await take_away(fleet, client, what)

        assert await stream.subjects() == []


async def test_events_end_with_the_tokens_last_second(as_role, clock, manager):
    client = await as_role("viewer", days=60 / 86_400)
    async with client.stream("GET", "/events") as answer:
        stream = Stream(answer)
        await manager.register_device("before", "sensor")
        await stream.subjects(until="before")

        await clock.advance(60)

        assert await stream.subjects() == []


async def test_events_narrow_with_the_rights(as_role, fleet, manager):
    client = await as_role("viewer")
    principal = (await token_of(fleet, client)).principal
    (wide,) = await fleet.operators.grants(principal)
    for device in ("mine", "theirs"):
        await manager.register_device(device, "sensor")
    async with client.stream("GET", "/events") as answer:
        stream = Stream(answer)
        await manager.update_device("theirs", name="a")
        assert await stream.subjects(until="theirs") == ["theirs"]

        await fleet.operators.grant(principal, "viewer", scope="id = 'mine'")
        await fleet.operators.withdraw(wide.id)
        await manager.update_device("theirs", name="b")
        await manager.update_device("mine", name="b")

        assert await stream.subjects(until="mine") == ["mine"]


@pytest.mark.parametrize(("what", "status"), [("token", 401), ("role", 403)])
async def test_waiting_for_a_command_ends_with_the_right(as_role, fleet, manager, what, status):
    await manager.register_device("a", "sensor")
    client = await as_role("operator")
    waiting = asyncio.create_task(client.post("/devices/a/commands", json={"name": "x", "wait_s": 60}))
    while not await fleet.commands.list("a"):
        await asyncio.sleep(0)

    await take_away(fleet, client, what)

    async with asyncio.timeout(PATIENCE_S):
        assert (await waiting).status_code == status
    (command,) = await fleet.commands.list("a")
    assert command.state == "queued"


async def test_waiting_for_a_command_ends_when_the_device_leaves_the_scope(as_role, fleet, manager):
    await manager.register_device("a", "sensor", {"tags": ["lab"]})
    client = await as_role("operator", scope="tags has 'lab'")
    waiting = asyncio.create_task(client.post("/devices/a/commands", json={"name": "x", "wait_s": 60}))
    while not await fleet.commands.list("a"):
        await asyncio.sleep(0)

    await manager.update_device("a", tags=[])

    async with asyncio.timeout(PATIENCE_S):
        assert (await waiting).status_code == 404


@pytest.mark.parametrize("path", ["/telemetry", "/telemetry/buckets"])
async def test_an_export_ends_with_the_right(as_role, fleet, manager, monkeypatch, path):
    for device in ("a", "b", "c"):
        await manager.register_device(device, "sensor")
        await manager.collect_telemetry(device, "t", 1.0)
    client = await as_role("viewer")
    read, asked = fleet.telemetry.series, []

    async def series(device=None):
        asked.append(device)
        if device == "b":
            await take_away(fleet, client, "role")
        return await read(device)

    monkeypatch.setattr(fleet.telemetry, "series", series)

    answer = await client.get(path, params={"metric": "t", "bucket_s": 60} if "buckets" in path else {"metric": "t"})

    assert (answer.status_code, asked) == (403, ["a", "b"])


async def test_an_upload_ends_with_the_right(as_role, fleet):
    client = await as_role("release")

    async def pieces():
        yield b"first"
        await take_away(fleet, client, "role")
        yield b"second"

    answer = await client.post(
        "/firmware/artifacts", content=pieces(), headers={"Content-Type": "application/octet-stream"}
    )

    assert answer.status_code == 403


# --- kept answers ----------------------------------------------------------------------------------------------------


async def register(client, key="k"):
    return await client.post("/devices", json={"id": "a", "type": "sensor"}, headers={"Idempotency-Key": key})


async def test_a_kept_answer_is_given_again_while_the_right_is_there(as_role):
    client = await as_role("provisioner")
    first = await register(client)

    again = await register(client)

    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(("what", "status"), [("token", 401), ("role", 403)])
async def test_a_kept_answer_is_refused_where_the_right_is_gone(as_role, fleet, what, status):
    client = await as_role("provisioner")
    await register(client)

    await take_away(fleet, client, what)
    again = await register(client)

    assert again.status_code == status
    assert "idempotency-replayed" not in again.headers


async def test_a_kept_answer_is_refused_where_another_role_opens_the_route_for_less(as_role, fleet, manager):
    await manager.register_device("a", "sensor", {"tags": ["lab"]})
    await manager.register_device("b", "sensor")
    client = await as_role("operator")
    principal = (await token_of(fleet, client)).principal

    async def send(device):
        headers = {"Idempotency-Key": "k"}
        return await client.post(f"/devices/{device}/commands", json={"name": "x"}, headers=headers)

    assert {(await send(device)).status_code for device in ("a", "b")} == {201}
    (wide,) = await fleet.operators.grants(principal)
    await fleet.operators.grant(principal, "operator", scope="tags has 'lab'")
    await fleet.operators.withdraw(wide.id)

    again = await send("b")

    assert (again.status_code, again.json()["code"]) == (403, "not_authorised")


async def test_a_kept_answer_of_an_earlier_release_goes_by_the_door_alone(as_role, fleet):
    client = await as_role("provisioner")
    await register(client)
    (record,) = (await fleet.storage.find("api_answer")).items
    body = {name: value for name, value in record.body.items() if name != "rights"}
    await fleet.storage.commit(Commit(puts=(Put(kind=record.kind, key=record.key, body=body, due=body["until"]),)))

    assert (await register(client)).headers["idempotency-replayed"] == "true"
    await take_away(fleet, client, "role")
    assert (await register(client)).status_code == 403


async def test_a_kept_answer_is_given_again_where_the_rights_have_grown(as_role, fleet):
    client = await as_role("provisioner")
    await register(client)
    principal = (await token_of(fleet, client)).principal
    (old,) = await fleet.operators.grants(principal)

    await fleet.operators.grant(principal, "admin")
    await fleet.operators.withdraw(old.id)

    assert (await register(client)).headers["idempotency-replayed"] == "true"


# --- reading where nothing can be written ----------------------------------------------------------------------------


async def test_reading_needs_no_writing(as_role, fleet, manager, monkeypatch):
    await manager.register_device("a", "sensor")
    client = await as_role("viewer")

    async def full(change):
        raise Unavailable("The disk is full", code="storage_full")

    with monkeypatch.context() as disk:
        disk.setattr(fleet.storage, "commit", full)
        answers = [await client.get(path) for path in ("/devices", "/devices/a", "/telemetry/latest", "/campaigns")]
        await fleet.operators.flush()

    assert [answer.status_code for answer in answers] == [200] * 4
    record = await token_of(fleet, client)
    listed = (await (await as_role("admin")).get("/tokens")).json()["items"]
    assert [token["last_used"] is not None for token in listed if token["id"] == record.id] == [True]
    stored = await fleet.storage.get("operator_token", record.id)
    assert (record.last_used, stored.body.get("last_used")) == (fleet.clock.now_ms(), None)
    await fleet.operators.flush()
    stored = await fleet.storage.get("operator_token", record.id)
    assert stored.body["last_used"] == record.last_used
