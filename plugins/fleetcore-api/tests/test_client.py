"""The clients against the real API: the same calls with the same answers as the library's."""

import asyncio
import inspect
import tempfile

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore import IoTFleetManager
from fleetcore.calls.types import Page, Response, to_builtins
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
from fleetcore.testing.signers import DAY_MS, IMAGE, Signers, digest

SIGNERS = Signers()
NOW_MS = SystemClock().now_ms()
MAKER = Authority.create("maker", SystemClock()).roots[0].public_bytes(Encoding.PEM).decode()

#: What stays in the server's own process.
LOCAL = {"open", "call_as", "backup", "check_storage", "lend_root_key", "take_root_offline"}


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


def test_the_blocking_client_has_the_calls_of_the_one_in_asyncio():
    assert {name for name in vars(FleetClient) if not name.startswith("_")} == {
        name for name in vars(AsyncFleetClient) if not name.startswith("_")
    }


async def firmware_story(say):
    signers, now = SIGNERS, NOW_MS
    times = {"created": now - 1000, "expires": now + DAY_MS}
    with tempfile.NamedTemporaryFile() as file:
        file.write(IMAGE)
        file.flush()
        await say("upload_artifact", file.name, sha256=digest(IMAGE))
    await say("set_trust", signers.trust(expires=now + DAY_MS))
    await say("get_trust")
    await say("list_trust")
    await say("add_release", signers.manifest(seq=7, **times))
    await say("get_release", "thermo:7")
    await say("list_releases", "thermo")
    await say("update_device", "b", model="T-1000")
    await say("update_firmware", "signed", "7.0.0", ["b"], "", from_release="thermo:7")


