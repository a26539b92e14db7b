"""A device that dies at any moment of an update goes on or goes back; never are both slots bad."""

import hashlib
import json

import pytest

from fleetcore.testing.flash import FileFlash, PowerCut, PowerLoss
from tests.firmware.kit import Bench, offer_of

#: How an update ends: in the new image, or back in the old one with what is wrong.
ENDINGS = {
    "healthy": ({}, "2.0.0", ("succeeded", None)),
    "sick": ({"healthy": False}, "1.0.0", ("failed", "health_failed")),
    "dead": ({"comes_up": False}, "1.0.0", ("failed", "boot_failed")),
}


def startable(folder):
    """Slots whose content is what the device remembers of them, looked at from outside."""
    memory = json.loads((folder / "memory.json").read_bytes())
    found = []
    for slot, image in memory["slots"].items():
        file = folder / f"slot-{slot}.img"
        if image and file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == image["sha256"]:
            found.append((slot, image["seq"]))
    return memory, found


@pytest.fixture
def factory(tmp_path_factory, signers, clock):
    """Makes a folder as a device leaves the factory."""

    async def make():
        folder = tmp_path_factory.mktemp("device")
        await Bench(FileFlash(folder), signers, clock).start()
        return folder

    return make


async def until_dark(folder, signers, clock, cut, how, offer):
    """Lives on that power supply; whether the power was cut."""
    bench = Bench(FileFlash(folder), signers, clock, supply=cut, **how)
    try:
        await bench.start()
        await bench.take(offer)
    except PowerLoss:
        return True
    return False


def check(folder, highest):
    """What must hold of a dead device; gives its highest seq."""
    memory, found = startable(folder)
    assert found, "both slots are bad"
    assert any(slot == memory["active"] for slot, _ in found), "the active slot is bad"
    assert memory["highest_seq"] >= highest, "the highest seq fell"
    assert all(seq >= memory["floor"] for slot, seq in found if slot == memory["active"])
    return memory["highest_seq"]


async def ends_well(folder, signers, clock, how, ending, offer):
    """The power is back for good and the server offers again, until the device has said how it ended."""
    _, version, said = ENDINGS[ending]
    bench = Bench(FileFlash(folder), signers, clock, **how)
    await bench.start()
    await bench.take(offer)
    assert bench.said[-1] == said
    assert bench.updater.running.version == version
    assert bench.updater.memory.job is None
    check(folder, 2 if version == "2.0.0" else 1)


@pytest.mark.parametrize("chunk", [None, 2048])
@pytest.mark.parametrize("after", [False, True], ids=["at", "after"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_death_at_any_step_leaves_a_slot_to_start_and_the_update_ends(
    factory, signers, clock, ending, after, chunk
):
    how, _, _ = ENDINGS[ending]
    offer = offer_of(signers, chunk=chunk, min_seq=2)
    steps = 0
    while True:
        folder = await factory()
        cut = PowerCut(steps, after=after)
        if not await until_dark(folder, signers, clock, cut, how, offer):
            break
        check(folder, 1)
        await ends_well(folder, signers, clock, how, ending, offer)
        steps += 1

    assert steps >= 20, cut.steps


async def test_death_again_while_it_comes_back_is_no_worse(factory, signers, clock):
    offer = offer_of(signers, min_seq=2)
    for first in range(0, 24, 3):
        for second in range(0, 24, 2):
            folder = await factory()
            highest = 1
            for at in (first, second):
                await until_dark(folder, signers, clock, PowerCut(at, after=bool(at % 4)), {}, offer)
                highest = check(folder, highest)
            await ends_well(folder, signers, clock, {}, "healthy", offer)


async def test_a_device_that_dies_every_time_it_starts_on_trial_goes_back(factory, signers, clock):
    folder = await factory()
    offer = offer_of(signers)
    cut = PowerCut(10_000)
    await until_dark(await factory(), signers, clock, cut, {}, offer)
    rebooting = cut.steps.index("say rebooting")

    assert await until_dark(folder, signers, clock, PowerCut(rebooting), {}, offer)
    for _ in range(3):
        # It counts the start, and is gone before it has proved anything.
        assert await until_dark(folder, signers, clock, PowerCut(0, after=True), {}, offer)
    bench = Bench(FileFlash(folder), signers, clock)
    await bench.start()

    assert (bench.updater.running.version, bench.said) == ("1.0.0", [("failed", "boot_failed")])


async def test_what_was_loaded_before_is_not_loaded_again(factory, signers, clock):
    folder = await factory()
    offer = offer_of(signers, chunk=4096)
    cut = PowerCut(10_000)
    await until_dark(await factory(), signers, clock, cut, {}, offer)
    third = [at for at, step in enumerate(cut.steps) if step.startswith("append")][2]

    await until_dark(folder, signers, clock, PowerCut(third, after=True), {}, offer)
    bench = Bench(FileFlash(folder), signers, clock)
    await bench.start()
    await bench.take(offer)

    assert bench.loaded == len(bench.image) - 3 * 4096
    assert bench.updater.running.version == "2.0.0"
