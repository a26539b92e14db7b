"""The server as it is run, over HTTPS with the fleet's own certificate, with curl: what the how-to shows."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from fleetcore.cli.root import run
from fleetcore.cli.serve import running
from fleetcore.frontends.control_client import ControlClient
from fleetcore.testing.patience import PATIENCE_S

pytestmark = pytest.mark.peer("curl")


@pytest.fixture
async def server(tmp_path):
    """A data folder with the API, being served; gives a curl that knows its CA and its address."""
    folder = tmp_path / "fleet"
    await serving(folder, '[services.api]\nlisten = "https://127.0.0.1:0"\n')
    async with running(folder) as endpoints:
        (url,) = endpoints["api"]
        yield folder, url


async def serving(folder, section):
    """A data folder whose server serves the API alone."""
    assert await asyncio.to_thread(run, ["init", str(folder)]) == 0
    settings = folder / "fleet.toml"
    settings.write_text(settings.read_text().split("\n[protocols")[0] + "\n" + section)


async def curl(folder, *arguments):
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--max-time", str(PATIENCE_S), "--cacert", str(folder / "pki" / "ca.pem"), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_first_token_comes_from_the_shell_and_opens_the_api(server):
    folder, url = server
    made = await ControlClient(folder).run("create_token", {"principal": "ana", "roles": ["admin"]})
    key = ("-H", f"Authorization: Bearer {made['token']}")

    registered = json.loads(
        await curl(folder, *key, "--json", '{"id": "dev1", "type": "sensor"}', f"{url}/api/v1/devices")
    )
    listed = json.loads(
        await curl(folder, *key, "-G", "--data-urlencode", "where=type = 'sensor'", f"{url}/api/v1/devices")
    )
    nobody = json.loads(await curl(folder, f"{url}/api/v1/devices"))
    ready = json.loads(await curl(folder, f"{url}/readyz"))

    assert registered["lifecycle"] == "registered"
    assert [one["id"] for one in listed["items"]] == ["dev1"]
    assert nobody["code"] == "not_authenticated"
    assert ready["status"] == "ready"


async def test_the_how_to_works_as_it_is_written(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "use-the-api.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shell = "".join(re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    folder = tmp_path / "fleet-data"
    await serving(folder, section.replace("8444", "0"))

    async with running(folder) as endpoints:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", shell.replace("https://127.0.0.1:8444", endpoints["api"][0])),
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out = (await process.communicate())[0].decode()

    assert process.returncode == 0, out
    for shown in (
        '"selected":false',
        '"reporting_interval":60',
        '"kind":"command"',
        "fleetcore_sessions",
        "retry: 2000",
    ):
        assert shown in out, f"{shown}\n{out}"


async def test_the_script_that_watches_a_fleet_works_as_it_is_written(server):
    folder, url = server
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "watch-a-fleet-live.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    control = ControlClient(folder)
    made = await control.run("create_token", {"principal": "ana", "roles": ["viewer"]})
    await control.run("create_device", {"id": "truck-1", "type": "truck"})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        env={**os.environ, "API": f"{url}/api/v1", "TOKEN": made["token"], "CA": str(folder / "pki" / "ca.pem")},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            first = [json.loads(await process.stdout.readline()) for _ in range(3)]
            reading = {"device_id": "truck-1", "metric": "temperature", "value": 22.0}
            await control.run("collect_telemetry", reading)
            while (changed := json.loads(await process.stdout.readline()))["op"] == "at":
                pass
    finally:
        process.kill()
        await process.wait()

    assert [frame["op"] for frame in first] == ["hello", "state", "ready"]
    assert (changed["device"], changed["state"]["latest"]) == ("truck-1", {"temperature": 22.0})
