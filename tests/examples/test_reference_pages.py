"""The console blocks of the reference pages on a small fleet: what the commands print is what the pages show."""

import asyncio
import json
import re
import shutil
import time
from contextlib import contextmanager

import pytest

from fleetcore import IoTFleetManager
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound
from fleetcore.testing.ports import free_port, moved
from fleetcore.wire import messages
from fleetcore.wire.identity import make_csr, make_key

from .test_how_to import ROOT, blocks, ready, running, transcript, typed, until, unvarying

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
listen = "https://127.0.0.1:8443"

[protocols.mqtt]
listen = "mqtts://127.0.0.1:8883"

[services.api]
listen = "https://127.0.0.1:8444"

[clouds.hub]
kind = "memory"
mirror = ["registry", "certificates"]
write_every_s = 0
"""


#: The plugins of the fleet: the hub, and the one of the page on hooks.
PLUGINS = {"memory.py": HUB, "greet.py": blocks(REFERENCE / "hooks.md", "python")[0]}
#: Its token is of one use; ``test_how_to.py`` enrols devices in every way.
NOT_RUN = {"enrolling.md"}


async def fill(data, key):
    """Two pumps in a hall, of which one got hot; a thermometer behind a gateway; a valve; and what is under way.

    Returns the certificate of the valve, which enrols with this key.
    """
    now = int(time.time() * 1000)
    async with IoTFleetManager(data) as manager:
        await manager.create_device("pump-1", "pump", tags=["hall"], location={"lat": 48.137, "lon": 11.575})
        await manager.create_device("pump-2", "pump", tags=["hall"])
        await manager.create_device("th-1", "thermometer", tags=["lab"])
        await manager.create_device("valve-1", "valve")
        await manager.register_gateway("gw-1")
        await manager.attach_leaf("gw-1", "th-1")
        await manager.create_group("hall", query="tags has 'hall'")
        await manager.set_desired("pump-1", {"interval": 60}, reason="it starts slowly")
        await manager.set_desired("pump-1", {"led": False}, reason="too bright at night")
        await manager.set_desired("valve-1", {"open": 0.5})
        fleet = await manager.open()
        for device, its_key in (("pump-1", make_key()[1]), ("valve-1", key)):
            made = await manager.create_enrollment_token(device)
            request = EnrollRequest(csr=make_csr(device, its_key), token=made.token, parameters={})
            enrolled = await fleet.security.enroll(request)
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
    return enrolled.body["certificate"] + enrolled.body["chain"]


class Plant:
    """The fleet in a folder; called with a console block, it returns the block with what its commands print now."""

    def __init__(self, folder):
        self._folder = folder
        self._ports = {port: str(free_port()) for port in ("8443", "8444", "8883")}
        self._token = ""

    def __call__(self, block):
        there = {**TERMINAL, "API": self._moved("https://localhost:8444/api/v1"), "TOKEN": self._token}
        shown = transcript(self._moved(block), self._folder, **there).replace(str(self._folder), "/srv/plant")
        return moved(shown, {free: port for port, free in self._ports.items()})

    def _moved(self, text):
        """The text with the ports on which this server listens."""
        return moved(text, self._ports)

    @contextmanager
    def serving(self):
        """Makes the fleet, and serves it."""
        folder, data = self._folder, self._folder / "fleet-data"
        typed("fleetcore init ./fleet-data --name plant", folder)
        for name, text in PLUGINS.items():
            (data / name).write_text(text)
        (folder / "pump-2.1.0.bin").write_bytes(bytes(4096))
        shutil.copy(data / "pki" / "ca.pem", folder)
        toml = data / "fleet.toml"
        settings, _, _ = toml.read_text().partition("\n# HTTPS for devices")
        settings = settings.replace("[fleet]", f"[fleet]\nplugins = {json.dumps([*PLUGINS])}", 1) + DETECTOR
        toml.write_text(settings)
        private, key = make_key()
        (folder / "valve-1.key").write_bytes(private)
        (folder / "valve-1.pem").write_text(asyncio.run(fill(data, key)))
        toml.write_text(settings + self._moved(SERVED))
        with running("fleetcore serve --data ./fleet-data", folder, ready):
            made = typed("fleetcore token create admin --role admin -o json", folder)
            self._token = json.loads(made)["token"]
            until(lambda: typed("fleetcore mirror drift hub", folder), ["none", "differs"])
            yield


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """The fleet, which is served."""
    made = Plant(tmp_path_factory.mktemp("plant"))
    with made.serving():
        yield made


def examples():
    """The first commands of each page, with what they print."""
    for page in sorted(REFERENCE.rglob("*.md")):
        found = re.search(
            r"^```(?:console|text)\n(\$ .*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        if found and page.name not in NOT_RUN:
            yield pytest.param(found[1], id=page.relative_to(REFERENCE).as_posix())


@pytest.mark.peer("curl", "mosquitto_pub")
@pytest.mark.parametrize("example", [*examples()])
def test_the_example_at_the_top_of_a_page_prints_what_the_page_shows(plant, example):
    assert unvarying(plant(example)) == unvarying(example)


@pytest.mark.parametrize("page", ["reference/library.md", "reference/interfaces.md", "explanation/why.md"])
def test_the_script_at_the_top_of_a_page_prints_what_the_page_shows(page, tmp_path):
    (tmp_path / "script.py").write_text(blocks(ROOT / "docs" / page, "python")[0])

    printed = typed("python -W error script.py", tmp_path)

    assert unvarying(printed) == unvarying(blocks(ROOT / "docs" / page, "text")[0])
