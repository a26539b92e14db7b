"""Devices from registration to retirement: lifecycle, twins, commands, gateways, presence."""

import pytest

from fleetcore.errors import IllegalTransition, VersionConflict
from fleetcore.model.credential import AssertedCredential, LocalCredential, TokenCredential
from fleetcore.model.device import TRANSITIONS, Lifecycle
from fleetcore.model.message import Accepted, Downlink, Inbound
from fleetcore.wire import messages
from fleetcore.wire.strict_json import dumps


async def connect(manager, device="dev"):
    fleet = await manager.open()
    session = await fleet.plane.authenticate(LocalCredential(device), protocol="test")
    inbox: list[Downlink] = []

    async def submit(type, body, target=None, **more):
        message = Inbound(type=type, subject=device, payload=dumps(body), target=target, **more)
        return await fleet.ingest.submit(session, message)

    fleet.plane.listen(session, inbox.append)
    return session, inbox, submit


async def until(condition, clock=None):
    import asyncio

    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 5 s")


@pytest.mark.parametrize("old", list(Lifecycle))
@pytest.mark.parametrize("new", list(Lifecycle))
async def test_the_lifecycle_moves_by_its_table_alone(manager, old, new):
    paths = {
        Lifecycle.REGISTERED: [], Lifecycle.PROVISIONED: ["provisioned"], Lifecycle.ACTIVE: ["active"],
        Lifecycle.SUSPENDED: ["suspended"], Lifecycle.QUARANTINED: ["quarantined"], Lifecycle.RETIRED: ["retired"],
    }  # fmt: skip
    await manager.register_device("dev", "sensor")
    for state in paths[old]:
        await manager.set_lifecycle("dev", state)

    if new is old or new in TRANSITIONS[old]:
        assert (await manager.set_lifecycle("dev", new))["lifecycle"] == new
    else:
        with pytest.raises(IllegalTransition):
            await manager.set_lifecycle("dev", new)


async def test_a_desired_change_reaches_the_device_as_a_patch_and_its_report_settles_the_twin(manager):
    await manager.register_device("dev", "sensor")
    _, inbox, submit = await connect(manager)
    await manager.set_desired("dev", {"interval": 60, "mode": {"led": "off"}})
    await manager.set_desired("dev", {"mode": {"led": None}})
    await until(lambda: [one for one in inbox if one.type is messages.TWIN_DESIRED and one.body["version"] == 2])

    bodies = [one.body for one in inbox if one.type is messages.TWIN_DESIRED]
    assert bodies[-1]["patch"] == {"mode": {"led": None}}
    assert (bodies[-1]["since"], bodies[-1]["version"]) == (1, 2)
    outcome = await submit(messages.TWIN_REPORT, {"interval": 60, "mode": {}})
    assert outcome == Accepted(version=1, etag="d2.r1")
    assert (await manager.get_twin("dev"))["delta"] == {}


async def test_compare_and_set_lets_exactly_one_of_many_win(manager):
    import asyncio

    await manager.register_device("dev", "sensor")
    await manager.set_desired("dev", {"n": 0})

    results = await asyncio.gather(
        *(manager.set_desired("dev", {"n": i}, if_version=1) for i in range(1, 51)), return_exceptions=True
    )

    won = [one for one in results if not isinstance(one, BaseException)]
    assert len(won) == 1
    assert all(isinstance(one, VersionConflict) for one in results if one not in won)


async def test_a_command_is_delivered_only_by_the_devices_own_word(manager):
    await manager.register_device("dev", "sensor")
    _, inbox, submit = await connect(manager)
    command = await manager.send_command("dev", "blink", {"times": 3})
    await until(lambda: any(one.type is messages.COMMAND for one in inbox))

    sent = await manager.get_command(command["id"])
    await submit(messages.COMMAND_RESULT, {"status": "accepted"}, target=command["id"])
    delivered = await manager.get_command(command["id"])
    await submit(messages.COMMAND_RESULT, {"status": "succeeded", "output": 3}, target=command["id"])
    ended = await manager.get_command(command["id"])

    assert [one["state"] for one in (sent, delivered, ended)] == ["sent", "delivered", "succeeded"]
    assert ended["output"] == 3


