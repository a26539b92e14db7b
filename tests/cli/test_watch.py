"""What is followed goes on after the server was away: nothing is missed, and nothing comes twice."""

import asyncio
import contextlib
import json

import pytest

from fleetcore import IoTFleetManager
from fleetcore.cli import source, watching
from fleetcore.cli.operation import conclude
from fleetcore.errors import NotFound, Unavailable
from fleetcore.frontends.control_client import ControlClient
from fleetcore.runtime import lease


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(source, "_AGAIN_S", 0.01)
    monkeypatch.setattr(watching, "LOOK_S", 0.01)


def register(data, device):
    return ControlClient(data).run("create_device", {"id": device, "type": "pump"})


async def test_events_go_on_where_they_were_after_the_server_was_away(filled, served):
    async with asyncio.timeout(60):
        with served(filled):
            await register(filled, "a-1")
            following = source.followed(filled, "watch_events", {"after": 0, "type": ["device.registered"]})
            found = [await anext(following) for _ in range(3)]
        waiting = asyncio.create_task(anext(following))
        with served(filled):
            await register(filled, "a-2")
            found += [await waiting]
        await following.aclose()

    assert [event["subject"] for event in found] == ["th-1", "th-2", "a-1", "a-2"]


@pytest.mark.parametrize("given", [{"after": 0}, {}])
async def test_a_watch_leaves_the_folder_to_the_server_that_comes_back(filled, served, given):
    """With a server away, the folder stays free for it; also if nothing had happened yet."""
    async with asyncio.timeout(60):
        with served(filled):
            following = source.followed(filled, "watch_events", given)
            waiting = asyncio.create_task(anext(following))
            if given:
                await waiting
                waiting = asyncio.create_task(_last(following))
            await asyncio.sleep(0.5)  # for the connection: nothing tells that it stands
        for _ in range(20):
            await asyncio.sleep(0.02)
            assert lease.holder(filled) is None
        with served(filled):
            await asyncio.sleep(0.5)
            await register(filled, "a-1")
            assert (await waiting)["subject"] == "a-1"
        await following.aclose()


async def test_a_quiet_watch_misses_nothing_that_is_committed_before_it_is_connected_again(filled, served, monkeypatch):
    marked, stream = asyncio.Event(), ControlClient.stream

    async def watched(client, name, given):
        async for item in stream(client, name, given):
            marked.set()
            yield item

    monkeypatch.setattr(ControlClient, "stream", watched)
    async with asyncio.timeout(60):
        with served(filled):
            await register(filled, "a-0")
            following = source.followed(filled, "watch_events", {"type": ["device.registered"]})
            waiting = asyncio.create_task(anext(following))
            await marked.wait()
        monkeypatch.setattr(source, "_AGAIN_S", 2.0)
        await asyncio.sleep(0.1)  # it has noticed, and waits
        with served(filled):
            await register(filled, "a-1")
            assert (await waiting)["subject"] == "a-1"
        await following.aclose()


async def _last(following):
    async for item in following:
        if item["subject"] == "a-1":
            return item
    return None


async def test_what_came_of_an_unfinished_commit_does_not_come_again(monkeypatch):
    """The connection breaks within a commit of three events, twice."""
    asked, whole = [], [{"n": 1, "position": 1}, {"n": 2, "position": None}, {"n": 3, "position": None}]
    whole.append({"n": 4, "position": 2})

    class Breaking:
        async def stream(self, name, given):
            asked.append(given)
            after = given.get("after", 0)
            for item in whole[1:] if after else whole:
                if item["n"] == len(asked) + 2 and len(asked) < 3:
                    raise Unavailable("gone")
                yield item

    @contextlib.asynccontextmanager
    async def connect(at, *, opens):
        yield Breaking()

    monkeypatch.setattr(source, "connect", connect)

    assert [item["n"] async for item in source.followed("at", "watch_events", {})] == [1, 2, 3, 4]
    assert [given.get("after") for given in asked] == [None, 1, 1]


async def test_the_first_failure_is_raised(filled):
    with pytest.raises(NotFound):
        await anext(source.followed(filled, "watch_events", {"after": 10**9}))


async def test_a_query_limits_events_to_devices_that_it_selects_when_they_are_sent():
    async with IoTFleetManager() as manager:
        following = manager.watch_events(after=0, type=["device."], where="tags has 'roof'")
        await manager.register_device("a", "pump", {"tags": ["roof"]})
        found = [await anext(following)]
        await manager.register_device("b", "pump")
        await manager.register_device("c", "pump", {"tags": ["roof"]})
        found.append(await anext(following))
        await manager.update_device("c", tags=[])
        await manager.update_device("b", tags=["roof"])
        found.append(await anext(following))
        await following.aclose()

    assert [(event.type, event.subject) for event in found] == [
        ("device.registered", "a"), ("device.registered", "c"), ("device.changed", "b"),
    ]  # fmt: skip


def test_an_operation_is_watched_to_its_end(filled, run):
    rows = filled / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": f"p-{at}", "type": "pump"}) + "\n" for at in range(3)))
    done = run("device", "import", rows, "--data", filled, "-o", "json")
    operation = json.loads(done.out)["operations"][0]

    watched = run("operation", "watch", operation[:8], "--data", filled)
    lines = run("operation", "watch", operation, "--data", filled, "-o", "jsonl")

    assert watched.out.splitlines()[0] == "succeeded: 3 of 3"
    assert (watched.code, lines.code) == (0, 0)
    assert [json.loads(line)["done"] for line in lines.out.splitlines()] == [3]
    assert run("operation", "watch", "nothing", "--data", filled).code == 3


def test_a_terminal_shows_a_bar_and_events_in_colour(terminal, filled, served):
    with served(filled):
        watch = terminal(80, 10, "event", "watch", "--after", "0", "--limit", "2", "--data", filled)

        assert watch.ended() == 0
        assert "device.registered" in watch.screen
        assert watch.colours or "\x1b[2m" in watch.said.decode()


def test_an_operation_that_was_cut_short_is_not_done(capsys):
    whole = {"done": 5, "total": 5, "failed": 0, "failures": []}

    assert conclude(whole, "table") == 0
    assert conclude({**whole, "done": 3}, "table") == 7

    assert capsys.readouterr().out.splitlines() == ["5 of 5 done, 0 failed", "3 of 5 done, 0 failed, 2 not tried"]


async def test_a_watch_says_once_that_the_server_is_away(filled, served, caplog):
    looks = watching._looks(filled, "get_device", {"device_id": "th-1"})
    async with asyncio.timeout(60), contextlib.aclosing(looks):
        with served(filled):
            await anext(looks)
        waiting = asyncio.create_task(anext(looks))
        while not caplog.messages:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        with served(filled):
            await waiting

    assert [text for text in caplog.messages if "tried again" in text] == ["The server has ended. It is tried again"]
