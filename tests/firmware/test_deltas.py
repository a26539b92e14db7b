"""Deltas: made under limits, kept where they are small, offered by the digest that runs, applied or left aside."""

import bz2
import json
import random
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleetcore.errors import Conflict, FleetError, NotFound, Refused
from fleetcore.fleet.deltas import Deltas
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound
from fleetcore.testing import bsdiff
from fleetcore.testing.flash import FileFlash, PowerCut, PowerLoss
from fleetcore.testing.signers import digest
from fleetcore.wire import messages
from tests.firmware.kit import Bench, offer_of

bsdiff4 = pytest.importorskip("bsdiff4")

OLD = random.Random(1).randbytes(200_000)
NEW = OLD[:50_000] + b"a new function" + OLD[50_010:150_000] + OLD[150_001:] + b"more" * 50
OTHER = random.Random(2).randbytes(200_000)


@pytest.fixture
async def images(manager):
    for image in (OLD, NEW, OTHER):
        await manager.upload_artifact(image)


async def report(fleet, device, **firmware):
    session = await fleet.plane.authenticate(LocalCredential(device), protocol="test")
    payload = json.dumps({"firmware": firmware}).encode()
    await fleet.plane.call(session, Inbound(type=messages.TWIN_REPORT, subject=device, payload=payload))
    return session


# --- making ------------------------------------------------------------------------------------------------------------


async def test_a_delta_is_an_artifact_that_turns_one_image_into_the_other(manager, fleet, images):
    made = await manager.make_delta(digest(OLD), digest(NEW))
    again = await manager.make_delta(digest(OLD), digest(NEW))

    content = b"".join([piece async for piece in fleet.storage.read_artifact(made["sha256"])])
    assert bsdiff4.patch(OLD, content) == NEW
    assert (made["size"], made["full_size"]) == (len(content), len(NEW))
    assert made["compressed_size"] == len(bz2.compress(NEW))
    assert made["size"] < 0.12 * len(NEW)
    assert again == made
    assert [one["id"] async for one in manager.iter_deltas()] == [f"{digest(OLD)}:{digest(NEW)}"]


async def test_releases_name_images_too(manager, signers, trusted, images):
    await manager.add_release(signers.manifest(OLD, seq=1))
    await manager.add_release(signers.manifest(NEW, seq=2))

    made = await manager.make_delta("thermo:1", "thermo:2")

    assert (made["base"], made["target"]) == (digest(OLD), digest(NEW))
    for name, code in (("thermo:3", "not_found"), ("0" * 64, "artifact_unknown")):
        with pytest.raises(NotFound) as refused:
            await manager.make_delta("thermo:1", name)
        assert refused.value.code == code


async def test_a_delta_over_half_of_the_compressed_image_is_not_kept_and_the_figures_are_told(manager, fleet, images):
    with pytest.raises(Conflict) as refused:
        await manager.make_delta(digest(OLD), digest(OTHER))

    assert refused.value.code == "delta_unsuitable"
    assert f"{len(bz2.compress(OTHER))} bytes of the compressed image" in refused.value.message
    assert "%" in refused.value.message
    assert [one["id"] async for one in manager.iter_deltas()] == []


async def test_equal_and_compressed_images_are_refused_before_anything_is_made(manager, images):
    packed = bz2.compress(OLD)
    await manager.upload_artifact(packed)

    for base, target in ((OLD, OLD), (OLD, packed), (packed, NEW)):
        with pytest.raises(Conflict) as refused:
            await manager.make_delta(digest(base), digest(target))
        assert refused.value.code == "delta_unsuitable"


async def test_images_that_need_too_much_memory_are_refused_before_and_the_process_is_held_to_it(
    fleet, clock, images, monkeypatch
):
    tight = Deltas(fleet.storage, clock, memory_bytes=1 << 20)
    with pytest.raises(Refused) as refused:
        await tight.make(digest(OLD), digest(NEW))
    assert (refused.value.code, refused.value.ids["limit"]) == ("limit_exceeded", 1 << 20)

    # A wrong estimate: the process itself runs into its limit.
    monkeypatch.setattr("fleetcore.fleet.deltas._BASE_FACTOR", 0)
    monkeypatch.setattr("fleetcore.fleet.deltas._TARGET_FACTOR", 0)
    big = bytes(30_000_000)
    await fleet.campaigns.add_artifact(big)
    await fleet.campaigns.add_artifact(big + b"x")
    with pytest.raises(Refused) as held:
        await tight.make(digest(big), digest(big + b"x"))
    assert (held.value.code, held.value.ids["unit"]) == ("limit_exceeded", "bytes")


