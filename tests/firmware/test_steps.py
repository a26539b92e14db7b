"""Paths and components: what a campaign's devices install first, in their order, each step known by an offer of its own."""

import pytest

from fleetcore.errors import Refused
from fleetcore.model.firmware import ExecutionState
from fleetcore.model.message import Accepted
from fleetcore.rollout.steps import of_offer
from fleetcore.testing.flash import MemoryFlash
from fleetcore.testing.signers import IMAGE, digest
from fleetcore.testing.slots import Image
from fleetcore.wire import messages
from fleetcore.wire.manifest import Required, Sbom, peek_manifest
from tests.firmware.kit import ended

MODEM = Image(version="1.0.0", sha256=digest(b"modem 1"), size=7, seq=1)


def image(name):
    return IMAGE + name.encode()


@pytest.fixture
def release(manager, signers, trusted):
    """Uploads an image and adds its release: ``await release("thermo", 3, requires_seq=2)``."""

    async def add(name, seq, **manifest):
        content = image(f"{name} {seq}")
        await manager.upload_artifact(content)
        return await manager.add_release(signers.manifest(content, name=name, seq=seq, **manifest))

    return add


def needs_modem(seq=2):
    return (Required(component="modem", name="acme-modem", seq=seq),)


async def started(manager, release, devices=("a",), **more):
    return await manager.create_campaign("c", release["release"], list(devices), from_release=release["id"], **more)


async def decisions(manager, device="a"):
    """The states of a device's update in their order, without repeated downloads."""
    found = [each["state"] for each in (await manager.why_execution("c", device))["decisions"]]
    return [state for at, state in enumerate(found) if at == 0 or found[at - 1] != state]


# --- paths ------------------------------------------------------------------------------------------------------------


async def test_a_device_passes_through_the_releases_that_later_ones_require(manager, fleet, device, release):
    await release("thermo", 2)
    await release("thermo", 3, requires_seq=2)
    last = await release("thermo", 4, requires_seq=3)
    made = await device("a", seq=1)

    campaign = await started(manager, last)
    (execution,) = await ended(fleet)

    assert [(each["release"], each["seq"]) for each in campaign["before"]] == [("2.0.0", 2), ("3.0.0", 3)]
    assert execution.state is ExecutionState.SUCCEEDED
    assert (execution.step, execution.attempt, execution.reported_version) == (2, 1, "4.0.0")
    assert made.firmware == "4.0.0"
    assert made.updates[:2] == ["2.0.0", "3.0.0"]
    assert (await manager.get_campaign("c"))["state"] == "succeeded"


async def test_a_device_that_has_a_step_or_a_later_one_does_not_install_it(manager, fleet, device, release):
    await release("thermo", 2)
    await release("thermo", 3, requires_seq=2)
    last = await release("thermo", 5, requires_seq=3)
    made = await device("a", seq=4, firmware="4.0.0")

    await started(manager, last)
    (execution,) = await ended(fleet)

    assert (execution.state, execution.reason, execution.step) == (ExecutionState.SUCCEEDED, None, 2)
    assert made.firmware == "5.0.0"


async def test_without_the_release_in_between_a_campaign_is_refused_and_says_what_to_add(manager, device, release):
    last = await release("thermo", 3, requires_seq=2)
    await device("a", seq=1)

    with pytest.raises(Refused, match="requires seq 2 of thermo first") as refused:
        await started(manager, last)

    assert refused.value.code == "requires_unmet"


async def test_a_device_that_goes_back_before_its_turn_is_refused_at_the_offer(
    manager, fleet, device, release, signers
):
    """The check of the creation is made again: what was true then may have changed."""
    last = await release("thermo", 4, requires_seq=3)
    made = await device("a", seq=3, firmware="3.0.0")
    await started(manager, last, hold=True)
    await made.report({"firmware": {"version": "2.0.0", "seq": 2, "highest_seq": 2}})

    await manager.resume_campaign("c")
    (execution,) = await ended(fleet)

    assert (execution.state, execution.code) == (ExecutionState.REJECTED, "requires_unmet")


async def test_releases_that_require_each_other_make_no_campaign(manager, release, signers):
    await manager.register_device("a", "sensor", {"model": "T-1000"})
    await release("acme-modem", 2, component="modem", requires=(Required(component="main", name="thermo", seq=2),))
    last = await release("thermo", 2, requires=needs_modem())

    with pytest.raises(Refused, match="requires itself") as refused:
        await started(manager, last)

    assert refused.value.code == "requires_unmet"


# --- components -------------------------------------------------------------------------------------------------------


