"""A simple campaign: offers, each device's states to the end, conserved counts."""

import hashlib

import pytest

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Accepted, Inbound
from fleetcore.wire import messages
from fleetcore.wire.strict_json import dumps

IMAGE = b"firmware image" * 1000


@pytest.fixture
async def campaign(manager):
    for name in ("a", "b"):
        await manager.register_device(name, "sensor")
    artifact = await manager.upload_artifact(IMAGE)
    await manager.update_firmware(
        "c", "2.0.0", ["a", "b"], "https://example.com/fw", sha256=artifact["sha256"], size=artifact["size_bytes"]
    )
    return await manager.open()


async def status(fleet, device, **body):
    await fleet.updates.offer(device)
    session = await fleet.plane.authenticate(LocalCredential(device), protocol="test")
    message = Inbound(
        type=messages.FIRMWARE_STATUS,
        subject=device,
        payload=dumps({"execution": f"c:{device}", "campaign": "c", **body}),
    )
    return await fleet.ingest.submit(session, message)


async def test_an_offer_is_found_by_its_device_and_can_be_downloaded(campaign, manager):
    session = await campaign.plane.authenticate(LocalCredential("a"), protocol="test")

    body = await campaign.plane.wait(session, "a", messages.FIRMWARE)
    reader = await campaign.plane.open_artifact(session, "a", body["offer"]["sha256"])
    content = b"".join([piece async for piece in reader.read()])

    assert (body["offer"]["version"], body["offer"]["size"]) == ("2.0.0", len(IMAGE))
    assert hashlib.sha256(content).hexdigest() == body["offer"]["sha256"]


async def test_an_artifact_is_only_for_devices_with_an_open_offer(campaign, manager):
    await manager.register_device("stranger", "sensor")
    session = await campaign.plane.authenticate(LocalCredential("stranger"), protocol="test")

    with pytest.raises(NotFound) as refused:
        await campaign.plane.open_artifact(session, "stranger", hashlib.sha256(IMAGE).hexdigest())

    assert refused.value.code == "artifact_unknown"


async def test_every_device_is_followed_to_its_end(campaign, manager):
    for state in ("accepted", "downloading", "downloaded", "installing", "rebooting"):
        assert await status(campaign, "a", state=state) == Accepted()
    await status(campaign, "a", state="succeeded", version="2.0.0")
    running = await manager.get_campaign("c")
    await status(campaign, "b", state="failed", code="no_space")
    ended = await manager.get_campaign("c")

    assert running["state"] == "running"
    assert (ended["state"], ended["reason"]) == ("succeeded", "1 of 2 devices updated: 1 failed")
    assert {one.device: one.state for one in await manager.list_executions("c")} == {"a": "succeeded", "b": "failed"}
    assert ended.counts == {"succeeded": 1, "failed": 1}


async def test_states_never_go_back_and_another_version_is_no_success(campaign):
    await status(campaign, "a", state="installing")

    back = await status(campaign, "a", state="downloading")
    wrong = await status(campaign, "a", state="succeeded", version="1.9.9")
    unnamed = await status(campaign, "a", state="succeeded")
    foreign = await status(campaign, "b", state="succeeded", execution="c:a")

    assert (back.code, wrong.code, unnamed.code, foreign.code) == (
        "illegal_transition", "version_mismatch", "version_mismatch", "execution_unknown",
    )  # fmt: skip


async def test_abort_cancels_what_has_not_begun_and_leaves_the_rest(campaign, manager):
    await status(campaign, "a", state="downloading")

    await campaign.campaigns.abort("c")

    assert {one.device: one.state for one in await manager.list_executions("c")} == {
        "a": "downloading",
        "b": "cancelled",
    }


async def test_a_campaign_without_a_digest_stays_a_draft_in_memory_and_raises_nothing(manager):
    await manager.register_device("a", "sensor")

    made = await manager.update_firmware("c", "2.0.0", ["a"], "https://updates.example.com/v2")

    assert (made["state"], made["code"]) == ("draft", "artifact_unpinned")


