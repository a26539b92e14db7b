"""Maintenance windows against an oracle that asks each minute, across the changes of the hour."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.errors import Refused
from fleetcore.model.days import HOUR_MS
from fleetcore.rollout.windows import Windows, check_zone, parse_window

MIN = 60_000
#: The nights before, of and after both changes of the hour of 2026 in Berlin, New York and Lord Howe (half an hour).
NIGHTS = ["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"]
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]


def ms(text):
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def starts(hour, minute, zone, around):
    """The starts of a daily window by hand: cron's rule is that a skipped start comes right after the gap."""
    zone, found = ZoneInfo(zone), []
    day = datetime.fromtimestamp(around / 1000, zone).date()
    for delta in range(-3, 4):
        local = datetime.combine(day + timedelta(days=delta), datetime.min.time()).replace(hour=hour, minute=minute)
        at = local.replace(tzinfo=zone)
        back = at.astimezone(UTC).astimezone(zone)
        if back.replace(tzinfo=None) != local:  # the hour is skipped: the first minute after the gap
            while at.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != at.replace(tzinfo=None):
                at = (at.replace(tzinfo=None) + timedelta(minutes=1)).replace(tzinfo=zone)
        found.append(round(at.timestamp() * 1000))
    return found


@given(
    st.sampled_from(NIGHTS),
    st.integers(-36 * 60, 36 * 60),
    st.sampled_from(ZONES),
    st.integers(0, 23),
    st.sampled_from([0, 15, 30]),
    st.sampled_from([30, 60, 240, 1500]),
)
def test_a_daily_window_is_open_when_the_oracle_says_so(night, offset, zone, hour, minute, length):
    now = ms(night) + offset * MIN
    windows = Windows([f"{minute} {hour} * * * {length}min"])

    opening = windows.at(zone, now)

    known = starts(hour, minute, zone, now)
    spans = [start for start in known if start <= now < start + length * MIN]
    assert opening.is_open is bool(spans)
    if spans:
        assert (opening.since, opening.until) == (max(spans), max(spans) + length * MIN)
    else:
        assert opening.until == min(start for start in known if start > now)


@given(st.lists(st.integers(0, 3 * 24 * 60), min_size=2, max_size=20))
def test_what_was_asked_before_changes_no_answer(minutes):
    """The clock may jump: forwards, and back."""
    begin, texts = ms("2026-03-28"), ["0 2 * * * 90min", "30 3 * * sun 2h"]
    windows = Windows(texts)
    for minute in minutes:
        now = begin + minute * MIN
        assert windows.at("Europe/Berlin", now) == Windows(texts).at("Europe/Berlin", now)


def test_without_windows_it_is_always_open():
    opening = Windows([]).at("Europe/Berlin", 0)
    assert (opening.is_open, opening.since, opening.until) == (True, None, None)


def test_of_several_windows_the_one_that_closes_last_counts():
    windows = Windows(["0 2 * * * 1h", "30 2 * * * 3h"])
    opening = windows.at("UTC", ms("2026-05-01T02:45"))
    assert (opening.since, opening.until) == (ms("2026-05-01T02:30"), ms("2026-05-01T05:30"))
    assert windows.at("UTC", ms("2026-05-01T12:00")).until == ms("2026-05-02T02:00")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 2 * * *", "duration"),
        ("0 2 * * * 4", "duration"),
        ("0 2 * * * 0h", "duration"),
        ("0 2 * * * 8d", "longer than a week"),
        ("61 2 * * * 4h", "cannot be read"),
        ("0 2 * * 4h", "cannot be read"),
        ("0 2 30 2 * 4h", "cannot be read"),
        ("0 0 2 * * * 4h", "cannot be read"),
        ("", "duration"),
    ],
)
def test_a_text_that_is_not_a_window_is_refused_with_the_reason(text, said):
    with pytest.raises(Refused, match=said):
        parse_window(text)


def test_a_window_is_read():
    assert parse_window(" 0 2 * * sat 4h ").duration_ms == 4 * HOUR_MS


@pytest.mark.parametrize("zone", ["Europe/Berlinn", "", "../../etc/passwd", "/etc/passwd", "a\x00b", "Europe"])
def test_a_text_that_is_no_time_zone_is_refused(zone):
    with pytest.raises(Refused, match="is not a time zone"):
        check_zone(zone)
