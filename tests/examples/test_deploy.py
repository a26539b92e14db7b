"""The files of examples/deploy: what they name exists, and the programs that read them accept them."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fleetcore_api.metrics import text

from fleetcore import IoTFleetManager
from fleetcore.testing.patience import PATIENCE_S

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
HADOLINT = Path(sys.executable).parent / "hadolint"
_METRIC = re.compile(r"\bfleetcore_[a-z_]+\b")


def have(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


async def served():
    async with IoTFleetManager() as manager:
        return await text(await manager.open())


@pytest.mark.parametrize("name", ["grafana-dashboard.json", "prometheus-rules.yml", "prometheus-rules-test.yml"])
def test_every_metric_that_it_names_is_served(name):
    named = set(_METRIC.findall((DEPLOY / name).read_text()))

    assert named
    assert named <= set(_METRIC.findall(asyncio.run(served())))


def test_the_page_has_each_alert_of_the_rules():
    alerts = set(re.findall(r"alert: (\w+)", (DEPLOY / "prometheus-rules.yml").read_text()))
    page = (DEPLOY.parents[1] / "docs" / "how-to" / "monitor.md").read_text()

    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == alerts


def test_the_panels_of_the_dashboard_do_not_overlap():
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    places = {(at["gridPos"]["x"], at["gridPos"]["y"]) for at in panels}

    assert len(places) == len(panels) == len({at["id"] for at in panels})
    assert all(at["gridPos"]["x"] + at["gridPos"]["w"] <= 24 for at in panels)


@have("promtool")
def test_the_rules_alert_as_they_should():
    subprocess.run(["promtool", "check", "rules", "prometheus-rules.yml"], cwd=DEPLOY, check=True)
    subprocess.run(["promtool", "test", "rules", "prometheus-rules-test.yml"], cwd=DEPLOY, check=True)


@have("systemd-analyze")
def test_systemd_reads_the_units(tmp_path):
    """With a program that exists in place of /opt/fleetcore."""
    for unit in DEPLOY.glob("fleetcore*.*"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/fleetcore/bin/fleetcore", "/bin/true"))
    units = sorted(str(unit) for unit in tmp_path.iterdir())

    verified = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", *units], capture_output=True, text=True, check=False
    )
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(tmp_path / "fleetcore.service")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (verified.returncode, verified.stderr) == (0, "")
    assert rated.returncode == 0, rated.stdout


@pytest.mark.skipif(not HADOLINT.is_file(), reason="hadolint has no wheel for this machine")
def test_the_container_file_has_no_known_fault():
    subprocess.run([HADOLINT, DEPLOY / "Containerfile"], check=True)


def test_systemd_is_told_that_the_server_is_ready_lives_and_stops(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(PATIENCE_S)
        (tmp_path / "fleet.toml").write_text("[fleet]\n")
        subprocess.run([sys.executable, "-m", "fleetcore", "init", tmp_path / "data"], check=True, capture_output=True)
        toml = tmp_path / "data" / "fleet.toml"
        toml.write_text(re.sub(r"^\[protocols\.\w+\]\nlisten = .*\n", "", toml.read_text(), flags=re.MULTILINE))
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with subprocess.Popen(
            [sys.executable, "-m", "fleetcore", "serve", "--data", tmp_path / "data"], env=environment,
            stdout=subprocess.DEVNULL,
        ) as server:  # fmt: skip
            told = [supervisor.recv(100) for _ in range(4)]
            server.send_signal(signal.SIGTERM)
            while (last := supervisor.recv(100)) == b"WATCHDOG=1":
                pass
            assert server.wait(PATIENCE_S) == 0

    assert told == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    assert last == b"STOPPING=1"
