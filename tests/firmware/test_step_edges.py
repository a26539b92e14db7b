"""Steps at their edges: campaigns that stop between two of them, old releases, and what a device had before."""

import pytest
from attrs import evolve

from fleetcore.errors import Refused
from fleetcore.fleet.update_policy import Target
from fleetcore.model.firmware import ExecutionState, FirmwareImage
from fleetcore.model.message import Accepted
from fleetcore.testing.flash import MemoryFlash
from fleetcore.testing.signers import IMAGE, START_MS, digest
from fleetcore.testing.slots import Image
from fleetcore.wire import messages
from fleetcore.wire.manifest import Required
from tests.firmware.kit import ended

MODEM = Image(version="1.0.0", sha256=digest(b"modem 1"), size=7, seq=1)


@pytest.fixture
def release(manager, signers, trusted):
    """Uploads an image and adds its release: ``await release("thermo", 3, requires_seq=2)``."""

    async def add(name, seq, *, content=None, **manifest):
        content = content or IMAGE + f"{name} {seq}".encode()
        await manager.upload_artifact(content)
        return await manager.add_release(signers.manifest(content, name=name, seq=seq, **manifest))

    return add


@pytest.fixture
def silent(manager, fleet, device):
    """Makes devices that are off: the test reports for them."""

    async def make(name="a", **behaviour):
        made = await device(name, flash=MemoryFlash(), **behaviour)
        await made.disconnect()
        return made

    return make


def needs_modem(seq=2):
    return (Required(component="modem", name="acme-modem", seq=seq),)


async def says(fleet, name, state, device="a", **more):
    return await fleet.updates.status(device, messages.FirmwareStatus(execution=name, state=state, **more))


async def started(manager, release, devices=("a",), **more):
    return await manager.create_campaign("c", release["release"], list(devices), from_release=release["id"], **more)


async def installs_modem(manager, fleet, silent, release):
    """The device a installs its modem's image; after it would come that of main. The campaign has a rollback."""
    await release("acme-modem", 2, component="modem")
    last = await release("thermo", 2, requires=needs_modem())
    back = await release("thermo", 3, version="1.0.0")
    await silent(components={"modem": MODEM})
    await started(manager, last, rollback_to=back["id"])
    await fleet.updates.offer("a")
    await says(fleet, "c:a", "installing")


# --- a campaign stops between two steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["abort_campaign", "roll_back_campaign"])
async def test_a_step_that_ends_in_a_stopped_campaign_is_the_last_one(manager, fleet, silent, release, stop):
    await installs_modem(manager, fleet, silent, release)

    await getattr(manager, stop)("c")
    assert await says(fleet, "c:a", "succeeded", version="2.0.0") == Accepted()

    found = await fleet.campaigns.execution("c", "a")
    assert (found.state, found.code, found.due, found.withdrawn) == (ExecutionState.CANCELLED, "aborted", None, False)
    assert not [each.id for each in await fleet.campaigns.executions.find(ref=("open", "a")) if each.campaign == "c"]


async def test_a_rollback_leaves_a_device_alone_that_had_the_version_on_the_way_before(manager, fleet, silent, release):
    """It has run 2.0.0 before the campaign, which changed nothing on it."""
    await release("thermo", 2)
    last = await release("thermo", 3, requires_seq=2)
    back = await release("thermo", 4, version="1.0.0")
    await silent(seq=2, firmware="2.0.0")
    await started(manager, last, rollback_to=back["id"])
    assert (await fleet.updates.offer("a"))["offer"]["version"] == "3.0.0"

    await manager.roll_back_campaign("c")

    assert [each.id for each in await fleet.campaigns.records.find()] == ["c"]


async def test_a_rollback_leaves_a_device_alone_that_installs_another_component(manager, fleet, silent, release):
    await installs_modem(manager, fleet, silent, release)

    await manager.roll_back_campaign("c")

    assert [each.id for each in await fleet.campaigns.records.find()] == ["c"]


async def test_a_rollback_to_another_component_is_refused(manager, device, release):
    modem = await release("acme-modem", 5, component="modem")
    last = await release("thermo", 2)
    await device("a", components={"modem": MODEM})

    with pytest.raises(Refused, match=r"component 'main', and 5\.0\.0 for 'modem'") as refused:
        await started(manager, last, rollback_to=modem["id"])

    assert refused.value.code == "rollback_refused"


# --- which release comes before --------------------------------------------------------------------------------------------


async def test_a_release_in_between_that_expired_is_replaced_by_the_same_image_signed_again(manager, release, clock):
    image = IMAGE + b"in between"
    await release("thermo", 2, content=image, version="2.0.0", expires=START_MS + 60_000)
    await release("thermo", 3, content=image, version="2.0.0")
    last = await release("thermo", 4, requires_seq=2)
    await manager.register_device("a", "sensor", {"model": "T-1000"})
    await clock.advance(61)

    campaign = await started(manager, last, hold=True)

    assert [each["seq"] for each in campaign["before"]] == [3]


def test_a_version_that_runs_is_not_needed_whatever_its_form():
    image = FirmwareImage(release="R2/beta", seq=2)
    runs = Target.of("a", "T-1000", {"version": "R2/beta"})

    assert not runs.needs(image)
    assert runs.needs(evolve(image, release="R3"))


# --- what devices report -----------------------------------------------------------------------------------------------------


async def test_an_update_of_a_component_does_not_hide_that_the_firmware_runs_already(manager, fleet, silent, release):
    modem = await release("acme-modem", 5, component="modem")
    last = await release("thermo", 2)
    made = await silent(components={"modem": MODEM})
    await manager.create_campaign("m", "5.0.0", ["a"], from_release=modem["id"])
    await fleet.updates.offer("a")
    assert await says(fleet, "m:a", "succeeded", version="5.0.0") == Accepted()
    await made.connect()
    await made.report({"firmware": {"version": "2.0.0", "seq": 2, "sha256": last["sha256"]}})
    await made.disconnect()

    await started(manager, last)
    await fleet.updates.offer("a")
    (execution,) = await ended(fleet)

    assert (execution.state, execution.code) == (ExecutionState.SKIPPED, "same_version")


async def test_a_report_of_many_components_costs_no_more_reads(manager, fleet, silent, release, monkeypatch):
    last = await release("thermo", 2)
    await silent()
    await started(manager, last)
    await fleet.updates.offer("a")
    await says(fleet, "c:a", "succeeded", version="2.0.0")
    reads = []

    async def counted(*args, real=fleet.storage.find, **more):
        reads.append(args)
        return await real(*args, **more)

    monkeypatch.setattr(fleet.storage, "find", counted)
    components = {f"part-{number}": {"version": "1.0.0"} for number in range(500)}
    await fleet.updates.reported("a", {"firmware": {"version": "2.0.0", "components": components}})

    assert len(reads) <= 4


async def test_between_two_steps_the_device_is_awaited_although_its_report_is_older(manager, fleet, silent, release):
    """The offer counts what the campaign has installed; so do the plan and the reason that an operator reads."""
    await release("thermo", 2)
    last = await release("thermo", 3, requires_seq=2)
    await silent(seq=1)
    await started(manager, last)
    await fleet.updates.offer("a")
    await says(fleet, "c:a", "succeeded", version="2.0.0")

    execution = await fleet.campaigns.execution("c", "a")
    waits = await fleet.updates.waits_for(await fleet.campaigns.get("c"), execution)
    plan = await manager.plan_campaign("c")

    assert waits == "the device, which has not fetched its offer"
    assert plan["refused"] == {}
