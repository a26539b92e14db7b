"""Tokens and roles of operators: how long they live, what they may do, what is kept of them."""

import asyncio

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import NotAuthenticated, Refused
from fleetcore.fleet.rights import Rights
from fleetcore.model.operator import ROLES, Permission, Role, RoleGrant
from fleetcore.query.parse import parse


async def rights_of(fleet, name, **options):
    return await fleet.operators.authenticate((await fleet.operators.create_token(name, **options)).token)


async def test_a_token_is_kept_as_a_hash_alone(fleet):
    made = await fleet.operators.create_token("ana")

    record = await fleet.storage.get("operator_token", made.record.id)

    assert made.token.startswith(f"fc_pat_{made.record.id}_")
    assert made.token[-43:] not in str(record)


@pytest.mark.parametrize("days", [0, -1, 367, float("inf"), float("nan")])
async def test_no_token_lives_for_ever_or_not_at_all(fleet, days):
    with pytest.raises(Refused):
        await fleet.operators.create_token("ana", days=days)


async def test_a_token_ends_with_its_day(fleet, clock):
    token = (await fleet.operators.create_token("ana", days=2)).token
    await fleet.operators.authenticate(token)

    clock.jump(2 * 86_400_000)

    with pytest.raises(NotAuthenticated):
        await fleet.operators.authenticate(token)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1],
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
        lambda token: token.replace("fc_pat_", "fc_dev_"),
        lambda _token: "",
        lambda _token: "fc_pat_0000000000000000_" + "A" * 43,
    ],
)
async def test_another_token_is_nobody(fleet, spoil):
    token = (await fleet.operators.create_token("ana")).token

    with pytest.raises(NotAuthenticated):
        await fleet.operators.authenticate(spoil(token))


async def test_the_last_use_is_known_to_the_minute(fleet, clock):
    made = await fleet.operators.create_token("ana")

    clock.jump(3_600_000)
    await fleet.operators.authenticate(made.token)
    clock.jump(1_000)
    await fleet.operators.authenticate(made.token)

    assert (await fleet.operators.token(made.record.id)).last_used == clock.now_ms() - 1_000


async def test_a_token_may_be_less_than_its_principal(fleet):
    await fleet.operators.grant("ana", "admin")

    rights = await rights_of(fleet, "ana", permissions=["devices:read"])

    assert rights.holds(Permission.DEVICES_READ)
    assert not rights.holds(Permission.DEVICES_WRITE)


async def test_two_grants_do_not_add_up(fleet, manager):
    await manager.register_device("a", "x", {"tags": ["one"]})
    await fleet.operators.grant("ana", "viewer")
    await fleet.operators.grant("ana", "operator", scope="tags has 'two'")

    rights = await rights_of(fleet, "ana")

    assert await rights.allows(Permission.DEVICES_READ, "a")
    assert not await rights.allows(Permission.COMMANDS_SEND, "a")
    assert not rights.everywhere(Permission.COMMANDS_SEND)


async def test_a_scope_may_be_a_group_and_follows_it(fleet, manager):
    await manager.register_device("a", "x")
    await fleet.groups.create("lab")
    await fleet.operators.grant("ana", "viewer", scope="group:lab")
    rights = await rights_of(fleet, "ana")
    before = await rights.allows(Permission.DEVICES_READ, "a")

    await fleet.groups.add("lab", ["a"])

    assert (before, await rights.allows(Permission.DEVICES_READ, "a")) == (False, True)


async def test_a_scope_that_is_no_query_is_refused(fleet):
    with pytest.raises(Refused):
        await fleet.operators.grant("ana", "viewer", scope="tags hs 'x'")


# --- what is remembered ----------------------------------------------------------------------------------------------


@pytest.fixture
def reads(fleet, monkeypatch):
    """What is read from the store, as it is read."""
    found = []
    get, find = fleet.storage.get, fleet.storage.find

    async def getting(kind, key):
        found.append(kind)
        return await get(kind, key)

    async def finding(kind, **options):
        found.append(kind)
        return await find(kind, **options)

    monkeypatch.setattr(fleet.storage, "get", getting)
    monkeypatch.setattr(fleet.storage, "find", finding)
    return found


async def test_a_token_that_was_seen_costs_no_read(fleet, reads):
    token = (await fleet.operators.create_token("ana")).token
    await fleet.operators.authenticate(token)
    reads.clear()

    await fleet.operators.authenticate(token)

    assert reads == []


@pytest.mark.parametrize("change", ["revoke", "grant", "withdraw"])
async def test_a_change_of_tokens_or_grants_is_seen_by_the_next_request(fleet, change):
    made = await fleet.operators.create_token("ana")
    grant = await fleet.operators.grant("ana", "viewer")
    await fleet.operators.authenticate(made.token)

    if change == "revoke":
        await fleet.operators.revoke_token(made.record.id)
        with pytest.raises(NotAuthenticated):
            await fleet.operators.authenticate(made.token)
    elif change == "grant":
        await fleet.operators.grant("ana", "admin")
        assert (await fleet.operators.authenticate(made.token)).administers
    else:
        await fleet.operators.withdraw(grant.id)
        assert not (await fleet.operators.authenticate(made.token)).holds(Permission.DEVICES_READ)


