"""Every body of the table, with bad members, over HTTP and MQTT: refused alike, counted once, kept once."""

import pytest

from fleetcore.model.message import Direction
from fleetcore.wire import messages
from tests.wire.test_messages import BAD, NUMBERS, TEXTS

BEYOND = [
    *((row, name, info.le + max(1, abs(info.le) * 1e-6)) for row, name, info in NUMBERS if info.le < 2**52),
    *((row, name, info.ge - 1) for row, name, info in NUMBERS if info.ge > -(2**52)),
    *((row, name, "x" * (info.max_length + 1)) for row, name, info in TEXTS),
]
#: Enrolling and reads without a body are asked in ways of their own.
CASES = [case for case in (*BAD, *BEYOND) if case[0] not in (messages.ENROLL, messages.TIME)]


@pytest.fixture
async def server(in_process):
    async with in_process() as running:
        running.secrets = await running.device("d")
        await running.manager.set_desired("d", {"interval": 60})
        running.command = (await running.manager.send_command("d", "reboot"))["id"]
        yield running


async def _newest(fleet):
    letters = await fleet.dead_letters.list()
    return letters[-1] if letters else None


@pytest.mark.parametrize("kind", ["http", "mqtt"])
async def test_a_bad_member_is_refused_with_its_place_counted_once_and_kept_once(server, kind):
    fleet = server.fleet
    async with server.client(kind, server.secrets) as device:
        for row, name, value in CASES:
            body = {**row.example, name: value}
            target = server.command if row is messages.COMMAND_RESULT else None
            counts, letter = dict(fleet.refusals.counts), await _newest(fleet)

            if kind == "mqtt" and row.direction is Direction.CALL:
                reply = await device.request(row, body)
            else:
                reply = await device.send(row, body, target=target)

            error = reply.error
            assert error is not None, (row, name, value)
            moved = {key: count - counts.get(key, 0) for key, count in fleet.refusals.counts.items()}
            assert {key: count for key, count in moved.items() if count} == {(kind, error["code"]): 1}, (row, name)
            kept = await _newest(fleet)
            assert kept.number == (letter.number + 1 if letter else 0), (row, name)
            assert (kept.operation, kept.code, kept.device) == (row.name, error["code"], "d")
            assert kept.reason
            if kind == "http":
                assert [fault["pointer"] for fault in error["errors"]] == [f"/{name}"], (row, name, value)
                assert name in error["detail"]


@pytest.mark.parametrize("kind", ["http", "mqtt"])
async def test_what_an_adapter_refuses_by_itself_is_counted_and_kept_too(server, kind):
    fleet = server.fleet
    async with server.client(kind, server.secrets) as device:
        too_long = b'{"heat": 1}' + b" " * fleet.limits.message_bytes

        reply = await device.send(messages.TELEMETRY, too_long)

        assert reply.error["code"] == "limit_exceeded"
        assert fleet.refusals.counts == {(kind, "limit_exceeded"): 1}
        kept = await _newest(fleet)
        assert (kept.operation, kept.code, kept.whole) == ("telemetry", "limit_exceeded", kind == "http")
