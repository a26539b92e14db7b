"""Behind a real Mosquitto: a revoked device is thrown out of the broker too, and a loose access list is found by trying."""

import asyncio
import contextlib
import json
import os
import signal
import tomllib
from urllib.parse import urlsplit

import pytest

from fleetcore import IoTFleetManager
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port

from .conftest import Served, Shell

pytestmark = pytest.mark.peer("mosquitto", "mosquitto_pub", "curl", "openssl")

_TOML = """\
[fleet]
id = "{id}"
name = "default"
data = "."
hosts = ["localhost", "127.0.0.1"]

[protocols.http]
listen = "https://127.0.0.1:0"

[protocols.mqtt]
url = "mqtts://localhost:{port}"
reload = ["kill", "-HUP", "{pid}"]

[protocols.factory]
kind = "mqtt"
listen = "mqtts://127.0.0.1:0"
"""


@pytest.fixture
async def behind(tmp_path):
    """A fleet behind a broker with the files that our command has written; ``behind.broker`` is its process."""
    data, port = tmp_path / "data", free_port()
    async with IoTFleetManager(data):
        pass
    words = ("mqtt", "broker-config", "--data", data, "--out", tmp_path / "broker", "--port", port)
    await _ok("fleetcore", *words)
    broker = await asyncio.create_subprocess_exec(
        "mosquitto", "-c", str(tmp_path / "broker" / "mosquitto.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        fleet_id = tomllib.loads((data / "fleet.toml").read_text())["fleet"]["id"]
        (data / "fleet.toml").write_text(_TOML.format(id=fleet_id, port=port, pid=broker.pid))
        (data / "fleet.toml").chmod(0o600)
        async with IoTFleetManager(data) as manager:
            fleet = await manager.open()
            await fleet.serve()
            served = Behind(manager, fleet, data)
            served.broker, served.port, served.files = broker, port, tmp_path / "broker"
            yield served
    finally:
        broker.send_signal(signal.SIGTERM)
        await broker.wait()


class Behind(Served):
    @property
    def mqtt_port(self):
        return str(self.port)


async def _ok(*words):
    import sys

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *map(str, words), stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def device(behind, folder, name):
    """A device of shell programs with a certificate."""
    folder.mkdir()
    shell = Shell(behind, folder)
    token = await behind.security.enrollment_tokens.create(device_type="meter")
    assert await shell.enroll("simpleenroll", await shell.key(name), "-u", f"x:{token}") == 200
    return shell


async def test_a_revoked_device_is_out_of_the_broker_too_and_others_stay(behind, tmp_path):
    bad, good = await device(behind, tmp_path / "bad", "bad"), await device(behind, tmp_path / "good", "good")
    listening = {}
    for name, shell in (("bad", bad), ("good", good)):
        words = shell.publish(name)[:-2]  # the same connection, listening
        listening[name] = await asyncio.create_subprocess_exec(
            *map(str, ("mosquitto_sub", *words[1:])),
            *("-t", f"fleet/v1/{name}/commands", "-F", "%p"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    try:
        async with asyncio.timeout(PATIENCE_S):
            for name, process in listening.items():
                while True:  # until it is subscribed
                    await behind.manager.send_command(name, "hello", respond="none")
                    with contextlib.suppress(TimeoutError):
                        assert await asyncio.wait_for(process.stdout.readline(), 0.5)
                        break
            await behind.security.revoke("bad", reason="stolen")
            # Thrown out, and refused as it comes back: mosquitto_sub goes on trying until it is told why.
            while b"revoked" not in (line := await listening["bad"].stderr.readline()) and line:
                pass
            await behind.security.close()
            await behind.manager.send_command("good", "still-there", respond="none")
            while b"still-there" not in (line := await listening["good"].stdout.readline()):
                assert line
    finally:
        for process in listening.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


async def test_what_a_device_says_after_its_revocation_is_not_stored(behind, tmp_path, program):
    bad = await device(behind, tmp_path / "bad", "bad")
    assert (await program(*bad.publish("bad", "-m", '{"power": 1}')))[0] == 0
    async with asyncio.timeout(PATIENCE_S):
        while not (await behind.manager.list_device_latest_readings("bad")).items:
            await asyncio.sleep(0.02)

    await behind.security.revoke("bad", reason="stolen")
    await behind.security.close()
    await asyncio.gather(*behind.fleet.protocols["mqtt"].adapter._tasks._tasks)
    await program(*bad.publish("bad", "-m", '{"power": 2}'))

    assert [one["value"] for one in await behind.manager.list_device_latest_readings("bad")] == [1]


async def test_the_access_list_that_we_write_is_found_to_keep_devices_apart(behind):
    findings = await behind.fleet.protocols["mqtt"].adapter.examine()

    assert [(one.state, one.what) for one in findings] == [("ok", "broker access")]


@pytest.mark.parametrize(
    ("loose", "told"),
    [
        ("pattern readwrite fleet/v1/#\n", "topics that are not its own: fleet/v1/fleetcore-doctor"),
        ("pattern write fleet/v1/+/telemetry\n", "topics that are not its own: fleet/v1/fleetcore-doctor-2/telemetry"),
        ("pattern read fleet/v1/+/commands\n", "topics that are not its own: fleet/v1/fleetcore-doctor-2/commands"),
        ("", "does not let a device use its topics"),
    ],
    ids=["all", "write", "read", "nothing"],
)
async def test_an_access_list_that_is_too_loose_or_too_tight_is_found_by_trying_it(behind, loose, told):
    access = behind.files / "mosquitto.acl"
    access.write_text(access.read_text() + loose if loose else "user fleetcore:consumer\ntopic readwrite fleet/v1/#\n")
    os.kill(behind.broker.pid, signal.SIGHUP)

    async with asyncio.timeout(PATIENCE_S):  # Mosquitto says nowhere that it has read its files
        while True:
            (finding,) = await behind.fleet.protocols["mqtt"].adapter.examine()
            if told in finding.detail:
                break

    assert (finding.state, told in finding.detail) == ("problem", True), finding.detail
    assert "broker-config" in finding.remedy


@pytest.mark.peer("mosquitto_rr")
async def test_a_claim_certificate_enrols_nobody_through_the_broker_and_does_at_an_endpoint_beside_it(
    behind, tmp_path, program
):
    made = await behind.security.claims.create("spring", quota=10)
    folder = tmp_path / "factory"
    folder.mkdir()
    (folder / "claim.pem").write_text(made.certificate)
    (folder / "claim.key").write_text(made.key)
    shell = Shell(behind, folder)
    csr = await shell.ok(
        "openssl", "base64", "-d", "-A", stdin=b"".join((await shell.key("th-1")).read_bytes().split())
    )
    pem = await shell.ok("openssl", "req", "-inform", "DER", stdin=csr)
    ask = json.dumps({"op": "enroll", "body": {"csr": pem.decode(), "parameters": {"serial": "7"}}})

    def words(port, wait_s):
        return (
            *("mosquitto_rr", "-V", "5", "-q", "1", "-h", "localhost", "-p", port, "-W", wait_s, "-m", ask),
            *("--cafile", behind.ca, "--cert", folder / "claim.pem", "--key", folder / "claim.key"),
            *("-t", "fleet/v1/fleetcore:claim:spring/request/1", "-e", "fleet/v1/fleetcore:claim:spring/reply/1"),
        )

    through = await program(*words(behind.port, 2))
    none = (await behind.manager.list_devices()).items
    beside = await program(*words(urlsplit(behind.url("factory")).port, int(PATIENCE_S)))

    assert (through[0], through[1], none) == (27, b"", [])  # mosquitto_rr's word for an answer that does not come
    assert (beside[0], json.loads(beside[1])["status"]) == (0, 201)


async def test_a_broker_lets_devices_of_both_roots_in_and_reads_the_lists_of_both_cas(behind, tmp_path, program):
    old = await device(behind, tmp_path / "old", "old")
    rotation = behind.security.rotation

    async def become(shell, name, gets_in):
        """Nothing here tells the broker: the fleet does, by the reload of its configuration, and no end of it shows."""
        await behind.security.close()
        async with asyncio.timeout(PATIENCE_S):
            while ((await program(*shell.publish(name, "-m", '{"n": 1}')))[0] == 0) != gets_in:
                pass

    await rotation.begin(actor="ann")
    await rotation.issue(actor="ann")
    new = await device(behind, tmp_path / "new", "new")
    stays = await device(behind, tmp_path / "stays", "stays")
    for shell, name in ((old, "old"), (new, "new"), (stays, "stays")):
        await become(shell, name, gets_in=True)

    for name in ("old", "new"):
        await behind.security.revoke(device=name)

    await become(old, "old", gets_in=False)
    await become(new, "new", gets_in=False)
    assert (await program(*stays.publish("stays", "-m", '{"n": 2}')))[0] == 0