async def test_components_are_installed_in_their_order(manager, fleet, device, release):
    await release("acme-modem", 2, component="modem")
    last = await release("thermo", 2, requires=needs_modem())
    made = await device("a", components={"modem": MODEM})

    await started(manager, last)
    (execution,) = await ended(fleet)

    assert (execution.state, execution.step) == (ExecutionState.SUCCEEDED, 1)
    assert made.updater.memory.components["modem"].seq == 2
    assert made.firmware == "2.0.0"
    states = await decisions(manager)
    assert states.index("waiting") < states.index("rebooting"), states
    twin = await manager.get_twin("a")
    assert twin["reported"]["firmware"]["components"]["modem"]["version"] == "2.0.0"


async def test_a_component_has_its_own_campaign_and_leaves_the_others_as_they_are(manager, fleet, device, release):
    modem = await release("acme-modem", 2, component="modem")
    made = await device("a", components={"modem": MODEM})

    campaign = await started(manager, modem)
    (execution,) = await ended(fleet)

    assert campaign["component"] == "modem"
    assert execution.state is ExecutionState.SUCCEEDED
    assert (made.firmware, made.updater.memory.components["modem"].version) == ("1.0.0", "2.0.0")


async def test_a_step_that_fails_ends_the_update_before_the_rest_is_touched(manager, fleet, device, release):
    await release("acme-modem", 2, component="modem")
    last = await release("thermo", 2, requires=needs_modem())
    made = await device("a", components={"modem": MODEM}, firmware_fails="flash_failed")

    await started(manager, last)
    (execution,) = await ended(fleet)

    assert (execution.state, execution.code, execution.step) == (ExecutionState.FAILED, "flash_failed", 0)
    assert made.firmware == "1.0.0"
    assert made.updater.memory.components["modem"] == MODEM


async def test_retries_are_counted_over_all_steps(manager, fleet, device, release, clock):
    await release("acme-modem", 2, component="modem")
    last = await release("thermo", 2, requires=needs_modem())
    made = await device("a", components={"modem": MODEM}, firmware_fails="flash_failed")
    await started(manager, last, retries=1, retry_after_s=60)
    execution = await reached(fleet, lambda each: each.attempt == 2)
    assert execution.step == 0

    made.updater.spoilt = None
    await clock.advance(61)
    await fleet.campaigns.tick()
    (execution,) = await ended(fleet)

    assert (execution.state, execution.step, execution.attempt) == (ExecutionState.SUCCEEDED, 1, 2)


async def test_a_device_without_the_component_refuses_it(manager, fleet, device, release):
    await release("acme-modem", 2, component="modem")
    last = await release("thermo", 2, requires=needs_modem())
    made = await device("a")

    await started(manager, last)
    (execution,) = await ended(fleet)

    assert (execution.state, execution.code, execution.step) == (ExecutionState.REJECTED, "model_mismatch", 0)
    assert made.firmware == "1.0.0"


async def test_a_device_checks_by_itself_what_its_other_components_have(manager, fleet, device, release):
    """The modem's release is not stored, and the device's report does not say what modem it has."""
    last = await release("thermo", 2, requires=needs_modem())
    made = await device("a")

    await started(manager, last)
    (execution,) = await ended(fleet)

    assert (execution.state, execution.code) == (ExecutionState.REJECTED, "requires_unmet")
    assert made.firmware == "1.0.0"


# --- reports ----------------------------------------------------------------------------------------------------------


async def reached(fleet, wanted):
    while True:
        position = await fleet.storage.position()
        found = await fleet.campaigns.execution("c", "a")
        if found is not None and wanted(found):
            return found
        await fleet.storage.wait_feed(position, 1.0)


async def test_each_step_is_an_update_of_its_own_for_the_device(manager, fleet, device, release, line):
    await release("acme-modem", 2, component="modem")
    last = await release("thermo", 2, requires=needs_modem())
    offers = []
    line.change = staticmethod(lambda offer: offers.append(offer) or offer)
    await device("a", components={"modem": MODEM})

    await started(manager, last)
    await ended(fleet)

    seen = dict.fromkeys((each["execution"], each["component"], each["version"]) for each in offers)
    assert list(seen) == [("c:a", "modem", "2.0.0"), ("c:a#1", "main", "2.0.0")]


