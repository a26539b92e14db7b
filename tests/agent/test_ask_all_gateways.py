"""The page "Ask all gateways", literally: its commands and what they print, with two agents of which one goes away."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fleetcore.frontends.control import serve_control
from fleetcore.model.device import Lifecycle
from fleetcore.testing.patience import PATIENCE_S
from tests.agent.conftest import GATEWAY, until

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "ask-all-gateways.md"
BEGIN = 1_767_225_600_000  # 2026-01-01
_VARYING = re.compile(r"\b[0-9a-f]{8,}\b")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


async def typed(command, folder):
    """What a command prints, on both outputs, and its exit code."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, cwd=folder, env={**os.environ, "PATH": path, "FLEETCORE_DATA": str(folder / "core")},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    return out.decode(), process.returncode


async def same(block, folder):
    """The exit codes of a console block, which prints today what the page shows."""
    commands = re.findall(r"^\$ (.*(?:(?<=\\)\n.*)*)$", block, re.MULTILINE)
    printed = [await typed(command, folder) for command in commands]
    shown = "".join(f"$ {command}\n{out}" for command, (out, _) in zip(commands, printed, strict=True))
    assert plain(shown) == plain(block)
    return [code for _, code in printed]


def plain(text):
    return [" ".join(_VARYING.sub("*", line).split()) for line in text.splitlines()]


@pytest.fixture
async def gateways(site):
    """Two gateways, each with a leaf and an hour of readings; the core has its control socket."""
    made = {}
    for place, name in enumerate(("gw-north", "gw-south"), 1):
        made[name] = await site.neighbour(name)
        times = BEGIN + 1000 * np.arange(3600)
        await made[name].store(f"pump-{place}", "temperature", times, 20.0 * place + (np.arange(3600) % 100) / 10)
        await site.core.create_device(f"pump-{place}", type="pump", model=f"P-{place}", gateway=name)
    core = await site.core.open()
    await core.lifecycles.move(GATEWAY, Lifecycle.RETIRED)  # the gateway of the other tests, which does not run here
    try:
        async with serve_control(site.core, site.folder / "core"):
            for name, gateway in made.items():
                await gateway.agent.start()
                await until(lambda name=name: _online(core, name))
            yield made
    finally:
        for gateway in made.values():
            await gateway.agent.kill()


async def _online(core, name):
    return core.presence.of(name).connectivity == "online"


async def test_the_page_says_what_happens(site, gateways):
    first, chosen, partial = blocks("console")
    assert await same(first, site.folder) == [0]
    assert await same(chosen, site.folder) == [0, 0]
    for share in ("120%", "0%", "most"):
        out, code = await typed(f"fleetcore edge map-reduce temperature --wait-for {share}", site.folder)
        assert code
        assert "80%" in out
    await gateways["gw-south"].agent.kill()
    core = await site.core.open()

    async def gone():
        return core.presence.of("gw-south").connectivity

    await until(gone, "offline")
    assert await same(partial, site.folder) == [7]
    listed, result = blocks("sh")[0].splitlines()
    (job, *_) = json.loads((await typed(f"{listed} -o json", site.folder))[0])
    await gateways["gw-south"].agent.start()

    async def counted():
        out, code = await typed(result.replace("OPERATION", job["id"]), site.folder)
        return ("7200" in out, code)

    await until(counted, (True, 0))
    for command in blocks("sh")[1].splitlines():
        out, code = await typed(f"{command} -o json", site.folder)
        assert (code, json.loads(out)["state"]) == (0, "succeeded")
    scope = {"manager": site.core}
    exec("async def asked():\n" + "".join(f"    {line}\n" for line in blocks("python")[0].splitlines()), scope)
    await scope["asked"]()
