"""``fleetcore simulate`` against a server: what was sent and acknowledged, for people and for programs."""

import asyncio
import json

import pytest

from fleetcore.cli.serve import running


@pytest.mark.parametrize("output", ["table", "json"])
async def test_what_was_sent_and_acknowledged_is_told(data, process, output):
    file = data / "fleet.toml"
    file.write_text(file.read_text().replace("0.0.0.0:8443", "127.0.0.1:0").replace("0.0.0.0:8883", "127.0.0.1:0"))
    words = ["simulate", "--devices", "2", "--duration", "1", "--data", data, "-o", output]

    async with running(data):
        done = await asyncio.to_thread(process, *words)

    assert done.returncode == 0, done.stderr
    if output == "json":
        assert json.loads(done.stdout) == {"devices": 2, "sent": 2, "acknowledged": 2, "updated": 0}
    else:
        assert "2 devices sent 2 readings, 2 were acknowledged" in done.stdout
