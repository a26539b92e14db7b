"""The tutorial on a fleet's state, literally, on every front end.

Its shell blocks run in bash, on a folder, through the control socket and on a server; its Python blocks as one script, in
asyncio and blocking, with the library and with a client; its curl blocks in bash.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fleetcore.cli.serve import running
from fleetcore.testing.patience import PATIENCE_S
from tests.examples import forked

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "a-fleet-and-its-state.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(command, folder, **more):
    path = f"{forked.folder()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, **more},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_output(out):
    assert "3 of 3 done, 0 failed" in out
    assert "th-2 is not selected" in out
    assert "interval=60 led=false" in out
    assert "2 of 2 done, 0 failed" in out
    assert "it was never heard from" in out
    assert re.search(r"ok +yes", out)


def bash(commands):
    return ["bash", "-euo", "pipefail", "-c", "\n".join(commands)]


def blocking(blocks):
    """The same without asyncio, as the page says: without ``await`` and ``async``."""
    return [re.sub(r"\b(await|async) ", "", block) for block in blocks]


def script(blocks):
    return [sys.executable, "-W", "error", "-c", "\n".join(blocks)]


def python(blocks):
    body = textwrap.indent("\n".join(blocks), "    ")
    script = f"import asyncio\n\nasync def main():\n{body}\n\nasyncio.run(main())\n"
    return [sys.executable, "-W", "error", "-c", script]


def test_the_command_line_does_what_the_page_says_beside_the_fleet_of_the_first_tutorial(tmp_path):
    run(bash(["fleetcore init ./fleet-data --name lab"]), tmp_path)

    check_output(run(bash(blocks("sh")), tmp_path))


def test_the_library_does_what_the_page_says(tmp_path):
    run(python(blocks("python")), tmp_path)


@pytest.fixture
async def served(tmp_path):
    """The page's data folder with the API on a free port, being served; gives its address, and a token in a file."""
    init, *_ = blocks("sh")
    await asyncio.to_thread(run, bash([init]), tmp_path)
    tmp_path /= "state-tutorial"
    settings = tmp_path / "fleet-data" / "fleet.toml"
    text = settings.read_text(encoding="utf-8").split("\n[protocols")[0]
    settings.write_text(f'{text}\n[services.api]\nlisten = "https://127.0.0.1:0"\n', encoding="utf-8")
    made = await asyncio.to_thread(
        run, bash(["fleetcore token create admin --role admin -o json --data fleet-data"]), tmp_path
    )
    secret = tmp_path / "admin.token"
    secret.touch(0o600)
    secret.write_text(json.loads(made)["token"], encoding="utf-8")
    async with running(tmp_path / "fleet-data") as endpoints:
        (url,) = endpoints["api"]
        yield url


def test_the_blocking_library_does_the_same(tmp_path):
    first, *steps = blocking(blocks("python"))

    run(script([first.replace("IoTFleetManager(", "IoTFleetManager.sync("), *steps]), tmp_path)


async def test_the_command_line_does_the_same_through_the_control_socket(tmp_path, served):
    _, *commands = blocks("sh")

    check_output(await asyncio.to_thread(run, bash(commands), tmp_path / "state-tutorial"))


@pytest.mark.peer("curl")
async def test_the_api_does_the_same(tmp_path, served):
    first, *steps = blocks("sh api")
    first = first.replace("https://127.0.0.1:8444", served)

    out = await asyncio.to_thread(run, bash([first, *steps]), tmp_path / "state-tutorial")

    for shown in (
        '"done":3',
        '"selected":false',
        '"interval":60,"led":false',
        "it was never heard from",
        '"ok":true',
    ):
        assert shown in out
    assert '"counts":{"queued":2}' in out
    assert re.search("^event: device.registered$", out, re.MULTILINE)


async def test_the_command_line_does_the_same_on_a_server(tmp_path, served):
    (where,) = blocks("sh remote")
    _, *commands = blocks("sh")
    where = where.replace("https://127.0.0.1:8444", served)
    elsewhere = {"FLEETCORE_DATA": str(tmp_path / "none")}

    check_output(await asyncio.to_thread(run, bash([where, *commands]), tmp_path / "state-tutorial", **elsewhere))


async def test_the_client_does_the_same_on_a_server(tmp_path, served):
    (where,) = blocks("python remote")
    _, *steps = blocks("python")
    token = "from pathlib import Path\ntoken = Path('admin.token').read_text()"
    where = where.replace("https://127.0.0.1:8444", served)

    await asyncio.to_thread(run, python([token, where, *steps]), tmp_path / "state-tutorial")


async def test_the_blocking_client_does_the_same_on_a_server(tmp_path, served):
    (where,) = blocks("python remote")
    _, *steps = blocks("python")
    token = "from pathlib import Path\ntoken = Path('admin.token').read_text()"
    where = where.replace("https://127.0.0.1:8444", served).replace("AsyncFleetClient", "FleetClient")

    await asyncio.to_thread(run, script([token, where, *blocking(steps)]), tmp_path / "state-tutorial")
