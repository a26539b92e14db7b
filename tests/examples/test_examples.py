"""The examples run as they stand: the script, the detector in one file, the plugin project."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetcore import IoTFleetManager
from fleetcore.cli.template import write_plugin
from fleetcore.errors import NotAuthorised, Refused
from fleetcore.interfaces.protocol import EnrollRequest
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


def request(device):
    """A certificate request of a fresh key, PEM."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, device)])
    made = x509.CertificateSigningRequestBuilder().subject_name(name)
    return made.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


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


async def test_the_admission_in_one_file_lets_in_whose_serial_is_on_the_list(tmp_path):
    shutil.copy(EXAMPLES / "one_file_admission.py", tmp_path)
    (tmp_path / "fleet.toml").write_text(
        '[fleet]\nplugins = ["./one_file_admission.py"]\n[admission.serials]\nfile = "serials.txt"\n'
    )
    (tmp_path / "serials.txt").write_text("S-1\n")

    async with IoTFleetManager(tmp_path, create=True) as manager:
        fleet = await manager.open()
        token = (await manager.create_enrollment_token(uses=5))["token"]

        async def enroll(device, serial):
            asked = EnrollRequest(csr=request(device), token=token, parameters={"serial": serial}, source="192.0.2.1")
            return await fleet.security.enroll(asked)

        admitted = await enroll("th-1", "S-1")
        with pytest.raises(NotAuthorised, match=r"^The device is not admitted$"):
            await enroll("th-2", "S-2")
        status = await manager.get_status()

    assert admitted.status == 201
    assert status["admissions"] == {"serials": {"kind": "serials", "state": "open", "error": ""}}
    assert status["counts"] == {"admission.serials": {"unknown_serial": 1}}


@pytest.mark.parametrize("there", [False, True])
async def test_no_device_enrols_while_the_admission_in_one_file_is_not_open(tmp_path, there):
    if there:  # but not the list that it reads
        shutil.copy(EXAMPLES / "one_file_admission.py", tmp_path / "absent.py")
    else:
        (tmp_path / "absent.py").write_text("raise RuntimeError('no such library')\n")
    (tmp_path / "fleet.toml").write_text('[fleet]\nplugins = ["./absent.py"]\n[admission.serials]\n')

    async with IoTFleetManager(tmp_path, create=True) as manager:
        fleet = await manager.open()
        token = (await manager.create_enrollment_token(uses=5))["token"]

        with pytest.raises(NotAuthorised, match=r"^The device is not admitted$") as refused:
            await fleet.security.enroll(EnrollRequest(csr=request("th-1"), token=token, parameters={"serial": "S-1"}))

        assert "admission 'serials' could not be asked" in refused.value.ids["reason"]
        assert await fleet.devices.find("th-1") is None


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
    assert "13 passed" in tests.stdout
    assert offered.stdout.strip() == name


def test_an_existing_folder_is_not_written_over(tmp_path):
    write_plugin("jumps", tmp_path)

    with pytest.raises(Refused, match="exists already"):
        write_plugin("jumps", tmp_path)
