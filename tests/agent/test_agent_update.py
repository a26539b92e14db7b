"""The agent updates itself: a real process that becomes another release, and the one before where that fails."""

import asyncio
import io
import os
import sys
import zipfile
from pathlib import Path

import fleetcore_edge
import pytest
from fleetcore_edge.agent.bundle import unpack
from fleetcore_edge.agent.slots import STARTS, Release, Slots, Trial
from fleetcore_edge.agent.updating import TRIAL_S, AgentUpdate
from msgspec.structs import replace

from fleetcore.errors import ConfigError, Refused
from fleetcore.interfaces.waits import end_task
from fleetcore.model.firmware import EXECUTION_ENDS
from fleetcore.model.message import Reply
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.signers import START_MS, Signers, digest
from fleetcore.wire.manifest import open_manifest
from fleetcore.wire.trust import first_trust
from tests.agent.conftest import ALWAYS, until

PACKAGE = Path(fleetcore_edge.__file__).parent
SOUND, BROKEN = {}, {"fleetcore_edge/plugin.py": b"raise RuntimeError('this release does not start')\n"}


def wheel(files):
    """A wheel of these files, by path."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return content.getvalue()


def bundle(version="9.9.0", **wheels):
    """A bundle with the package as it is here, under another version, and some files in place of its own."""
    changed = wheels.pop("changed", {})
    files = {
        f"fleetcore_edge/{place.relative_to(PACKAGE)}": place.read_bytes()
        for place in PACKAGE.rglob("*")
        if place.is_file() and "__pycache__" not in place.parts
    }
    info = f"fleetcore_edge-{version}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: fleetcore-edge\nVersion: {version}\n".encode()
    files[f"{info}/entry_points.txt"] = b"[fleetcore]\nedge = fleetcore_edge.plugin\n"
    wheels["fleetcore_edge"] = wheel({**files, **changed})
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in wheels.items():
            file.writestr(f"{name}-{version}-py3-none-any.whl", data)
    return content.getvalue()


async def released(site, content, *, seq=2):
    fleet = await site.core.open()
    await fleet.campaigns.add_artifact(content)
    envelope = site.signers.manifest(
        content, name="agent", seq=seq, version=f"{seq}.0.0", component="agent", models=("G-1",), expires=ALWAYS
    )
    await fleet.releases.add(envelope)


async def campaign(site, gateway, *, seq=2):
    name = f"agents-{seq}"
    await site.core.call(
        "create_campaign", id=name, release=f"{seq}.0.0", devices=[gateway.name], from_release=f"agent:{seq}"
    )
    return name


async def end_of(site, name):
    fleet = await site.core.open()
    (one,) = await fleet.campaigns.executions.find(ref=("campaign", name))
    return (one.state.value, one.code) if one.state in EXECUTION_ENDS else None


async def agent_of(site, gateway):
    """What the gateway reports of its agent at the core."""
    reported = (await site.core.call("get_twin", device_id=gateway.name))["reported"]
    return reported.get("firmware", {}).get("components", {}).get("agent")


async def supervised(gateway):
    """Starts the agent again when it ends, as systemd does."""
    while True:
        await gateway.agent._process.wait()
        words = [sys.executable, "-m", "fleetcore", "edge", "run", "--data", str(gateway.folder)]
        with (gateway.folder / "log").open("ab") as log:
            gateway.agent._process = await asyncio.create_subprocess_exec(
                *words, stdout=asyncio.subprocess.DEVNULL, stderr=log
            )


@pytest.fixture
async def gateway(site):
    made = await site.neighbour("gw-2")
    await site.core.call("update_device", device_id="gw-2", model="G-1")
    await made.store("pump-9", "temperature", [START_MS], [20.0])
    made.agent.folder = Path(os.path.relpath(made.folder))  # as people type it
    await made.agent.start()
    supervising = asyncio.create_task(supervised(made))
    yield made
    await end_task(supervising)
    await made.agent.kill()


async def test_an_agent_becomes_the_new_release_and_says_so(site, gateway):
    await released(site, bundle(changed=SOUND))
    name = await campaign(site, gateway)

    async def ended():
        return await end_of(site, name)

    async def runs():
        found = await agent_of(site, gateway)
        return found is not None and found["version"]

    await until(ended, ("succeeded", None))

    async def told():
        ended = Slots(gateway.folder / "agent").memory.ended
        return ended is not None and ended.told

    await until(runs, "2.0.0")
    await until(told, True)  # nothing is written after it
    slots = Slots(gateway.folder / "agent")
    assert slots.memory.trial is None
    assert slots.memory.running.version == "2.0.0"
    environment = Path(f"/proc/{gateway.agent._process.pid}/environ").read_bytes()
    assert f"FLEETCORE_AGENT_SITE={slots.site(slots.memory.running)}".encode() in environment
    listed = [each.name for each in slots.folder.iterdir()]
    assert sorted(listed) == sorted([slots.memory.running.sha256, "state.json"])


async def test_a_release_that_does_not_start_gives_way_to_the_one_before(site, gateway):
    await released(site, bundle(changed=BROKEN))
    name = await campaign(site, gateway)

    async def ended():
        return await end_of(site, name)

    await until(ended, ("failed", "boot_failed"))
    assert "version" in await agent_of(site, gateway)
    assert Slots(gateway.folder / "agent").memory.running is None
    assert b"FLEETCORE_AGENT_SITE" not in Path(f"/proc/{gateway.agent._process.pid}/environ").read_bytes()


# --- in process ------------------------------------------------------------------------------------------------------


class Line:
    """The core's side of one gateway's agent."""

    def __init__(self, folder, content, *, signers=None, site=None):
        self.signers, self.content, self.told = signers or Signers(), content, []
        self.slots, self.clock, self.restarts = Slots(folder), MovableClock(), 0
        self.there, self.settled = asyncio.Event(), asyncio.Event()
        self.update = AgentUpdate(
            self.slots, self.clock, verify=self._manifest, download=self._download, tell=self._tell, admit=self._admit,
            connected=self.there.wait, settled=self.settled.wait, report=self._report, restart=self._restart, site=site,
        )  # fmt: skip
        self.manifest, self.downloads, self.held = None, 0, None

    def _manifest(self, offer):
        return self.manifest

    async def _download(self, sha256):
        self.downloads += 1
        if self.held is not None:
            await self.held.wait()
        yield self.content[:1000]
        yield self.content[1000:]

    async def _tell(self, body):
        self.told.append(dict(body))
        return Reply(status=204)

    async def _admit(self, size):
        self.admitted = size

    async def _report(self, patch):
        self.reported = patch["firmware"]["components"]["agent"]

    def _restart(self):
        self.restarts += 1

    def offer(self, *, seq=2, attempt=1, **changes):
        envelope = self.signers.manifest(
            self.content,
            name="agent",
            seq=seq,
            version=f"{seq}.0.0",
            component="agent",
            models=("G-1",),
            expires=ALWAYS,
        )
        self.manifest = open_manifest(envelope, first_trust(self.signers.trust(expires=ALWAYS)))
        offer = {
            "execution": "c:gw", "campaign": "c", "attempt": attempt, "component": "agent", "install": "now",
            "sha256": digest(self.content), "size": len(self.content), "manifest": envelope,
        }  # fmt: skip
        self.update.heard({"offer": {**offer, **changes}})

    async def states(self, count):
        """The reports so far, once there are so many."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.told) < count:
                await asyncio.sleep(0.01)
        return [(each["state"], each.get("code")) for each in self.told]


