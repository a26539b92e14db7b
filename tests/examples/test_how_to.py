"""The how-to pages, literally: their shell blocks in bash, with their files, against the real broker.

Only ports differ from what a reader types, since other tests run beside these, and nothing is installed.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fleetcore import IoTFleetManager
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_datagram_port, free_port, moved
from fleetcore.wire import messages
from tests.examples import forked

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def blocks(page, language):
    text = (HOW_TO / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def typed(text, folder, **more):
    command = ["bash", "-euo", "pipefail", "-c", text]
    environment = {**ENVIRONMENT, "PATH": f"{forked.folder()}:{ENVIRONMENT['PATH']}", **more}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def transcript(block, folder, **more):
    """A console block as it is today: its commands, each with what it prints."""
    commands = re.findall(r"^\$ (.*(?:(?<=\\)\n.*)*)$", block, re.MULTILINE)
    printed = [typed(f"{command} 2>&1 || true", folder, **more) for command in commands]
    return "".join(f"$ {command}\n{text.rstrip()}\n" for command, text in zip(commands, printed, strict=True))


#: What differs from run to run: times, ages, ids and secrets, sizes, the user's name, places in the feed.
_VARYING = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+Z|\b(?:in )?\d+ (?:s|min|h|d|mo|y)\b(?: ago)?|\bnow\b"
    r"|\bfc_\w+_[\w-]+|\b[0-9a-f]{8,}\b|\b\d{1,3}(?:,\d{3})+\b|\b(?:cli|library):[\w.-]+|(?<=\"position\": )\d+"
)


#: A table that is as wide as the terminal cuts its last column; where depends on the widths of the others.
_SURELY_SHOWN = 60


def unvarying(text):
    """The lines of a console block without what differs from run to run, the width of columns, and empty lines."""
    lines = [" ".join(_VARYING.sub("*", line).split()) for line in text.splitlines() if line.strip()]
    return [line[:_SURELY_SHOWN] if line.endswith("…") else line for line in lines]


@contextmanager
def running(text, folder, until):
    """A command that stays; waits for the line that says it works."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            text.split(), cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        try:
            until(process)
        except AssertionError as error:
            raise AssertionError(f"{text}: {error}\n{(folder / 'log').read_text()[-4000:]}") from error
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        process.wait(PATIENCE_S)
        process.stdout.close()


def ready(process):
    assert any(line == "ready\n" for line in process.stdout), "it did not get ready"


@pytest.mark.peer("mosquitto")
def test_a_fleet_behind_a_broker(tmp_path):
    (commands,), (section, _) = blocks("use-a-broker.md", "sh"), blocks("use-a-broker.md", "toml")
    configure, broker = commands.splitlines()
    typed("fleetcore init ./fleet-data", tmp_path)
    typed(configure, tmp_path)
    mqtt, http = str(free_port()), str(free_port())
    config, toml = tmp_path / "broker" / "mosquitto.conf", tmp_path / "fleet-data" / "fleet.toml"
    config.write_text(config.read_text().replace("8883", mqtt))
    url = section.splitlines()[1].replace("8883", mqtt)
    text = re.sub(r'^listen = "mqtts:.*$', url, toml.read_text(), flags=re.MULTILINE)
    assert url in text
    toml.write_text(moved(text, {"8443": http}))

    def listening(process):
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", int(mqtt)), 1).close()
            except ConnectionRefusedError:
                continue
            return
        raise AssertionError("it ended")

    with running(broker, tmp_path, listening), running("fleetcore serve --data ./fleet-data", tmp_path, ready):
        out = typed("fleetcore simulate --devices 4 --duration 1", tmp_path)
        series = typed("fleetcore telemetry series -o jsonl", tmp_path)
        behind = typed("fleetcore device list --tag mqtt -o jsonl", tmp_path)

    assert re.search(r"^4 devices sent (\d+) readings, \1 were acknowledged$", out, re.MULTILINE)
    assert {f"sim-000{n}" for n in range(1, 5)} == set(re.findall(r"sim-\d+", series))
    assert len(behind.splitlines()) == 2, "half of them speak MQTT, through the broker"


