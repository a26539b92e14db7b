"""The audit log: in the change's transaction, once each, bound by hashes; what is tampered with is found at its row."""

import base64
import json
import os
import sqlite3
import subprocess
import sys

import pytest

from fleetcore import IoTFleetManager
from fleetcore.builtin.sqlite import checksum
from fleetcore.errors import NotAuthorised
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound
from fleetcore.model.store import Commit, Put
from fleetcore.runtime.backup import restore
from fleetcore.wire import messages


async def filled(data, devices=5):
    async with IoTFleetManager(data) as manager:
        for number in range(devices):
            await manager.register_device(f"d-{number}", "sensor", reason="test")
        await manager.set_desired("d-0", {"password": "hunter2"})
        await manager.wait_idle()


async def verdict(data, **options):
    async with IoTFleetManager(data) as manager:
        fleet = await manager.open()
        return await fleet.audit.verify(fleet.security.signing_keys(), **options)


def tamper(data, statement, *parameters):
    with sqlite3.connect(data / "fleet.db") as db:
        assert db.execute(statement, parameters).rowcount
        # As a person who can write the file would: the chain is what holds.
        checksum.add_functions(db)
        db.execute("UPDATE records SET checksum = checksum_of_record(kind, key, version, body)")
    db.close()


async def test_each_change_is_one_row_with_who_what_when_and_why(manager, fleet):
    await fleet.devices.register("a", "sensor", actor="ann", reason="new")
    await fleet.groups.create("lab", actor="bob")
    await fleet.twins.report("a", {"everyday": 1})
    await fleet.wait_idle()

    rows = await fleet.audit.list()

    assert [(row.seq, row.actor, row.action, row.object, row.reason) for row in rows] == [
        (1, "ann", "device.registered", "a", "new"),
        (2, "bob", "group.created", "lab", ""),
    ]
    assert rows[1].prev == rows[0].hash


async def test_values_are_hashed_and_never_stored(tmp_path):
    await filled(tmp_path)

    async with IoTFleetManager(tmp_path) as manager:
        rows = await (await manager.open()).audit.list(object="d-0")

    assert [row.action for row in rows] == ["device.registered", "twin.desired"]
    assert rows[1].data_hash
    assert "hunter2" not in repr(rows)


async def test_an_untouched_log_is_found_good_also_after_opening_again(tmp_path):
    await filled(tmp_path)
    await filled(tmp_path, devices=0)

    found = await verdict(tmp_path)

    assert (found.ok, found.rows, found.checkpoints) == (True, 6, 1)


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("UPDATE records SET body=json_set(body, '$.actor', 'nobody') WHERE kind='audit' AND key LIKE '%3'", 3),
        ("UPDATE records SET body=json_set(body, '$.reason', 'x') WHERE kind='audit' AND key LIKE '%5'", 5),
        ("DELETE FROM records WHERE kind='audit' AND key LIKE '%4'", 4),
        ("DELETE FROM records WHERE kind='audit' AND key LIKE '%1'", 1),
    ],
)
async def test_an_edited_or_deleted_row_is_found_at_its_place(tmp_path, statement, bad):
    await filled(tmp_path)
    tamper(tmp_path, statement)

    found = await verdict(tmp_path)

    assert (found.ok, found.bad_seq) == (False, bad)


async def test_a_damaged_row_is_found_at_its_place(tmp_path):
    await filled(tmp_path)
    with sqlite3.connect(tmp_path / "fleet.db") as db:
        db.execute(
            "UPDATE records SET body=replace(body, 'registered', 'registerec') WHERE kind='audit' AND key LIKE '%2'"
        )
    db.close()

    found = await verdict(tmp_path)

    assert (found.ok, found.bad_seq) == (False, 2)
    assert "damaged" in found.why


async def test_a_cut_off_end_is_found_by_the_checkpoint(tmp_path):
    await filled(tmp_path)
    line = json.loads((tmp_path / "audit-checkpoints.jsonl").read_text())
    kept = json.loads(base64.b64decode(line["payload"]))
    tamper(tmp_path, "DELETE FROM records WHERE kind='audit' AND key>=?", f"{kept['seq']:016d}")

    found = await verdict(tmp_path)

    assert not found.ok
    assert f"names row {kept['seq']}" in found.why


