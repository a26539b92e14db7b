"""What a verifying device takes and refuses, one rule at a time."""

import pytest

from fleetcore.testing.clock import MovableClock
from fleetcore.testing.flash import FileFlash, MemoryFlash
from fleetcore.testing.signers import DAY_MS, IMAGE, START_MS
from tests.firmware.kit import Bench, offer_of


@pytest.fixture
async def bench(signers, clock):
    made = Bench(MemoryFlash(), signers, clock)
    await made.start()
    return made


async def test_a_genuine_offer_is_installed_in_its_order(bench, signers):
    await bench.take(offer_of(signers))

    assert [state for state, _ in bench.said] == [
        "accepted", "downloading", "downloaded", "installing", "rebooting", "succeeded",
    ]  # fmt: skip
    assert (bench.updater.running.version, bench.updater.memory.highest_seq) == ("2.0.0", 2)


REFUSED = {
    "wrong model": ({"models": ("T-2000",)}, "model_mismatch"),
    "lower seq": ({"seq": 1, "version": "0.9"}, "rollback_refused"),
    "expired manifest": ({"created": START_MS - DAY_MS, "expires": START_MS - 1}, "manifest_expired"),
    "wrong key": ({"by": ["stranger"]}, "signature_invalid"),
    "missing step": ({"seq": 9, "requires_seq": 5}, "requires_unmet"),
    "too large": ({"size": 2 << 30}, "no_space"),
    "a patch": ({"delta_from": "0" * 64}, "requires_unmet"),
}