def test_a_detector_in_one_file_is_shown_with_what_it_offers(tmp_path):
    shutil.copy(ROOT / "examples" / "one_file_detector.py", tmp_path)
    (command,) = re.findall(
        r"^\$ (fleetcore plugin list --file \S+)$",
        (HOW_TO / "write-a-plugin.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )

    assert re.search(r"one_file_detector.+detectors\.freezing", typed(command, tmp_path, COLUMNS="200"))


def test_a_plugin_project_is_written_where_the_page_goes_on(tmp_path):
    (text,) = blocks("write-a-plugin.md", "sh")
    new, into, install, test = text.splitlines()
    assert (install, test) == ("pip install -e '.[test]'", "pytest")

    typed(f"{new}\n{into}\npytest --collect-only -q", tmp_path, PYTHONPATH=str(tmp_path / "fleetcore-jumps"))


def test_the_test_of_the_page_on_protocols_passes(tmp_path):
    (test,) = [text for text in blocks("write-a-protocol.md", "python") if "class TestLines" in text]
    (passed,) = [text for text in blocks("write-a-protocol.md", "text") if "passed" in text]
    shutil.copy(ROOT / "examples" / "one_file_protocol.py", tmp_path)
    (tmp_path / "test_lines.py").write_text(test)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    out = typed("python -m pytest -q -p no:cacheprovider test_lines.py", tmp_path)

    assert passed.strip() in out, out


def test_a_codec_fails_its_contract_as_the_page_says_and_passes_when_mended(tmp_path):
    codec, test, mended = blocks("test-a-plugin.md", "python")[:3]
    (shown, _) = blocks("test-a-plugin.md", "text")
    (tmp_path / "lines.py").write_text("import math\n" + codec)
    (tmp_path / "test_lines.py").write_text(test)
    run = f"{sys.executable} -m pytest -q -p no:cacheprovider test_lines.py"

    failed = typed(f"{run} || true", tmp_path)

    _, payload = shown.splitlines()[0].split(", ")
    for line in (payload, "E           AssertionError: heat is not finite", "8 failed, 8 passed"):
        assert line in shown
        assert line in failed
    indented = "".join(f"                {line}\n" for line in mended.splitlines())
    whole = codec.replace("            try:\n", f"            try:\n{indented}").replace(
        ", float(value)))", ", number))"
    )
    (tmp_path / "lines.py").write_text("import math\n" + whole)
    assert "16 passed" in typed(run, tmp_path)


def test_the_calls_of_a_plugin_in_one_file_are_commands(tmp_path):
    (plugin,) = [text for text in blocks("write-a-plugin.md", "python") if "def fleetcore_calls" in text]
    (commands,) = [text for text in blocks("write-a-plugin.md", "text") if "$ fleetcore weather rain" in text]
    typed("fleetcore init ./fleet-data", tmp_path)
    toml = tmp_path / "fleet-data" / "fleet.toml"
    toml.write_text(toml.read_text().replace("[fleet]", '[fleet]\nplugins = ["./weather.py"]', 1))
    (tmp_path / "fleet-data" / "weather.py").write_text(plugin)

    assert unvarying(transcript(commands, tmp_path)) == unvarying(commands)


@pytest.mark.peer("curl", "openssl", "mosquitto_rr")
def test_devices_are_let_in_by_every_way_and_out_again(tmp_path):
    make, serve, *device = blocks("let-devices-in.md", "sh")
    http, mqtt = str(free_port()), str(free_port())
    typed(make, tmp_path)
    toml = tmp_path / "fleet-data" / "fleet.toml"
    ports = {"8443": http, "8883": mqtt}
    toml.write_text(moved(toml.read_text(), ports))

    with running(serve, tmp_path, ready):
        for text in device:
            typed(moved(text, ports), tmp_path)
        listed = json.loads(typed("fleetcore device list -o json", tmp_path))
        lines = typed("for n in 1 2 3 4 5 6; do fleetcore device certificates meter-$n -o jsonl; done", tmp_path)
        certificates = [json.loads(line) for line in lines.splitlines()]

    assert [one["id"] for one in listed] == [f"meter-{number}" for number in range(1, 7)]
    assert {one["how"].split(":")[0] for one in certificates} == {
        "token", "renewal", "key_id", "approval", "claim", "manufacturer",
    }  # fmt: skip
    assert {one["state"] for one in certificates if one["device"] == "meter-1"} == {"revoked"}


@pytest.mark.peer("gcc", "pkg-config", "openssl", "coap-client-openssl")
def test_a_device_in_c_with_libcoap_installs_firmware_and_goes_on_where_it_was_killed(tmp_path):
    if subprocess.run(["pkg-config", "--exists", "libcoap-3-openssl", "libcjson"], check=False).returncode:
        missing = pytest.fail if os.environ.get("FLEETCORE_REQUIRE") == "all" else pytest.skip
        missing("libcoap3-dev or libcjson-dev is not installed")
    page = "write-a-device-in-c.md"
    make, serve, enroll, *_, build, offer, first, second = blocks(page, "sh")
    shown = blocks(page, "text")
    coap = str(free_datagram_port())
    typed(make, tmp_path)
    toml = tmp_path / "fleet-data" / "fleet.toml"
    text = toml.read_text().replace("0.0.0.0", "127.0.0.1")
    toml.write_text(moved(text, {"5684": coap, "8443": free_port(), "8883": free_port()}))
    shutil.copy(ROOT / "examples" / "devices" / "coap_update.c", tmp_path)
    flags = "-Wextra -Werror -g -fsanitize=address,undefined -fno-sanitize-recover"
    slot = tmp_path / "flash" / "slot-b"

    def half_loaded(process):
        while not slot.exists() or slot.stat().st_size < 50_000:
            assert process.poll() is None, process.stdout.read()

    with running(serve, tmp_path, ready):
        typed(enroll.replace("5684", coap), tmp_path)
        typed(build.replace("-Wextra", flags), tmp_path)
        typed(offer, tmp_path)
        with running(f"../coap_update localhost {coap} meter-1 M-1", tmp_path / "flash", half_loaded) as device:
            device.kill()
        said = [typed(text.replace("5684", coap), tmp_path) for text in (first, second)]
        campaign = json.loads(typed("fleetcore campaign show spring -o json", tmp_path))

    begun = int(re.search(r"loaded from byte (\d+) on", said[0])[1])
    assert (begun >= 49_000, begun % 1024) == (True, 0), "it goes on from the block that is missing"
    assert [said[0].replace(f"byte {begun}", "byte 0"), said[1]] == shown
    assert campaign["counts"] == {"succeeded": 1}
    assert slot.read_bytes() == (tmp_path / "app.bin").read_bytes()


@pytest.mark.peer("gcc", "pkg-config", "openssl", "coap-client-openssl")
def test_a_device_in_c_with_libcoap_sends_a_reading_and_answers_a_command(tmp_path):
    if subprocess.run(["pkg-config", "--exists", "libcoap-3-openssl"], check=False).returncode:
        missing = pytest.fail if os.environ.get("FLEETCORE_REQUIRE") == "all" else pytest.skip
        missing("libcoap3-dev is not installed")
    page = "write-a-device-in-c.md"
    make, serve, enroll, build, run, command, *_ = blocks(page, "sh")
    (program,) = blocks(page, "c")
    http, mqtt, coap = str(free_port()), str(free_port()), str(free_datagram_port())
    typed(make, tmp_path)
    toml = tmp_path / "fleet-data" / "fleet.toml"
    text = toml.read_text().replace("8443", http).replace("8883", mqtt).replace("5684", coap)
    toml.write_text(text.replace("0.0.0.0", "127.0.0.1"))
    (tmp_path / "device.c").write_text(program)
    said = []

    def waiting(process):
        for line in process.stdout:
            said.append(line.strip())
            if line == "waiting\n":
                return
        raise AssertionError("it ended")

    with running(serve, tmp_path, ready):
        typed(enroll.replace("5684", coap), tmp_path)
        typed(build.replace("-Wextra", "-Wextra -Werror"), tmp_path)
        with running(run.replace("5684", coap), tmp_path, waiting) as device:
            typed(command, tmp_path)
            said += [line.strip() for line in device.stdout]
            assert device.wait(PATIENCE_S) == 0
        listed = json.loads(typed("fleetcore command list -o json", tmp_path))
        series = json.loads(typed("fleetcore telemetry series -o json", tmp_path))

    assert said == ["stored", "waiting", "command 1", "answered"]
    assert [(each["name"], each["state"]) for each in listed] == [("blink", "succeeded")]
    assert [(each["device"], each["metric"]) for each in series] == [("meter-1", "temperature")]


def test_firmware_is_signed_released_and_offered(tmp_path):
    commands, (script,) = blocks("sign-firmware.md", "sh"), blocks("sign-firmware.md", "python")
    *before, rotation = commands

    shown = [typed(text, tmp_path) for text in before]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    rotated = typed(rotation, tmp_path)
    held = typed("fleetcore firmware trust show -o jsonl", tmp_path)

    assert re.search(r"^missing +0$", shown[1], re.MULTILINE), "both have signed"
    assert "thermo:2" in shown[-1]
    assert (ran.stdout, ran.stderr) == ("running seq 2\n", "")
    assert re.search(r"^follows +yes$", rotated, re.MULTILINE)
    assert '"version": 2' in held
    assert {one.name: oct(one.stat().st_mode & 0o777) for one in tmp_path.glob("*.key")} == {
        f"{name}.key": "0o600" for name in ("root-ana", "root-ben", "root-cem", "maker")
    }
    # What the server holds of all this is public.
    assert not any(b"PRIVATE KEY" in one.read_bytes() for one in (tmp_path / "fleet-data").glob("fleet.db*"))


def test_devices_get_what_they_need_before_an_image(tmp_path):
    keys, roots, fleet, *_ = blocks("sign-firmware.md", "sh")
    said = [typed(text, tmp_path) for text in (keys, roots, fleet, *blocks("update-in-steps.md", "sh"))]
    campaign = json.loads(typed("fleetcore campaign show spring -o json", tmp_path))
    released = json.loads(typed("fleetcore firmware release show thermo:30 -o json", tmp_path))

    assert re.search(r"^main 2\.0\.0\nmodem 1\.4\.0$", said[-1], re.MULTILINE), said[-1]
    assert re.search(r"^offers +3$", said[-1], re.MULTILINE)
    assert re.search(r"^bytes +90000$", said[-1], re.MULTILINE)
    assert campaign["state"] == "running"
    assert (released["requires_seq"], released["requires"]) == (20, {"modem": "acme-modem:14"})
    assert released["sbom_format"] == "cyclonedx-json"
    assert released["sbom_sha256"] == hashlib.sha256((tmp_path / "thermo-3.0.0.cdx.json").read_bytes()).hexdigest()


async def _gateway_works(folder, gateway):
    """A gateway comes, and runs what it is to run."""
    async with IoTFleetManager(folder) as manager:
        fleet = await manager.open()
        await fleet.updates.offer(gateway)
        functions = (await fleet.twins.get(gateway)).desired.document.get("functions", {})
        reported = {}
        for name, entry in functions.items():
            body = {"execution": entry.get("execution", ""), "state": "succeeded", "version": entry["version"]}
            await fleet.updates.status(gateway, messages.FirmwareStatus(**body))
            reported[name] = {"version": entry["version"], "sha256": entry["sha256"], "state": "running"}
        await fleet.twins.report(gateway, {"functions": reported})
        return functions


def test_functions_are_deployed_watched_and_rolled_back(tmp_path):
    page = "run-functions-at-the-edge.md"
    keys, roots, start, *_ = blocks("sign-firmware.md", "sh")
    gateways, sign, place, deploy, watch, back, remove, replace = blocks(page, "sh")
    data = tmp_path / "fleet-data"
    for text in (keys, roots, start, gateways):
        typed(text, tmp_path)
    signed, placed, deployed = (typed(text, tmp_path) for text in (sign, place, deploy))
    functions = asyncio.run(_gateway_works(data, "gw-north"))
    watched = typed(watch, tmp_path)
    listed = typed("fleetcore edge functions gw-north", tmp_path)
    typed(back, tmp_path)
    rolled_back = json.loads(typed("fleetcore edge functions gw-north -o json", tmp_path))
    typed(remove, tmp_path)
    typed(replace.splitlines()[0], tmp_path)
    asyncio.run(_gateway_works(data, "gw-north"))
    replaced = typed("\n".join(replace.splitlines()[1:]), tmp_path)

    assert "vibration:1" in signed
    assert "vibration:2" in signed
    assert "it has 8 MiB of memory, and 16 would be promised" in placed
    assert re.search(r"^state +running$", deployed, re.MULTILINE)
    assert functions["vibration"]["config"] == {"limit": 3}
    assert re.search(r"^in_sync +yes$", watched, re.MULTILINE), watched
    (block,) = blocks(page, "console")
    assert block.splitlines()[2].split() == listed.splitlines()[0].split()
    assert block.splitlines()[3].split()[:5] == listed.splitlines()[1].split()[:5]
    assert [each["wanted"] for each in rolled_back] == [None]
    assert "press-1" in replaced
    assert re.search(r"^functions +vibration$", replaced, re.MULTILINE), replaced


@pytest.mark.peer("openssl")
def test_a_device_without_a_network_is_updated_from_a_file(tmp_path):
    page = "update-an-offline-device.md"
    make, bundle, factory, install = blocks(page, "sh")
    sheet, shown = blocks(page, "text")
    for module in ("boot_loader.py", "image_sources.py", "stdlib_http.py", "updating_device.py"):
        shutil.copy(ROOT / "examples" / "devices" / module, tmp_path)

    def confirmed(process):
        for line in process.stdout:
            said.append(line)
            if line.startswith("confirmed"):
                return
        raise AssertionError("it ended")

    said = []
    typed(make, tmp_path)
    written = typed(bundle, tmp_path)
    typed(factory, tmp_path)
    with running(install, tmp_path, confirmed):
        pass
    again = []
    with running(install, tmp_path, lambda process: again.extend(next(process.stdout) for _ in range(2))):
        pass

    as_shown = lambda text: re.escape(text).replace("…", "(?s:.*?)")  # noqa: E731
    assert re.fullmatch(as_shown(sheet), written), written
    assert re.fullmatch(as_shown(shown), "".join(said)), said
    assert again == ["boot b 2.0.0\n", "runs already 2.0.0\n"]


def test_devices_are_updated_in_waves_and_brought_back(tmp_path):
    start, serve, simulate, update, night, why, report, back = blocks("update-in-waves.md", "sh")
    # A window that opens in half a day, whenever the test runs.
    hour = (datetime.now(ZoneInfo("Pacific/Auckland")).hour + 12) % 24
    night = night.replace("0 2 * * *", f"0 {hour} * * *")
    typed(start, tmp_path)
    toml = tmp_path / "fleet-data" / "fleet.toml"
    ports = {":8443": f":{free_port()}", ":8883": f":{free_port()}"}
    text = toml.read_text()
    for fixed, free in ports.items():
        text = text.replace(fixed, free)
    toml.write_text(text)

    def enrolled(_process):
        until(lambda: str(typed("fleetcore device list -o jsonl", tmp_path).count('"online"')), ["12"])

    with running(serve, tmp_path, ready), running(simulate, tmp_path, enrolled):
        watched = typed(update, tmp_path)
        told = typed(why, tmp_path)
        held = typed(night, tmp_path)
        reported = typed(report, tmp_path)
        typed("fleetcore campaign abort night --yes", tmp_path)
        returned = typed(back, tmp_path)
        twins = [json.loads(typed(f"fleetcore twin show sim-{n:04d} -o json", tmp_path)) for n in (1, 12)]

    assert re.search(r"^reason +12 of 12 devices updated$", watched, re.MULTILINE), "the plan"
    assert "succeeded, wave 3: succeeded 12" in watched
    assert "outside_window" in held, held
    assert reported.startswith("spring: succeeded, wave 3: succeeded 12;"), reported
    assert "<polyline" in (tmp_path / "spring.html").read_text(encoding="utf-8")
    assert len((tmp_path / "spring.csv").read_text(encoding="utf-8").splitlines()) == 13
    assert re.search(r"^state +succeeded$", told, re.MULTILINE)
    assert re.search(
        r"^summary +\d+ of \d+ updated devices are bad, and \d+ of \d+ comparable ones", told, re.MULTILINE
    )
    assert "succeeded: succeeded 12" in returned
    assert [twin["reported"]["firmware"]["version"] for twin in twins] == ["1.0.0", "1.0.0"]


def test_a_root_follows_another_while_devices_send(tmp_path):
    first, serve, *steps = blocks("rotate-the-ca.md", "sh")
    server, devices = serve.splitlines()
    typed(first, tmp_path)
    toml = tmp_path / "fleet-data" / "fleet.toml"
    toml.write_text(moved(toml.read_text(), {"8443": free_port(), "8883": free_port()}))
    old = (tmp_path / "fleet-data" / "pki" / "root.pem").read_text()

    def enrolled(_process):
        while len(typed("fleetcore device list --tag simulated -o jsonl", tmp_path).splitlines()) < 4:
            continue

    with running(server, tmp_path, ready), running(devices, tmp_path, enrolled):
        said = [typed(step, tmp_path) for step in steps]
        (shown,) = (json.loads(text) for text in said[-1:])
        certificates = [json.loads(line) for line in typed("fleetcore ca forecast -o jsonl", tmp_path).splitlines()]

    (asked,) = re.findall(r"^(\d+) of 4 done, 0 failed$", "\n".join(said), re.MULTILINE)
    assert asked == "4"
    assert [(one["kind"], one["state"], one["number"]) for one in shown] == [
        ("root", "trusted", 2),
        ("issuing", "trusted", 2),
        ("issuing", "signs", 3),
    ]
    assert old not in (tmp_path / "fleet-data" / "pki" / "ca.pem").read_text()
    assert certificates[0]["certificates"] == 4
    assert (tmp_path / "root.key").stat().st_mode & 0o777 == 0o600
    assert not list((tmp_path / "fleet-data" / "pki").glob("root*.key"))


@pytest.mark.peer("curl")
def test_a_fleet_is_mirrored_to_aws_and_through_an_outage(tmp_path, monkeypatch):
    page = "mirror-to-aws.md"
    commands, (shown, compared, attached, detached) = blocks(page, "sh"), blocks(page, "text")
    _, counterpart, export, made, look, drift, cut, heal, *certificates, policy, check, plan = commands
    again, enrol, principals, revoke = certificates
    section, more, _ = blocks(page, "toml")
    hub, api, devices = free_ports(3)
    ports = {"4580": str(hub), "4581": str(hub + 1), "8443": str(api), "8444": str(devices)}
    for name, value in re.findall(r"(\w+)=(\S+)", export):
        monkeypatch.setitem(ENVIRONMENT, name, value)
    monkeypatch.setitem(ENVIRONMENT, "FLEETCORE_DATA", "fleet-data")

    def own(text):
        return moved(text, ports)

    def listening(process):
        assert any("endpoint" in line for line in process.stdout)

    (tmp_path / "fleet-data").mkdir()
    (tmp_path / "fleet-data" / "fleet.toml").write_text(own(section))
    init, serve = made.splitlines()
    typed(init, tmp_path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(own(counterpart), tmp_path, listening))
        server = stack.enter_context(contextlib.ExitStack())
        server.enter_context(running(serve, tmp_path, ready))
        typed(look, tmp_path)
        listed = until(lambda: typed("fleetcore mirror list", tmp_path), shown.splitlines()[1].split())
        assert listed.split()[:3] == shown.split()[:3]
        assert until(lambda: typed(drift, tmp_path), compared.split()) == compared
        assert "failing" in until(lambda: typed(own(cut), tmp_path), ["failing"])
        assert compared in until(lambda: typed(own(heal), tmp_path), compared.split())
        json_policy, terraform = policy.splitlines()
        server.close()
        toml = tmp_path / "fleet-data" / "fleet.toml"
        toml.write_text(toml.read_text().partition("[clouds.aws]")[0] + own(more))
        server.enter_context(running(again, tmp_path, ready))
        until(lambda: typed(enrol, tmp_path), ["none", "differs"])
        assert attached.strip() in until(lambda: typed(own(principals), tmp_path), ['{"principals":'])
        assert detached.strip() in until(lambda: typed(own(revoke), tmp_path), ["[]}"])
        assert "iot:CreateThing" in str(json.loads(typed(json_policy, tmp_path)))
        assert 'data "aws_iam_policy_document"' in typed(terraform, tmp_path)
        assert "problem" not in typed(check, tmp_path)
        typed(plan, tmp_path)


def test_a_fleet_is_mirrored_to_google_cloud(tmp_path, monkeypatch):
    page = "mirror-to-google-cloud.md"
    commands, (shown, compared, received) = blocks(page, "sh"), blocks(page, "text")
    _, counterpart, made, look, drift, hear, cut, heal, policy, check, plan = commands
    hub, api = free_ports(2)
    ports = {"4600": str(hub), "4601": str(hub + 1), "8443": str(api)}
    monkeypatch.setitem(ENVIRONMENT, "FLEETCORE_DATA", "fleet-data")

    def own(text):
        return moved(text, ports)

    def listening(process):
        assert any("emulator" in line for line in process.stdout)

    (tmp_path / "fleet-data").mkdir()
    (tmp_path / "fleet-data" / "fleet.toml").write_text(own(blocks(page, "toml")[0]))
    init, serve = made.splitlines()
    typed(init, tmp_path)
    with running(own(counterpart), tmp_path, listening), running(serve, tmp_path, ready):
        typed(look, tmp_path)
        listed = until(lambda: typed("fleetcore mirror list", tmp_path), shown.splitlines()[1].split())
        assert listed.split()[:3] == shown.split()[:3]
        assert until(lambda: typed(drift, tmp_path), compared.split()) == compared
        assert received.strip() in until(lambda: typed(own(hear), tmp_path), ["21.5}]"])
        assert "failing" in until(lambda: typed(own(cut), tmp_path), ["failing"])
        assert compared in until(lambda: typed(own(heal), tmp_path), compared.split())
        json_policy, terraform = policy.splitlines()
        assert "pubsub.topics.publish" in str(json.loads(typed(json_policy, tmp_path)))
        assert "google_pubsub_topic_iam_member" in typed(terraform, tmp_path)
        assert "problem" not in typed(check, tmp_path)
        typed(plan, tmp_path)


def free_ports(count):
    """The first of three ports in a row that are free, and others."""
    while True:
        first = int(free_port())
        with (
            contextlib.suppress(OSError),
            socket.create_server(("127.0.0.1", first + 1)),
            socket.create_server(("127.0.0.1", first + 2)),
        ):
            return [first, *(free_port() for _ in range(count - 1))]


@pytest.mark.peer("curl")
def test_a_fleet_is_mirrored_to_azure_and_through_an_outage(tmp_path, monkeypatch):
    page = "mirror-to-azure.md"
    commands, (shown, compared) = blocks(page, "sh"), blocks(page, "text")
    _, counterpart, export, made, look, drift, twin, wanted, cut, heal, policy, check, plan = commands
    section, more, linked = blocks(page, "toml")
    hub, api = free_ports(2)
    name, value = re.search(r"(AZURE\w+)='(\S+)'", export).groups()
    monkeypatch.setitem(ENVIRONMENT, name, value)
    monkeypatch.setitem(ENVIRONMENT, "FLEETCORE_DATA", "fleet-data")

    def own(text):
        return text.replace("4590", str(hub)).replace("4591", str(hub + 1)).replace("8443", str(api))

    def listening(process):
        assert any("endpoint" in line for line in process.stdout)

    (tmp_path / "fleet-data").mkdir()
    toml = tmp_path / "fleet-data" / "fleet.toml"
    toml.write_text(own(section))
    init, serve = made.splitlines()
    typed(init, tmp_path)
    with running(own(counterpart), tmp_path, listening), running(serve, tmp_path, ready):
        typed(look, tmp_path)
        listed = until(lambda: typed("fleetcore mirror list", tmp_path), shown.splitlines()[1].split())
        assert listed.split()[:3] == shown.split()[:3]
        assert until(lambda: typed(drift, tmp_path), compared.split()) == compared
        told = json.loads(typed(own(twin), tmp_path))
        assert told["tags"]["fleetcore"]["type"] == "pump"
        assert told["properties"]["desired"]["interval"] == 60
        assert "blink" in until(lambda: typed(own(wanted), tmp_path), ["blink"])
        assert "failing" in until(lambda: typed(own(cut), tmp_path), ["failing"])
        assert compared in until(lambda: typed(own(heal), tmp_path), compared.split())
        as_json, terraform, az = policy.splitlines()
        assert "Microsoft.Devices/IotHubs/twins/write" in json.loads(typed(as_json, tmp_path))["DataActions"]
        assert 'resource "azurerm_role_definition"' in typed(terraform, tmp_path)
        assert "--permissions RegistryWrite ServiceConnect DeviceConnect" in typed(az, tmp_path)
        assert "problem" not in typed(check, tmp_path)
        typed(plan, tmp_path)
    for written in (more, linked):
        toml.write_text(own(section).partition("[clouds.azure]")[0] + written)
        assert "Microsoft.Devices/IotHubs/devices/write" in typed(as_json, tmp_path)


def test_a_fleet_is_imported_from_aws(tmp_path, monkeypatch):
    page = "import-from-aws.md"
    (counterpart, made, start, plan, imported, look), texts = blocks(page, "sh"), blocks(page, "text")
    (section,) = blocks(page, "toml")
    hub = free_ports(1)[0]
    export, _, _ = made.partition("\n")
    for name, value in re.findall(r"(\w+)=(\S+)", export):
        monkeypatch.setitem(ENVIRONMENT, name, value)
    monkeypatch.setitem(ENVIRONMENT, "FLEETCORE_DATA", "fleet-data")

    def own(text):
        return text.replace("4580", str(hub)).replace("4581", str(hub + 1))

    def listening(process):
        assert any("endpoint" in line for line in process.stdout)

    (tmp_path / "fleet-data").mkdir()
    (tmp_path / "fleet-data" / "fleet.toml").write_text(own(section))
    init, serve = start.splitlines()
    typed(init, tmp_path)
    with running(own(counterpart), tmp_path, listening), running(serve, tmp_path, ready):
        typed(own(made), tmp_path)
        planned = typed(plan, tmp_path)
        ended = typed(f"{imported.strip()} || test $? -eq 7", tmp_path)
        typed(look, tmp_path)
        compared = until(lambda: typed("fleetcore mirror drift aws", tmp_path), texts[2].split())

    assert [line.split() for line in planned.splitlines()] == [line.split() for line in texts[0].splitlines()]
    assert ended.splitlines()[-3:] == texts[1].splitlines()
    assert compared == texts[2]


@pytest.mark.peer("curl")
def test_a_fleet_is_imported_from_azure(tmp_path, monkeypatch):
    page = "import-from-azure.md"
    commands, texts = blocks(page, "sh"), blocks(page, "text")
    counterpart, made, export, start, plan, imported, look, twin, rights = commands
    (section,) = blocks(page, "toml")
    hub = free_ports(1)[0]
    name, value = re.search(r"(AZURE\w+)='(\S+)'", export).groups()
    monkeypatch.setitem(ENVIRONMENT, name, value)
    monkeypatch.setitem(ENVIRONMENT, "FLEETCORE_DATA", "fleet-data")

    def own(text):
        return text.replace("4590", str(hub)).replace("4591", str(hub + 1))

    def listening(process):
        assert any("endpoint" in line for line in process.stdout)

    (tmp_path / "fleet-data").mkdir()
    (tmp_path / "fleet-data" / "fleet.toml").write_text(own(section))
    init, serve = start.splitlines()
    typed(init, tmp_path)
    with running(own(counterpart), tmp_path, listening), running(serve, tmp_path, ready):
        typed(own(made), tmp_path)
        planned = typed(plan, tmp_path)
        ended = typed(f"{imported.strip()} || test $? -eq 7", tmp_path)
        *shown, drift = look.splitlines()
        shown = typed("\n".join(shown), tmp_path)
        compared = until(lambda: typed(drift, tmp_path), texts[2].split())
        told = json.loads(typed(own(twin), tmp_path))
        az, check = rights.splitlines()
        assert "--permissions RegistryWrite ServiceConnect\n" in typed(az, tmp_path)
        assert "problem" not in typed(check, tmp_path)

    assert [line.split() for line in planned.splitlines()] == [line.split() for line in texts[0].splitlines()]
    assert ended.splitlines()[-3:] == texts[1].splitlines()
    assert compared == texts[2]
    assert re.search(r"^home +azure$", shown, re.MULTILINE)
    assert "site=north" in shown
    assert "interval=60" in shown
    assert told["tags"]["site"] == "north"
    assert told["tags"]["fleetcore"]["fleet"].startswith("plant-")


def until(ask, words):
    """What a command says once it has all these words."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        said = ask()
        if set(words) <= set(said.split()):
            return said
    raise AssertionError(said)


def test_a_backup_is_made_checked_and_restored(tmp_path):
    """With a folder of the test for the folder of backups."""
    typed("fleetcore init ./fleet-data", tmp_path)
    for block in blocks("back-up.md", "console"):
        here = block.replace("/var/backups/fleetcore", str(tmp_path / "backups"))
        assert matches(here, transcript(here, tmp_path))


def test_what_is_looked_at_first_prints_what_the_page_shows(tmp_path):
    (block,) = blocks("troubleshoot.md", "console")
    typed("fleetcore init ./fleet-data && fleetcore device register pump-2", tmp_path)
    toml = tmp_path / "fleet-data" / "fleet.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        mqtt = f"127.0.0.1:{taken.getsockname()[1]}"
        toml.write_text(toml.read_text().replace("0.0.0.0:8883", mqtt).replace("8443", str(free_port())))
        with running("fleetcore serve --data ./fleet-data", tmp_path, not_ready):
            shown = transcript(block, tmp_path)

    assert matches(block.replace("0.0.0.0:8883", mqtt), shown)


def not_ready(process):
    """Waits until something other than MQTT listens."""
    assert any(line.startswith("http: ") for line in process.stdout), "it has ended"


def matches(shown, printed):
    """Whether a console block is what a page shows, where … stands for anything."""
    return re.fullmatch(re.escape(shown.strip()).replace("…", "(?s:.*?)"), printed.strip()) is not None