async def test_the_first_end_state_wins(manager):
    await manager.register_device("dev", "sensor")
    _, _, submit = await connect(manager)
    command = await manager.send_command("dev", "blink")
    body = {"status": "succeeded"}

    first = await submit(messages.COMMAND_RESULT, body, target=command["id"])
    same = await submit(messages.COMMAND_RESULT, body, target=command["id"])
    other = await submit(messages.COMMAND_RESULT, {"status": "failed"}, target=command["id"])
    unknown = await submit(messages.COMMAND_RESULT, body, target="nope")

    assert first == same == Accepted()
    assert (other.code, unknown.code) == ("command_finished", "command_unknown")


async def test_an_expired_command_is_never_sent(moved, clock):
    await moved.register_device("dev", "sensor")
    command = await moved.send_command("dev", "blink", deliver_within_s=10)

    await clock.advance(20)
    fleet = await moved.open()
    await fleet.downlinks.tick()
    _, inbox, _ = await connect(moved)
    await clock.advance(1)

    assert (await moved.get_command(command["id"]))["state"] == "expired"
    assert [one for one in inbox if one.type is messages.COMMAND] == []


async def test_a_command_that_was_not_accepted_is_sent_again_with_the_same_id(moved, clock):
    fleet = await moved.open()
    await moved.register_device("dev", "sensor")
    command = await fleet.commands.send("dev", "blink")

    first = await fleet.commands.hand_out("dev")
    at_once = await fleet.commands.hand_out("dev")
    clock.jump(31_000)
    again = await fleet.commands.hand_out("dev")

    assert [one.id for one in first] == [one.id for one in again] == [command.id]
    assert (at_once, again[0].attempt, again[0].sequence) == ([], 2, first[0].sequence)


async def test_a_lane_has_one_unfinished_command_at_a_time(manager):
    fleet = await manager.open()
    await manager.register_device("dev", "sensor")
    first = await fleet.commands.send("dev", "one")
    await fleet.commands.send("dev", "two")
    other = await fleet.commands.send("dev", "three", lane="other")

    given = await fleet.commands.hand_out("dev")

    assert [one.id for one in given] == [first.id, other.id]


async def test_the_same_idempotency_key_is_the_same_command(manager):
    await manager.register_device("dev", "sensor")

    one = await manager.send_command("dev", "blink", idempotency_key="k")
    two = await manager.send_command("dev", "blink", idempotency_key="k")

    assert one["id"] == two["id"]
    assert len(await manager.list_device_commands("dev")) == 1


async def test_an_outdated_will_is_ignored(manager):
    await manager.register_device("dev", "sensor")
    _, _, submit = await connect(manager)
    await submit(messages.STATUS, {"state": "online", "session": "new"})

    await submit(messages.STATUS, {"state": "offline", "session": "old"})
    still = (await manager.get_device("dev"))["connectivity"]
    await submit(messages.STATUS, {"state": "offline", "session": "new"})

    assert still == "online"
    assert (await manager.get_device("dev"))["connectivity"] == "offline"


async def test_a_sleeping_device_is_asleep_and_not_offline(moved, clock):
    await moved.register_device("dev", "sensor")
    session, _, submit = await connect(moved)
    await submit(messages.STATUS, {"state": "sleeping", "for_s": 600})
    session.close()

    asleep = (await moved.get_device("dev"))["connectivity"]
    clock.jump(601_000)
    late = (await moved.get_device("dev"))["connectivity"]

    assert (asleep, late) == ("asleep", "late")


async def test_a_device_that_has_gone_is_not_brought_back_by_what_it_sent_before(moved, clock):
    fleet = await moved.open()
    await moved.register_device("dev", "sensor")
    session, _, submit = await connect(moved)
    await submit(messages.TELEMETRY, {"x": 1})
    session.close()

    await fleet.presence.flush()
    gone = (await moved.get_device("dev"))["connectivity"]
    clock.jump(1_000)
    session, _, submit = await connect(moved)
    await submit(messages.STATUS, {"state": "offline"})
    await fleet.presence.flush()

    assert gone == "offline"
    assert (await moved.get_device("dev"))["connectivity"] == "offline"


