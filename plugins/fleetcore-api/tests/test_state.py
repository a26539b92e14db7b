"""Groups, twins, commands, operations and queries over the operators' API."""

import asyncio

import pytest

from fleetcore.model.store import Commit, Delete
from fleetcore.wire import messages


@pytest.fixture(autouse=True)
async def devices(manager):
    for name, tags in (("a", ["lab"]), ("b", ["lab"]), ("c", [])):
        await manager.register_device(name, "sensor", {"tags": tags, "attributes": {"floor": 1}})


async def test_a_group_named_with_a_slash_is_made_filled_and_removed(admin):
    made = await admin.post("/groups", json={"id": "site/hall 1"})
    path = "/groups/site%2Fhall%201"

    added = await admin.post(f"{path}/members", json={"devices": ["a", "c"], "reason": "moved"})
    members = (await admin.get(f"{path}/members")).json()["items"]
    out = await admin.delete(f"{path}/members/a")
    left = (await admin.get(path)).json()["devices"]
    gone = await admin.delete(path)

    assert (made.status_code, added.json(), out.json(), left, gone.status_code) == (
        201,
        {"changed": 2},
        {"changed": 1},
        1,
        204,
    )
    assert [(one["device"], one["why"]) for one in members] == [("a", "moved"), ("c", "moved")]
    assert (await admin.get(path)).status_code == 404


async def test_a_dynamic_group_follows_its_query_and_its_version(admin):
    await admin.post("/groups", json={"id": "lab", "query": "tags has 'lab'"})

    changed = await admin.patch("/groups/lab", json={"query": "id = 'c'"}, headers={"If-Match": '"1"'})
    again = await admin.patch("/groups/lab", json={"query": "id = 'a'"}, headers={"If-Match": '"1"'})

    assert changed.json()["devices"] == 1
    assert (again.status_code, again.json()["code"]) == (412, "version_conflict")


async def test_a_read_that_names_the_position_of_a_write_sees_what_follows_from_it(admin):
    await admin.post("/groups", json={"id": "lab", "query": "tags has 'lab'"})

    for number in range(5):
        tags = ["lab"] if number % 2 == 0 else []
        written = await admin.patch("/devices/c", json={"tags": tags})
        position = written.headers["fleetcore-position"]
        read = await admin.get("/groups/lab", headers={"Fleetcore-Position": position})

        assert read.json()["devices"] == 2 + len(tags)


async def test_a_position_of_another_time_is_refused(admin):
    for position in ("99999999", "x", "-1", "9" * 40):
        answer = await admin.get("/devices", headers={"Fleetcore-Position": position})

        assert (answer.status_code, answer.json()["code"]) == (422, "schema_invalid"), position


async def test_a_twin_changes_only_with_the_version_that_was_read(admin):
    path = "/devices/a/twin"
    first = await admin.get(path)

    without = await admin.patch(f"{path}/desired", json={"rate": 5})
    changed = await admin.patch(f"{path}/desired", json={"rate": 5}, headers={"If-Match": first.headers["etag"]})
    late = await admin.patch(f"{path}/desired", json={"rate": 6}, headers={"If-Match": first.headers["etag"]})

    assert (without.status_code, without.json()["code"]) == (428, "precondition_required")
    assert changed.json()["desired"] == {"rate": 5}
    assert (late.status_code, late.json()["code"]) == (412, "version_conflict")


async def test_of_many_changes_of_one_version_one_wins(admin):
    tag = (await admin.get("/devices/a/twin")).headers["etag"]

    answers = await asyncio.gather(
        *(admin.patch("/devices/a/twin/desired", json={"n": number}, headers={"If-Match": tag}) for number in range(20))
    )

    assert sorted(one.status_code for one in answers) == [200] + [412] * 19


async def test_attributes_are_merged_and_can_be_removed(admin):
    tag = (await admin.get("/devices/a/twin")).headers["etag"]

    answer = await admin.patch("/devices/a/twin/attributes", json={"floor": None, "room": 7}, headers={"If-Match": tag})

    assert answer.json()["attributes"] == {"room": 7}


async def test_a_twin_beyond_its_limits_is_refused_with_the_limit(admin):
    deep = {"a": 1}
    for _ in range(10):
        deep = {"a": deep}
    for patch in (deep, {"a": "x" * 70_000}, {"$set": 1}, {"n": 2**60}):
        answer = await admin.patch("/devices/a/twin/desired", json=patch, headers={"If-Match": "*"})

        assert answer.status_code in (413, 422), answer.text
        assert answer.json()["code"] in ("limit_exceeded", "schema_invalid")


async def test_a_twin_can_be_looked_back_at(admin, clock):
    for rate in (1, 2):
        await admin.patch("/devices/a/twin/desired", json={"rate": rate}, headers={"If-Match": "*"})
        clock.jump(1000)

    past = await admin.get("/devices/a/twin/past", params={"at": clock.now_ms() - 1500})
    history = await admin.get("/devices/a/twin/history")

    assert past.json() == {"rate": 1}
    assert len(history.json()["items"]) == 2


