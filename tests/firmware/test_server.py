"""The server's part of firmware trust: what is taken in, what a campaign may be made of, what is handed out and when."""

import json

import pytest

from fleetcore import IoTFleetManager
from fleetcore.calls.caller import user_of
from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound
from fleetcore.runtime.config import build
from fleetcore.testing.signers import DAY_MS, IMAGE, START_MS
from fleetcore.wire import dsse, messages
from fleetcore.wire.assignment import ASSIGNMENT_TYPE, open_assignment, read_assignment
from tests.firmware.kit import raw_server_key


@pytest.fixture
async def here(manager, trusted):
    """The image is here, and so are two devices."""
    for name in ("a", "b"):
        await manager.register_device(name, "sensor", {"model": "T-1000"})
    return await manager.upload_artifact(IMAGE)


async def code_of(work):
    with pytest.raises(Refused) as refused:
        await work
    return refused.value.code


async def report(fleet, device, **firmware):
    session = await fleet.plane.authenticate(LocalCredential(device), protocol="test")
    payload = json.dumps({"firmware": firmware}).encode()
    await fleet.plane.call(session, Inbound(type=messages.TWIN_REPORT, subject=device, payload=payload))


# --- trust roots ------------------------------------------------------------------------------------------------------


async def test_the_first_trust_root_is_version_1_and_each_next_one_follows(manager, signers):
    second = signers.trust(2, root=["root-2"], by=["root", "root-2"])

    assert await code_of(manager.set_firmware_root(second)) == "trust_invalid"
    await manager.set_firmware_root(signers.trust())
    assert await code_of(manager.set_firmware_root(signers.trust(3))) == "trust_invalid"
    assert await code_of(manager.set_firmware_root(signers.trust(2, root=["thief"]))) == "signature_invalid"
    await manager.set_firmware_root(second)

    assert (await manager.get_firmware_root())["number"] == 2
    assert [one["number"] for one in await manager.list_firmware_roots()] == [1, 2]


async def test_the_same_trust_root_again_changes_nothing_and_another_one_is_a_conflict(manager, signers, trusted):
    assert await manager.set_firmware_root(signers.trust()) == trusted
    with pytest.raises(Conflict):
        await manager.set_firmware_root(signers.trust(expires=START_MS + DAY_MS))


async def test_a_trust_root_that_its_own_threshold_did_not_sign_is_no_first_one(manager, signers):
    half = signers.trust(root=["one", "two"], threshold=2, by=["one"])

    assert await code_of(manager.set_firmware_root(half)) == "signature_invalid"
    with pytest.raises(NotFound):
        await manager.get_firmware_root()


async def test_who_set_which_trust_root_stands_in_the_audit_log(manager, fleet, signers, trusted):
    await manager.set_firmware_root(signers.trust(2), reason="a maker left")
    await fleet.wait_idle()

    rows = await manager.list_audit(object="firmware trust root", after=0)

    assert [(one["action"], one["actor"], one["reason"]) for one in rows] == [
        ("trust.set", user_of("library"), ""),
        ("trust.set", user_of("library"), "a maker left"),
    ]


async def test_trust_root_and_releases_are_there_after_a_restart(tmp_path, signers, clock):
    async with IoTFleetManager(tmp_path / "data", clock=clock) as manager:
        await manager.set_firmware_root(signers.trust())
        await manager.set_firmware_root(signers.trust(2, firmware=["maker-2"]))
        await manager.upload_artifact(IMAGE)
        await manager.add_release(signers.manifest(by=["maker-2"]))

    async with IoTFleetManager(tmp_path / "data", clock=clock) as manager:
        assert (await manager.get_firmware_root())["number"] == 2
        assert (await manager.get_release("thermo:2"))["trust"] == 2
        assert await code_of(manager.add_release(signers.manifest(seq=3))) == "signature_invalid"


# --- releases -----------------------------------------------------------------------------------------------------------


async def test_a_release_is_verified_and_kept_as_it_was_signed(manager, signers, here):
    signed = signers.manifest(min_seq=1)

    made = await manager.add_release(signed)
    again = await manager.add_release(signed)

    assert made == again == await manager.get_release("thermo:2")
    assert (made["release"], made["models"], made["manifest"], made["trust"]) == ("2.0.0", ["T-1000"], signed, 1)


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        ({"by": ["stranger"]}, "signature_invalid"),
        ({"by": ["root"]}, "signature_invalid"),
        ({"created": START_MS - DAY_MS, "expires": START_MS}, "manifest_expired"),
        ({"size": len(IMAGE) + 1}, "size_mismatch"),
    ],
)
async def test_a_release_is_refused(manager, signers, here, manifest, code):
    assert await code_of(manager.add_release(signers.manifest(**manifest))) == code
    assert list(await manager.list_releases()) == []