async def test_a_message_wakes_a_sleeping_device(moved, clock):
    fleet = await moved.open()
    await moved.register_device("dev", "sensor")
    _, _, submit = await connect(moved)
    await submit(messages.STATUS, {"state": "sleeping", "for_s": 600})
    await fleet.presence.flush()
    clock.jump(601_000)
    await submit(messages.TELEMETRY, {"x": 1})

    device = await moved.get_device("dev")

    assert (device["connectivity"], device["asleep_until"]) == ("online", None)


async def test_where_connections_come_and_go_only_messages_tell_who_is_there(moved, clock):
    fleet = await moved.open()
    await moved.register_device("dev", "sensor")
    session = await fleet.plane.authenticate(LocalCredential("dev"), protocol="test", lasting=False)
    await fleet.ingest.submit(session, Inbound(type=messages.TELEMETRY, subject="dev", payload=b'{"x": 1}'))
    session.close()

    seen = []
    for minutes in (0, 14, 2, 60):
        clock.jump(minutes * 60_000)
        seen.append((await moved.get_device("dev"))["connectivity"])

    assert seen == ["online", "online", "late", "offline"]


async def test_a_poll_is_a_sign_of_life(moved, clock):
    fleet = await moved.open()
    await moved.register_device("dev", "sensor")
    session = await fleet.plane.authenticate(LocalCredential("dev"), protocol="test", lasting=False)

    await fleet.plane.wait(session, "dev", messages.INBOX)

    assert (await moved.get_device("dev"))["connectivity"] == "online"


async def test_a_leafs_downlink_names_the_gateway_it_is_registered_with(manager):
    fleet = await manager.open()
    await manager.register_device("gw", "gateway")
    await manager.edge.register_gateway("gw", may_register=True)
    await fleet.edge.register_leaf("gw", "leaf", "sensor")
    carried: list[Downlink] = []
    fleet.plane.add_broker_sink(carried.append)

    await manager.set_desired("leaf", {"interval": 60})
    await manager.send_command("leaf", "blink")

    await until(lambda: len(carried) == 2)
    assert {(one.type, one.subject, one.gateway) for one in carried} == {
        (messages.TWIN_DESIRED, "leaf", "gw"),
        (messages.COMMAND, "leaf", "gw"),
    }


async def test_a_gateway_behind_a_broker_that_says_it_is_online_is_told_what_waits_for_its_leaves(manager):
    fleet = await manager.open()
    await manager.register_device("gw", "gateway")
    await manager.edge.register_gateway("gw", may_register=True)
    await fleet.edge.register_leaf("gw", "leaf", "sensor")
    await manager.set_desired("leaf", {"interval": 60})
    carried: list[Downlink] = []
    fleet.plane.add_broker_sink(carried.append)
    by_broker = await fleet.plane.authenticate(AssertedCredential("gw", "broker"), protocol="test")
    online = Inbound(type=messages.STATUS, subject="gw", payload=dumps({"state": "online"}))

    assert isinstance(await fleet.ingest.submit(by_broker, online), Accepted)

    await until(lambda: carried)
    assert [(each.type, each.subject, each.gateway) for each in carried] == [(messages.TWIN_DESIRED, "leaf", "gw")]


async def test_a_token_names_its_device_and_revoking_ends_the_session(manager):
    fleet = await manager.open()
    await manager.register_device("dev", "sensor")
    token = (await manager.issue_device_token("dev")).token
    session = await fleet.plane.authenticate(TokenCredential(token), protocol="test")
    ended: list[str] = []
    session.on_end(ended.append)

    await manager.revoke_device("dev")

    assert session.identity == "dev"
    assert ended == ["device_revoked"]


async def test_a_location_is_the_newest_by_event_time(manager):
    await manager.register_device("dev", "sensor")
    _, _, submit = await connect(manager)
    t = 1_700_000_000_000
    await submit(messages.LOCATION, {"lat": 1.0, "lon": 2.0, "time": t + 1000})
    await submit(messages.LOCATION, [{"lat": 3.0, "lon": 4.0, "time": t}])
    bad = await submit(messages.LOCATION, {"lat": 91.0, "lon": 0.0})

    assert (await manager.get_location("dev"))["lat"] == 1.0
    assert bad.code == "schema_invalid"