async def test_a_command_is_queued_read_and_cancelled(admin):
    sent = await admin.post("/devices/a/commands", json={"name": "reboot", "args": {"delay": 3}})
    path = sent.headers["location"].removeprefix("/api/v1")

    listed = (await admin.get("/devices/a/commands")).json()["items"]
    ended = [await admin.post(f"{path}/cancel", json={"reason": "no need"}) for _ in range(2)]

    assert [one["name"] for one in listed] == ["reboot"]
    assert [one.json()["state"] for one in ended] == ["cancelled", "cancelled"]


async def test_who_waits_for_a_command_gets_its_end(admin, fleet):
    async def device():
        while not (queued := await fleet.commands.list("a")):
            await fleet.storage.wait_feed(await fleet.storage.position(), 1)
        await fleet.commands.result("a", queued[0].id, messages.CommandResult(status="succeeded", output=42))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(device())
        answer = await admin.post("/devices/a/commands", json={"name": "measure", "wait_s": 30})

    assert (answer.json()["state"], answer.json()["output"]) == ("succeeded", 42)


async def test_a_bulk_command_goes_to_whom_its_plan_said(admin, fleet):
    body = {"name": "reboot", "where": "tags has 'lab'"}

    unplanned = await admin.post("/commands", json=body)
    plan = (await admin.post("/commands", params={"dry_run": True}, json=body)).json()
    started = await admin.post("/commands", json={**body, "plan": plan["plan"]})
    path = started.headers["location"].removeprefix("/api/v1")
    await fleet.operations.run(started.json()["id"])
    ended = (await admin.get(path)).json()

    assert (unplanned.status_code, unplanned.json()["code"]) == (428, "precondition_required")
    assert (plan["count"], plan["sample"]) == (2, ["a", "b"])
    assert started.status_code == 202
    assert (ended["state"], ended["done"], ended["result"]) == ("succeeded", 2, {"queued": 2})


async def test_a_plan_that_is_no_longer_true_reaches_nobody(admin):
    body = {"name": "reboot", "where": "tags has 'lab'"}
    plan = (await admin.post("/commands", params={"dry_run": True}, json=body)).json()["plan"]

    await admin.patch("/devices/c", json={"tags": ["lab"]})
    answer = await admin.post("/commands", json={**body, "plan": plan})

    assert (answer.status_code, answer.json()["code"]) == (409, "plan_changed")
    assert (await admin.get("/commands")).json()["items"] == []


async def test_a_bulk_command_reaches_only_where_its_sender_may_command(as_role):
    client = await as_role("operator", scope="id = 'b'")

    plan = await client.post("/commands", params={"dry_run": True}, json={"name": "x", "where": "tags has 'lab'"})
    foreign = await client.post("/commands", params={"dry_run": True}, json={"name": "x", "devices": ["a"]})

    assert plan.json()["sample"] == ["b"]
    assert foreign.status_code == 404


async def test_cancelling_asks_before_it_changes_anything(admin, as_role, fleet):
    sent = (await admin.post("/devices/a/commands", json={"name": "reboot"})).json()["id"]
    foreign, viewer = await as_role("operator", scope="id = 'b'"), await as_role("viewer")

    answers = [await client.post(f"/commands/{sent}/cancel", json={}) for client in (foreign, viewer)]

    assert [answer.status_code for answer in answers] == [404, 403]
    assert (await fleet.commands.get(sent)).state == "queued"


async def test_commands_to_a_foreign_device_are_refused_before_any_is_sent(admin, as_role, fleet):
    body = {"name": "x", "devices": ["a", "b"]}
    plan = (await admin.post("/commands", params={"dry_run": True}, json=body)).json()["plan"]
    foreign = await as_role("operator", scope="id = 'b'")

    answer = await foreign.post("/commands", json={**body, "plan": plan})

    assert answer.status_code == 404
    assert await fleet.operations.list() == []


async def test_only_ones_own_operation_is_counted(admin, as_role):
    body = {"name": "x", "devices": ["a", "b"]}
    plan = (await admin.post("/commands", params={"dry_run": True}, json=body)).json()["plan"]
    started = (await admin.post("/commands", json={**body, "plan": plan})).json()["id"]
    foreign = await as_role("operator", scope="id = 'b'")

    assert (await foreign.get(f"/operations/{started}/commands")).status_code == 404
    assert (await admin.get(f"/operations/{started}/commands")).json() == {"operation": started, "counts": {}}


async def test_what_belongs_to_a_foreign_device_does_not_exist(admin, as_role):
    sent = await admin.post("/devices/a/commands", json={"name": "reboot"})
    client = await as_role("operator", scope="id = 'b'")

    foreign = await client.get(f"/commands/{sent.json()['id']}")
    unknown = await client.get("/commands/0000")

    assert (foreign.status_code, unknown.status_code) == (404, 404)
    assert foreign.json()["title"] == unknown.json()["title"]
    assert (await client.get("/commands")).json()["items"] == []


async def test_a_query_is_explained(admin):
    answer = (await admin.post("/devices/a/explain", json={"where": "tags has 'lab' and type = 'x'"})).json()

    assert answer["selected"] is False
    assert any("type = 'x'" in line for line in answer["why"])