async def test_what_was_read_before_a_change_is_not_remembered_after_it(fleet, monkeypatch):
    grant = await fleet.operators.grant("ana", "viewer")
    token = (await fleet.operators.create_token("ana")).token
    read, go_on = asyncio.Event(), asyncio.Event()
    find = fleet.storage.find

    async def slow(kind, **options):
        page = await find(kind, **options)
        if kind == "role_grant" and not read.is_set():
            read.set()
            await go_on.wait()
        return page

    monkeypatch.setattr(fleet.storage, "find", slow)
    asking = asyncio.create_task(fleet.operators.authenticate(token))
    await read.wait()
    await fleet.operators.withdraw(grant.id)
    go_on.set()

    for rights in (await asking, await fleet.operators.authenticate(token)):
        assert not rights.holds(Permission.DEVICES_READ)


async def test_a_change_whose_caller_is_cancelled_is_seen_too(fleet, monkeypatch):
    grant = await fleet.operators.grant("ana", "viewer")
    token = (await fleet.operators.create_token("ana")).token
    await fleet.operators.authenticate(token)
    begun, go_on = asyncio.Event(), asyncio.Event()
    commit = fleet.storage.commit

    async def slow(change):
        begun.set()
        await go_on.wait()
        return await commit(change)

    monkeypatch.setattr(fleet.storage, "commit", slow)
    withdrawing = asyncio.create_task(fleet.operators.withdraw(grant.id))
    await begun.wait()
    withdrawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await withdrawing
    # It is on its way to the disk, and who asks now is remembered with what still holds.
    assert (await fleet.operators.authenticate(token)).holds(Permission.DEVICES_READ)
    with fleet.operators.watch(token) as watch:
        go_on.set()
        await watch.first()

        assert not (await watch.rights()).holds(Permission.DEVICES_READ)


async def test_wrong_tokens_are_not_remembered(fleet):
    token = (await fleet.operators.create_token("ana")).token
    await fleet.operators.authenticate(token)

    endings = [f"{number:02}" for number in range(51) if not token.endswith(f"{number:02}")]
    for ending in endings[:50]:
        with pytest.raises(NotAuthenticated):
            await fleet.operators.authenticate(token[:-2] + ending)

    assert len(fleet.operators._known) == 1


async def test_the_last_use_is_written_at_most_once_a_minute_and_at_the_end(clock, tmp_path):
    async with IoTFleetManager(tmp_path, clock=clock) as manager:
        fleet = await manager.open()
        made = await fleet.operators.create_token("ana")
        for _ in range(3):
            await fleet.operators.authenticate(made.token)
            await fleet.operators.flush()
        version = (await fleet.storage.get("operator_token", made.record.id)).version
        clock.jump(59_000)
        await fleet.operators.authenticate(made.token)
        await fleet.operators.flush()
        same = (await fleet.storage.get("operator_token", made.record.id)).version
        clock.jump(3_600_000)
        last = clock.now_ms()
        await fleet.operators.authenticate(made.token)

    async with IoTFleetManager(tmp_path, clock=clock) as manager:
        fleet = await manager.open()
        assert (await fleet.operators.token(made.record.id)).last_used == last
    assert (version, same) == (2, 2)


async def test_a_withdrawn_grant_ends_with_the_next_request(fleet):
    grant = await fleet.operators.grant("ana", "viewer")
    token = (await fleet.operators.create_token("ana")).token

    await fleet.operators.withdraw(grant.id)

    assert not (await fleet.operators.authenticate(token)).holds(Permission.DEVICES_READ)


def test_only_the_admin_makes_operators_and_erases():
    for permission in (Permission.OPERATORS_WRITE, Permission.DEVICES_ERASE):
        assert [role for role in Role if permission in ROLES[role]] == [Role.ADMIN]


async def test_the_first_token_is_made_by_the_facade_and_shown_once(manager):
    made = await manager.create_token("ana", ["admin"])

    listed = await manager.list_tokens()
    await manager.revoke_token(made["id"])
    ended = await manager.get_token(made["id"])

    assert made["token"].startswith("fc_pat_")
    assert "token" not in listed[0]
    assert "sha256" not in listed[0]
    assert ended["revoked"] is True


async def test_a_scope_that_cannot_be_read_any_more_selects_nothing(fleet, manager):
    await manager.register_device("a", "sensor")
    grant = RoleGrant(id="g", principal="ana", role=Role.OPERATOR, scope="written by a later release", created=0)
    rights = Rights("ana", [grant], (), fleet.search)

    for where in (None, parse("type = 'sensor'")):
        assert await fleet.search.ids(rights.selectable(Permission.DEVICES_READ).narrowed(where)) == []
    assert not await rights.allows(Permission.DEVICES_READ, "a")