async def test_a_delta_that_takes_too_long_is_ended(fleet, clock, images):
    hasty = Deltas(fleet.storage, clock, seconds=0)

    with pytest.raises(Refused) as refused:
        await hasty.make(digest(OLD), digest(NEW))

    assert (refused.value.code, refused.value.ids["unit"]) == ("limit_exceeded", "seconds")


# --- offering ----------------------------------------------------------------------------------------------------------


async def test_an_offer_has_the_delta_from_the_digest_that_runs_and_never_by_the_version(manager, fleet, images):
    made = await manager.make_delta(digest(OLD), digest(NEW))
    for device, running in (("a", OLD), ("b", OTHER), ("c", None)):
        await manager.register_device(device, "sensor", {"model": "M"})
        await report(fleet, device, version="1.0.0", **({} if running is None else {"sha256": digest(running)}))
    await manager.create_campaign("one", "2.0.0", ["a", "b", "c"], sha256=digest(NEW))

    offers = {device: (await fleet.updates.offer(device))["offer"] for device in "abc"}

    assert offers["a"]["deltas"] == [
        {
            "from": digest(OLD),
            "format": "bsdiff4",
            "sha256": made["sha256"],
            "size": made["size"],
            "path": f"/device/v1/artifacts/{made['sha256']}",
        }
    ]
    assert "deltas" not in offers["b"]
    assert "deltas" not in offers["c"]


async def test_a_device_may_read_the_delta_of_its_offer_and_no_other(manager, fleet, images):
    made = await manager.make_delta(digest(OLD), digest(NEW))
    session = None
    for device in ("a", "idle"):
        await manager.register_device(device, "sensor", {"model": "M"})
    session, idle = [await report(fleet, device, version="1.0.0") for device in ("a", "idle")]
    await manager.create_campaign("one", "2.0.0", ["a"], sha256=digest(NEW))

    reader = await fleet.plane.open_artifact(session, "a", made["sha256"])

    assert len(b"".join([piece async for piece in reader.read()])) == made["size"]
    for name, who in (("idle", idle), ("a", session)):
        with pytest.raises(NotFound):
            await fleet.plane.open_artifact(who, name, made["sha256"] if name == "idle" else digest(OTHER))


# --- on the device -----------------------------------------------------------------------------------------------------

PATCH = bsdiff4.diff(OLD, NEW)


class DeltaBench(Bench):
    """A device whose running slot holds OLD, and whose server has deltas."""

    def __init__(self, folder, *given, patch=PATCH, supply=None, **more):
        self.patch, self.deltas_fetched = patch, 0
        super().__init__(FileFlash(folder), *given, image=NEW, supply=supply, runs=OLD, **more)

    async def take(self, offer):
        await self.updater.take(offer, self.fetch, self.say, self.health, fetch_delta=self.delta)
        return self.said[-1][0] if self.said else None

    async def delta(self, sha256):
        self.deltas_fetched += 1
        if self.patch is None:
            raise NotFound("gone", code="artifact_unknown")
        for at in range(0, len(self.patch), 500):
            yield self.patch[at : at + 500]


def delta_offer(signers, *, base=OLD, patch=PATCH, **changes):
    delta = {"from": digest(base), "format": "bsdiff4", "sha256": digest(patch), "size": len(patch), **changes}
    return offer_of(signers, image=NEW) | {"deltas": [delta]}


async def test_a_device_makes_the_image_from_what_runs(tmp_path, signers, clock):
    bench = DeltaBench(tmp_path, signers, clock)
    updater = await bench.start()

    assert await bench.take(delta_offer(signers)) == "succeeded"
    assert (bench.loaded, bench.deltas_fetched, updater.deltas_used) == (0, 1, 1)
    assert updater.running.sha256 == digest(NEW)


WRONG_IMAGE = bsdiff4.diff(OLD, OTHER[: len(NEW)] + bytes(len(NEW) - len(OTHER)))


