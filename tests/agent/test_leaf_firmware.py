"""Firmware for a leaf: the core's campaign, the gateway's copy of the image, and the leaf that installs it."""

import asyncio

import pytest
from attrs import evolve
from fleetcore_edge.uplink.firmware import LeafFirmware
from fleetcore_http.plugin import open_client as open_http

from fleetcore import IoTFleetManager
from fleetcore.errors import Unavailable
from fleetcore.interfaces.waits import end_task
from fleetcore.model.firmware import EXECUTION_ENDS
from fleetcore.model.message import Accepted, Request
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.signers import IMAGE, digest
from fleetcore.testing.simulator import Behaviour, SimulatedDevice
from fleetcore.wire import messages
from fleetcore.wire.trust import raw_key
from tests.agent.conftest import ALWAYS, until

MODEL = "pump"


async def release(site, *, content=IMAGE, seq=2):
    fleet = await site.core.open()
    await fleet.campaigns.add_artifact(content)
    envelope = site.signers.manifest(
        content, name="app", seq=seq, version=f"{seq}.0.0", models=(MODEL,), expires=ALWAYS
    )
    await fleet.releases.add(envelope)


async def campaign(site, devices, *, name="c", seq=2):
    await site.core.call(
        "create_campaign", id=name, release=f"{seq}.0.0", devices=list(devices), from_release=f"app:{seq}"
    )


async def pump(site, name, **changes):
    """A leaf with the model of the image, which verifies manifest and assignment and downloads over HTTP."""
    fleet = await site.gateway.open()
    enrolled = await site.leaf(name)
    (key,) = fleet.security.signing_keys()
    trust = site.signers.trust(expires=ALWAYS)
    device = SimulatedDevice(
        enrolled.secrets, enrolled._factory, enrolled.endpoint, fleet.clock,
        behaviour=Behaviour(model=MODEL, seq=1, trust=trust, command_key=raw_key(key), **changes),
        download=(open_http, fleet.protocols["http"].endpoints()[0]),
    )  # fmt: skip
    await device.connect()
    await device.send({"values": {"temperature": 20.0}}, 1)

    async def known():
        found = await (await site.core.open()).devices.find(name)
        return found is not None

    await until(known)
    await site.core.call("update_device", device_id=name, model=MODEL)
    return device


async def ended(site, name="c"):
    fleet = await site.core.open()

    async def states():
        found = await fleet.campaigns.executions.find(ref=("campaign", name))
        return bool(found) and all(one.state in EXECUTION_ENDS for one in found)

    await until(states)
    return {one.device: one for one in await fleet.campaigns.executions.find(ref=("campaign", name))}


async def test_leaves_install_an_image_that_their_gateway_has_downloaded_once(site):
    await site.start()
    await release(site)
    leaves = [await pump(site, f"pump-{number}") for number in range(3)]

    await campaign(site, [leaf.device for leaf in leaves])

    executions = await ended(site)
    assert {one.state.value for one in executions.values()} == {"succeeded"}
    assert [leaf.firmware for leaf in leaves] == ["2.0.0"] * 3
    assert site.uplink.firmware.counts == {"offers": 3, "images": 1, "bytes": len(IMAGE)}


async def test_an_image_that_is_here_is_installed_while_the_core_is_out_of_reach(site):
    await site.start()
    await release(site)
    leaf = await pump(site, "pump-1")
    await leaf.disconnect()
    await campaign(site, ["pump-1"])
    passed = (await site.gateway.open()).passed_offers.records

    async def is_here():
        return await passed.get("pump-1") is not None

    await until(is_here)
    site.cut()
    await leaf.connect()

    async def installed():
        return leaf.firmware

    await until(installed, "2.0.0")
    site.mend()

    executions = await ended(site)
    assert executions["pump-1"].state.value == "succeeded"


async def test_an_offer_is_there_after_a_restart_without_the_core(site):
    await site.start()
    await release(site)
    leaf = await pump(site, "pump-1")
    await leaf.disconnect()
    await campaign(site, ["pump-1"])

    async def here():
        fleet = await site.gateway.open()
        source = fleet.passed_offers.before_firmware(fleet.updates.waiting[messages.FIRMWARE])
        return await source.count("pump-1"), await fleet.passed_offers.names_artifact("pump-1", digest(IMAGE))

    await until(here, (1, True))
    site.cut()
    await site.stop()
    await site.start()

    assert await here() == (1, True)


async def test_an_offer_that_is_withdrawn_leaves_the_gateway_too(site):
    await site.start()
    await release(site)
    leaf = await pump(site, "pump-1")
    await leaf.disconnect()
    await campaign(site, ["pump-1"])
    passed = (await site.gateway.open()).passed_offers.records

    async def offered():
        found = await passed.get("pump-1")
        return found is not None and bool(found.offer)

    await until(offered)
    await site.core.call("abort_campaign", campaign="c")

    await until(offered, wanted=False)
    await leaf.connect()
    await leaf.send({"values": {"temperature": 21.0}}, 1)
    assert leaf.firmware == "1.0.0"


