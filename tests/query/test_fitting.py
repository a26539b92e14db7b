"""Constants that a field cannot have. Guards against queries that are accepted and never select anything."""

import pytest

from fleetcore import IoTFleetManager
from fleetcore.query.fitting import parse_new
from fleetcore.query.parse import QuerySyntaxError, parse

#: A query, and what its error suggests.
UNFIT = {
    "last_seen > '2026-01-01'": "last_seen > t'2026-01-01T00:00:00Z'",
    "created <= '2026-01-01T10:00:00+01:00'": "created <= t'2026-01-01T10:00:00+01:00'",
    "last_seen > 5 min": "now - 5 min",
    "updated > 1764251700000": "now - 5 min",
    "last_seen = true": "t'2026-01-01T00:00:00Z'",
    "last_seen in ('2026-01-01')": "t'2026-01-01T00:00:00Z'",
    "created between '2026-01-01' and '2026-02-01'": "t'2026-01-01T00:00:00Z'",
    "tags = 5": "tags has 'lab'",
    "tags = 'roof'": "tags has 'roof'",
    "tags in ('a', 'b')": "tags has 'a'",
    "tags has 5": "tags has '5'",
    "capabilities has true": "capabilities has 'true'",
    "tags like 'a*'": "tags has 'a*'",
    "groups has 5": "groups has '5'",
    "type = 5": "type = '5'",
    "id > 5": "id > '5'",
    "name = true": "name = 'true'",
    "model = v'1.2.3'": "model = '1.2.3'",
    "gateway != 7": "gateway != '7'",
    "type has 'a'": "type = '…'",
    "last_seen has 'a'": "last_seen with < or >",
    "last_seen like '2026*'": "last_seen with < or >",
    "lifecycle = 'actve'": "Did you mean 'active'?",
    "lifecycle = 'Active'": "Did you mean 'active'?",
    "connectivity in ('online', 'xyz')": "It is one of",
    "location = 'x'": "within circle(",
    "tags within circle(1, 2, 3 km)": "within circle(",
    "not (type = 'a' and (last_seen > 5 or id = 'x'))": "now - 5 min",
}
FIT = (
    "last_seen > now - 5 min", "last_seen > t'2026-01-01T00:00:00Z'", "tags has 'lab'", "tags has any ('a', 'b')",
    "group = 'lab'", "group in ('lab', 'roof')", "lifecycle = 'active'", "lifecycle like 'a*'", "type like 'therm*'",
    "firmware.version >= v'1.2.3'", "firmware.version = '1.2.3'", "attributes.floor = 3", "attributes.x > '2026-01-01'",
    "reported.power.level < 5", "latest.temperature > 20", "latest.state = 'on'", "location within circle(1, 2, 3 km)",
    "exists last_seen", "not exists model", "id between 'a' and 'c'", "location.lat > 5", "desired.x has 5",
)  # fmt: skip


@pytest.mark.parametrize(("text", "hint"), UNFIT.items(), ids=list(UNFIT))
def test_a_constant_that_a_field_cannot_have_is_refused_with_how_it_is_written(text, hint):
    with pytest.raises(QuerySyntaxError) as refused:
        parse_new(text)

    assert hint in refused.value.remedy
    assert refused.value.ids["line"] == 1
    assert refused.value.ids["column"] >= 1
    parse(text)  # what was stored opens


@pytest.mark.parametrize("text", FIT)
def test_what_a_field_can_have_is_taken(text):
    assert parse_new(text) == parse(text)


async def test_the_place_is_that_of_the_field_and_not_of_a_text():
    with pytest.raises(QuerySyntaxError) as refused:
        parse_new("type = 'tags'\n  and tags = 5")

    assert (refused.value.ids["line"], refused.value.ids["column"]) == (2, 7)


@pytest.mark.parametrize("text", ["last_seen > '2026-01-01'", "tags = 5"])
async def test_every_call_that_is_given_a_query_refuses_it(text):
    async with IoTFleetManager() as manager:
        await manager.create_device("d", "t")
        for call in (
            manager.list_devices(where=text), manager.count_devices(text), manager.explain_query("d", text),
            manager.list_latest_readings(where=text), manager.create_group("g", query=text),
            manager.grant_role("p", "viewer", scope=text), manager.send_command("d", "x", precondition=text),
            manager.plan_commands("x", where=text), manager.forecast_certificates(where=text),
            manager.plan_renewals(where=text),
        ):  # fmt: skip
            with pytest.raises(QuerySyntaxError):
                await call


async def test_a_group_and_a_grant_that_are_stored_with_such_a_query_open(tmp_path, monkeypatch):
    monkeypatch.setattr("fleetcore.fleet.groups.parse_new", parse)
    monkeypatch.setattr("fleetcore.fleet.operators.parse_new", parse)
    async with IoTFleetManager(tmp_path / "f") as manager:
        await manager.create_device("d", "t")
        await manager.create_group("g", query="last_seen > '2026-01-01'")
        await manager.grant_role("p", "viewer", scope="tags = 5")
    monkeypatch.undo()

    async with IoTFleetManager(tmp_path / "f") as manager:
        await manager.update_group("g", description="still here")
        groups = (await manager.list_groups()).items

    assert [group.id for group in groups] == ["g"]