async def test_a_release_needs_its_image_first_and_a_trust_root_before_that(manager, signers):
    assert await code_of(manager.add_release(signers.manifest())) == "trust_invalid"
    await manager.set_firmware_root(signers.trust())
    with pytest.raises(NotFound) as refused:
        await manager.add_release(signers.manifest())

    assert refused.value.code == "artifact_unknown"


async def test_under_an_expired_trust_root_nothing_is_signed_off(manager, signers, here, clock):
    clock.jump(366 * DAY_MS)
    signed = signers.manifest(expires=START_MS + 400 * DAY_MS)

    assert await code_of(manager.add_release(signed)) == "trust_expired"
    await manager.set_firmware_root(signers.trust(2, expires=START_MS + 800 * DAY_MS))

    assert (await manager.add_release(signed))["trust"] == 2


async def test_a_seq_that_goes_back_needs_a_word_and_one_that_is_taken_is_a_conflict(manager, signers, here):
    await manager.add_release(signers.manifest(seq=5))

    assert await code_of(manager.add_release(signers.manifest(seq=4))) == "rollback_refused"
    assert (await manager.add_release(signers.manifest(seq=4), allow_downgrade=True))["seq"] == 4
    with pytest.raises(Conflict):
        await manager.add_release(signers.manifest(seq=5, version="5.0.1"))


async def test_every_model_of_a_release_has_to_be_signed_for(manager, signers):
    await manager.set_firmware_root(signers.trust(models={"T-2000": ["theirs"]}))
    await manager.upload_artifact(IMAGE)
    models = ("T-1000", "T-2000")

    assert await code_of(manager.add_release(signers.manifest(models=models))) == "signature_invalid"
    assert (await manager.add_release(signers.manifest(models=models, by=["maker", "theirs"])))["seq"] == 2


# --- campaigns ------------------------------------------------------------------------------------------------------------


async def test_without_a_trust_root_a_campaign_needs_no_manifest(manager):
    await manager.register_device("a", "sensor")
    image = await manager.upload_artifact(IMAGE)

    made = await manager.update_firmware("c", "2", ["a"], "https://x.example/f", sha256=image["sha256"])

    assert made["state"] == "running"


async def test_with_a_trust_root_an_unsigned_campaign_is_refused(manager, here):
    unsigned = manager.update_firmware("c", "2.0.0", ["a"], "https://x.example/f", sha256=here["sha256"])

    assert await code_of(unsigned) == "manifest_required"
    assert await code_of(manager.update_firmware("d", "2.0.0", ["a"], "https://x.example/f")) == "manifest_required"


async def test_configuration_may_allow_unsigned_campaigns(signers, clock):
    async with IoTFleetManager(config=build({"firmware": {"allow_unsigned": True}}), clock=clock) as manager:
        await manager.set_firmware_root(signers.trust())
        await manager.register_device("a", "sensor")

        made = await manager.update_firmware("c", "2", ["a"], "https://x.example/f", sha256="0" * 64, size=1)

    assert made["state"] == "running"


async def test_a_campaign_of_a_release_takes_digest_and_size_from_its_manifest(manager, signers, here):
    await manager.add_release(signers.manifest())

    made = await manager.update_firmware("c", "2.0.0", ["a", "b"], "", from_release="thermo:2")

    assert (made["state"], made["sha256"], made["size"], made["seq"], made["trust"]) == (
        "running", here["sha256"], len(IMAGE), 2, 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("manifest", "given", "code"),
    [
        ({"by": ["stranger"]}, {}, "signature_invalid"),
        ({"created": START_MS - DAY_MS, "expires": START_MS}, {}, "manifest_expired"),
        ({}, {"sha256": "0" * 64}, "hash_mismatch"),
        ({}, {"size": 1}, "size_mismatch"),
        ({"version": "2.0.1"}, {}, "version_mismatch"),
        ({"models": ("T-9",)}, {}, "model_mismatch"),
    ],
)
async def test_a_campaign_is_refused_before_anything_is_sent(manager, signers, here, manifest, given, code):
    made = manager.update_firmware("c", "2.0.0", ["a"], "", manifest=signers.manifest(**manifest), **given)

    assert await code_of(made) == code
    with pytest.raises(NotFound):
        await manager.get_campaign("c")


async def test_each_device_that_does_not_fit_is_named_with_its_reason(manager, fleet, signers, here):
    await manager.register_device("other", "sensor", {"model": "T-2000"})
    await manager.register_device("bare", "sensor")
    await report(fleet, "b", version="3.0.0", seq=3, highest_seq=3)

    with pytest.raises(Refused) as refused:
        await manager.update_firmware("c", "2.0.0", ["a", "b", "other", "bare"], "", manifest=signers.manifest())

    assert [(one["device"], one["code"]) for one in refused.value.ids["failures"]] == [
        ("b", "rollback_refused"),
        ("other", "model_mismatch"),
        ("bare", "model_mismatch"),
    ]
    assert "3 of 4 devices" in refused.value.message
    assert "other" in refused.value.message