async def test_a_cut_off_end_is_found_without_a_checkpoint_of_it(tmp_path):
    await filled(tmp_path)
    await filled(tmp_path, devices=0)
    tamper(tmp_path, "DELETE FROM records WHERE kind='audit' AND key LIKE '%6'")

    found = await verdict(tmp_path)

    assert (found.ok, found.bad_seq) == (False, 6)
    assert "the log ends with row 5" in found.why


async def test_a_checkpoint_file_that_was_emptied_or_removed_is_missed(tmp_path):
    await filled(tmp_path)
    file = tmp_path / "audit-checkpoints.jsonl"
    lines = file.read_bytes()

    file.write_bytes(b"")
    emptied = await verdict(tmp_path)
    file.unlink()
    removed = await verdict(tmp_path)

    assert not emptied.ok
    assert not removed.ok
    assert "had a checkpoint of row 1" in removed.why
    assert (await verdict(tmp_path, checkpoints=lines.splitlines())).ok


async def test_a_restored_backup_is_verified_like_the_fleet_itself(tmp_path):
    async with IoTFleetManager(tmp_path / "data") as manager:
        for number in range(3):
            await manager.register_device(f"d-{number}", "sensor")
            await manager.wait_idle()
        await manager.back_up(str(tmp_path / "backup"))
    restore(tmp_path / "backup", tmp_path / "restored")

    found = await verdict(tmp_path / "restored")

    assert (found.ok, found.rows, found.checkpoints) == (True, 3, 1)


async def test_a_forged_checkpoint_is_no_checkpoint(tmp_path):
    await filled(tmp_path / "a")
    await filled(tmp_path / "b")

    found = await verdict(
        tmp_path / "a", checkpoints=(tmp_path / "b" / "audit-checkpoints.jsonl").read_bytes().splitlines()
    )

    assert not found.ok
    assert "No trusted key" in found.why


async def test_a_denial_is_a_row_and_a_flood_of_them_is_one(manager, fleet):
    await fleet.devices.register("mallory", "sensor")
    await fleet.devices.register("victim", "sensor")
    session = await fleet.plane.authenticate(LocalCredential("mallory"), protocol="test")
    for _ in range(100):
        await fleet.ingest.submit(session, Inbound(type=messages.TELEMETRY, subject="victim", payload=b"{}"))
    with pytest.raises(NotAuthorised):
        await fleet.plane.authenticate(LocalCredential("ghost"), protocol="test", peer="192.0.2.1")
    await fleet.denials.flush()
    await fleet.wait_idle()

    denied = [row for row in await fleet.audit.list() if row.action == "access.denied"]

    assert [(row.actor, row.object, row.reason) for row in denied] == [
        ("mallory", "victim", "not_your_device"),
        ("ghost", "session", "device_unknown"),
    ]


