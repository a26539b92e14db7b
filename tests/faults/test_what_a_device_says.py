"""What a device says of itself is judged before it is stored: no body of it spoils an answer about the fleet."""

import pytest

from fleetcore.errors import NotFound
from fleetcore.wire import messages
from fleetcore.wire.strict_cbor import dumps as cbor

YEAR_S = 366 * 86_400
FAR_MS = 3_900_000_000_000  # 2093: a time, and further ahead than a device may mean

#: MessageType, body, code, pointer, limit with its unit.
REFUSED = [
    ("status", {"state": "sleeping", "for_s": 1e12}, "limit_exceeded", "/for_s", (YEAR_S, "seconds")),
    ("status", {"state": "sleeping", "for_s": YEAR_S + 1}, "limit_exceeded", "/for_s", (YEAR_S, "seconds")),
    ("status", {"state": "sleeping", "for_s": 1e308}, "limit_exceeded", "/for_s", (YEAR_S, "seconds")),
    ("status", {"state": "sleeping", "for_s": -1}, "schema_invalid", "/for_s", None),
    ("status", {"state": "sleeping", "for_s": True}, "schema_invalid", "/for_s", None),
    ("status", {"state": "sleeping", "for_s": "60"}, "schema_invalid", "/for_s", None),
    ("status", {"state": "sleeping"}, "schema_invalid", "/for_s", None),
    ("status", {"state": "sleeping", "until": FAR_MS}, "limit_exceeded", "/until", (YEAR_S, "seconds ahead")),
    ("status", {"state": "sleeping", "until": 5}, "time_unit", "/until", None),
    ("status", {"state": "sleeping", "until": 10**18}, "time_unit", "/until", None),
    ("status", {"state": "online", "session": 5}, "schema_invalid", "/session", None),
    ("status", {"state": "online", "session": "x" * 129}, "limit_exceeded", "/session", (128, "characters")),
    ("status", {"state": "offline", "session": ["x"]}, "schema_invalid", "/session", None),
    ("status", {"state": ["online"]}, "schema_invalid", "/state", None),
    ("status", ["online"], "schema_invalid", None, None),
    ("twin.ack", {"version": 99}, "schema_invalid", "/version", (1, "version")),
    ("twin.ack", {"version": -1}, "schema_invalid", "/version", None),
    ("twin.ack", {"version": True}, "schema_invalid", "/version", None),
    ("twin.ack", {"version": 1.0}, "schema_invalid", "/version", None),
    ("twin.ack", {"version": 2**53}, "limit_exceeded", "/version", (2**53 - 1, "version")),
    ("twin.ack", {}, "schema_invalid", "/version", None),
    ("twin.ack", {"version": 1, "refused": ["/a"]}, "schema_invalid", "/refused", None),
    ("twin.ack", {"version": 1, "refused": {"a": "no"}}, "schema_invalid", "/refused", None),
    ("twin.ack", {"version": 1, "refused": {"/a": 5}}, "schema_invalid", "/refused", None),
    ("twin.ack", {"version": 1, "refused": {f"/{n}": "" for n in range(1001)}}, "limit_exceeded", "/refused", (1000, "keys")),
    ("location", {"lat": 1, "lon": 2, "source": ["gnss"]}, "schema_invalid", None, None),
    ("location", {"lat": 1, "lon": 2, "time": FAR_MS}, "time_in_future", None, None),
    ("location", {"lat": 1, "lon": 2, "time": 10**18}, "time_unit", None, None),
    ("command.result", {"status": ["running"]}, "schema_invalid", "/status", None),
    ("command.result", {"status": "running", "progress": "x"}, "schema_invalid", "/progress", None),
    ("command.result", {"status": "running", "progress": True}, "schema_invalid", "/progress", None),
    ("command.result", {"status": "running", "progress": -1}, "schema_invalid", "/progress", None),
    ("command.result", {"status": "running", "progress": 150}, "limit_exceeded", "/progress", (100, "percent")),
    ("command.result", {"status": "running", "extend_ms": 10**15}, "limit_exceeded", "/extend_ms", (86_400_000, "ms")),
    ("command.result", {"status": "running", "extend_ms": 1.5}, "schema_invalid", "/extend_ms", None),
    ("command.result", {"status": "failed", "code": 5}, "schema_invalid", "/code", None),
    ("command.result", {"status": "failed", "reason": {}}, "schema_invalid", "/reason", None),
    ("firmware.status", {"state": "downloading", "progress": 150}, "limit_exceeded", "/progress", (100, "percent")),
    ("firmware.status", {"state": "downloading", "progress": -1}, "schema_invalid", "/progress", None),
    ("firmware.status", {"state": "downloading", "progress": 1e9}, "limit_exceeded", "/progress", (100, "percent")),
    ("firmware.status", {"state": "downloading", "bytes": True}, "schema_invalid", "/bytes", None),
    ("firmware.status", {"state": "downloading", "bytes": -5}, "schema_invalid", "/bytes", None),
    ("firmware.status", {"state": "downloading", "version": 5}, "schema_invalid", "/version", None),
    ("firmware.status", {"state": "deferred"}, "schema_invalid", "/until", None),
    ("firmware.status", {"state": "deferred", "until": FAR_MS}, "limit_exceeded", "/until", (YEAR_S, "seconds ahead")),
    ("firmware.status", {"state": "deferred", "until": 1e300}, "time_unit", "/until", None),
    ("firmware.status", {"state": ["deferred"]}, "schema_invalid", "/state", None),
]  # fmt: skip
#: Only CBOR can write these.
NOT_FINITE = [
    ("status", {"state": "sleeping", "for_s": float("nan")}),
    ("status", {"state": "sleeping", "for_s": float("inf")}),
    ("command.result", {"status": "running", "progress": float("nan")}),
    ("firmware.status", {"state": "downloading", "progress": float("inf")}),
    ("location", {"lat": float("nan"), "lon": 2}),
]
TAKEN = [
    ("status", {"state": "sleeping", "for_s": YEAR_S}),
    ("status", {"state": "sleeping", "for_s": 0}),
    ("status", {"state": "sleeping", "for_s": None, "until": 1_750_000_000_000}),
    ("status", {"state": "online", "session": "x" * 128, "boot": "power_on", "listen_s": 20}),
    ("twin.ack", {"version": 1, "refused": {"/a": {"code": "out_of_range", "reason": "min 10"}, "/b": "no"}}),
    ("twin.ack", {"version": 0}),
    ("command.result", {"status": "running", "progress": 99.5, "extend_ms": 0}),
    ("command.result", {"status": "running", "progress": None, "code": None, "reason": "x" * 5000}),
]


