"""The journal: what was appended is there after a crash, in its order, and nothing half."""

import errno
import os

import pytest
from fleetcore_edge.clock import journal as journals
from fleetcore_edge.clock.journal import ALERTS, READINGS, Entry, Journal


def entry(number, boot="b", size=0):
    return Entry(boot, number, "pump-1", "telemetry", "pump-1", str(number).encode() + bytes(size), id=f"m{number}")


@pytest.fixture
def opened(tmp_path):
    def open_():
        journal = Journal(tmp_path / "held")
        journal.open()
        return journal

    return open_


def everything(journal, lane=READINGS):
    """Reads and removes all."""
    found = []
    while (segment := journal.first(lane)) is not None:
        found += journal.read(segment)
        journal.remove(lane, segment)
    return found


def test_entries_come_back_in_their_order_after_a_restart(opened):
    journal = opened()
    journal.append(READINGS, [entry(1), entry(2)])
    journal.append(READINGS, [entry(3)])
    journal.append(ALERTS, [entry(9)])

    again = opened()

    assert again.waiting() == {READINGS: 3, ALERTS: 1}
    assert everything(again) == [entry(1), entry(2), entry(3)]
    assert everything(again, ALERTS) == [entry(9)]
    assert opened().waiting() == {READINGS: 0, ALERTS: 0}


def test_every_place_at_which_a_crash_cuts_the_file_leaves_whole_entries(opened):
    journal = opened()
    journal.append(READINGS, [entry(1), entry(2)])
    path = journal.first(READINGS).path
    content = path.read_bytes()
    first = len(content) // 2
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        again = opened()
        assert again.waiting()[READINGS] == length // first, length
        if length >= first:
            again.append(READINGS, [entry(3)])
            assert [each.at_ms for each in again.read(again.first(READINGS))] == [1, 3]
            assert len(opened().read(opened().first(READINGS))) == 2


def test_a_changed_byte_ends_a_segment_and_the_next_ones_are_whole(opened, monkeypatch):
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 100)
    journal = opened()
    for number in range(6):
        journal.append(READINGS, [entry(number)])
    path = journal.first(READINGS).path
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)

    again = opened()

    assert again.damaged == 1
    found = [each.at_ms for each in everything(again)]
    assert found == sorted(found)
    assert set(range(6)) - set(found) == {2}


def test_a_failed_append_adds_nothing(opened, monkeypatch):
    journal = opened()
    journal.append(READINGS, [entry(1)])

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append(READINGS, [entry(2)])
        with pytest.raises(OSError, match="No space"):
            journal.append(ALERTS, [entry(3)])
    journal.append(READINGS, [entry(4)])

    assert [each.at_ms for each in everything(opened())] == [1, 4]
    assert opened().waiting()[ALERTS] == 0


def test_a_batch_is_on_the_disk_by_one_flush(opened, monkeypatch):
    journal, flushed = opened(), []
    journal.append(READINGS, [entry(0)])
    monkeypatch.setattr(os, "fsync", flushed.append)

    journal.append(READINGS, [entry(number) for number in range(1, 500)])

    assert len(flushed) == 1


def test_the_boots_are_known_with_their_last_times(opened):
    journal = opened()
    journal.append(READINGS, [entry(5, "a"), entry(4, "a")])
    journal.append(ALERTS, [entry(7, "b")])

    assert list(opened().boots()) == [("a", 5), ("b", 7)]


def test_a_removed_segment_is_gone_and_a_newer_one_has_another_name(opened):
    journal = opened()
    journal.append(READINGS, [entry(1)])
    segment = journal.first(READINGS)
    journal.remove(READINGS, segment)
    journal.append(READINGS, [entry(2)])

    assert journal.first(READINGS).path != segment.path
    journal.remove(READINGS, segment)
    assert journal.waiting()[READINGS] == 1