async def test_a_device_is_known_by_what_it_installed_where_it_says_nothing(manager, fleet, signers, here):
    await manager.update_firmware("up", "5.0.0", ["a"], "", manifest=signers.manifest(seq=5))
    session = await fleet.plane.authenticate(LocalCredential("a"), protocol="test")
    assert await fleet.updates.offer("a") is not None
    payload = json.dumps({"execution": "up:a", "state": "succeeded", "version": "5.0.0"}).encode()
    await fleet.ingest.submit(session, Inbound(type=messages.FIRMWARE_STATUS, subject="a", payload=payload))

    down = signers.manifest(seq=4)
    assert await code_of(manager.update_firmware("c", "4.0.0", ["a"], "", manifest=down)) == "rollback_refused"
    allowed = await manager.update_firmware("d", "4.0.0", ["a"], "", manifest=down, allow_downgrade=True)
    assert allowed["allow_downgrade"] is True


async def test_a_step_that_has_to_come_before_is_asked_for(manager, fleet, signers, here):
    await report(fleet, "a", version="1.0.0", seq=1)

    made = manager.update_firmware("c", "9.0.0", ["a"], "", manifest=signers.manifest(seq=9, requires_seq=5))

    assert await code_of(made) == "requires_unmet"


async def test_an_empty_url_needs_the_image_here(manager, signers, trusted):
    await manager.register_device("a", "sensor", {"model": "T-1000"})

    assert (
        await code_of(manager.update_firmware("c", "2.0.0", ["a"], "", manifest=signers.manifest())) == "schema_invalid"
    )


# --- offers -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def offered(manager, fleet, signers, here):
    await manager.update_firmware("c", "2.0.0", ["a"], "", manifest=signers.manifest())

    async def offer():
        found = await fleet.updates.offer("a")
        return None if found is None else found["offer"]

    return offer


async def test_an_offer_carries_manifest_and_the_servers_assignment(fleet, offered, signers, clock):
    offer = await offered()

    found = open_assignment(offer["assignment"], raw_server_key(fleet), device="a", now=clock.now_ms())
    assert found.issued == clock.now_ms()
    assert offer["manifest"] == signers.manifest()
    assert (found.execution, found.campaign, found.seq) == ("c:a", "c", 2)
    assert found.not_after == START_MS + 3 * DAY_MS
    assert "url" not in offer


async def test_the_same_offer_is_the_same_bytes_until_half_of_its_time_is_over(offered, clock):
    def nonce(offer):
        return read_assignment(dsse.opened(offer["assignment"], ASSIGNMENT_TYPE)).nonce

    first, again = await offered(), await offered()
    clock.jump(2 * DAY_MS)
    later = await offered()

    assert first == again
    assert nonce(later) != nonce(first)


async def test_the_chain_goes_on_where_the_device_said_it_is(manager, fleet, offered, signers):
    assert "trust" not in await offered()
    for number in (2, 3, 4):
        await manager.set_firmware_root(signers.trust(number))
    whole = await offered()
    await report(fleet, "a", version="1.0.0", trust=3)

    assert [len(one["trust"]) for one in (whole, await offered())] == [3, 1]


async def test_firmware_whose_key_was_taken_out_meanwhile_is_not_handed_out(manager, offered, signers):
    assert await offered() is not None
    await manager.set_firmware_root(signers.trust(2, firmware=["maker-2"]))

    assert await offered() is None
    campaign = await manager.get_campaign("c")
    assert (campaign.state, (await manager.list_executions("c"))[0].code) == ("failed", "signature_invalid")


async def test_firmware_whose_manifest_has_expired_is_not_handed_out(manager, offered, clock):
    clock.jump(31 * DAY_MS)

    assert await offered() is None
    assert (await manager.list_executions("c"))[0].code == "manifest_expired"


async def test_under_an_expired_trust_root_offers_wait_for_the_next_one(manager, fleet, signers, here, clock):
    manifest = signers.manifest(expires=START_MS + 500 * DAY_MS)
    await manager.update_firmware("c", "2.0.0", ["a"], "", manifest=manifest)
    clock.jump(366 * DAY_MS)

    waiting = await fleet.updates.offer("a")
    await manager.set_firmware_root(signers.trust(2, expires=START_MS + 800 * DAY_MS))

    assert waiting is None
    assert (await fleet.updates.offer("a"))["offer"]["execution"] == "c:a"


async def test_a_device_that_got_further_meanwhile_is_not_taken_back(manager, fleet, offered):
    await report(fleet, "a", version="3.0.0", seq=3, highest_seq=3)

    assert await offered() is None
    assert (await manager.list_executions("c"))[0].code == "rollback_refused"


async def test_a_new_attempt_gets_a_new_assignment(fleet, offered):
    from msgspec.structs import replace

    first = await offered()
    await fleet.campaigns.executions.change("c:a", lambda old: (replace(old, attempt=2), []))

    second = await offered()

    assert second["attempt"] == 2
    assert second["assignment"] != first["assignment"]
