"""The eight attacks on firmware, each against a device that verifies, over a line that is not ours.

The attacker has the line, the mirror, the server's store and the server's own key: whatever a manifest does not forbid.
Each refusal is counted by the campaign.
"""

import pytest

from fleetcore.testing.signers import DAY_MS, IMAGE, START_MS
from tests.firmware.kit import assigned, ended


@pytest.fixture
async def campaign(manager, fleet, signers, trusted):
    """Starts a campaign with a manifest that the server believes."""

    async def start(name="c", image=IMAGE, **manifest):
        await manager.upload_artifact(image)
        signed = signers.manifest(image, **manifest)
        await manager.update_firmware(name, f"{manifest.get('seq', 2)}.0.0", ["a"], "", manifest=signed)
        return await ended(fleet, name)

    return start


async def outcome(manager, name="c"):
    campaign = await manager.get_campaign(name)
    return campaign["state"], [(one.state, one.code) for one in await manager.list_executions(name)]


async def test_what_nobody_touched_is_installed(device, campaign, manager):
    thermo = await device()

    await campaign()

    assert await outcome(manager) == ("succeeded", [("succeeded", None)])
    assert (thermo.firmware, thermo.updater.memory.highest_seq) == ("2.0.0", 2)
    assert (await manager.get_twin("a"))["reported"]["firmware"]["seq"] == 2


async def test_a_replayed_old_manifest_is_refused(device, campaign, manager, fleet, signers, line):
    thermo = await device()
    await campaign("up", seq=3)
    line.change = lambda offer: assigned(fleet, {**offer, "manifest": signers.manifest(seq=2)}, seq=2)

    await campaign(seq=4)

    assert await outcome(manager) == ("failed", [("rejected", "rollback_refused")])
    assert thermo.firmware == "3.0.0"


async def test_an_expired_manifest_is_refused(device, campaign, manager, fleet, clock, signers, line):
    thermo = await device()
    old = signers.manifest(created=START_MS - 2 * DAY_MS, expires=START_MS - DAY_MS)
    line.change = lambda offer: assigned(fleet, {**offer, "manifest": old})

    await campaign()

    assert await outcome(manager) == ("failed", [("rejected", "manifest_expired")])
    assert thermo.firmware == "1.0.0"


async def test_a_changed_manifest_is_refused(device, campaign, manager, fleet, signers, line):
    await device()
    other = signers.manifest(models=("T-1000", "T-2000"))
    line.change = lambda offer: assigned(
        fleet, {**offer, "manifest": {**offer["manifest"], "payload": other["payload"]}}
    )

    await campaign()

    assert await outcome(manager) == ("failed", [("rejected", "signature_invalid")])


@pytest.mark.parametrize("chunk", [None, 4096])
async def test_a_tampered_image_of_the_same_length_is_refused(device, campaign, manager, line, chunk):
    thermo = await device()
    tampered = IMAGE[:9000] + b"!" + IMAGE[9001:]

    async def image(start):
        for at in range(start, len(tampered), 1000):
            yield tampered[at : at + 1000]

    line.image = image

    await campaign(chunk=chunk)

    assert await outcome(manager) == ("failed", [("rejected", "hash_mismatch")])
    assert thermo.firmware == "1.0.0"
    # With digests of pieces the bad piece is the last one that is loaded.
    assert line.served <= (len(IMAGE) if chunk is None else 12_288 + 1000)


async def test_endless_data_is_cut_at_the_declared_size(device, campaign, manager, line):
    await device()

    async def image(start):
        while True:
            yield bytes(1000)

    line.image = image

    await campaign()

    assert await outcome(manager) == ("failed", [("rejected", "size_mismatch")])
    assert line.served <= len(IMAGE) + 1000


async def test_the_key_of_one_model_signs_nothing_for_another(device, manager, fleet, signers, line):
    root = signers.trust(firmware=None, models={"T-1000": ["for-t-1000"], "T-2000": ["for-t-2000"]})
    await manager.set_firmware_root(root)
    await manager.upload_artifact(IMAGE)
    await device("a", trust=root)
    forged = signers.manifest(by=["for-t-2000"])
    line.change = lambda offer: assigned(fleet, {**offer, "manifest": forged})

    await manager.update_firmware("c", "2.0.0", ["a"], "", manifest=signers.manifest(by=["for-t-1000"]))
    await ended(fleet)

    assert await outcome(manager) == ("failed", [("rejected", "signature_invalid")])


async def test_a_trust_root_that_old_and_new_keys_signed_is_followed(device, campaign, manager, signers, trusted):
    thermo = await device()
    for version, root, by in ((2, ["root-2"], ["root", "root-2"]), (3, ["root-3"], ["root-2", "root-3"])):
        await manager.set_firmware_root(signers.trust(version, root=root, firmware=["maker-2"], by=by))

    await campaign(by=["maker-2"])

    assert await outcome(manager) == ("succeeded", [("succeeded", None)])
    assert thermo.updater.trust.version == 3
    assert (await manager.get_twin("a"))["reported"]["firmware"]["trust"] == 3


async def test_a_trust_root_that_only_the_new_key_signed_is_refused(device, campaign, manager, fleet, signers, line):
    thermo = await device()
    theirs = signers.trust(2, root=["thief"], firmware=["thief"])
    line.change = lambda offer: assigned(
        fleet, {**offer, "trust": [theirs], "manifest": signers.manifest(by=["thief"])}
    )

    await campaign()

    assert await outcome(manager) == ("failed", [("rejected", "signature_invalid")])
    assert thermo.updater.trust.version == 1
