"""Who may come in: tokens, what is open to everybody, and what is written down of refusals."""

import asyncio

import httpx
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore.calls.fleet_table import core
from fleetcore.listening.limits import ListenerLimits
from fleetcore.testing.patience import PATIENCE_S


async def test_without_a_token_only_health_and_the_document_are_answered(nobody):
    async with asyncio.timeout(PATIENCE_S):
        while (await nobody.get("/readyz")).json()["waiting_for"]:  # its consumers open beside it
            await asyncio.sleep(0.01)
    for path in ("/healthz", "/readyz", "/api/v1/openapi.json"):
        assert (await nobody.get(path)).status_code == 200, path
    for path in ("/api/v1/devices", "/api/v1/nothing", "/", "/metrics"):
        answer = await nobody.get(path)

        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated"), path
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_document_is_openapi_31_and_names_the_routes(nobody):
    document = (await nobody.get("/api/v1/openapi.json")).json()

    assert document["openapi"].startswith("3.1")
    assert {"get", "post"} <= document["paths"]["/api/v1/devices"].keys()


async def test_a_token_that_ended_is_nobody(fleet, as_role, clock):
    client = await as_role("viewer", days=1)
    before = (await client.get("/devices")).status_code

    clock.jump(86_400_000)
    after = (await client.get("/devices")).status_code

    assert (before, after) == (200, 401)


async def test_a_revoked_token_is_nobody_from_the_next_request_on(fleet, as_role):
    client = await as_role("viewer")
    before = (await client.get("/devices")).status_code

    await fleet.operators.revoke_token((await fleet.operators.tokens())[0].id)

    assert (before, (await client.get("/devices")).status_code) == (200, 401)


async def test_many_refused_tokens_are_slowed_down_and_a_good_one_still_passes(nobody, admin):
    bad = {"Authorization": "Bearer fc_pat_0123456789abcdef_" + "x" * 43}

    answers = [await nobody.get("/api/v1/devices", headers=bad) for _ in range(21)]

    assert [one.status_code for one in answers] == [401] * 20 + [429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert (await admin.get("/devices")).status_code == 200


async def test_a_role_that_does_not_allow_is_refused_and_written_down(fleet, as_role):
    viewer = await as_role("viewer")

    answer = await viewer.post("/devices", json={"id": "dev1", "type": "x"})
    await fleet.denials.flush()
    events = [event for entry in await fleet.storage.feed(0) for event in entry.events]

    assert (answer.status_code, answer.json()["code"]) == (403, "not_authorised")
    assert any(one.type == "access.denied" and one.actor == "operator:p1" for one in events)


async def test_what_lies_outside_a_scope_does_not_exist(manager, as_role):
    await manager.register_device("mine", "x", {"tags": ["lab"]})
    await manager.register_device("theirs", "x")
    viewer = await as_role("viewer", scope="tags has 'lab'")

    foreign, unknown = await viewer.get("/devices/theirs"), await viewer.get("/devices/nobody")
    listed = (await viewer.get("/devices")).json()["items"]

    assert [one["id"] for one in listed] == ["mine"]
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.text.replace("theirs", "") == unknown.text.replace("nobody", "")


async def test_rights_of_two_grants_do_not_add_up(fleet, manager, as_role):
    await manager.register_device("a", "x", {"tags": ["one"]})
    await manager.register_device("b", "x", {"tags": ["two"]})
    client = await as_role("viewer", scope="tags has 'one'")
    await fleet.operators.grant("p1", "provisioner", scope="tags has 'two'")

    seen = await client.patch("/devices/a", json={"name": "A"})
    allowed = await client.patch("/devices/b", json={"name": "B"})

    assert (seen.status_code, allowed.status_code) == (403, 200)


async def test_a_denial_is_written_down_also_where_it_is_answered_as_if_nothing_were_there(fleet, manager, as_role):
    await manager.create_group("lab")
    await manager.register_device("out1", "sensor")
    scoped = await as_role("viewer", scope="group:lab")

    answers = [await scoped.get(path) for path in ("/devices/out1/twin", "/devices/nope", "/health")]

    await fleet.denials.flush()
    await fleet.wait_idle()
    denied = [(one.object, one.reason) for one in await fleet.audit.list() if one.action == "access.denied"]
    assert [one.status_code for one in answers] == [404, 404, 403]
    assert denied == [("out1", "not_authorised"), ("get_fleet_health", "not_authorised")]
    assert answers[2].json()["detail"] == "This needs devices:read for the whole fleet"


async def test_a_query_parameter_that_a_route_does_not_have_is_refused_with_the_one_that_was_meant(admin):
    typed = await admin.get("/devices", params={"wheer": "id = 'a'"})
    stray = await admin.post("/groups", params={"force": "1"}, json={"id": "x"})

    assert (typed.status_code, typed.json()["code"]) == (422, "schema_invalid")
    assert "Did you mean 'where'?" in typed.text
    assert stray.status_code == 422
    assert (await admin.get("/groups")).json()["items"] == []


async def test_a_principal_that_asks_too_often_is_slowed_down_by_all_of_its_tokens_and_no_other_is(fleet, clock):
    config = ApiConfig(listen="http://127.0.0.1:0", requests_per_minute=10)
    tokens = []
    for name in ("greedy", "greedy", "patient"):
        await fleet.operators.grant(name, "viewer")
        tokens.append((await fleet.operators.create_token(name)).token)
    async with (
        open_api(config, fleet._context("api"), fleet) as server,
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
    ):

        async def ask(token):
            return await client.get(f"{server.url}/api/v1/devices", headers={"Authorization": f"Bearer {token}"})

        answers = [await ask(tokens[number % 2]) for number in range(11)]
        other = await ask(tokens[2])
        await clock.advance(6.1)
        later = await ask(tokens[0])

    assert [one.status_code for one in answers] == [200] * 10 + [429]
    assert answers[-1].json()["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 6
    assert (other.status_code, later.status_code) == (200, 200)


async def test_a_principal_has_a_bounded_number_of_requests_under_way_and_no_other_waits(fleet):
    fleet.listening.limits = ListenerLimits(per_identity=2)
    tokens = {}
    for name in ("greedy", "patient"):
        await fleet.operators.grant(name, "viewer")
        tokens[name] = {"Authorization": f"Bearer {(await fleet.operators.create_token(name)).token}"}
    config = ApiConfig(listen="http://127.0.0.1:0")
    async with (
        open_api(config, fleet._context("api"), fleet) as server,
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
    ):
        url = f"{server.url}/api/v1"
        async with client.stream("GET", f"{url}/events", headers=tokens["greedy"]):
            async with client.stream("GET", f"{url}/events", headers=tokens["greedy"]):
                refused = await client.get(f"{url}/devices", headers=tokens["greedy"])
                other = await client.get(f"{url}/devices", headers=tokens["patient"])
            async with asyncio.timeout(PATIENCE_S):
                while (again := await client.get(f"{url}/devices", headers=tokens["greedy"])).status_code != 200:
                    await asyncio.sleep(0.01)

    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.json()["ids"] == {"limit": 2, "unit": "requests", "scope": "principal"}
    assert (other.status_code, again.status_code) == (200, 200)


def test_no_fixed_word_stands_where_a_callers_id_may_stand():
    paths = [call.path.split("/") for call in core() if call.path]

    beside = {
        "/".join(fixed)
        for fixed in paths
        for free in paths
        if len(fixed) >= len(free)
        for at, level in enumerate(free)
        if level.startswith("{") and fixed[:at] == free[:at] and not fixed[at].startswith("{")
    }
    assert beside == set()