KILLED = """
import asyncio, os, sys
from fleetcore import IoTFleetManager
async def main():
    manager = IoTFleetManager(sys.argv[1])
    for number in range(int(sys.argv[2]), int(sys.argv[2]) + 40):
        await manager.register_device(f"k-{number}", "sensor")
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


async def test_kill_9_loses_no_row_and_repeats_none(tmp_path):
    for start in (0, 40, 80):
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(start)], check=False, env=os.environ)
        assert done.returncode == -9

    async with IoTFleetManager(tmp_path) as manager:
        await manager.wait_idle()
        fleet = await manager.open()
        rows = await fleet.audit.list(limit=1000)
        assert [row.object for row in rows if row.action == "device.registered"] == [f"k-{n}" for n in range(120)]
        assert (await fleet.audit.verify(fleet.security.signing_keys())).ok


async def test_closing_in_the_middle_of_the_work_repeats_no_row(tmp_path):
    for number in range(12):
        async with IoTFleetManager(tmp_path) as manager:
            await manager.register_device(f"d-{number}", "sensor")

    async with IoTFleetManager(tmp_path) as manager:
        await manager.wait_idle()
        rows = await manager.list_audit(after=0, limit=1000)
    assert [row["object"] for row in rows] == [f"d-{number}" for number in range(12)]


# --- what operators ask of it ------------------------------------------------------------------------------------------


@pytest.fixture
async def asked(manager, fleet, clock):
    """A fleet in which something was done to two devices, an hour apart; gives the time between."""
    for name in ("th-1", "th-2"):
        await manager.register_device(name, "sensor")
        await manager.send_command(name, "reboot", reason=f"{name} hangs")
    await manager.wait_idle()
    clock.jump(3_600_000)
    between = clock.now_ms() - 1000
    await manager.send_command("th-1", "blink")
    await manager.wait_idle()
    return between


async def test_the_log_says_who_rebooted_a_device_and_why_the_newest_first(manager, asked):
    rows = (await manager.list_audit(device="th-1")).items
    (reboot,) = [row for row in rows if (row.action, row.name) == ("command.queued", "reboot")]

    assert [row.seq for row in rows] == sorted((row.seq for row in rows), reverse=True)
    assert {row.device or row.object for row in rows} == {"th-1"}
    assert (reboot.device, reboot.reason) == ("th-1", "th-1 hangs")
    assert reboot.actor.startswith("library:")


async def test_the_log_is_narrowed_by_action_and_its_family_time_and_actor(manager, asked):
    async def names(**given):
        return [(row.action, row.name) for row in (await manager.list_audit(**given)).items]

    assert await names(action="device.registered") == [("device.registered", "")] * 2
    assert [name for _, name in await names(action="command.")] == ["blink", "reboot", "reboot"]
    assert [name for _, name in await names(since=asked)] == ["blink"]
    assert await names(actor="nobody") == []
    assert [name for _, name in await names(device="th-2", action="command.", since=asked - 7_200_000)] == ["reboot"]


async def test_pages_of_the_newest_go_on_and_rows_after_a_number_are_in_order(manager, asked):
    seen, cursor = [], None
    while True:
        page = await manager.list_audit(limit=2, cursor=cursor)
        seen += [row.seq for row in page.items]
        cursor = page.next
        if cursor is None:
            break

    assert seen == [5, 4, 3, 2, 1]
    assert [row.seq for row in (await manager.list_audit(after=2)).items] == [3, 4, 5]


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        (
            """UPDATE records SET body = json_set(body, '$.forged', 'yes')
            WHERE kind = 'audit' AND json_extract(body, '$.seq') = 3""",
            3,
        ),
        (
            """UPDATE records SET body = json_set(body, '$.device', 'other')
            WHERE kind = 'audit' AND json_extract(body, '$.seq') = 2""",
            2,
        ),
    ],
)
async def test_a_member_that_is_added_to_a_stored_row_is_found(tmp_path, statement, bad):
    await filled(tmp_path)

    tamper(tmp_path, statement)
    found = await verdict(tmp_path)

    assert (found.ok, found.bad_seq) == (False, bad)


@pytest.mark.parametrize("name", ["object", "actor"])
async def test_an_index_row_that_is_gone_is_found(tmp_path, name):
    await filled(tmp_path)

    tamper(tmp_path, "DELETE FROM refs WHERE kind='audit' AND key LIKE '%4' AND name=?", name)
    found = await verdict(tmp_path)

    assert (found.ok, found.bad_seq) == (False, 4)
    assert f"by {name}" in found.why


async def test_an_index_row_that_leads_elsewhere_is_found(manager, fleet):
    for number in range(5):
        await manager.register_device(f"d-{number}", "sensor")
    await manager.wait_idle()
    assert (await fleet.audit.verify(fleet.security.signing_keys())).ok

    # As the store keeps it: the same row, with another entry in the index.
    record = await fleet.storage.get("audit", f"{3:016d}")
    refs = frozenset({("actor", record.body["actor"]), ("object", "d-0")})
    await fleet.storage.commit(Commit(puts=(Put(kind="audit", key=record.key, body=record.body, refs=refs),)))
    found = await fleet.audit.verify(fleet.security.signing_keys())

    assert (found.ok, found.bad_seq) == (False, 3)
    assert "index" in found.why
