"""The live stream over a real WebSocket: what is told, to whom, after what, and how it ends."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from fleetcore_api.live import PATH, SUBPROTOCOL
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fleetcore.errors import NotFound
from fleetcore.model.operator import Role
from fleetcore.model.store import Commit, Event
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire.browser import TOKEN_PREFIX


class Reader:
    """An operator's end of a live stream."""

    def __init__(self, socket):
        self.socket = socket

    async def ask(self, **frame):
        await self.socket.send(json.dumps({"op": "subscribe", **frame}))

    async def read(self):
        async with asyncio.timeout(PATIENCE_S):
            return json.loads(await self.socket.recv())

    async def until(self, op, id=None):
        """The frames up to the first ``op``, without positions that are told between."""
        found = []
        while True:
            frame = await self.read()
            if frame["op"] == op and (id is None or frame.get("id") == id):
                return [*found, frame]
            if frame["op"] != "at":
                found.append(frame)

    async def state(self, device, id="s"):
        """The next state of a device."""
        while True:
            frame = await self.read()
            if frame["op"] == "state" and frame["id"] == id and frame["device"] == device:
                return frame["state"]


@pytest.fixture
def live(served):
    @asynccontextmanager
    async def opened(client=None, **options):
        url = served.url.replace("http://", "ws://") + PATH
        headers = {} if client is None else {"Authorization": client.headers["authorization"]}
        options = {"subprotocols": [SUBPROTOCOL], "additional_headers": headers, "proxy": None, **options}
        async with connect(url, **options) as socket:
            reader = Reader(socket)
            hello = await reader.read()
            assert hello["op"] == "hello"
            reader.hello = hello
            yield reader

    return opened


@pytest.fixture
async def trucks(manager):
    for number in range(3):
        await manager.register_device(f"t-{number}", "truck")
    await manager.register_device("s-0", "sensor")
    await manager.wait_idle()


async def test_state_begins_with_the_selected_devices_and_goes_on_with_their_changes(live, admin, manager, trucks):
    async with live(admin) as reader:
        await reader.ask(
            id="s", to="state", where="type = 'truck' and lifecycle != 'retired'", parts=["type", "tags", "latest"]
        )
        *listed, ready = await reader.until("ready")

        assert [(frame["device"], frame["state"]["type"]) for frame in listed] == [
            ("t-0", "truck"), ("t-1", "truck"), ("t-2", "truck"),
        ]  # fmt: skip
        assert ready["position"] >= reader.hello["position"]
        await manager.update_device("t-1", tags=["red"])
        assert (await reader.state("t-1"))["tags"] == ["red"]
        await manager.collect_telemetry("t-1", "temperature", 21.5)
        assert (await reader.state("t-1"))["latest"] == {"temperature": 21.5}
        await manager.register_device("t-9", "truck")
        assert (await reader.state("t-9"))["type"] == "truck"
        await manager.retire_device("t-1")
        assert (await reader.until("gone"))[-1]["device"] == "t-1"
        await manager.erase_device("t-2")
        assert (await reader.until("gone"))[-1]["device"] == "t-2"


async def test_a_session_that_opens_and_the_passing_of_time_change_the_connectivity(live, admin, fleet, clock, trucks):
    async with live(admin) as reader:
        await reader.ask(id="s", to="state", parts=["connectivity"])
        await reader.until("ready")
        fleet.presence.last["t-0"] = clock.now_ms()
        await clock.advance(31)
        assert await reader.state("t-0") == {"connectivity": "online"}
        fleet.presence.opened("t-1")
        assert await reader.state("t-1") == {"connectivity": "online"}
        await clock.advance(20 * 60)
        assert await reader.state("t-0") == {"connectivity": "late"}


async def test_events_come_commit_by_commit_and_go_on_after_a_position(live, admin, manager, fleet, trucks):
    async with live(admin) as reader:
        await reader.ask(id="e", to="events", types=["device."], where="type = 'truck'")
        await manager.update_device("s-0", tags=["not selected"])
        await manager.update_device("t-0", tags=["first"])
        (first,) = await reader.until("events")
        assert [(event["type"], event["subject"]) for event in first["events"]] == [("device.changed", "t-0")]
    await manager.update_device("t-1", tags=["second"])
    async with live(admin) as reader:
        await reader.ask(id="e", to="events", types=["device."], where="type = 'truck'", after=first["position"])
        (second,) = await reader.until("events")
        assert [event["subject"] for event in second["events"]] == ["t-1"]
        assert second["position"] > first["position"]
        assert second["position"] <= await fleet.storage.position()


