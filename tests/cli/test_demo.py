"""``fleetcore demo``: devices over every installed protocol send, obey and are updated, and all of it happens."""

import re
import shlex
import subprocess
import sys

import pytest

from fleetcore.runtime.plugins import PluginHost
from fleetcore.testing.patience import PATIENCE_S


def test_devices_over_every_installed_protocol_are_updated(process):
    done = process("demo", "--duration", "2", timeout=PATIENCE_S)

    assert done.returncode == 0, done.stdout + done.stderr
    for name, provider in PluginHost().offers("protocols").items():
        if provider.demo is not None and name != "local":  # in process, for where there is no other
            assert re.search(rf"\d+ over {name}\b", done.stdout), done.stdout
    assert "rejected" not in done.stdout
    stopped = r"✓ firmware 2\.0\.0 on 12 devices stopped by itself in wave 1: [3-6] of [3-6] updated devices are bad, and [01] of"
    assert re.search(stopped, done.stdout), done.stdout
    assert re.search(r"^    demo-\d{4}: temperature: .* is normal", done.stdout, re.MULTILINE), "the evidence"
    assert re.search(r"✓ rolled back: \d+ run 1\.0\.0 again, 0 run 2\.0\.0", done.stdout)
    assert "✓ firmware 2.0.1 in two waves: 12 of 12 devices updated" in done.stdout
    for name, provider in PluginHost().offers("clouds").items():
        if provider.trial is not None:
            assert f"✓ mirrored to {name}: " in done.stdout, done.stdout
            assert re.search(
                rf"✓ {name} caught up after [\d.]+ s: \d+ devices and twins compared( with what was sent)?, none",
                done.stdout,
            )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder that a demo of four devices kept, and what it printed."""
    data = tmp_path_factory.mktemp("kept") / "my demo"
    command = [sys.executable, "-m", "fleetcore", "demo", "--duration", "1", "--devices", "4", "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return data, done.stdout


def test_a_leaf_behind_a_gateway_sends_and_obeys_over_mqtt_and_websocket(kept):
    _, printed = kept

    assert "2 leaves behind gateways over mqtt, websocket: 2 readings stored, 2 commands run" in printed


def test_the_fleet_can_be_kept_and_looked_at(process, kept):
    data, printed = kept
    *_, top, plot, serve, _ = printed.splitlines()
    assert serve.split("  ")[1] == f"fleetcore serve --data '{data}'"
    for line in (top, plot):
        shown = process(*shlex.split(line.split("  ")[1])[1:])
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "demo-0002" in shown.stdout
    doctor = process("doctor", "--data", data)
    assert doctor.returncode == 0, doctor.stdout
    assert "mirror/" not in doctor.stdout
    refused = process("demo", "--data", data)
    assert (refused.returncode, "is not empty" in refused.stderr) == (5, True)
