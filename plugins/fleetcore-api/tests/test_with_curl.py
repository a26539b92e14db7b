"""The server as it is run, over HTTPS with the fleet's own certificate, with curl: what the how-to shows."""

import asyncio
import json

import pytest

from fleetcore.cli.root import run
from fleetcore.cli.serve import running
from fleetcore.runtime.control import ControlClient

pytestmark = pytest.mark.peer("curl")


@pytest.fixture
async def server(tmp_path):
    """A data folder with the API, being served; gives a curl that knows its CA and its address."""
    folder = tmp_path / "fleet"
    assert await asyncio.to_thread(run, ["init", str(folder)]) == 0
    settings = folder / "fleet.toml"
    lines = settings.read_text().split("\n[protocols")[0]
    settings.write_text(f'{lines}\n[services.api]\nlisten = "https://127.0.0.1:0"\n')
    async with running(folder) as endpoints:
        (url,) = endpoints["api"]
        yield folder, url


async def curl(folder, *arguments):
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--max-time", "20", "--cacert", str(folder / "pki" / "ca.pem"), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_first_token_comes_from_the_shell_and_opens_the_api(server):
    folder, url = server
    made = await ControlClient(folder).call("create_token", "ana", ["admin"])
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