async def test_readings_are_those_of_the_wanted_metrics(live, admin, manager, trucks):
    async with live(admin) as reader:
        await reader.ask(id="r", to="readings", where="type = 'truck'", metrics=["temperature", "door", "mode"])
        await reader.ask(id="mark", to="events", types=["device."])
        await manager.update_device("s-0", tags=["subscribed"])
        await reader.until("events")
        await manager.collect_telemetry("s-0", "temperature", 1)
        for metric, value in {"temperature": 21.5, "humidity": 40, "door": True, "mode": "eco"}.items():
            await manager.collect_telemetry("t-0", metric, value)
        found = []
        while len(found) < 3:
            found += (await reader.until("readings"))[-1]["readings"]

    assert {(each["device"], each["metric"], each["value"]) for each in found} == {
        ("t-0", "temperature", 21.5), ("t-0", "door", True), ("t-0", "mode", "eco"),
    }  # fmt: skip
    assert all(each["time"].endswith("Z") for each in found)


async def test_a_scope_shows_its_devices_only_and_as_long_as_it_has_them(live, as_role, manager, trucks):
    await manager.create_group("mine")
    await manager.add_to_group("mine", ["t-0"])
    await manager.add_to_group("mine", ["t-1"])
    viewer = await as_role(Role.VIEWER, scope="group:mine")
    async with live(viewer) as reader:
        await reader.ask(id="s", to="state", parts=["type"])
        await reader.ask(id="e", to="events", types=["device."])
        await reader.ask(id="r", to="readings")
        listed = [frame["device"] for frame in await reader.until("ready") if frame["op"] == "state"]
        assert listed == ["t-0", "t-1"]
        await manager.update_device("t-2", tags=["hidden"])
        await manager.collect_telemetry("t-2", "hidden", 1)
        await manager.update_device("t-1", tags=["shown"])
        events = (await reader.until("events"))[-1]["events"]
        assert [event["subject"] for event in events] == ["t-1"]
        await manager.remove_from_group("mine", "t-1")
        *before, gone = await reader.until("gone")
        assert gone["device"] == "t-1"
        assert not [frame for frame in before if "t-2" in json.dumps(frame)]


async def test_a_grant_that_goes_takes_its_devices_and_one_that_comes_brings_them(
    live, as_role, manager, fleet, trucks
):
    for group, device in (("a", "t-0"), ("b", "t-1")):
        await manager.create_group(group)
        await manager.add_to_group(group, [device])
    viewer = await as_role(Role.VIEWER, scope="group:a")
    async with live(viewer) as reader:
        await reader.ask(id="s", to="state", parts=["type"])
        assert [frame.get("device") for frame in await reader.until("ready")] == ["t-0", None]
        await fleet.operators.grant("p1", Role.VIEWER, scope="group:b")
        assert {frame.get("device") for frame in await reader.until("ready")} == {"t-0", "t-1", None}
        (grant,) = [each for each in await fleet.operators.grants("p1") if each.scope == "group:a"]
        await fleet.operators.withdraw(grant.id)
        frames = await reader.until("ready")
        assert [frame["device"] for frame in frames if frame["op"] == "gone"] == ["t-0"]


async def test_a_token_that_ends_ends_the_stream(live, as_role, fleet):
    viewer = await as_role(Role.VIEWER)
    async with live(viewer) as reader:
        (token,) = [each for each in await fleet.operators.tokens() if each.principal == "p1"]
        await fleet.operators.revoke_token(token.id)
        with pytest.raises(ConnectionClosed) as closed:
            await reader.until("never")

    assert closed.value.rcvd.code == 4401


@pytest.mark.parametrize(
    ("frame", "code", "pointer"),
    [
        ("[]", "schema_invalid", None),
        ("{", "payload_unreadable", None),
        ('{"op": "nothing", "id": "a"}', "schema_invalid", None),
        ('{"op": "subscribe", "id": "a"}', "schema_invalid", None),
        ('{"op": "subscribe", "id": "a", "to": "state", "colour": 1}', "schema_invalid", None),
        ('{"op": "subscribe", "id": "a", "to": "events", "parts": ["type"]}', "schema_invalid", "/parts"),
        ('{"op": "subscribe", "id": "a", "to": "state", "parts": ["secret"]}', "schema_invalid", "/parts/0"),
        ('{"op": "subscribe", "id": "a", "to": "state", "where": "type ="}', "query_syntax", None),
        (
            '{"op": "subscribe", "id": "a", "to": "state", "where": "connectivity = \'offline\'"}',
            "schema_invalid",
            "/where",
        ),
        ('{"op": "subscribe", "id": "a", "to": "state", "after": 1}', "schema_invalid", "/after"),
        ('{"op": "subscribe", "id": "a", "to": "events", "after": 999999}', "not_found", None),
        ('{"op": "unsubscribe", "id": "a"}', "not_found", None),
    ],
)
async def test_a_bad_frame_is_explained_and_the_stream_goes_on(live, admin, frame, code, pointer):
    async with live(admin) as reader:
        await reader.socket.send(frame)
        told = await reader.read()
        assert (told["op"], told["error"]["code"]) == ("error", code), told
        assert told["error"]["detail"]
        if pointer is not None:
            assert told["error"]["ids"]["pointer"] == pointer
        await reader.ask(id="s", to="state")
        await reader.until("ready")


