"""The console blocks of the reference pages on a small fleet: what the commands print is what the pages show."""

import asyncio
import json
import time

import pytest

from fleetcore import IoTFleetManager
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound
from fleetcore.testing.credentials import make_csr, make_key
from fleetcore.testing.ports import free_port
from fleetcore.wire import messages

from .test_how_to import ROOT, blocks, ready, running, transcript, typed, unvarying

REFERENCE = ROOT / "docs" / "reference"
#: As a terminal of 100 columns without colours shows it.
TERMINAL = {"TERM": "dumb", "TTY_COMPATIBLE": "1", "COLUMNS": "100", "LINES": "25"}

HUB = """
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore import hookimpl, offer_cloud
from fleetcore.testing.memory_cloud import MemoryCloud, MemoryHub

HUB = MemoryHub()


@frozen
class MemoryConfig:
    "A hub in memory."


@asynccontextmanager
async def open_memory(config, context):
    yield MemoryCloud(HUB, owner=context.mark)


@hookimpl
def fleetcore_clouds():
    yield offer_cloud("memory", MemoryConfig, open_memory)
"""
DETECTOR = """
[detectors.hot]
kind = "threshold"
metrics = ["temperature"]
above = 60.0
"""
SERVED = """
[protocols.http]
listen = "https://127.0.0.1:{http}"

[services.api]
listen = "https://127.0.0.1:{api}"

[clouds.hub]
kind = "memory"
mirror = ["registry", "certificates"]
write_every_s = 0
"""


async def fill(data):
    """Two pumps in a hall, of which one enrolled and got hot; a thermometer behind a gateway; a reading refused."""
    now = int(time.time() * 1000)
    async with IoTFleetManager(data) as manager:
        await manager.create_device("pump-1", "pump", tags=["hall"], location={"lat": 48.137, "lon": 11.575})
        await manager.create_device("pump-2", "pump", tags=["hall"])
        await manager.create_device("th-1", "thermometer", tags=["lab"])
        await manager.register_gateway("gw-1")
        await manager.attach_leaf("gw-1", "th-1")
        await manager.create_group("hall", query="tags has 'hall'")
        await manager.set_desired("pump-1", {"interval": 60}, reason="it starts slowly")
        await manager.set_desired("pump-1", {"led": False}, reason="too bright at night")
        fleet = await manager.open()
        made = await manager.create_enrollment_token("pump-1")
        csr = make_csr("pump-1", make_key()[1])
        await fleet.security.enroll(EnrollRequest(csr=csr, token=made.token, parameters={}))
        for minutes, value in ((4, 41.5), (3, 42.0), (2, 63.2), (1, 44.1)):
            await manager.collect_telemetry("pump-1", "temperature", value, "Cel", time=now - minutes * 60_000)
        for days in (40, 41, 42):
            await manager.collect_telemetry("pump-1", "vibration", 0.2, time=now - days * 86_400_000)
        session = await fleet.plane.authenticate(LocalCredential("pump-2"), protocol="local")
        payload = b'{"time": 1769860800, "values": {"temperature": 21.5}}'
        await fleet.ingest.submit(session, Inbound(type=messages.TELEMETRY, subject="pump-2", payload=payload))
        await manager.wait_idle()
        await manager.send_command("pump-2", "reboot")
        plan = await manager.plan_commands("blink", where="tags has 'hall'")
        await manager.send_commands("blink", where="tags has 'hall'", plan=plan.plan, reason="find them")
        await manager.wait_idle()
        await manager.create_campaign(
            "pumps-2.1",
            "2.1.0",
            ["pump-1", "pump-2"],
            url="https://images.example/2.1.0.bin",
            sha256="9f" * 32,
            size=4096,
        )
        await manager.create_token("ana", ["operator"], scope="group:hall")


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """Runs a block in the folder of a fleet that is served: ``plant(block)`` is the block with today's output."""
    folder = tmp_path_factory.mktemp("plant")
    typed("fleetcore init ./fleet-data --name plant", folder)
    data = folder / "fleet-data"
    ports = {"http": free_port(), "api": free_port()}
    toml = data / "fleet.toml"
    text = (
        toml.read_text().split("\n# HTTPS for devices")[0].replace("[fleet]", '[fleet]\nplugins = ["./memory.py"]', 1)
    )
    (data / "memory.py").write_text(HUB)
    (folder / "pump-2.1.0.bin").write_bytes(bytes(4096))
    toml.write_text(text + DETECTOR)
    asyncio.run(fill(data))
    toml.write_text(text + DETECTOR + SERVED.format(**ports))
    with running("fleetcore serve --data ./fleet-data", folder, ready):
        token = json.loads(typed("fleetcore token create admin --role admin -o json", folder))["token"]
        api = {"API": f"https://127.0.0.1:{ports['api']}/api/v1", "TOKEN": token}
        yield lambda block: transcript(block, folder, **TERMINAL, **api).replace(str(folder), "/srv/plant")


GROUPS = sorted(page.stem for page in (REFERENCE / "cli").glob("*.md"))


@pytest.mark.parametrize("group", GROUPS)
def test_a_page_of_the_command_line_shows_what_its_first_example_prints(plant, group):
    example, *_ = blocks(REFERENCE / "cli" / f"{group}.md", "console")

    assert unvarying(plant(example)) == unvarying(example)
