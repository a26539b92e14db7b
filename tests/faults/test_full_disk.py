"""Guards against a write in a read's way, and against a diagnosis that blames something else than the disk.

On a real disk, mounted small, full and read-only, in a namespace of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleetcore import files
from fleetcore.cli.doctor import _disk
from fleetcore.testing.faults import files_cannot_grow
from fleetcore.testing.patience import PATIENCE_S

_UNSHARE = ["unshare", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What came of it: see there."""
    if subprocess.run([*_UNSHARE, "true"], check=False, capture_output=True).returncode:
        message = "this system lets nobody mount in a namespace"
        if os.environ.get("FLEETCORE_REQUIRE") == "all":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    script = Path(__file__).with_name("full_disk.py")
    command = [*_UNSHARE, sys.executable, str(script), str(tmp_path_factory.mktemp("small"))]
    done = subprocess.run(command, check=False, capture_output=True, timeout=4 * PATIENCE_S, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_read_is_answered_on_a_full_disk_and_a_write_says_what_to_do(said):
    status, problem = said["write"]

    assert (status, problem["code"]) == (507, "storage_full")
    assert "Free disk space" in problem["remedy"]
    assert len(said["reads"]) > 15
    assert set(said["reads"].values()) == {200}, said["reads"]


def test_doctor_names_the_full_disk_and_blames_nothing_else(said):
    code, problems = said["full"]

    found = {one["what"]: one for one in problems}
    assert code == 1
    assert found["disk"]["detail"].startswith("it is full")
    assert "Free disk space" in found["disk"]["remedy"]
    assert "plugin" not in json.dumps(problems)
    assert "restart the server" not in json.dumps(problems)


def test_all_goes_on_at_once_when_there_is_room_again(said):
    assert said["after"] == 201
    assert said["freed"] == [0, []]


def test_doctor_names_a_read_only_disk(said):
    code, problems = said["read-only"]

    found = {one["what"]: one for one in problems}
    assert code == 1
    assert found["disk"]["detail"].startswith("it is read-only")
    assert "Mount the disk writable" in found["opening"]["remedy"]


def test_a_disk_is_tried_by_writing_and_nothing_is_left(tmp_path):
    assert files.trouble(tmp_path) is None
    with files_cannot_grow():
        refused = files.trouble(tmp_path)
        finding = _disk(tmp_path)

    assert refused is not None
    assert (finding["state"], bool(finding["remedy"])) == ("problem", True)
    assert [*tmp_path.iterdir()] == []
    assert _disk(tmp_path)["state"] in ("ok", "warning")
