"""One data folder, one server: a second is turned away, the command line goes through the first."""

import json

import pytest

from fleetcore.errors import DataFolderInUse, Refused
from fleetcore.wire import messages


async def test_a_second_server_on_the_folder_is_turned_away_and_the_first_goes_on(server, senders, until):
    async with senders(server) as at_work:
        code, out, err = await server.command("serve")

        before = [one.count for one in at_work]
        await until(lambda: all(one.count > many + 20 for one, many in zip(at_work, before, strict=True)))
    assert code == 4
    assert "ready" not in out
    assert str(server.process.pid) in err
    assert "stop it" in err
    assert "data_folder_in_use" in err
    assert not any(one.lost or one.refused for one in at_work)


async def test_a_library_in_another_process_is_turned_away_too(server, opened):
    with pytest.raises(DataFolderInUse) as caught:
        async with opened(server.data):
            pass

    assert caught.value.ids["pid"] == server.process.pid
    assert (await server.caller.run("get_status", {}))["storage"] == []


async def test_the_command_line_works_through_the_running_server_under_writes(server, senders, until):
    async with senders(server) as at_work:
        await until(lambda: all(one.count > 20 for one in at_work))

        code, out, err = await server.command("device", "list", "-o", "json")
        assert (code, err) == (0, "")
        assert {one["id"] for one in json.loads(out)} == {one.device for one in at_work}

        sent = max(at_work[0].acknowledged["plain"])
        code, out, err = await server.command("telemetry", "latest", at_work[0].device, "-o", "json")
        assert (code, err) == (0, "")
        latest = {one["metric"]: one["value"] for one in json.loads(out)}
        assert latest.keys() == set(at_work[0].METRICS)
        assert latest["plain"] % (2 * 1_000_000) >= sent

        code, _, err = await server.command("device", "show", "nobody")
        assert code == 3
        assert "nobody" in err

        code, out, _ = await server.command("doctor")
        assert code == 0, out
    assert not any(one.lost or one.refused for one in at_work)


async def test_a_backup_under_writes_is_restored_with_all_that_was_acknowledged_before(
    server, senders, opened, readings, until, command, tmp_path
):
    async with senders(server) as at_work:
        await until(lambda: all(one.count > 60 for one in at_work))
        before = {(one.device, metric): set(one.acknowledged[metric]) for one in at_work for metric in one.METRICS}

        code, _, err = await server.command("backup", str(tmp_path / "backup"))

        assert (code, err) == (0, "")
        counts = [one.count for one in at_work]
        await until(lambda: all(one.count > many + 20 for one, many in zip(at_work, counts, strict=True)))
    assert not any(one.lost or one.refused for one in at_work)

    fresh = str(tmp_path / "fresh")
    code, _, err = await command("restore", str(tmp_path / "backup"), "--data", fresh)
    assert (code, err) == (0, "")
    code, out, _ = await command("doctor", "--data", fresh)
    assert code == 0, out
    async with opened(tmp_path / "fresh") as manager:
        for (device, metric), numbers in before.items():
            values = {at_work[0].value(number) for number in numbers}
            assert values <= set(await readings(manager, device, metric)), (device, metric)


async def test_a_restored_folder_serves_the_devices_with_their_old_credentials(serving, tmp_path):
    async with serving() as server:
        secrets = await server.device("veteran")
        async with server.client("mqtt", secrets) as device:
            await device.send(messages.TELEMETRY, {"heat": 1})
        await server.command("backup", str(tmp_path / "backup"))
        await server.kill()

        moved = type(server)(tmp_path / "moved", [0, 0])
        moved.http, moved.mqtt = server.http, server.mqtt
        await moved.command("restore", str(tmp_path / "backup"), "--data", str(moved.data))
        try:
            await moved.start()

            for kind in ("mqtt", "http"):
                async with moved.client(kind, secrets) as device:
                    reply = await device.send(messages.TELEMETRY, {"heat": 2})
                    assert reply.error is None
        finally:
            await moved.close()


async def test_a_backup_into_a_folder_in_use_is_refused_and_nothing_there_is_touched(server, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"miaow")

    code, _, err = await server.command("backup", str(tmp_path / "photos"))

    assert code == 4
    assert "not empty" in err
    assert "new or empty folder" in err
    assert [one.name for one in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


async def test_restoring_over_a_running_server_is_refused(server, tmp_path, command):
    await server.command("backup", str(tmp_path / "backup"))

    code, _, err = await command("restore", str(tmp_path / "backup"), "--data", str(server.data))

    assert code == 4
    assert "not empty" in err
    with pytest.raises(Refused):
        await server.caller.run("close", {})
    assert (await server.caller.run("get_status", {}))["storage"] == []
