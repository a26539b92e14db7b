"""A version names one image: the same version with another image is refused, the same image again is not."""

import asyncio

import pytest

from fleetcore.errors import Conflict
from fleetcore.model.store import Commit, Delete
from fleetcore.testing.signers import IMAGE, digest

REBUILT = IMAGE[::-1]


@pytest.fixture
async def here(manager):
    """Two images are here, and a device of each of two models."""
    await manager.register_device("a", "sensor", {"model": "T-1000"})
    await manager.register_device("b", "sensor", {"model": "T-2000"})
    for image in (IMAGE, REBUILT):
        await manager.upload_artifact(image)


async def refused(work):
    with pytest.raises(Conflict) as found:
        await work
    assert found.value.code == "version_rebuilt"
    return found.value


async def test_a_release_of_another_image_under_the_same_version_is_refused(manager, signers, here, trusted):
    await manager.add_release(signers.manifest(seq=2, version="2.0.0"))

    error = await refused(manager.add_release(signers.manifest(REBUILT, seq=3, version="2.0.0")))

    assert digest(IMAGE) in error.message
    assert digest(REBUILT) in error.message
    assert "2.0.0+build.2" in error.remedy
    assert [one["id"] async for one in manager.iter_releases()] == ["thermo:2"]


async def test_the_same_image_may_be_released_again_and_a_build_under_its_own_version(manager, signers, here, trusted):
    await manager.add_release(signers.manifest(seq=2, version="2.0.0"))
    await manager.add_release(signers.manifest(seq=3, version="2.0.0"))
    await manager.add_release(signers.manifest(REBUILT, seq=4, version="2.0.0+build.2"))

    assert [one["seq"] async for one in manager.iter_releases()] == [2, 3, 4]


async def test_two_images_released_under_one_version_at_once_become_one_release(manager, signers, here, trusted):
    made = await asyncio.gather(
        manager.add_release(signers.manifest(seq=2, version="2.0.0")),
        manager.add_release(signers.manifest(REBUILT, seq=3, version="2.0.0")),
        return_exceptions=True,
    )

    assert sorted(getattr(one, "code", "made") for one in made) == ["made", "version_rebuilt"]


async def test_a_release_that_was_added_before_versions_were_recorded_counts(manager, fleet, signers, here, trusted):
    await manager.add_release(signers.manifest(seq=2, version="2.0.0"))
    await fleet.storage.commit(Commit(deletes=(Delete(kind="build", key="thermo@2.0.0"),)))

    await refused(manager.add_release(signers.manifest(REBUILT, seq=3, version="2.0.0")))


async def test_a_campaign_of_another_image_under_the_same_version_is_refused_for_the_same_model(manager, here):
    await manager.create_campaign("one", "2.0.0", ["a"], sha256=digest(IMAGE))
    await manager.create_campaign("again", "2.0.0", ["a"], sha256=digest(IMAGE))
    await manager.create_campaign("other-model", "2.0.0", ["b"], sha256=digest(REBUILT))

    error = await refused(manager.create_campaign("rebuilt", "2.0.0", ["a"], sha256=digest(REBUILT)))

    assert "T-1000" in error.message
    assert {one["id"] async for one in manager.iter_campaigns()} == {"one", "again", "other-model"}


async def test_devices_without_a_model_may_be_of_different_products(manager, here):
    for device, image in (("plain-1", "ab" * 32), ("plain-2", "cd" * 32)):
        await manager.register_device(device, "sensor")
        made = await manager.update_firmware(device, "1.0.0", [device], "https://x.example/f", sha256=image, size=1)
        assert made["state"] == "running"


async def test_a_campaign_and_a_release_have_one_image_for_a_version(manager, signers, here, trusted):
    await manager.add_release(signers.manifest(seq=2, version="2.0.0"))
    rebuilt = signers.manifest(REBUILT, seq=3, version="2.0.0")

    await refused(manager.create_campaign("rebuilt", "2.0.0", ["a"], manifest=rebuilt))


async def test_a_way_back_has_one_image_for_its_version_too(manager, here):
    await manager.create_campaign("one", "1.0.0", ["a"], sha256=digest(IMAGE))
    way = {"rollback_version": "1.0.0", "rollback_sha256": digest(REBUILT)}

    await refused(manager.create_campaign("two", "2.0.0", ["a"], sha256=digest(REBUILT), **way))
    way = {"rollback_version": "3.0.0", "rollback_sha256": digest(REBUILT)}
    await refused(manager.create_campaign("three", "3.0.0", ["a"], sha256=digest(IMAGE), **way))


async def test_a_draft_whose_url_turns_out_to_have_another_image_does_not_start(manager, fleet, here):
    await manager.create_campaign("one", "2.0.0", ["a"], sha256=digest(IMAGE))
    await manager.create_campaign("draft", "2.0.0", ["a"], url="https://firmware.example/image")

    await refused(fleet.campaigns.start("draft", sha256=digest(REBUILT), size=len(REBUILT)))

    assert (await manager.get_campaign("draft"))["state"] == "draft"
