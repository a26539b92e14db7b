"""The package alone: what it offers to a fleet, and that its runner runs the function that it brings."""

import hashlib
import subprocess
import sys
from array import array
from pathlib import Path

import fleetcore_edge
from fleetcore_edge.runner.records import Batch, Function, Resources
from fleetcore_edge.runner.runner import open_runner

from fleetcore.runtime.plugins import PluginHost
from fleetcore.testing.patience import PATIENCE_S

MODULE = Path(fleetcore_edge.__file__).parent / "deadband.wasm"


def test_it_offers_an_uplink_with_a_scene_and_the_verbs_of_edge():
    done = subprocess.run(
        [sys.executable, "-m", "fleetcore", "edge", "--help"],
        capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip

    assert PluginHost().offers("services")["uplink"].scene is not None
    assert {"enroll", "run", "try"} <= {line.split()[0] for line in done.stdout.splitlines() if line.strip()}


async def test_its_function_runs(tmp_path):
    function = Function(
        name="deadband", version="1.0.0", sha256=hashlib.sha256(MODULE.read_bytes()).hexdigest(), module=MODULE,
        config=b'{"deadband": 0.5}', resources=Resources(cpu_percent=100),
    )  # fmt: skip
    batch = Batch(
        series=[("th-1", "temperature", "")], at=array("I", [0, 0, 0]), time=array("q", [1000, 2000, 3000]),
        value=array("d", [21.5, 21.6, 22.1]),
    )  # fmt: skip
    async with open_runner(tmp_path / "compiled") as runner:
        await runner.load(function)
        output = await runner.run("deadband", batch)

    assert list(output.readings.value) == [21.5, 22.1]