@pytest.fixture
async def line(tmp_path):
    made = Line(tmp_path / "agent", bundle())
    task = asyncio.create_task(made.update.run())
    yield made
    await end_task(task)


async def test_an_offer_is_installed_and_the_agent_starts_anew(line):
    line.offer()

    states = await line.states(5)

    assert [state for state, _ in states] == ["accepted", "downloading", "downloaded", "installing", "rebooting"]
    await until(lambda: _value(line.restarts), 1)
    assert Slots(line.slots.folder).begin() == line.slots.site(line.slots.memory.trial.release)
    assert (line.slots.site(line.slots.memory.trial.release) / "fleetcore_edge" / "cli.py").exists()


async def _value(value):
    return value


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"component": "main"}, "requires_unmet"),
        ({"sha256": "0" * 64}, "signature_invalid"),
        ({"size": 5}, "signature_invalid"),
    ],
)
async def test_what_is_not_an_agent_for_this_gateway_is_refused(line, change, code):
    line.offer(**change)

    assert await line.states(1) == [("failed", code)]
    assert line.restarts == 0


async def test_an_older_release_is_refused(line):
    line.slots.memory = replace(line.slots.memory, highest_seq=7)
    line.offer(seq=6)

    assert await line.states(1) == [("failed", "rollback_refused")]


async def test_a_bundle_of_other_bytes_is_refused(line):
    line.offer()
    line.content = line.content[:-1] + b"?"

    assert (await line.states(3))[-1] == ("failed", "digest_mismatch")


async def test_an_image_that_may_not_be_installed_yet_waits_on_the_disk(line):
    line.offer(install="wait")
    assert [state for state, _ in await line.states(3)] == ["accepted", "downloading", "downloaded"]

    fetched = line.downloads
    line.offer(install="now")

    assert [state for state, _ in await line.states(8)][-2:] == ["installing", "rebooting"]
    assert line.downloads == fetched == 1


async def test_an_offer_that_is_told_again_is_not_begun_again(line):
    line.held = asyncio.Event()
    line.offer()
    await line.states(2)
    line.offer()
    await asyncio.sleep(0)
    line.held.set()

    assert [state for state, _ in await line.states(5)] == [
        "accepted", "downloading", "downloaded", "installing", "rebooting",
    ]  # fmt: skip
    assert line.downloads == 1


