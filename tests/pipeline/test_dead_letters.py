"""What was refused is kept in bounded number, and a device cannot push out what was refused of the others."""

import base64

import pytest

from fleetcore.errors import NotFound
from fleetcore.model.message import Inbound, Rejected
from fleetcore.model.store import Event
from fleetcore.pipeline.dead_letters import KEPT, SHARE, DeadLetters
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages

REFUSED = Rejected(code="schema_invalid", reason="for the test")


def message(device, n):
    return Inbound(type=messages.TELEMETRY, subject=device, payload=b"%d" % n)


@pytest.fixture
async def letters(storage):
    kept = DeadLetters(storage, MovableClock())
    await kept.load()
    return kept


def numbers(found, device):
    return [int(base64.b64decode(letter.payload)) for letter in found if letter.identity == device]


async def test_a_device_takes_its_share_and_no_more(letters):
    letters.add("quiet", message("quiet", 1), REFUSED)
    for n in range(3 * KEPT):
        letters.add("noisy", message("noisy", n), REFUSED)
    found = await letters.list()

    assert numbers(found, "quiet") == [1]
    assert numbers(found, "noisy") == list(range(3 * KEPT - SHARE, 3 * KEPT))


async def test_the_whole_is_bounded_and_the_sender_of_most_makes_room(letters):
    for n in range(SHARE):
        letters.add("noisy", message("noisy", n), REFUSED)
    await letters.flush()
    for n in range(KEPT - 1):
        letters.add(f"dev{n}", message(f"dev{n}", n), REFUSED)
    found = await letters.list()

    assert len(found) == KEPT
    assert len(numbers(found, "noisy")) == 1


async def test_what_is_kept_goes_on_after_a_restart(letters, storage):
    for n in range(SHARE):
        letters.add("noisy", message("noisy", n), REFUSED)
    await letters.flush()
    again = DeadLetters(storage, MovableClock())
    await again.load()
    again.add("noisy", message("noisy", SHARE), REFUSED)

    assert numbers(await again.list(), "noisy") == list(range(1, SHARE + 1))
    assert (await again.get(SHARE)).number == SHARE
    with pytest.raises(NotFound):
        await again.get(0)


async def test_a_letter_that_was_removed_gives_its_place_back(letters):
    letters.add("dev", message("dev", 1), REFUSED)
    letter = (await letters.list())[0]

    await letters.remove(
        letter,
        Event(
            type="dead_letter.discarded", subject="dev", time=1, data={"code": REFUSED.code, "number": letter.number}
        ),
    )

    assert await letters.list() == []
    for n in range(SHARE):
        letters.add("dev", message("dev", n), REFUSED)
    assert len(await letters.list()) == SHARE


async def test_what_an_erased_device_was_refused_is_not_kept(letters, storage):
    letters.add("gone", message("gone", 1), REFUSED)
    letters.add("gateway", message("gone", 2), REFUSED)
    letters.add("gateway", message("gateway", 3), REFUSED)
    await letters.flush()
    letters.add("gone", message("gone", 4), REFUSED)
    await letters.forget("gone")
    await letters.flush()

    assert numbers(await letters.list(), "gateway") == [3]
    assert numbers(await letters.list(), "gone") == []
    again = DeadLetters(storage, MovableClock())
    await again.load()
    assert [letter.device for letter in await again.list()] == ["gateway"]


async def test_what_the_sender_chose_is_cut_whatever_it_is(letters):
    long = "x" * 60_000
    sent = Inbound(
        type=messages.COMMAND_RESULT, subject="dev", payload=b"{}", content_type=long, id=long, target=long
    )  # fmt: skip
    letters.add("dev", sent, Rejected(code="schema_invalid", reason=f"nothing is known of {long}"))
    (letter,) = await letters.list()

    assert len(str(letter)) < 4096
    assert not letter.whole  # so it cannot be replayed as if it were the message
