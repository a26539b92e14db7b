"""Answers in a notebook: as they are written, and nothing of a device's runs there."""

from datetime import MAXYEAR, MINYEAR, UTC

import pytest

from fleetcore.calls.types import Json, Ms, Page, Response


class Shown(Response, frozen=True):
    """An answer of everything."""

    name: str
    members: Json
    times: list[Ms]
    note: str | None = None


SCRIPT = "<script>alert(1)</script>"


def test_what_a_device_says_is_text_in_every_cell():
    shown = Shown(SCRIPT, {SCRIPT: [SCRIPT, {SCRIPT: SCRIPT}]}, [])

    for html in (shown._repr_html_(), Page([shown])._repr_html_()):
        assert html.count("&lt;script&gt;") == 5
        assert "<script" not in html


def test_times_within_a_list_are_written_as_times():
    html = Shown("a", {"since": Ms(0), "rest": [None, 1]}, [Ms(0), Ms(1)])._repr_html_()

    assert "<td>1970-01-01T00:00:00.000Z, 1970-01-01T00:00:00.001Z</td>" in html
    assert "<td>since=1970-01-01T00:00:00.000Z, rest=, 1</td>" in html


@pytest.mark.parametrize("ms", [0, 1, -1, 1_700_000_000_123])
def test_a_time_is_a_datetime_in_utc(ms):
    assert Ms(ms).datetime.tzinfo is UTC
    assert round(Ms(ms).datetime.timestamp() * 1000) == ms


@pytest.mark.parametrize(("ms", "year"), [(10**17, MAXYEAR), (-(10**17), MINYEAR)])
def test_a_time_beyond_all_datetimes_is_the_last_or_the_first(ms, year):
    assert (Ms(ms).datetime.year, str(Ms(ms))[:4]) == (year, f"{year:04}")