async def story(fleet):
    """Some of everything; gives what each call answered."""
    said = {}

    async def say(name, /, *args, **options):
        answer = await getattr(fleet, name)(*args, **options)
        plain = to_builtins(answer) if isinstance(answer, Response | Page) else answer
        said[f"{name} {len(said)}"] = plain.to_plain() if hasattr(plain, "to_plain") else plain
        return answer

    place = {"lat": 1.5, "lon": 2.5}
    await say("register_device", "a", "sensor", {"tags": ["x"], "floor": 3, "location": place}, reason="new")
    await say("register_device", "b", "sensor", {"model": "m", "attributes": {"n": 1}})
    await say("provision_device", "a", {"interval": 60})
    await say("update_device", "b", name="bee", tags=["y"])
    await say("update_device", "b", location=place)
    operation = await say("import_devices", [{"id": "c", "type": "pump"}, {"id": "a", "type": "other"}])
    await say("run_operation", operation["id"])
    await say("import_devices", [{"id": "!"}], dry_run=True)
    await say("export_devices")
    await say("list_operations")
    await say("create_group", "site")
    await say("create_group", "cold", query="type = 'sensor'", within=["site"], description="d")
    await say("update_group", "cold", description="e")
    await say("create_group", "by hand/1")
    await say("add_to_group", "by hand/1", ["c"])
    await say("get_group", "site")
    await say("list_groups")
    await say("list_group_members", "site")
    await say("list_device_groups", "a")
    await say("remove_from_group", "by hand/1", "c")
    await say("remove_group", "by hand/1")
    await say("set_layer", "all", {"led": True})
    await say("settle")
    await say("set_layer", "cold ones", {"led": False}, kind="group", group="cold", priority=2)
    await say("settle")
    await say("set_desired", "a", {"deep": {"er": 1}}, reason="why not")
    await say("settle")
    await say("get_twin", "a")
    await say("list_twin_history", "a")
    await say("list_layers")
    await say("remove_layer", "cold ones")
    for value in (20.0, 20.5, 21.0):
        await say("collect_telemetry", "a", "temp", value, "celsius", time=1_700_000_000_000 + int(value * 1000))
    await say("collect_telemetry", "a", "door", value=True, id="m1")
    await say("collect_telemetry", "a", "mode", "idle", time=1_700_000_000_000)
    await say("query_telemetry", "a", "mode")
    await say("query_telemetry", "a", "temp")
    await say("query_telemetry", "a", "temp", start=1_700_000_020_400, end="2023-11-14T22:13:41Z")
    await say("latest_telemetry", "a")
    await say("aggregate_telemetry", "a", "temp", 3600)
    await say("list_series")
    await say("telemetry_tally")
    await say("list_anomalies")
    command = await say("send_command", "a", "blink", {"n": 2}, lane="l", deliver_within_s=60)
    await say("get_command", command["id"])
    await say("cancel_command", command["id"], reason="no")
    plan = await say("plan_commands", "blink", where="group = 'cold'")
    bulk = await say("send_commands", "blink", where="group = 'cold'", plan=plan["plan"], rate_per_s=100)
    await say("run_operation", bulk["id"])
    await say("count_commands", bulk["id"])
    await say("list_device_commands", "a")
    artifact = await say("add_artifact", "firmware")
    sizes = {"sha256": artifact["sha256"], "size": artifact["size_bytes"]}
    await say("update_firmware", "fw", "2.0.0", ["b"], "https://updates.example.com/2", **sizes)
    await say("get_campaign", "fw")
    await firmware_story(say)
    await say("register_gateway", "gw", {"cpu": 2})
    await say("attach_leaf", "gw", "c")
    await say("get_location", "a")
    await say("list_devices")
    await say("list_devices", type="sensor", tag="x")
    await say("list_devices", where="group = 'cold' and attributes.n = 1", limit=1)
    await say("count_devices")
    await say("count_devices", "type = 'sensor'")
    await say("explain_query", "a", "tags has 'y'")
    await say("list_device_history", "a")
    await say("set_lifecycle", "b", "suspended", reason="odd")
    await say("create_enrollment_token", "a")
    token = (await say("list_enrollment_tokens"))[0]
    await say("revoke_enrollment_token", token["id"])
    claim = await say("create_claim", "batch", 3, models=["m"], serials=["1"], reason="spring")
    await say("list_claims")
    await say("disable_claim", "batch")
    await say("propose_manufacturer", "maker", MAKER)
    await say("list_manufacturers")
    await say("disable_manufacturer", "maker")
    await say("list_enrollments", "pending")
    await say("issue_device_token", "a")
    await say("revoke_device", "a")
    await say("list_cas")
    await say("check_certificate", claim["certificate"])
    await say("check_certificate", "none")
    await say("ca_rotation")
    await say("rotate_ca", "begin", reason="old")
    await say("settle")
    await say("rotate_ca", "back", force=True)
    await say("settle")
    await say("renew_issuing_ca")
    await say("forecast_certificates", per="month", periods=2, by="type", where="exists id", next=3)
    await say("plan_renewals", outdated=True)
    renewal = await say("renew_certificates", where="exists id", waves=["50%"], rate_per_s=5, timeout_s=60)
    await say("run_operation", renewal["id"])
    await say("get_crl")
    await say("settle")
    await say("list_certificates")
    made = await say("create_token", "eve", ["viewer"], days=3)
    await say("revoke_token", made["id"])
    await say("list_tokens")
    given = await say("grant_role", "bob", "operator", scope="group:site", reason="his place")
    await say("list_roles", "bob")
    await say("list_roles", "nobody")
    await say("revoke_role", given["id"])
    await say("register_device", "gone", "sensor")
    await say("erase_device", "gone", reason="sold")
    await say("get_fleet_health")
    await say("get_group_health", "cold")
    await say("get_device_health", "a")
    await say("why_device", "a")
    await say("list_audit", object="a", limit=3)
    await say("verify_audit")
    await say("list_dead_letters")
    return said