@pytest.fixture
async def server(in_process):
    async with in_process(coap=True) as running:
        running.secrets = await running.device("d")
        await running.manager.set_desired("d", {"interval": 60})
        running.command = (await running.manager.send_command("d", "reboot"))["id"]
        yield running


async def _shown(server):
    """Every page on which the device stands, as an operator asks for it."""
    manager = server.manager
    device = await manager.get_device("d")
    assert [one["id"] for one in await manager.list_devices()] == ["d"]
    twin, command = dict(await manager.get_twin("d")), await manager.get_command(server.command)
    seen = device.connectivity, device.asleep_until
    del twin["time"], twin["attributes_version"]  # of the answer, and of the device's record: it becomes active
    try:
        place = await manager.get_location("d")
    except NotFound:
        place = None
    return seen, twin, command.progress, place


@pytest.mark.parametrize("kind", ["http", "mqtt", "coap", "oscore"])
async def test_what_is_out_of_bounds_is_refused_by_code_place_and_limit_and_changes_nothing(server, kind):
    async with server.client(kind, server.secrets) as device:
        assert (await device.send(messages.STATUS, {"state": "online", "session": "s"})).error is None
        before = await _shown(server)
        for name, body, code, pointer, limit in REFUSED:
            kind = messages.NAMED[name]
            target = server.command if kind is messages.COMMAND_RESULT else None
            if kind is messages.FIRMWARE_STATUS:
                body = {"execution": "e", **body}

            error = (await device.send(kind, body, target=target)).error

            assert error is not None, body
            assert error["code"] == code, body
            # What MQTT 5 puts into the acknowledgement is the code alone.
            if kind == "http":
                assert [one["pointer"] for one in error.get("errors", [])] == ([] if pointer is None else [pointer]), (
                    body
                )
                found = None if "limit" not in error else (error["limit"], error["unit"])
                assert found == limit, body
        assert await _shown(server) == before


async def test_what_is_not_finite_is_refused(server):
    async with server.client("http", server.secrets) as device:
        before = await _shown(server)
        for name, body in NOT_FINITE:
            kind = messages.NAMED[name]
            target = server.command if kind is messages.COMMAND_RESULT else None
            reply = await device.send(kind, cbor(body), target=target)

            assert reply.error is not None, body
            assert reply.error["status"] in (400, 422), body
        assert (await _shown(server))[1:] == before[1:]


@pytest.mark.parametrize("kind", ["http", "mqtt", "coap", "oscore"])
async def test_what_is_within_bounds_is_taken_and_shown(server, kind):
    async with server.client(kind, server.secrets) as device:
        for name, body in TAKEN:
            kind = messages.NAMED[name]
            target = server.command if kind is messages.COMMAND_RESULT else None

            assert (await device.send(kind, body, target=target)).error is None, body
            await _shown(server)
    assert (await _shown(server))[1]["refused"] == {"/a": {"code": "out_of_range", "reason": "min 10"}, "/b": "no"}
