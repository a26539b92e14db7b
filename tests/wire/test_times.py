"""Times: read strictly, written in one way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.errors import Refused
from fleetcore.wire.times import EARLIEST_MS, LATEST_MS, format_time, parse_time, time_or_code


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        (1_767_225_600_000, 1_767_225_600_000),
        (1_767_225_600_000.0, 1_767_225_600_000),
        (EARLIEST_MS, EARLIEST_MS),
        (LATEST_MS, LATEST_MS),
        ("2026-01-01T00:00:00Z", 1_767_225_600_000),
        ("2026-01-01t00:00:00.1z", 1_767_225_600_100),
        ("2026-01-01 00:00:00.123999Z", 1_767_225_600_123),
        ("2026-01-01T05:30:00+05:30", 1_767_225_600_000),
        ("2025-12-31T23:00:00-01:00", 1_767_225_600_000),
        ("2026-01-01T00:00:00-00:00", 1_767_225_600_000),
        ("2016-12-31T23:59:60Z", 1_483_228_799_000),
        ("2016-12-31T23:59:60.5Z", 1_483_228_799_500),
    ],
)
def test_a_time_is_read(written, ms):
    assert parse_time(written) == ms


@pytest.mark.parametrize(
    ("written", "code"),
    [
        (1_767_225_600, "time_unit"),
        (1_767_225_600_000_000, "time_unit"),
        (1_767_225_600_000_000_000, "time_unit"),
        (0, "time_unit"),
        (-1, "time_unit"),
        (EARLIEST_MS - 1, "time_unit"),
        (LATEST_MS + 1, "time_unit"),
        (10**400, "time_unit"),
        (1_767_225_600_000.5, "time_invalid"),
        (float("nan"), "time_invalid"),
        (float("inf"), "time_invalid"),
        (True, "time_invalid"),
        (None, "time_invalid"),
        ([], "time_invalid"),
        ("", "time_invalid"),
        ("1767225600000", "time_invalid"),
        ("2026-01-01", "time_invalid"),
        ("2026-01-01T00:00:00", "time_invalid"),
        ("2026-01-01T00:00Z", "time_invalid"),
        ("2026-02-29T00:00:00Z", "time_invalid"),
        ("2026-01-01T24:00:00Z", "time_invalid"),
        ("2026-01-01T00:00:61Z", "time_invalid"),
        ("2026-01-01T00:00:00+24:00", "time_invalid"),
        ("2026-01-01T00:00:00+0100", "time_invalid"),
        ("٢٠٢٦-01-01T00:00:00Z", "time_invalid"),
        ("2026-01-01T00:00:00Z\n", "time_invalid"),
        ("0000-01-01T00:00:00Z", "time_invalid"),
        ("9999-12-31T23:59:59Z", "time_out_of_range"),
        ("1970-01-01T00:00:00Z", "time_out_of_range"),
        ("0001-01-01T00:00:00+23:00", "time_out_of_range"),
    ],
)
def test_a_time_that_is_none_is_refused_and_never_guessed_at(written, code):
    with pytest.raises(Refused) as refusal:
        parse_time(written)

    assert refusal.value.code == code
    assert time_or_code(written) == code


@given(st.integers(EARLIEST_MS, LATEST_MS))
def test_what_is_written_reads_as_it_was(ms):
    text = format_time(ms)

    assert parse_time(text) == ms
    assert len(text) == 24
    assert text.endswith("Z")


@pytest.mark.parametrize(
    ("ms", "written"),
    [
        (10**15 * 1000, "9999-12-31T23:59:59.999Z"),
        (2**63, "9999-12-31T23:59:59.999Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        (-(2**63), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_a_stored_time_that_no_calendar_has_is_written_as_the_nearest_one(ms, written):
    assert format_time(ms) == written