async def test_images_go_once_no_leaf_needs_them(site):
    await site.start()
    await release(site)
    leaves = [await pump(site, f"pump-{number}") for number in range(2)]
    await leaves[1].disconnect()
    await campaign(site, [leaf.device for leaf in leaves])
    storage = (await site.gateway.open()).storage
    passed = (await site.gateway.open()).passed_offers.records

    async def done():
        found = [await passed.get(leaf.device) for leaf in leaves]
        return [each is not None and each.is_over for each in found]

    async def held():
        await site.uplink.firmware.care()
        return await storage.artifact(digest(IMAGE)) is not None

    await until(done, [True, False])
    while_needed = await held()
    await leaves[1].connect()
    await until(done, [True, True])

    assert (while_needed, await held()) == (True, False)
    assert {one.state.value for one in (await ended(site)).values()} == {"succeeded"}


async def test_an_assignment_that_a_leaf_has_not_used_is_asked_for_again(site):
    """The gateway passes on what the core gives it; what has expired is not offered."""
    await site.start()
    await release(site)
    leaf = await pump(site, "pump-1")
    await leaf.disconnect()
    await campaign(site, ["pump-1"])
    gateway = await site.gateway.open()
    passed = gateway.passed_offers.records

    async def limit():
        found = await passed.get("pump-1")
        return None if found is None else found.not_after

    async def is_there():
        return await limit() is not None

    await until(is_there)
    first = await limit()

    def older(old):
        offer = {**old.offer, "install": "wait"}
        return evolve(old, body={"offer": offer}, not_after=1), []

    await passed.change("pump-1", older)
    source = gateway.passed_offers.before_firmware(gateway.updates.waiting[messages.FIRMWARE])
    expired = await source.read("pump-1", 0)

    async def again():
        await site.uplink.firmware.care()
        return await limit()

    assert expired is None
    await until(again, first)
    assert await source.count("pump-1") == 1


async def test_a_gateway_that_cannot_download_says_so(site):
    await site.start(http=False)
    await release(site)
    await pump(site, "pump-1")

    await campaign(site, ["pump-1"])

    one = (await ended(site))["pump-1"]
    assert (one.state.value, one.code) == ("failed", "operation_unknown")


async def admitted(_size):
    """There is room."""


async def test_a_download_goes_on_where_it_broke_off(tmp_path):
    """Also after a kill: what came is in the store."""
    asked, content = [], bytes(range(256)) * 4096

    async def download(sha256, start, device):
        asked.append((device, start))
        yield content[start : start + 600_000]
        if len(asked) == 1:
            raise Unavailable("The connection is lost", code="not_ready")

    offer = {"execution": "c:pump-1", "attempt": 1, "sha256": digest(content), "size": len(content), "path": "/x"}
    async with IoTFleetManager(tmp_path / "data", create=True) as manager:
        fleet = await manager.open()
        await manager.create_device("pump-1", type="pump")
        clock = MovableClock()
        firmware = LeafFirmware(None, fleet.storage, clock, fleet.passed_offers, download, admitted)
        task = asyncio.create_task(firmware.run())
        await firmware.heard("pump-1", {"offer": offer})

        async def passed():
            await clock.advance(1.0)
            return await fleet.passed_offers.records.get("pump-1") is not None

        await until(passed)
        await end_task(task)

        assert await fleet.storage.artifact(digest(content)) is not None
    assert asked[0] == ("pump-1", 0)
    assert 0 < asked[1][1] <= 600_000
    assert len(asked) == 2


OFFER = {"execution": "c:pump-1", "attempt": 1, "sha256": digest(IMAGE), "size": len(IMAGE), "version": "2.0.0"}
WITHDRAWAL = {"offer": None, "cancel": "c:pump-1"}


class Passing:
    """A fleet that passes offers on to one device."""

    def __init__(self, fleet, clock):
        self.offers, self.clock = fleet.passed_offers, clock
        self.source = self.offers.before_firmware(fleet.updates.waiting[messages.FIRMWARE])
        (self.reports,) = self.offers.before_reports(fleet.updates.handlers).values()

    async def take(self, body):
        await self.offers.take("pump-1", body, actor="core")

    async def says(self, state, **more):
        body = messages.FirmwareStatus(execution="c:pump-1", state=state, **more)
        (outcome,) = await self.reports([(Request(identity="pump-1", subject="pump-1"), body)])
        assert isinstance(outcome, Accepted)

    async def gets(self):
        return await self.source.read("pump-1", 0)


@pytest.fixture
async def passing(tmp_path):
    clock = MovableClock()
    async with IoTFleetManager(tmp_path / "data", create=True, clock=clock) as manager:
        await manager.create_device("pump-1", type="pump")
        yield Passing(await manager.open(), clock)


async def test_a_withdrawal_is_repeated_for_a_week(passing):
    await passing.take({"offer": OFFER})
    await passing.take(WITHDRAWAL)
    first = await passing.gets()
    passing.clock.jump(7 * 86_400_000)

    assert first == WITHDRAWAL
    assert await passing.gets() is None


async def test_a_withdrawal_of_what_has_ended_is_not_told(passing):
    await passing.take({"offer": OFFER})
    await passing.says("succeeded", version="2.0.0")
    await passing.take(WITHDRAWAL)

    assert await passing.gets() is None


async def test_a_late_report_opens_no_offer_again(passing):
    await passing.take({"offer": OFFER})
    await passing.says("succeeded", version="2.0.0")
    await passing.says("installing")

    assert await passing.gets() is None


async def test_an_offer_whose_report_was_refused_is_offered_again(passing):
    await passing.take({"offer": OFFER})
    await passing.says("succeeded", version="1.9.9")
    over = await passing.gets()
    status = (await passing.offers.records.get("pump-1")).status
    await passing.offers.reopen("pump-1", status)

    assert over is None
    assert await passing.gets() == {"offer": OFFER}
