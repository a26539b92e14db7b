"""The ``silence`` detector, and what it is told: the same silences however the stream is cut, and over any crash."""

from contextlib import asynccontextmanager

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore.builtin.silence import SilenceConfig, SilenceDetector, open_silence
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.model.ticks import TICK_MS, parts, tick
from fleetcore.testing.detector_contract import DetectorContract

START = 1_767_225_600_000
AFTER_S = 5.0


def batch(*readings):
    """Readings as ``(series, received in ms after START)``; the times that devices gave are long ago."""
    series, received = ([one[0] for one in readings], [START + one[1] for one in readings])
    return TelemetryBatch.of(series, [1000] * len(series), [1.0] * len(series), received=received)


def found(silences):
    return [(int(one), int(deadline) - START) for one, deadline in zip(silences.series, silences.deadline, strict=True)]


class TestContract(DetectorContract):
    @pytest.fixture
    def open_detector(self):
        return lambda: open_silence(SilenceConfig(after_s=AFTER_S), None)

    @pytest.fixture
    def stream(self):
        """Three series that speak each second; the second one pauses for 10 s in the middle."""
        readings = [(one, 1000 * second + one) for second in range(40) for one in range(3)]
        return batch(*(one for one in readings if not (one[0] == 1 and 15_000 < one[1] < 25_000))), []

    @pytest.fixture
    def silences(self):
        return [(1, START + 14_001 + 5000)]


class SaysTheDeadlineForSince(SilenceDetector):
    def advance(self, now_ms):
        silences = super().advance(now_ms)
        return evolve(silences, since=silences.deadline)


def test_the_contract_wants_to_know_since_when_a_series_is_silent():
    @asynccontextmanager
    async def opened():
        yield SaysTheDeadlineForSince(SilenceConfig(after_s=AFTER_S))

    readings = batch(*((0, 1000 * second) for second in range(20)), (1, 30_000))

    with pytest.raises(AssertionError, match=f"series 0 is silent since {START + 24_000}; .* {START + 19_000}"):
        DetectorContract().test_it_finds_exactly_the_silences_as_time_passes(opened, (readings, []), [], None)


def test_a_series_is_silent_once_nothing_was_received_for_long_enough():
    detector = SilenceDetector(SilenceConfig(after_s=AFTER_S))
    detector.observe(batch((0, 0), (1, 2000)), None)

    assert found(detector.advance(START + 4000)) == []
    assert found(detector.advance(START + 5000)) == [(0, 5000)]
    assert found(detector.advance(START + 6000)) == []
    assert found(detector.advance(START + 7000)) == [(1, 7000)]


def test_a_series_that_speaks_again_may_fall_silent_again():
    detector = SilenceDetector(SilenceConfig(after_s=AFTER_S))
    detector.observe(batch((0, 0)), None)
    detector.advance(START + 5000)

    detector.observe(batch((0, 8000)), None)

    assert found(detector.advance(START + 13_000)) == [(0, 13_000)]


@pytest.mark.parametrize("after_s", [0, 0.5, -1, 400 * 86_400, float("nan")])
def test_a_time_that_makes_no_sense_is_refused(after_s):
    with pytest.raises(ValueError):
        SilenceConfig(after_s=after_s)


def test_time_is_told_by_the_readings_and_never_goes_back():
    told = list(parts(batch((0, 1200), (0, 1900), (0, 3100), (0, 2500), (0, 3900)), START + 1000))

    assert [(now - START, part.start, part.stop) for now, part in told] == [(1000, 0, 2), (3000, 2, 5)]
    assert [now - START for now, _ in parts(batch((0, 10)), START + 9000)] == [9000]
    assert list(parts(TelemetryBatch.empty(), START)) == []


# --- any stream, cut anyhow, crashed anywhere ------------------------------------------------------------------------

STREAMS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4000)), min_size=1, max_size=40)


def play(stream, cuts, idle, crash):
    """What is found of a stream that is cut at some places, with idle time told there, and one crash."""
    detector, now, kept = SilenceDetector(SilenceConfig(after_s=AFTER_S)), 0, (0, 0, b"")
    silences, place, crashed = set(), 0, False
    ends = sorted({*cuts, len(stream)})
    while place < len(stream):
        end = next(one for one in ends if one > place)
        for second, part in parts(batch(*stream[place:end]), now):
            if second > now:
                now = second
                silences |= set(found(detector.advance(now)))
            detector.observe(batch(*stream[place:end][part]), None)
        place = end
        if end in idle and end < len(stream):
            # The clock may be anywhere up to what the next reading will say.
            late = tick(START + stream[end][1])
            if late > now:
                now = late
                silences |= set(found(detector.advance(now)))
        if end == crash and not crashed:
            crashed = True
            place, now, state = kept
            detector = SilenceDetector(SilenceConfig(after_s=AFTER_S))
            if state:
                detector.restore(state)
        elif end % 3 == 0:
            kept = (place, now, detector.snapshot())
    return silences


@given(
    steps=STREAMS,
    cuts=st.sets(st.integers(1, 39)),
    idle=st.sets(st.integers(1, 39)),
    crash=st.integers(0, 40),
)
@settings(max_examples=150, deadline=None)
def test_the_same_silences_are_found_however_a_stream_is_cut_and_wherever_it_is_resumed(steps, cuts, idle, crash):
    received = np.cumsum([gap for _, gap in steps]).tolist()
    stream = [(one, at) for (one, _), at in zip(steps, received, strict=True)]

    # The oracle: between two readings of a series, and up to the last reading of all, in whole seconds.
    expected = set()
    for one in range(3):
        heard = [at for series, at in stream if series == one]
        for at, following in zip(heard, [*heard[1:], None], strict=False):
            until = stream[-1][1] if following is None else following
            if at + 5000 <= until // TICK_MS * TICK_MS:
                expected.add((one, at + 5000))

    assert play(stream, cuts | {len(stream)}, idle, crash) == play(stream, set(), set(), -1) == expected