@pytest.mark.parametrize(("manifest", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_a_manifest_says_is_refused_before_a_byte_is_loaded(bench, signers, manifest, code):
    await bench.take(offer_of(signers, **manifest))

    assert bench.said == [("rejected", code)]
    assert (bench.loaded, bench.updater.running.version) == (0, "1.0.0")


async def test_a_device_without_a_clock_judges_expiry_by_the_last_time_that_the_server_signed(signers):
    flash, expired = MemoryFlash(), {"seq": 3, "created": START_MS, "expires": START_MS + DAY_MS}
    bench = Bench(flash, signers, MovableClock(0))
    await bench.start()

    refused = await bench.take(offer_of(signers, issued=START_MS + DAY_MS, **expired))
    believed = bench.updater.memory.signed_ms
    await bench.take(offer_of(signers, issued=START_MS + 2 * DAY_MS))
    again = Bench(flash, signers, MovableClock(0))
    await again.start()
    later = await again.take(offer_of(signers, not_after=START_MS + 3 * DAY_MS, **expired))

    assert (refused, later) == ("rejected", "rejected")
    assert bench.said[0] == again.said[-1] == ("rejected", "manifest_expired")
    assert believed == 0, "a time at which no manifest is valid is not kept"
    assert again.updater.memory.signed_ms == START_MS + 2 * DAY_MS
    assert again.updater.running.version == "2.0.0"


async def test_a_clock_that_is_ahead_of_the_server_counts(signers, clock):
    bench = Bench(MemoryFlash(), signers, clock)
    await bench.start()
    clock.jump(DAY_MS)

    await bench.take(
        offer_of(signers, issued=START_MS, expires=START_MS + DAY_MS // 2, not_after=START_MS + 2 * DAY_MS)
    )

    assert bench.said == [("rejected", "manifest_expired")]


async def test_below_the_threshold_nothing_is_believed(signers, clock):
    trust = signers.trust(firmware=["maker", "second"], firmware_threshold=2)
    bench = Bench(MemoryFlash(), signers, clock, trust=trust)
    await bench.start()

    one = await bench.take(offer_of(signers))
    twice = await bench.take(offer_of(signers, by=["maker", "maker"]))
    both = await bench.take(offer_of(signers, by=["maker", "second"]))

    assert (one, twice, both) == ("rejected", "rejected", "succeeded")


async def test_swapped_pieces_are_found_at_the_first(bench, signers):
    pieces = [bytes([number]) * 4096 for number in range(4)]
    offer = offer_of(signers, image=b"".join(pieces), chunk=4096)
    bench.image = b"".join([pieces[0], pieces[2], pieces[1], pieces[3]])

    await bench.take(offer)

    assert bench.said[-1] == ("rejected", "hash_mismatch")
    assert bench.loaded <= 2 * 4096 + 3000


async def test_an_image_that_ends_early_is_refused(bench, signers):
    bench.image = IMAGE[:-1]

    await bench.take(offer_of(signers))

    assert bench.said[-1] == ("rejected", "size_mismatch")


async def test_what_runs_already_is_a_success_that_loads_nothing(bench, signers):
    await bench.take(offer_of(signers))
    bench.loaded = 0

    again = await bench.take({**offer_of(signers), "execution": "other", "assignment": None})
    proper = await bench.take(offer_of(signers, attempt=2))

    assert (again, proper, bench.loaded) == ("rejected", "succeeded", 0)
    assert bench.said[-1] == ("succeeded", None)


async def test_another_image_with_the_same_seq_is_no_success(bench, signers):
    await bench.take(offer_of(signers))
    bench.image = IMAGE[::-1]

    await bench.take(offer_of(signers, image=bench.image, version="2.0.0-b"))

    assert bench.said[-1] == ("rejected", "rollback_refused")


async def test_a_deliberate_downgrade_is_the_old_image_under_a_higher_seq(bench, signers):
    old, new = IMAGE, IMAGE[::-1]
    await bench.take(offer_of(signers, seq=2, version="2.0.0"))
    bench.image = new
    await bench.take(offer_of(signers, image=new, seq=3, version="3.0.0"))
    bench.image = old

    assert await bench.take(offer_of(signers, seq=4, version="2.0.0")) == "succeeded"
    assert (bench.updater.running.version, bench.updater.memory.highest_seq) == ("2.0.0", 4)


ASSIGNMENTS = {
    "of another device": ({"device": "b"}, "not_your_device"),
    "that is over": ({"not_after": START_MS}, "too_late"),
    "of another update": ({"execution": "other"}, "signature_invalid"),
    "of another manifest": ({"manifest_sha256": "0" * 64}, "signature_invalid"),
    "of another seq": ({"seq": 3}, "signature_invalid"),
}


@pytest.mark.parametrize(("changes", "code"), ASSIGNMENTS.values(), ids=ASSIGNMENTS.keys())
async def test_an_assignment_is_refused(bench, signers, changes, code):
    from attrs import evolve

    from fleetcore.wire import dsse
    from fleetcore.wire.assignment import ASSIGNMENT_TYPE, read_assignment, write_assignment

    offer = offer_of(signers)
    found = read_assignment(dsse.opened(offer["assignment"], ASSIGNMENT_TYPE))
    payload = write_assignment(evolve(found, **changes))
    offer["assignment"] = dsse.sign(payload, ASSIGNMENT_TYPE, [signers.key("server")])

    await bench.take(offer)

    assert bench.said == [("rejected", code)]


@pytest.mark.parametrize("signer", ["maker", "root", "stranger"])
async def test_only_the_server_assigns(bench, signers, signer):
    from fleetcore.wire import dsse
    from fleetcore.wire.assignment import ASSIGNMENT_TYPE

    offer = offer_of(signers)
    payload = dsse.opened(offer["assignment"], ASSIGNMENT_TYPE)
    offer["assignment"] = dsse.sign(payload, ASSIGNMENT_TYPE, [signers.key(signer)])

    assert await bench.take(offer) == "rejected"


@pytest.mark.parametrize("member", ["manifest", "assignment"])
async def test_without_a_manifest_or_an_assignment_nothing_is_taken(bench, signers, member):
    offer = offer_of(signers)
    del offer[member]

    await bench.take(offer)

    assert bench.said == [("rejected", "signature_invalid")]


async def test_an_expired_trust_root_believes_nothing_new(signers, clock):
    bench = Bench(MemoryFlash(), signers, clock, trust=signers.trust(expires=START_MS + 1))
    await bench.start()
    clock.jump(1)

    await bench.take(offer_of(signers))

    assert bench.said == [("rejected", "trust_expired")]


async def test_a_version_of_the_trust_root_that_is_skipped_ends_the_way(bench, signers):
    second = signers.trust(2)
    third = signers.trust(3)

    skipped = await bench.take(offer_of(signers, trust=[third]))
    whole = await bench.take(offer_of(signers, trust=[second, third], attempt=2))

    assert (skipped, bench.said[0], whole) == ("rejected", ("rejected", "trust_invalid"), "succeeded")
    assert bench.updater.trust.version == 3


async def test_a_key_that_was_taken_out_signs_nothing_any_more(bench, signers):
    await bench.take(offer_of(signers, trust=[signers.trust(2, firmware=["maker-2"])]))

    assert bench.said == [("rejected", "signature_invalid")]


async def test_the_trust_root_and_the_highest_seq_survive_a_restart(tmp_path, signers, clock):
    first = Bench(FileFlash(tmp_path), signers, clock)
    await first.start()
    await first.take(offer_of(signers, seq=5, trust=[signers.trust(2)]))

    again = Bench(FileFlash(tmp_path), signers, clock)
    await again.start()
    await again.take(offer_of(signers, seq=4))

    assert (again.updater.trust.version, again.updater.memory.highest_seq) == (2, 5)
    assert again.said == [("rejected", "rollback_refused")]


async def test_min_seq_lifts_the_floor_only_once_the_image_is_healthy(signers, clock):
    bench = Bench(MemoryFlash(), signers, clock, healthy=False)
    await bench.start()

    await bench.take(offer_of(signers, min_seq=2))
    sick = bench.updater.memory
    bench.healthy = True
    await bench.take(offer_of(signers, min_seq=2, attempt=2))
    well = bench.updater.memory

    assert (sick.floor, sick.highest_seq, bench.said[5]) == (0, 1, ("failed", "health_failed"))
    assert (well.floor, well.highest_seq) == (2, 2)
    # What is below the floor is not kept to fall back to.
    assert [image and image.seq for image in well.slots.values()] == [None, 2]


async def test_going_back_lowers_no_number(signers, clock):
    bench = Bench(MemoryFlash(), signers, clock)
    await bench.start()
    await bench.take(offer_of(signers, seq=2, min_seq=2))
    bench.healthy = False

    await bench.take(offer_of(signers, seq=3, min_seq=3))

    assert bench.said[-1] == ("failed", "health_failed")
    assert bench.updater.running.version == "2.0.0"
    assert (bench.updater.memory.floor, bench.updater.memory.highest_seq) == (2, 2)


async def test_who_does_not_prove_healthy_in_time_goes_back(signers, clock):
    bench = Bench(MemoryFlash(), signers, clock)
    await bench.start()

    async def slowly():
        await clock.advance(601)

    bench.health = slowly
    await bench.take(offer_of(signers))

    assert bench.said[-1] == ("failed", "health_failed")
    assert bench.updater.running.version == "1.0.0"


async def test_a_damaged_active_slot_gives_way_to_the_other(tmp_path, signers, clock):
    bench = Bench(FileFlash(tmp_path), signers, clock)
    await bench.start()
    await bench.take(offer_of(signers))
    (tmp_path / "slot-b.img").write_bytes(b"worn out")

    again = Bench(FileFlash(tmp_path), signers, clock)
    await again.start()
    await again.take(offer_of(signers, attempt=2))

    assert again.said[-1] == ("succeeded", None)
    assert again.loaded == len(IMAGE), "the highest seq alone is not a reason to do nothing"


async def test_an_offer_that_waits_is_loaded_and_started_when_it_says_now(bench, signers):
    offer = offer_of(signers)
    waiting = await bench.take({**offer, "install": "wait"})
    loaded = bench.loaded

    done = await bench.take(offer)

    assert (waiting, done, bench.loaded) == ("downloaded", "succeeded", loaded)


async def test_an_offer_that_is_taken_back_is_dropped(bench, signers):
    offer = offer_of(signers)
    await bench.take({**offer, "install": "wait"})

    await bench.updater.withdraw(offer["execution"], bench.say)

    assert bench.said[-1][0] == "cancelled"
    assert bench.updater.memory.job is None


async def test_a_failed_update_that_is_offered_again_is_answered_and_not_tried_again(signers, clock):
    bench = Bench(MemoryFlash(), signers, clock, healthy=False)
    await bench.start()
    await bench.take(offer_of(signers))
    loaded = bench.loaded

    await bench.take(offer_of(signers))

    assert bench.said[-2:] == [("failed", "health_failed")] * 2
    assert bench.loaded == loaded


async def test_a_device_that_is_no_verifying_one_goes_by_digest_and_size(signers, clock):
    bench = Bench(MemoryFlash(), signers, clock, trust=None, server_key=None, seq=0)
    await bench.start()
    offer = offer_of(signers)

    plain = {name: offer[name] for name in ("execution", "campaign", "attempt", "version", "size", "sha256", "install")}

    assert await bench.take(plain) == "succeeded"