async def test_a_campaign_needs_a_new_name_and_known_devices(campaign, manager):
    with pytest.raises(Conflict):
        await manager.update_firmware("c", "3.0.0", ["a"], "https://example.com/fw")
    with pytest.raises(NotFound):
        await manager.update_firmware("d", "3.0.0", ["ghost"], "https://example.com/fw")
    with pytest.raises(Refused):
        await manager.update_firmware("e", "3.0.0", [], "https://example.com/fw")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "[::1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]",
     "[2002:a9fe:a9fe::]", "192.0.0.192", "224.0.0.1", "10.0.0.1", "169.254.169.254"],
)  # fmt: skip
def test_the_server_fetches_from_no_internal_address(host):
    from fleetcore.fleet.fetch import fetch

    with pytest.raises(Refused) as refused:
        next(iter(fetch(f"http://{host}/fw", 1000)))

    assert refused.value.code == "url_forbidden"


async def test_a_device_that_polls_is_told_that_its_offer_was_withdrawn_until_it_answers(campaign, manager):
    plane = campaign.plane
    session = await plane.authenticate(LocalCredential("a"), protocol="test", lasting=False)
    other = await plane.authenticate(LocalCredential("b"), protocol="test", lasting=False)
    await plane.wait(session, "a", messages.FIRMWARE)

    await manager.abort_campaign("c")
    told = [await plane.wait(session, "a", messages.FIRMWARE) for _ in range(2)]
    inbox, pending = await plane.wait(session, "a", messages.INBOX), await plane.pending(session, "a")
    unseen = await plane.wait(other, "b", messages.FIRMWARE)
    answered = await status(campaign, "a", state="cancelled")

    assert told == [{"offer": None, "cancel": "c:a"}] * 2
    assert inbox["firmware"] == told[0]
    assert pending["firmware"] == 1
    assert unseen is None  # it was never shown the offer
    assert answered == Accepted()
    assert await plane.wait(session, "a", messages.FIRMWARE) is None
    assert "firmware" not in await plane.pending(session, "a")


async def test_a_device_that_goes_on_with_a_withdrawn_offer_is_refused_and_knows(campaign, manager):
    session = await campaign.plane.authenticate(LocalCredential("a"), protocol="test", lasting=False)
    await campaign.plane.wait(session, "a", messages.FIRMWARE)
    await manager.abort_campaign("c")

    late = await status(campaign, "a", state="accepted")

    assert late.code == "illegal_transition"
    assert await campaign.plane.wait(session, "a", messages.FIRMWARE) is None
    assert {one.device: one.state for one in await manager.list_executions("c")} == {"a": "cancelled", "b": "cancelled"}


async def test_a_device_that_comes_back_is_told_that_its_offer_was_withdrawn(campaign, manager):
    session = await campaign.plane.authenticate(LocalCredential("a"), protocol="test", lasting=False)
    await campaign.plane.wait(session, "a", messages.FIRMWARE)
    await manager.abort_campaign("c")
    got = []

    campaign.plane.listen(await campaign.plane.authenticate(LocalCredential("a"), protocol="test"), got.append)
    await campaign.plane.wait_idle()

    assert [downlink.body for downlink in got if downlink.type is messages.FIRMWARE] == [
        {"offer": None, "cancel": "c:a"}
    ]


async def test_a_newer_offer_takes_the_place_of_a_withdrawal(campaign, manager):
    session = await campaign.plane.authenticate(LocalCredential("a"), protocol="test", lasting=False)
    await campaign.plane.wait(session, "a", messages.FIRMWARE)
    await manager.abort_campaign("c")
    digest = hashlib.sha256(IMAGE).hexdigest()
    await manager.update_firmware("d", "3.0.0", ["a"], "https://example.com/fw", sha256=digest, size=len(IMAGE))

    assert (await campaign.plane.wait(session, "a", messages.FIRMWARE))["offer"]["version"] == "3.0.0"
