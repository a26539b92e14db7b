"""``fleetcore quarantine``: what was refused is shown, tried again in its sender's name, or discarded."""

import asyncio
import json

import pytest

from fleetcore import IoTFleetManager
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound
from fleetcore.wire import messages

CAME = 1_780_000_000_000
#: 0 and 1 are refused for a metric too many, 2 cannot be read, 3 is longer than what is kept of it.
REFUSED = [b'{"b": 1}', b'{"b": 2, "time_": 1}', b"{", b"{" + b" " * 5000]


@pytest.fixture
def data(data):
    """A folder whose one device may have one metric, and whose refused messages came at one moment."""
    from fleetcore.testing.clock import MovableClock

    toml = data / "fleet.toml"
    kept = toml.read_text()
    toml.write_text(kept + "\n[limits]\nmetrics = 1\n")

    async def fill():
        async with IoTFleetManager(data, clock=MovableClock(CAME)) as manager:
            await manager.register_device("th-1", "thermometer")
            fleet = await manager.open()
            session = await fleet.plane.authenticate(LocalCredential("th-1"), protocol="test")
            for payload in [b'{"a": 1}', *REFUSED]:
                await fleet.ingest.submit(session, Inbound(type=messages.TELEMETRY, subject="th-1", payload=payload))

    asyncio.run(fill())
    toml.write_text(kept)
    return data


@pytest.fixture
def letters(fleet):
    """``letters("list")``; the rows where it prints JSON."""

    def go(*words):
        done = fleet("quarantine", *words, "-o", "json")
        return done.code, json.loads(done.out) if done.out else done.err

    return go


def test_they_are_listed_with_why_and_shown_with_what_they_said(letters):
    code, rows = letters("list")

    assert code == 0
    assert [(row["number"], row["code"]) for row in rows] == [
        (0, "too_many_metrics"),
        (1, "too_many_metrics"),
        (2, "payload_unreadable"),
        (3, "payload_unreadable"),
    ]
    assert letters("show", 0)[1]["text"] == '{"b": 1}'
    assert letters("show", 9)[0] == 3


def test_what_can_be_taken_now_is_stored_as_of_when_it_came(letters, fleet):
    assert letters("replay", 0, "--reason", "the limit was too low")[0] == 0

    points = json.loads(fleet("telemetry", "query", "th-1", "b", "-o", "json").out)
    history = json.loads(fleet("device", "history", "th-1", "-o", "json").out)
    assert points == [{"time": "2026-05-28T20:26:40.000Z", "b": 1.0}]
    assert [row["number"] for row in letters("list")[1]] == [1, 2, 3]
    assert ("dead_letter.replayed", "the limit was too low") in [(row["action"], row["reason"]) for row in history]


def test_a_replay_is_no_sign_of_life(letters, fleet):
    before = json.loads(fleet("device", "show", "th-1", "-o", "json").out)["last_seen"]

    letters("replay", 0)

    assert json.loads(fleet("device", "show", "th-1", "-o", "json").out)["last_seen"] == before


def test_all_are_tried_and_the_refused_are_named_with_exit_7(letters):
    code, rows = letters("replay", "--all")

    assert code == 7
    assert [(row["number"], row["accepted"]) for row in rows] == [(0, True), (1, True), (2, False), (3, False)]
    assert "was cut" in rows[3]["reason"]
    # Number 2 was refused again, and what was found now stands in its place; 3 could not be tried.
    assert sorted(row["code"] for row in letters("list")[1]) == ["payload_unreadable"] * 2


def test_they_are_discarded_by_number_or_all(letters):
    assert letters("discard", 0, 2)[0] == 0
    assert [row["number"] for row in letters("list")[1]] == [1, 3]
    assert letters("discard", "--all")[0] == 0
    assert letters("list")[1] == []
    assert letters("discard", 0)[0] == 3


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_nothing_is_done_to_none_or_to_both(letters, verb):
    assert letters(verb)[0] == 2
    assert letters(verb, 0, "--all")[0] == 2
