"""The clients against the real API: the same calls with the same answers as the library's."""

import asyncio
import inspect

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore import IoTFleetManager
from fleetcore.client import AsyncFleetClient, FleetClient
from fleetcore.errors import (
    Conflict,
    IllegalTransition,
    NotAuthenticated,
    NotAuthorised,
    NotFound,
    Refused,
    Unavailable,
    VersionConflict,
)
from fleetcore.fleet.security import Authority
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.signers import Signers

SIGNERS = Signers()
NOW_MS = SystemClock().now_ms()
MAKER = Authority.create("maker", SystemClock()).roots[0].public_bytes(Encoding.PEM).decode()

#: What stays in the server's own process.
LOCAL = {"open", "call_as"}


@pytest.fixture
def clock():
    """The machine's: work in the background goes on by itself."""
    return SystemClock()


async def token_of(fleet, *roles):
    for role in roles:
        await fleet.operators.grant("client", role)
    return (await fleet.operators.create_token("client")).token


@pytest.fixture
async def client(fleet, served):
    async with AsyncFleetClient(served.url, await token_of(fleet, "admin")) as client:
        yield client


def calls(cls):
    """The calls that a class has, the derived ones and its own."""
    return {
        name: member
        for name, member in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") and (inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member))
    }


def test_the_client_has_every_call_of_the_library_with_the_same_parameters():
    theirs, ours = calls(IoTFleetManager), calls(AsyncFleetClient)

    assert theirs.keys() - ours.keys() == LOCAL
    assert ours.keys() - theirs.keys() == set()
    for name in ours:
        wanted = list(inspect.signature(theirs[name]).parameters.values())
        found = list(inspect.signature(ours[name]).parameters.values())
        assert [(one.name, one.kind, one.default) for one in found] == [
            (one.name, one.kind, one.default) for one in wanted
        ], name


@pytest.mark.parametrize("name", sorted(calls(AsyncFleetClient)))
def test_what_is_awaited_of_a_fleet_blocks_with_the_same_parameters(name):
    if name == "catalogue":
        return  # of the client alone, reached as its other members are
    theirs, ours = (inspect.signature(getattr(cls, name)) for cls in (AsyncFleetClient, FleetClient))

    assert list(ours.parameters.values()) == list(theirs.parameters.values())


async def test_refusals_are_the_librarys_errors(client, fleet, served):
    await client.register_device("a", "x")
    with pytest.raises(Conflict) as again:
        await client.register_device("a", "x")
    assert again.value.code == "already_exists"
    with pytest.raises(NotFound):
        await client.get_device("nobody")
    with pytest.raises(Refused) as syntax:
        await client.list_devices(where="type == 'x'")
    assert (syntax.value.code, "column" in syntax.value.ids) == ("query_syntax", True)
    with pytest.raises(VersionConflict):
        await client.set_desired("a", {"x": 1}, if_version=7)
    await client.set_lifecycle("a", "retired")
    with pytest.raises(IllegalTransition):
        await client.set_lifecycle("a", "active")
    with pytest.raises(NotFound):
        await client.query_telemetry("a", "none")
    async with AsyncFleetClient(served.url, "fc_pat_none") as stranger:
        with pytest.raises(NotAuthenticated):
            await stranger.list_devices()
    async with AsyncFleetClient(served.url, await token_of(fleet)) as client_too:
        await client_too.list_devices()
    await fleet.operators.grant("viewer", "viewer")
    token = (await fleet.operators.create_token("viewer")).token
    async with AsyncFleetClient(served.url, token) as viewer:
        with pytest.raises(NotAuthorised):
            await viewer.register_device("b", "x")


async def test_where_nothing_listens_it_is_unavailable_and_says_what_to_look_at(unused_tcp_port):
    async with AsyncFleetClient(f"http://127.0.0.1:{unused_tcp_port}", "t") as client:
        with pytest.raises(Unavailable, match="cannot be reached") as refused:
            await client.list_devices()
    assert "services.api" in refused.value.remedy


@pytest.mark.parametrize("url", ["fleet.example", "ftp://fleet.example", "http://fleet.example:8444", "https://"])
def test_an_address_that_is_none_or_would_show_the_token_is_refused(url):
    with pytest.raises(Refused):
        FleetClient(url, "t")


async def test_a_command_that_is_waited_for_beyond_one_request_is_asked_for_again(client, monkeypatch):
    from fleetcore.client import wire

    monkeypatch.setattr(wire, "WAIT_S", 0.01)
    await client.register_device("a", "x")
    command = await client.send_command("a", "blink", wait_s=0.02)
    assert command["state"] == "queued"


async def test_a_key_makes_a_command_once(client):
    await client.register_device("a", "x")
    first = await client.send_command("a", "blink", idempotency_key="k")
    again = await client.send_command("a", "blink", idempotency_key="k")
    assert first["id"] == again["id"]
    assert len(await client.list_device_commands("a")) == 1


async def test_events_are_watched_from_a_position_on(client, manager):
    await manager.register_device("a", "x")
    await manager.register_device("b", "x")
    seen = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in client.watch_events(after=0):
            if event["type"] == "device.registered":
                seen.append(event["subject"])
            if len(seen) == 2:
                break
    assert seen == ["a", "b"]


async def test_the_blocking_client_speaks_to_the_same_fleet(fleet, served):
    token = await token_of(fleet, "admin")

    def work():
        with FleetClient(served.url, token) as client:
            client.register_device("a", "sensor", {"tags": ["x"]})
            client.collect_telemetry("a", "temp", 1.5)
            series = client.query_telemetry("a", "temp")
            for event in client.watch_events(after=0):
                if event["type"] == "device.registered":
                    break
            return client.list_devices(tag="x")[0]["id"], series.value.tolist(), event["subject"]

    assert await asyncio.to_thread(work) == ("a", [1.5], "a")


async def test_a_series_of_more_points_than_a_page_comes_whole(client, manager, monkeypatch):
    monkeypatch.setattr("fleetcore.frontends.async_fleet.POINTS", 4)
    await manager.register_device("a", "x")
    for second in range(10):
        await manager.collect_telemetry("a", "n", float(second), time=1_700_000_000_000 + second * 1000)

    found = await client.query_telemetry("a", "n")

    assert found.value.tolist() == [float(n) for n in range(10)]
    assert found.time.tolist() == [1_700_000_000_000 + n * 1000 for n in range(10)]


async def test_telemetry_comes_as_arrow(client, manager):
    import pyarrow as pa

    await manager.register_device("a", "x")
    await manager.collect_telemetry("a", "n", 1.5, "celsius", time=1_700_000_000_000)
    answer = await client._answer("GET", "/telemetry", params={"device": "a", "metric": "n", "format": "arrow"})
    with pa.ipc.open_stream(answer.content) as stream:
        table = stream.read_all()

    assert table.schema.field("time").type == pa.timestamp("ms", "UTC")
    assert table.to_pydict()["value"] == [1.5]
    assert table.to_pydict()["unit"] == ["celsius"]


async def test_zero_is_not_false(client):
    with pytest.raises(Refused, match="may_register"):
        await client._answer("POST", "/gateways", body={"id": "g", "may_register": 0})


async def test_a_long_file_of_checkpoints_is_verified_by_its_newest_lines(client, manager):
    await manager.register_device("a", "sensor")

    found = await client.verify_audit(["{}"] * 250)

    assert not found["ok"]
    assert found["why"].startswith("checkpoint 1: ")
