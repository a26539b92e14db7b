"""Exit codes of the contract: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5 refused, 6 unreachable, 7 partly."""

import asyncio
import shutil

import pytest

from fleetcore import IoTFleetManager
from fleetcore.cli.exits import exit_code
from fleetcore.errors import Refused
from fleetcore.frontends.control import serve_control
from fleetcore.frontends.control_client import ControlClient


def test_done_is_0(fleet):
    assert fleet("device", "list").code == 0


def test_a_failed_check_is_1_and_says_what_to_do(fleet, data):
    (data / "pki" / "root.key").chmod(0o644)

    done = fleet("doctor")

    assert done.code == 1
    assert "chmod 600" in done.out + done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["devise", "list"], "device"),
        (["device", "lsit"], "list"),
        (["device", "list", "--tags", "x"], "--tag"),
        (["device", "register"], "ID"),
        (["demo", "--devices", "0"], "4"),
        (["telemetry", "query", "th-1", "t", "-o", "xml"], "jsonl"),
    ],
)
def test_wrong_usage_is_2_with_what_was_meant(run, words, says):
    done = run(*words)

    assert done.code == 2
    assert says in done.err


def test_not_found_is_3_with_the_id(fleet):
    done = fleet("device", "show", "nobody")

    assert (done.code, done.out) == (3, "")
    assert "nobody" in done.err
    assert "[not_found]" in done.err


def test_a_conflict_is_4_with_the_remedy(fleet):
    fleet("device", "register", "th-1")

    done = fleet("device", "register", "TH-1")

    assert done.code == 4
    assert "Choose another id" in done.err


@pytest.mark.parametrize("name", ["", "a/b", "ü", "x" * 65])
def test_what_is_refused_is_5(fleet, name):
    done = fleet("device", "register", name)

    assert done.code == 5
    assert "[name_invalid]" in done.err


def test_a_folder_that_is_none_is_refused_with_the_command_that_makes_one(run, tmp_path):
    done = run("device", "list", "--data", tmp_path / "none")

    assert done.code == 5
    assert "fleetcore init" in done.err


def test_a_folder_that_a_script_holds_is_unreachable_6(process, data):
    async def held():
        async with IoTFleetManager(data):
            return await asyncio.to_thread(process, "device", "list", "--data", data)

    done = asyncio.run(held())

    assert done.returncode == 6
    assert "does not answer calls" in done.stderr


def test_a_plugin_that_cannot_be_loaded_is_partly_done_7(run, monkeypatch, tmp_path):
    site = tmp_path / "site"
    info = site / "fleetcore_broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fleetcore-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fleetcore]\nbroken = fleetcore_broken_plugin\n")
    (site / "fleetcore_broken_plugin.py").write_text("raise RuntimeError('no luck')\n")
    monkeypatch.syspath_prepend(str(site))

    done = run("plugin", "list")

    assert done.code == 7
    assert "no luck" in done.out + done.err


def test_init_and_restore_overwrite_nothing(run, fleet, data, tmp_path):
    assert run("init", data).code == 4
    assert fleet("backup", tmp_path / "copy").code == 0
    assert run("restore", tmp_path / "copy", "--data", data).code == 4
    shutil.rmtree(data)
    assert run("restore", tmp_path / "copy", "--data", data).code == 0
    assert fleet("device", "list").code == 0


async def test_a_server_is_reached_however_deep_its_folder_lies(tmp_path, process):
    from fleetcore.cli.serve import running

    data = tmp_path / ("deep" * 12) / ("deeper" * 12)
    assert process("init", data).returncode == 0
    text = (data / "fleet.toml").read_text()
    (data / "fleet.toml").write_text(text.partition("[protocols")[0])

    async with running(data):
        done = await asyncio.to_thread(process, "device", "register", "th-1", "--data", data)

    assert (done.returncode, done.stderr) == (0, "")


async def test_through_the_servers_socket_an_error_stays_what_it_is(data):
    async with IoTFleetManager(data) as manager, serve_control(manager, data):
        with pytest.raises(Refused) as refused:
            await ControlClient(data).run("list_devices", {"where": "typ = 'x'"})

    assert (refused.value.code, exit_code(refused.value)) == ("query_syntax", 5)


def test_where_no_terminal_limits_it_a_table_holds_whole_values(fleet):
    tags = [f"--tag={'x' * 40}{n}" for n in range(4)]
    fleet("device", "register", "th-1", *tags)

    shown = fleet("device", "list").out

    assert all(tag.removeprefix("--tag=") in shown.splitlines()[1] for tag in tags)
