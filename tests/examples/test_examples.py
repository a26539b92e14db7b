"""The examples run as they stand: the script, the detector in one file, the plugin project."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fleetcore import IoTFleetManager
from fleetcore.cli.template import write_plugin
from fleetcore.errors import Refused
from fleetcore.testing.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TEMPLATE = EXAMPLES / "plugin_template"
NOT_WRITTEN = {"__pycache__", ".pytest_cache", ".hypothesis", ".ruff_cache", ".mypy_cache"}


def contents(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not NOT_WRITTEN & set(file.parts)
    }


def test_the_script_runs_without_a_warning():
    out = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "script.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )

    assert (out.returncode, out.stderr) == (0, "")
    assert "temperature is 25.5 celsius" in out.stdout
    assert "Fleet health score: " in out.stdout


async def test_the_detector_in_one_file_finds_what_lies_below_its_limit(tmp_path):
    shutil.copy(EXAMPLES / "one_file_detector.py", tmp_path)
    (tmp_path / "fleet.toml").write_text(
        """
        [fleet]
        plugins = ["./one_file_detector.py"]

        [detectors.freezing]
        below = 2.0
        metrics = ["temperature"]
        """
    )

    async with IoTFleetManager(tmp_path) as manager:
        await manager.register_device("cold-1", "refrigerator")
        for value in (5.0, 2.0, 1.5, 8.0, -3.0):
            await manager.collect_telemetry("cold-1", "temperature", value, "celsius")
        await manager.collect_telemetry("cold-1", "humidity", -1.0, "percent")
        await manager.wait_idle()
        found = await manager.list_anomalies("cold-1")

    assert sorted(one["observed"] for one in found) == [-3.0, 1.5]
    assert {one["detector"] for one in found} == {"freezing"}
    assert "1.5 is below 2" in " ".join(one["explanation"] for one in found)


def test_the_plugin_project_is_what_the_command_writes(tmp_path):
    assert contents(TEMPLATE) == contents(write_plugin("jumps", tmp_path))


@pytest.mark.parametrize("name", ["jumps", "cold_rooms"])
def test_a_fresh_plugin_project_passes_its_tests_and_loads(tmp_path, name):
    project = write_plugin(name, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(project)}

    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    offered = subprocess.run(
        [sys.executable, "-c", f"import fleetcore_{name}.plugin as p; print(p.fleetcore_detectors()[0].name)"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )

    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "10 passed" in tests.stdout
    assert offered.stdout.strip() == name


def test_an_existing_folder_is_not_written_over(tmp_path):
    write_plugin("jumps", tmp_path)

    with pytest.raises(Refused, match="exists already"):
        write_plugin("jumps", tmp_path)
