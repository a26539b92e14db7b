"""Signed firmware over HTTPS and MQTT from the signer to devices that verify it, by the commands that people type."""

import asyncio
import hashlib
import json

import pytest

from fleetcore import IoTFleetManager
from fleetcore.cli.root import run
from fleetcore.cli.serve import running
from fleetcore.frontends.control_client import ControlClient
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.firmware import EXECUTION_ENDS
from fleetcore.testing.patience import PATIENCE_S


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A signer's folder and a fleet beside it, on free ports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.bin").write_bytes(bytes(range(256)) * 1000)
    for words in (
        "init data --host localhost",
        "firmware keygen root",
        "firmware keygen maker",
        "firmware trust init --root root.pub --firmware maker.pub",
        "firmware trust sign trust.json --key root.key",
        "firmware sign app.bin --key maker.key --name app --version 2.0.0 --seq 2 --model M --chunk 65536",
        "firmware trust set trust.json --data data",
        "firmware upload app.bin --data data",
        "firmware release add app.bin.manifest.json --data data",
    ):
        assert run(words.split()) == 0, words
    toml = tmp_path / "data" / "fleet.toml"
    toml.write_text(toml.read_text().replace(":8443", ":0").replace(":8883", ":0").replace("0.0.0.0", "127.0.0.1"))
    return tmp_path


async def test_devices_over_https_and_mqtt_take_what_was_signed_and_say_so(folder):
    from fleetcore.cli.signing_keys import open_public
    from fleetcore.cli.simulate import _simulate
    from fleetcore.testing.simulator import Behaviour
    from fleetcore.wire.trust import raw_key

    data = folder / "data"
    behaviour = Behaviour(
        model="M",
        seq=1,
        trust=json.loads((folder / "trust.json").read_bytes()),
        command_key=raw_key(open_public(data / "pki" / "command.pub")),
    )
    async with running(data):
        caller = ControlClient(data)
        simulating = asyncio.create_task(_simulate(4, PATIENCE_S, 0.2, "sim", behaviour, data))
        async with asyncio.timeout(PATIENCE_S):
            while (
                len([one for one in (await caller.run("list_devices", {}))["items"] if one["connectivity"] == "online"])
                < 4
            ):
                await asyncio.sleep(0.1)
            names = [one["id"] for one in (await caller.run("list_devices", {}))["items"]]
            given = {"id": "c", "release": "2.0.0", "devices": names, "from_release": "app:2"}
            await caller.run("create_campaign", given)
            while True:
                executions = (await caller.run("list_executions", {"campaign": "c"}))["items"]
                if all(one["state"] in EXECUTION_ENDS for one in executions):
                    break
                await asyncio.sleep(0.1)
        await end_tasks(simulating)
        tags = {tag for name in names for tag in (await caller.run("get_device", {"device_id": name}))["tags"]}
        said = (await caller.run("get_twin", {"device_id": names[0]}))["reported"]["firmware"]

    assert {(one["state"], one.get("code")) for one in executions} == {("succeeded", None)}
    assert {"http", "mqtt"} <= tags
    image = hashlib.sha256((folder / "app.bin").read_bytes()).hexdigest()
    assert said == {"version": "2.0.0", "sha256": image, "seq": 2, "highest_seq": 2, "trust": 1}


async def test_doctor_warns_before_the_trust_root_ends(folder, capsys, monkeypatch):
    import time

    async def said():
        capsys.readouterr()
        await asyncio.to_thread(run, ["doctor", "--data", "data", "-o", "json"])
        (found,) = [one for one in json.loads(capsys.readouterr().out) if one["what"] == "firmware trust root"]
        return found["state"], bool(found["remedy"])

    real = time.time
    states = []
    for days in (0, 340, 366):
        monkeypatch.setattr("fleetcore.cli.doctor.time.time", lambda days=days: real() + days * 86_400)
        states.append(await said())

    assert states == [("ok", False), ("warning", True), ("problem", True)]


async def test_the_folder_holds_what_the_commands_made(folder):
    async with IoTFleetManager(folder / "data") as manager:
        assert [one["id"] for one in await manager.list_releases()] == ["app:2"]
        assert (await manager.get_firmware_root())["number"] == 1