async def test_one_id_is_one_subscription_and_there_are_so_many(live, admin):
    async with live(admin) as reader:
        for number in range(reader.hello["limits"]["subscriptions"]):
            await reader.ask(id=str(number), to="events")
        await reader.ask(id="0", to="events")
        assert (await reader.read())["error"]["code"] == "already_exists"
        await reader.ask(id="more", to="events")
        assert (await reader.read())["error"]["code"] == "limit_exceeded"
        await reader.socket.send(json.dumps({"op": "unsubscribe", "id": "0"}))
        await reader.ask(id="more", to="state")
        await reader.until("ready", "more")


@pytest.mark.parametrize(
    ("status", "code", "options"),
    [
        (401, "not_authenticated", {"additional_headers": {}}),
        (401, "not_authenticated", {"additional_headers": {"Authorization": "Bearer fc_pat_wrong"}}),
        (403, "not_authorised", {"origin": "https://evil.example"}),
        (400, "protocol_violation", {"subprotocols": None}),
    ],
)
async def test_a_handshake_that_is_refused_says_why(live, admin, status, code, options):
    with pytest.raises(InvalidStatus) as refused:
        async with live(admin, **options):
            pass

    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["code"] == code


async def test_a_token_as_a_subprotocol_opens_the_stream_and_a_wrong_one_is_told_by_the_close_code(live, admin, trucks):
    token = admin.headers["authorization"].removeprefix("Bearer ")
    async with live(subprotocols=[SUBPROTOCOL, TOKEN_PREFIX + token]) as reader:
        assert reader.socket.subprotocol == SUBPROTOCOL
        await reader.ask(id="s", to="state")
        assert len(await reader.until("ready")) == 5
    with pytest.raises(ConnectionClosed) as closed:
        async with live(subprotocols=[SUBPROTOCOL, TOKEN_PREFIX + "fc_pat_wrong"]):
            pass
    assert closed.value.rcvd.code == 4401


async def test_a_binary_message_closes_the_stream(live, admin):
    async with live(admin) as reader:
        await reader.socket.send(b"{}")
        with pytest.raises(ConnectionClosed) as closed:
            await reader.until("never")

    assert closed.value.rcvd.code == 1003


async def test_a_feed_that_is_not_kept_any_more_is_told_and_state_is_listed_anew(
    live, admin, manager, fleet, trucks, monkeypatch
):
    await manager.update_device("t-0", tags=["kept"])
    oldest = await fleet.storage.position()
    feed = fleet.storage.feed

    async def trimmed(after, limit=1000):
        if after < oldest - 1:
            raise NotFound("This position is not kept", oldest=oldest)
        return await feed(after, limit)

    monkeypatch.setattr(fleet.storage, "feed", trimmed)
    async with live(admin) as reader:
        await reader.ask(id="e", to="events", after=0)
        *_, reset = await reader.until("reset")
        assert reset["position"] == oldest - 1
        await manager.update_device("t-0", tags=["after it"])
        assert (await reader.until("events"))[-1]["position"] >= oldest
        await reader.ask(id="s", to="state", parts=["type"], after=0)
        assert len([frame for frame in await reader.until("ready") if frame["op"] == "state"]) == 4


async def test_an_api_that_ends_says_so(live, admin, served):
    async with live(admin) as reader:
        served.state.close()
        with pytest.raises(ConnectionClosed) as closed:
            await reader.until("never")

    assert closed.value.rcvd.code == 1012


async def test_a_stream_counts_as_a_connection_until_it_ends(live, admin, fleet):
    (share,) = fleet.listening.shares
    async with live(admin) as reader:
        await reader.ask(id="s", to="state")
        await reader.until("ready")
        assert share.open == 1
    async with asyncio.timeout(PATIENCE_S):
        while share.open:
            await asyncio.sleep(0.01)


async def test_events_of_undeclared_types_are_for_administrators(live, as_role, fleet, trucks):
    viewer, admin = await as_role(Role.VIEWER), await as_role(Role.ADMIN)
    async with live(viewer) as one, live(admin) as other:
        for reader in (one, other):
            await reader.ask(id="e", to="events", after=await fleet.storage.position())
        event = Event(type="x.gone.happened", subject="t-0", time=0, data={})
        await fleet.storage.commit(
            Commit(events=(event, Event(type="device.changed", subject="t-0", time=0, data={"members": []})))
        )
        seen = [[each["type"] for each in (await reader.until("events"))[-1]["events"]] for reader in (one, other)]

    assert seen == [["device.changed"], ["x.gone.happened", "device.changed"]]