async def test_a_scope_narrows_a_query_and_never_widens_it(as_role):
    client = await as_role("viewer", scope="id = 'b' or id = 'c'")

    asked = {"where": "id = 'a' or tags has 'lab'"}
    answer = await client.post("/queries", json=asked)
    counted = await client.post("/queries", params={"count": True}, json=asked)

    assert [device["id"] for device in answer.json()["items"]] == ["b"]
    assert counted.json() == {"count": 1}


async def test_the_history_of_a_device_says_who_changed_it_and_why(admin):
    written = await admin.patch("/devices/a", json={"name": "A", "reason": "label was wrong"})

    position = written.headers["fleetcore-position"]
    rows = (await admin.get("/devices/a/history", headers={"Fleetcore-Position": position})).json()["items"]

    last = rows[-1]
    assert (last["actor"], last["reason"], last["changed"]) == ("operator:p1", "label was wrong", ["name"])


async def test_a_key_repeats_the_first_answer_and_does_it_once(admin, fleet):
    headers = {"Idempotency-Key": "k-1"}

    answers = await asyncio.gather(
        *(admin.post("/devices/a/commands", json={"name": "reboot"}, headers=headers) for _ in range(5))
    )
    other = await admin.post("/devices/a/commands", json={"name": "other"}, headers=headers)

    assert {one.status_code for one in answers} == {201}
    assert len({one.json()["id"] for one in answers}) == 1
    assert sum("idempotency-replayed" in one.headers for one in answers) == 4
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert len(await fleet.commands.list("a")) == 1


async def test_a_key_is_free_again_after_a_day_and_belongs_to_its_sender(admin, as_role, clock):
    body, headers = {"name": "reboot"}, {"Idempotency-Key": "k-1"}
    first = (await admin.post("/devices/a/commands", json=body, headers=headers)).json()["id"]
    other = await as_role("operator")

    theirs = (await other.post("/devices/a/commands", json=body, headers=headers)).json()["id"]
    clock.jump(24 * 3600 * 1000)
    later = (await admin.post("/devices/a/commands", json=body, headers=headers)).json()["id"]

    assert len({first, theirs, later}) == 3


async def test_an_import_says_of_each_row_what_became_of_it(admin, fleet):
    rows = [{"id": "n1", "type": "sensor"}, {"id": "../x"}, {"id": "a", "type": "other"}]

    checked = await admin.post("/imports", params={"dry_run": True}, json={"rows": rows})
    started = await admin.post("/imports", json={"rows": rows})
    await fleet.operations.run(started.json()["id"])
    ended = (await admin.get(started.headers["location"].removeprefix("/api/v1"))).json()

    assert checked.json()["failures"] == ended["failures"]
    assert (checked.json()["reasons"], checked.json()["result"]) == (ended["reasons"], ended["result"])
    assert (started.status_code, ended["state"], ended["done"]) == (202, "partly", 3)
    assert [(one["item"], one["code"]) for one in ended["failures"]] == [(2, "name_invalid"), (3, "already_exists")]
    assert (await admin.get("/devices/n1")).status_code == 200


async def test_attributes_without_a_version_are_all_merged(admin):
    answers = await asyncio.gather(
        *(
            admin.patch("/devices/a/twin/attributes", json={f"k{number}": 1}, headers={"If-Match": "*"})
            for number in range(8)
        )
    )

    assert {one.status_code for one in answers} == {200}
    assert len((await admin.get("/devices/a")).json()["attributes"]) == 9


async def test_a_command_keeps_its_key_though_a_crash_took_the_answer(fleet, admin):
    sent = {"json": {"name": "blink", "args": {"n": 1}}, "headers": {"Idempotency-Key": "monday"}}
    first = await admin.post("/devices/a/commands", **sent)
    kept = (await fleet.storage.find("api_answer")).items
    await fleet.storage.commit(Commit(deletes=tuple(Delete(kind="api_answer", key=one.key) for one in kept)))

    again = await admin.post("/devices/a/commands", **sent)
    other = await admin.post("/devices/a/commands", json={"name": "blink"}, headers=sent["headers"])

    assert kept
    assert again.json()["id"] == first.json()["id"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert len(await fleet.commands.list("a")) == 1


async def test_a_bulk_command_keeps_its_key_though_a_crash_took_the_answer(manager, fleet, admin):
    for name in ("p1", "p2"):
        await manager.register_device(name, "pump")
    body = {"name": "blink", "where": "type = 'pump'"}
    plan = (await admin.post("/commands", json=body, params={"dry_run": True})).json()["plan"]
    key = {"Idempotency-Key": "k1"}
    first = await admin.post("/commands", json={**body, "plan": plan}, headers=key)
    for record in (await fleet.storage.find("api_answer")).items:
        await fleet.storage.commit(Commit(deletes=(Delete(kind="api_answer", key=record.key),)))

    again = await admin.post("/commands", json={**body, "plan": plan}, headers=key)

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    await fleet.operations.run(first.json()["id"])
    assert [len(await fleet.commands.list(name)) for name in ("p1", "p2")] == [1, 1]
