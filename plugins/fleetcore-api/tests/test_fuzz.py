"""The whole API against its own document: no 500, no answer that the document does not know."""

import asyncio
import sys
from pathlib import Path

import pytest
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager
from fleetcore.calls.fleet_table import core

#: Health, readiness, metrics and the catalogue are tried too; events and two others are not.
_OPEN, _LEFT_OUT = 4, 3


async def fuzz(fleet, phases, examples):
    token = (await fleet.operators.create_token("fuzz")).token
    await fleet.operators.grant("fuzz", "admin")
    # The fuzzer tries every route without a token too.
    config = ApiConfig(
        listen="http://127.0.0.1:0",
        failures_per_minute=1_000_000,
        requests_per_minute=1_000_000,
        wait_s=0.05,
        command_wait_s=0.05,
    )
    async with open_api(config, fleet._context("fuzz"), fleet) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", Path(__file__).with_name("schemathesis.toml")),
            *("run", f"{server.url}/api/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {token}", "--phases", phases, "--no-color"),
            # An event stream has no end.
            *("--exclude-path", "/api/v1/events", "--max-examples", str(examples), "--seed", "1"),
            # It finds its own token in the list, and ends it.
            *("--exclude-operation-id", "revoke_token", "--exclude-operation-id", "revoke_role"),
            # Queries, cursors and positions have a grammar that a schema cannot say: a valid text may be refused.
            *("--exclude-checks", "positive_data_acceptance", "--request-timeout", "70"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        lines = [line[:300] for line in out.decode().splitlines()]
        assert process.returncode == 0, "\n".join(lines)[-20_000:]
        return out.decode()


@pytest.fixture
async def fleet():
    """Under the real clock: some requests wait."""
    async with IoTFleetManager() as manager:
        await fill(manager)
        yield await manager.open()


async def fill(manager):
    for name in ("a", "b"):
        await manager.register_device(name, "sensor", {"tags": ["lab"]})
        await manager.collect_telemetry(name, "temp", 1.5)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("phase", ["coverage", "fuzzing"])
async def test_nothing_that_is_sent_makes_a_server_error_or_an_unknown_answer(fleet, phase):
    report = await fuzz(fleet, phase, 3)

    # Two calls at one route are one operation of the document.
    operations = len({call.declared.route for call in core() if call.path})
    assert f"Tested: {operations + _OPEN - _LEFT_OUT}" in report


@pytest.mark.soak
async def test_the_same_for_longer(fleet):
    await fuzz(fleet, "examples,coverage,fuzzing,stateful", 100)