@pytest.mark.parametrize(
    ("offered", "patch", "fetched"),
    [
        ({"base": OTHER}, PATCH, 0),
        ({"format": "xdelta3"}, PATCH, 0),
        ({"size": "many"}, PATCH, 0),
        ({"size": len(NEW)}, PATCH, 0),
        ({}, None, 1),
        ({}, PATCH[:-1], 1),
        ({}, PATCH + b"x", 1),
        ({}, PATCH[:-1] + b"x", 1),
        ({"patch": b"no delta"}, b"no delta", 1),
        ({"patch": WRONG_IMAGE, "size": len(WRONG_IMAGE)}, WRONG_IMAGE, 0 if len(WRONG_IMAGE) >= len(NEW) else 1),
        ({"patch": bsdiff4.diff(OLD, NEW[:-1])}, bsdiff4.diff(OLD, NEW[:-1]), 1),
        ({"patch": bsdiff4.diff(OLD, NEW[:-1] + b"x")}, bsdiff4.diff(OLD, NEW[:-1] + b"x"), 1),
    ],
    ids=[
        "another base", "another format", "no size", "as large as the image", "not there", "cut off", "too long",
        "changed", "no delta", "a wrong image", "another size", "another digest",
    ],
)  # fmt: skip
async def test_a_device_takes_the_whole_image_where_the_delta_does_not_do(
    tmp_path, signers, clock, offered, patch, fetched
):
    bench = DeltaBench(tmp_path, signers, clock, patch=patch)
    updater = await bench.start()

    assert await bench.take(delta_offer(signers, **offered)) == "succeeded"
    assert (bench.loaded, bench.deltas_fetched, updater.deltas_used) == (len(NEW), fetched, 0)
    assert updater.running.sha256 == digest(NEW)


async def test_a_loss_of_power_at_any_step_of_a_delta_bricks_nothing(tmp_path, signers, clock):
    whole = PowerCut(10**9)
    bench = DeltaBench(tmp_path / "whole", signers, clock, supply=whole)
    await bench.start()
    assert await bench.take(delta_offer(signers)) == "succeeded"

    for at in range(len(whole.steps)):
        folder = tmp_path / str(at)
        try:
            bench = DeltaBench(folder, signers, clock, supply=PowerCut(at))
            await bench.start()
            await bench.take(delta_offer(signers))
        except PowerLoss:
            pass
        bench = DeltaBench(folder, signers, clock)
        updater = await bench.start()
        await bench.take(delta_offer(signers))
        assert updater.running.sha256 == digest(NEW), whole.steps[at]


# --- the format, against bsdiff4 --------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.binary(max_size=300))
@example(b"", b"")
@example(b"abc" * 90, b"xabc" * 70)
def test_a_delta_of_bsdiff4_makes_the_image(old, new):
    assert b"".join(bsdiff.apply(old, bsdiff4.diff(old, new), len(new))) == new


def _packed(control, added=b"", extra=b"", size=8):
    blocks = [bz2.compress(struct.pack(f"<{len(control)}q", *control)), bz2.compress(added), bz2.compress(extra)]
    return b"BSDIFF40" + struct.pack("<3q", len(blocks[0]), len(blocks[1]), size) + b"".join(blocks)


@pytest.mark.parametrize(
    "delta",
    [
        b"",
        b"BSDIFF40",
        b"BSDIFF41" + bytes(24),
        _packed([]),
        _packed([8, 0]),
        _packed([9, 0, 0], b"x" * 9),
        _packed([0, 9, 0], b"", b"x" * 9),
        _packed([8, 0, 0], b"short"),
        _packed([4, 4, 0], b"long", b"sho"),
        _packed([-(2**63) + 1, 8, 0], b"", b"x" * 8),
        _packed([0, 0, 0] * 20_000),
        b"BSDIFF40" + struct.pack("<3q", 2**62, 2**62, 8),
        b"BSDIFF40" + struct.pack("<3q", 10, 10, 8) + bytes(30),
    ],
)
def test_a_delta_that_lies_is_refused_and_makes_no_more_than_its_image(delta):
    made = []
    with pytest.raises(FleetError) as refused:
        made.extend(bsdiff.apply(b"old image", delta, 8))

    assert refused.value.code == "hash_mismatch"
    assert len(b"".join(made)) <= 8


def test_a_bomb_takes_no_memory():
    import tracemalloc

    bomb = _packed([8, 0, 0], bytes(200_000_000))
    tracemalloc.start()
    try:
        assert b"".join(bsdiff.apply(b"old image", bomb, 8)) == b"old imag"
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
