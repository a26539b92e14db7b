"""Twins that are remembered for their next change: never older than the store where it matters, and within a bound."""

import random

import pytest

from fleetcore.errors import StorageError
from fleetcore.fleet.process_state.last_written import LastWritten
from fleetcore.model.message import Accepted
from fleetcore.model.store import Commit
from fleetcore.wire import messages


async def test_an_erased_device_that_is_registered_again_begins_with_an_empty_twin(fleet):
    await fleet.devices.register("a", "sensor")
    await fleet.twins.desire("a", {"interval": 60})
    await fleet.erasing.erase("a")
    await fleet.devices.register("a", "sensor")

    twin = await fleet.twins.desire("a", {"interval": 60})

    assert twin.desired.document == {"interval": 60}
    assert (await fleet.twins.get("a")).desired.document == {"interval": 60}


async def test_versions_of_an_erased_device_go_on_when_its_id_is_registered_again(fleet):
    await fleet.devices.register("a", "sensor")
    for interval in range(5):
        await fleet.twins.desire("a", {"interval": interval})
    for _ in range(2):
        held = (await fleet.twins.get("a")).desired.version
        await fleet.erasing.erase("a")
        await fleet.devices.register("a", "sensor")

        # The device still holds what it was told: it has to hear that nothing is desired now, and what comes then.
        empty = await fleet.twins.get("a")
        assert (empty.desired.version > held, empty.desired.document) == (True, {})
        again = await fleet.twins.desire("a", {"interval": 0})
        assert again.desired.version > empty.desired.version
        acknowledged = await fleet.twins.acknowledge("a", messages.TwinAck(version=again.desired.version))
        assert isinstance(acknowledged, Accepted)


async def test_a_change_by_another_writer_is_seen_by_the_next(fleet):
    await fleet.devices.register("a", "sensor")
    await fleet.twins.desire("a", {"interval": 60})
    stored = await fleet.twins.get("a")
    await fleet.storage.commit(Commit(puts=(fleet.twins._records.put(stored, expect=stored.version),)))

    await fleet.twins.desire("a", {"mode": "eco"})

    assert (await fleet.twins.get("a")).desired.document == {"interval": 60, "mode": "eco"}


async def test_a_commit_that_failed_is_not_remembered(fleet):
    await fleet.devices.register("a", "sensor")
    await fleet.twins.desire("a", {"interval": 60})
    commit = fleet.storage.commit

    async def failing(_change):
        raise StorageError("the disk is full")

    fleet.storage.commit = failing
    with pytest.raises(StorageError):
        await fleet.twins.desire("a", {"interval": 5})
    fleet.storage.commit = commit

    assert (await fleet.twins.desire("a", {"mode": "eco"})).desired.document == {"interval": 60, "mode": "eco"}


def test_what_is_kept_stays_within_its_bound_and_the_latest_stay_longest():
    chance = random.Random(3)
    kept = LastWritten(len, 1000)
    for number in range(2000):
        kept.put(f"k{chance.randrange(50)}", "x" * chance.randrange(1, 200))
        assert kept.size_bytes <= 1000
        if number % 7 == 0:
            kept.forget(f"k{chance.randrange(50)}")
    kept.put("last", "x" * 900)

    assert kept.get("last") is not None
    assert kept.size_bytes <= 1000