async def test_an_offer_that_is_withdrawn_at_once_is_not_begun(line):
    line.offer()
    line.update.heard({"offer": None, "cancel": "c:gw"})

    assert await line.states(1) == [("cancelled", None)]
    assert (line.downloads, line.restarts) == (0, 0)


async def test_a_withdrawn_offer_is_left(line):
    line.offer(install="wait")
    await line.states(3)

    line.update.heard({"offer": None, "cancel": "c:gw"})

    assert (await line.states(4))[-1] == ("cancelled", None)
    assert line.restarts == 0


async def test_a_trial_that_does_not_reach_the_core_ends_after_ten_minutes(tmp_path):
    first = Line(tmp_path / "agent", bundle())
    task = asyncio.create_task(first.update.run())
    first.offer()
    await until(lambda: _value(first.restarts), 1)
    await end_task(task)
    site = Slots(tmp_path / "agent").begin()

    second = Line(tmp_path / "agent", bundle(), site=site)
    task = asyncio.create_task(second.update.run())
    await second.clock.advance(TRIAL_S - 1)
    before = second.restarts
    await second.clock.advance(2)
    await until(lambda: _value(second.restarts), 1)
    await end_task(task)

    assert before == 0
    assert Slots(tmp_path / "agent").begin() is None
    third = Line(tmp_path / "agent", bundle())
    task = asyncio.create_task(third.update.run())
    assert await third.states(1) == [("failed", "health_failed")]
    await end_task(task)
    assert Slots(tmp_path / "agent").memory.ended.told


async def test_a_trial_ends_well_once_the_core_and_the_functions_are_there(tmp_path):
    first = Line(tmp_path / "agent", bundle())
    task = asyncio.create_task(first.update.run())
    first.offer()
    await until(lambda: _value(first.restarts), 1)
    await end_task(task)
    second = Line(tmp_path / "agent", bundle(), site=Slots(tmp_path / "agent").begin())
    task = asyncio.create_task(second.update.run())
    second.there.set()
    await second.clock.advance(1)
    unsettled = second.slots.memory.running
    second.settled.set()

    assert await second.states(1) == [("succeeded", None)]
    await end_task(task)
    assert unsettled is None
    assert second.reported["version"] == "2.0.0"
    assert Slots(tmp_path / "agent").begin() == second.slots.site(second.slots.memory.running)


def test_a_release_is_started_only_so_often(tmp_path):
    slots = Slots(tmp_path / "agent")
    (tmp_path / "agent" / "a").mkdir(parents=True)
    slots.try_out(Trial(release=Release(version="2", sha256="a", seq=2), execution="c:gw", attempt=1))

    starts = [Slots(tmp_path / "agent").begin() for _ in range(STARTS + 1)]

    assert starts == [tmp_path / "agent" / "a"] * STARTS + [None]
    assert Slots(tmp_path / "agent").memory.ended.code == "boot_failed"


def test_a_release_whose_folder_is_gone_is_not_started(tmp_path):
    slots = Slots(tmp_path / "agent")
    slots.try_out(Trial(release=Release(version="2", sha256="a", seq=2), execution="c:gw", attempt=1))

    assert Slots(tmp_path / "agent").begin() is None
    assert Slots(tmp_path / "agent").memory.ended.code == "internal"


def test_a_damaged_state_is_told_with_its_remedy(tmp_path):
    (tmp_path / "state.json").write_bytes(b"{")

    with pytest.raises(ConfigError) as told:
        Slots(tmp_path)

    assert str(tmp_path / "state.json") in told.value.remedy


@pytest.mark.parametrize("name", ["../out.py", "/etc/out.py", "a/../../out.py", "a\\..\\out.py"])
def test_a_bundle_writes_nowhere_else(tmp_path, name):
    file = tmp_path / "agent.zip"
    file.write_bytes(bundle(changed={name: b"print('out')"}))

    with pytest.raises(Refused) as refused:
        unpack(file, tmp_path / "slots" / "a")

    assert refused.value.code == "schema_invalid"
    assert not list(tmp_path.rglob("out.py"))
    assert not (tmp_path / "slots" / "a").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", wheel({"readme.txt": b"no wheel"})])
def test_what_is_no_bundle_is_refused(tmp_path, content):
    (tmp_path / "agent.zip").write_bytes(content)

    with pytest.raises(Refused):
        unpack(tmp_path / "agent.zip", tmp_path / "slots" / "a")

    assert not (tmp_path / "slots" / "a").exists()


def test_a_bundle_that_grows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fleetcore_edge.agent.bundle.MOST_BYTES", 1000)
    (tmp_path / "agent.zip").write_bytes(bundle())

    with pytest.raises(Refused):
        unpack(tmp_path / "agent.zip", tmp_path / "slots" / "a")

    assert not list((tmp_path / "slots").iterdir())