#: What differs by nature: who asked, and what is new each time.
VARYING = {
    "actor", "added", "bulk", "by", "created_by", "issued_by", "token", "id", "operation", "hash", "prev", "data_hash", "position", "plan",
    "seq", "rows", "checkpoints", "created", "updated", "time", "since", "version", "sent", "grant", "stored", "supersedes", "why",
    "pem", "fingerprint", "sha256", "due", "crl", "start", "until", "own", "issuer", "nonce", "certificate", "key", "ca", "not_before", "last_used", "deliver_by", "issued_at", "result_by", "expires_at", "finished_at", "not_after", "origins", "unconverged", "changed", "expires", "campaign", "times", "last_seen",
}  # fmt: skip


def differences(at, ours, theirs):
    """Where two answers differ in a member that both have."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in (ours.keys() & theirs.keys()) - VARYING:
            yield from differences(f"{at}.{key}", ours[key], theirs[key])
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        for place, (one, two) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(f"{at}[{place}]", one, two)
    elif ours != theirs:
        yield f"{at}: {ours!r:.200} is not {theirs!r:.200}"


async def test_a_story_is_answered_by_the_client_as_by_the_library(client):
    async with IoTFleetManager() as library:
        theirs = await story(library)
    ours = await story(client)

    secret = (
        "create_enrollment_token",
        "issue_device_token",
        "list_tokens",
        "telemetry_tally",
        "list_audit",
        "list_device_history",
    )
    wrong = [
        text
        for name, answer in ours.items()
        if name.split()[0] not in secret
        for text in differences(name, answer, theirs[name])
    ]
    assert not wrong, "\n".join(wrong)
    twin = next(value for name, value in ours.items() if name.startswith("get_twin"))
    assert twin["desired"] == {"interval": 60, "led": False, "deep": {"er": 1}}
    assert twin["origins"]["/led"]["layer"] == "cold ones"


async def test_members_of_answers_are_those_of_the_library(client):
    async with IoTFleetManager() as library:
        theirs = await story(library)
    ours = await story(client)

    inner = {"version", "session", "position", "times", "index", "spec", "rate_per_s", "data_hash", "prev", "hash"}
    missing = {}
    for name, answer in theirs.items():
        one, two = (answer[0], ours[name][:1]) if isinstance(answer, list) and answer else (answer, [ours[name]])
        if isinstance(one, dict) and two and isinstance(two[0], dict) and name.split()[0] != "import_devices":
            left = one.keys() - two[0].keys() - inner
            if left:
                missing[name] = left
    assert missing == {}


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


async def test_pages_are_put_together_and_a_limit_cuts_them(client, manager, monkeypatch):
    for number in range(7):
        await manager.register_device(f"d{number}", "x")
    monkeypatch.setattr("fleetcore.client.aio.wire.PAGE", 3)

    everything = await client._all("/devices", page=3)
    some = await client._all("/devices", 5, page=3)

    assert [one["id"] for one in everything] == [f"d{n}" for n in range(7)]
    assert [one["id"] for one in some] == [f"d{n}" for n in range(5)]


async def test_events_are_watched_from_a_position_on(client, manager):
    await manager.register_device("a", "x")
    await manager.register_device("b", "x")
    seen = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in client.watch(after=0):
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
            for event in client.watch(after=0):
                if event["type"] == "device.registered":
                    break
            return client.list_devices(tag="x")[0]["id"], series.value.tolist(), event["subject"]

    assert await asyncio.to_thread(work) == ("a", [1.5], "a")


async def test_a_series_of_more_points_than_a_page_comes_whole(client, manager, monkeypatch):
    monkeypatch.setattr("fleetcore.client.wire.POINTS", 4)
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
        await client._post("/gateways", {"id": "g", "may_register": 0})


async def test_a_long_file_of_checkpoints_is_verified_by_its_newest_lines(client, manager):
    await manager.register_device("a", "sensor")

    found = await client.verify_audit(["{}"] * 250)

    assert not found["ok"]
    assert found["why"].startswith("checkpoint 1: ")