async def test_a_late_repetition_of_a_step_does_not_count_for_the_next_one(manager, fleet, device, release, clock):
    """Both images have one version: only the name of the offer tells the reports apart."""
    await release("acme-modem", 2, component="modem")
    last = await release("thermo", 2, requires=needs_modem())
    made = await device("a", components={"modem": MODEM}, flash=MemoryFlash())
    await manager.create_campaign("c", "2.0.0", ["a"], from_release=last["id"], hold=True)
    await made.disconnect()
    await manager.resume_campaign("c")
    await fleet.updates.offer("a")

    async def says(name, state, **more):
        return await fleet.updates.status("a", status_of(name, state, **more))

    assert await says("c:a", "succeeded", version="2.0.0") == Accepted()
    offer = (await fleet.updates.offer("a"))["offer"]
    assert (offer["execution"], offer["component"]) == ("c:a#1", "main")
    assert await says("c:a#1", "accepted") == Accepted()

    assert await says("c:a", "succeeded", version="2.0.0") == Accepted()
    late = await says("c:a", "failed", code="internal")
    ahead = await says("c:a#2", "accepted")

    assert (late.code, ahead.code) == ("illegal_transition", "execution_unknown")
    found = await fleet.campaigns.execution("c", "a")
    assert (found.state, found.step) == (ExecutionState.ACCEPTED, 1)


async def test_reports_of_a_step_that_come_together_count_once(manager, fleet, device, release):
    await release("acme-modem", 2, component="modem")
    last = await release("thermo", 2, requires=needs_modem())
    made = await device("a", components={"modem": MODEM})
    await started(manager, last, hold=True)
    await made.disconnect()
    await manager.resume_campaign("c")
    await fleet.updates.offer("a")

    succeeded = ("a", status_of("c:a", "succeeded", version="2.0.0"))
    outcomes = await fleet.updates.statuses([succeeded, succeeded, ("a", status_of("c:a", "failed"))])

    assert outcomes[:2] == [Accepted(), Accepted()]
    assert outcomes[2].code == "illegal_transition"
    found = await fleet.campaigns.execution("c", "a")
    assert (found.state, found.step) == (ExecutionState.WAITING, 1)


def status_of(execution, state, **more):
    return messages.FirmwareStatus(execution=execution, state=state, **more)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("c:a", ("c:a", 0)), ("c:a#2", ("c:a", 2)), ("c:a#", ("c:a#", 0)), ("c:a#x", ("c:a#x", 0)), ("#1", ("", 1))],
)
def test_the_name_of_an_offer_is_read_back(name, meant):
    assert of_offer(name) == meant


# --- plans, rollbacks and the bill of materials -----------------------------------------------------------------------


async def test_a_plan_counts_the_bytes_and_offers_of_every_step(manager, fleet, device, release):
    await release("acme-modem", 2, component="modem")
    last = await release("thermo", 2, requires=needs_modem())
    for name in ("a", "b"):
        await device(name, components={"modem": MODEM})
    await started(manager, last, ("a", "b"), hold=True)

    plan = await manager.plan_campaign("c")

    assert plan["offers"] == 4
    assert plan["bytes"] == 2 * (len(image("acme-modem 2")) + len(image("thermo 2")))


async def test_a_rollback_reaches_a_device_that_stopped_on_the_way(manager, fleet, device, release):
    await release("thermo", 2)
    last = await release("thermo", 3, requires_seq=2)
    back = await release("thermo", 4, version="1.0.0")
    made = await device("a", seq=1, firmware_fails="health_failed", bad_firmware="3.0.0")
    await started(manager, last, rollback_to=back["id"])
    (execution,) = await ended(fleet)
    assert (execution.state, execution.step, made.firmware) == (ExecutionState.FAILED, 1, "2.0.0")

    await manager.roll_back_campaign("c")
    (rolled,) = await ended(fleet, "c-rollback")

    assert rolled.state is ExecutionState.SUCCEEDED
    assert made.firmware == "1.0.0"


async def test_a_release_names_its_components_and_its_bill_of_materials(release):
    sbom = Sbom(format="cyclonedx-json", sha256=digest(b"{}"))

    found = await release("thermo", 2, requires=needs_modem(7), sbom=sbom)

    assert (found["component"], found["requires"]) == ("main", {"modem": "acme-modem:7"})
    assert (found["sbom_format"], found["sbom_sha256"]) == ("cyclonedx-json", digest(b"{}"))
    assert peek_manifest(found["manifest"]).sbom == sbom


@pytest.mark.parametrize(
    "wrong",
    [
        {"requires": (Required(component="main", name="thermo", seq=1),)},
        {"requires": (Required(component="modem", name="acme modem", seq=1),)},
        {"requires": (Required(component="modem", name="acme", seq=0),)},
        {"requires": tuple(Required(component=f"c{n}", name="acme", seq=1) for n in range(17))},
        {"component": "a component"},
        {"sbom": Sbom(format="", sha256=digest(b""))},
        {"sbom": Sbom(format="spdx-json", sha256="00")},
    ],
)
def test_a_manifest_with_wrong_requirements_is_unreadable(signers, wrong):
    with pytest.raises(Refused) as refused:
        peek_manifest(signers.manifest(**wrong))
    assert refused.value.code == "schema_invalid"
