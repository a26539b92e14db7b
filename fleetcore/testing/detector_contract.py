"""The contract of :class:`~fleetcore.interfaces.detector.Detector`: finds the expected readings, also restarted."""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager

import numpy as np
import pytest
from attrs import evolve, frozen

from fleetcore.interfaces.detector import Detector
from fleetcore.model.anomaly import Findings, Severity, Silences
from fleetcore.model.telemetry import Series, SeriesCatalog, TelemetryBatch
from fleetcore.model.ticks import parts
from fleetcore.testing.contract import Contract, missing

#: Score and expected value may differ by this much between two splits of a stream: floating-point sums are not exact.
TOLERANCE = 1e-7

OpenDetector = Callable[[], AbstractAsyncContextManager[Detector]]


class PlainCatalog:
    """Every series exists: metric ``value`` of ``device-<index>``, a number without unit."""

    def series(self, index: int) -> Series:
        return Series(index=index, device=f"device-{index}", metric="value")


@frozen
class Found:
    """One finding in a stream, by its position."""

    position: int
    score: float
    expected: float


class DetectorContract(Contract):
    """Override ``open_detector`` and ``stream``; ``catalog`` if metrics matter, ``silences`` if it finds any."""

    @pytest.fixture
    def open_detector(self) -> OpenDetector:
        """Opens a new detector: ``lambda: open_mine(MyConfig(), context)``."""
        raise missing(self, "open_detector")

    @pytest.fixture
    def stream(self) -> tuple[TelemetryBatch, Sequence[int]]:
        """Readings, 50 to some thousand, of several series; and the positions of exactly those to be found."""
        raise missing(self, "stream")

    @pytest.fixture
    def silences(self) -> Sequence[tuple[int, int]]:
        """The silences in the stream as time passes: ``(series, deadline)``, in any order."""
        return ()

    @pytest.fixture
    def catalog(self) -> SeriesCatalog:
        """Describes the series of the stream."""
        return PlainCatalog()

    def test_it_finds_exactly_what_is_abnormal(
        self,
        open_detector: OpenDetector,
        stream: tuple[TelemetryBatch, Sequence[int]],
        silences: Sequence[tuple[int, int]],
        catalog: SeriesCatalog,
    ) -> None:
        readings, abnormal = stream

        assert abnormal or silences, "a stream without anomalies tests nothing"
        assert [item.position for item in _run(open_detector, readings, catalog)] == sorted(abnormal)

    def test_an_empty_batch_has_no_findings_and_changes_nothing(
        self, open_detector: OpenDetector, stream: tuple[TelemetryBatch, Sequence[int]], catalog: SeriesCatalog
    ) -> None:
        readings, _ = stream
        middle = len(readings) // 2

        with _opened(open_detector) as detector:
            assert len(_observe(detector, TelemetryBatch.empty(), catalog)) == 0
        assert _run(open_detector, readings, catalog, (middle, middle)) == _run(
            open_detector, readings, catalog, (middle,)
        )

    def test_the_same_batches_give_the_same_findings(
        self, open_detector: OpenDetector, stream: tuple[TelemetryBatch, Sequence[int]], catalog: SeriesCatalog
    ) -> None:
        readings, _ = stream
        cuts = range(7, len(readings), 7)

        assert _run(open_detector, readings, catalog, cuts) == _run(open_detector, readings, catalog, cuts)

    def test_how_the_stream_is_cut_changes_nothing(
        self, open_detector: OpenDetector, stream: tuple[TelemetryBatch, Sequence[int]], catalog: SeriesCatalog
    ) -> None:
        readings, _ = stream
        whole = _run(open_detector, readings, catalog)

        for step in (1, 2, 13, max(1, len(readings) // 3)):
            cut = _run(open_detector, readings, catalog, range(step, len(readings), step))
            _assert_equal(cut, whole, f"batches of {step}")

    def test_a_restart_at_any_place_changes_nothing(
        self, open_detector: OpenDetector, stream: tuple[TelemetryBatch, Sequence[int]], catalog: SeriesCatalog
    ) -> None:
        readings, _ = stream
        places = sorted({0, 1, 2, *range(0, len(readings), max(1, len(readings) // 50)), len(readings)})

        for place in places:
            before, after = _part(readings, 0, place), _part(readings, place, len(readings))
            with (
                _opened(open_detector) as first,
                _opened(open_detector) as second,
                _opened(open_detector) as undisturbed,
            ):
                _observe(first, before, catalog)
                second.restore(first.snapshot())
                resumed = _found(_observe(second, after, catalog))
                _observe(undisturbed, before, catalog)
                expected = _found(_observe(undisturbed, after, catalog))
                assert resumed == expected, f"restarted at {place}: {resumed} instead of {expected}"

    def test_a_snapshot_changes_nothing(
        self, open_detector: OpenDetector, stream: tuple[TelemetryBatch, Sequence[int]], catalog: SeriesCatalog
    ) -> None:
        readings, _ = stream
        step = max(1, len(readings) // 50)
        cuts = range(step, len(readings), step)

        with _opened(open_detector) as detector:
            _observe(detector, _part(readings, 0, len(readings) // 2), catalog)
            assert detector.snapshot() == detector.snapshot()
        found = _run(open_detector, readings, catalog, cuts, snapshots=True)
        expected = _run(open_detector, readings, catalog, cuts)
        assert found == expected, f"with a snapshot after each {step}: {found} instead of {expected}"

    def test_it_finds_exactly_the_silences_as_time_passes(
        self,
        open_detector: OpenDetector,
        stream: tuple[TelemetryBatch, Sequence[int]],
        silences: Sequence[tuple[int, int]],
        catalog: SeriesCatalog,
    ) -> None:
        readings, _ = stream
        size = len(readings)

        for cuts in ((), (size // 2,), range(1, size), range(7, size, 7)):
            found = _pass_time(open_detector, readings, catalog, cuts)
            assert sorted(found) == sorted(silences), f"cut at {list(cuts)[:10]}: {found}"

    def test_what_is_silent_after_a_restart_is_what_was_silent_before(
        self,
        open_detector: OpenDetector,
        stream: tuple[TelemetryBatch, Sequence[int]],
        silences: Sequence[tuple[int, int]],
        catalog: SeriesCatalog,
    ) -> None:
        readings, _ = stream
        size = len(readings)

        for place in sorted({1, *range(0, size, max(1, size // 20)), size}):
            found = _pass_time(open_detector, readings, catalog, (place,), restart=place)
            assert sorted(found) == sorted(silences), f"restarted at {place}: {found}"

    def test_time_that_does_not_pass_finds_nothing_new(
        self, open_detector: OpenDetector, stream: tuple[TelemetryBatch, Sequence[int]], catalog: SeriesCatalog
    ) -> None:
        readings, _ = stream
        now = int(readings.received.max()) + 10 * 366 * 86_400_000

        with _opened(open_detector) as detector:
            assert len(_advance(detector, now)) == 0, "a series without readings is not silent"
            _observe(detector, readings, catalog)
            _advance(detector, now)
            assert _advance(detector, now) == []
            with _opened(open_detector) as resumed:
                resumed.restore(detector.snapshot())
                assert _advance(resumed, now) == []

    def test_a_state_it_cannot_read_is_a_value_error(self, open_detector: OpenDetector) -> None:
        for state in (b"\x00", b"not a state", b"\xff" * 64):
            with _opened(open_detector) as detector:
                try:
                    detector.restore(state)
                except ValueError:
                    continue
                except Exception as error:
                    raise AssertionError(f"restore({state!r}) raised {error!r}, not ValueError") from error
                pytest.fail(f"restore({state!r}) accepted an invalid state")

    def test_new_series_may_appear_at_any_time_with_any_index(
        self, open_detector: OpenDetector, stream: tuple[TelemetryBatch, Sequence[int]], catalog: SeriesCatalog
    ) -> None:
        readings, abnormal = stream
        moved = readings.at_series(readings.series * 1000 + 123_457)

        found = _run(open_detector, moved, _Moved(catalog))
        assert [item.position for item in found] == sorted(abnormal)

    def test_the_explanation_can_be_filled_in(
        self, open_detector: OpenDetector, stream: tuple[TelemetryBatch, Sequence[int]], catalog: SeriesCatalog
    ) -> None:
        with _opened(open_detector) as detector:
            findings = _observe(detector, stream[0], catalog)

        _explained(findings.explanation, value="1", expected="2", score="3")
        assert isinstance(findings.severity, Severity), findings.severity


class _Moved:
    """The catalog of the moved stream."""

    def __init__(self, catalog: SeriesCatalog) -> None:
        self._catalog = catalog

    def series(self, index: int) -> Series:
        return evolve(self._catalog.series((index - 123_457) // 1000), index=index)


@contextmanager
def _opened(open_detector: OpenDetector) -> Iterator[Detector]:
    """An open detector, in a test that is not asynchronous."""
    with asyncio.Runner() as runner:
        manager = open_detector()
        detector = runner.run(manager.__aenter__())
        try:
            yield detector
        finally:
            runner.run(manager.__aexit__(None, None, None))


def _part(readings: TelemetryBatch, start: int, end: int) -> TelemetryBatch:
    return readings.take(np.arange(start, end))


def _observe(detector: Detector, batch: TelemetryBatch, catalog: SeriesCatalog) -> Findings:
    """Observes, with read-only columns, and checks the rules for all findings."""
    for column in (batch.series, batch.time, batch.received, batch.value, batch.quality, batch.seq):
        column.setflags(write=False)
    findings = detector.observe(batch, catalog)
    assert isinstance(findings, Findings), f"observe must return Findings, not {type(findings).__name__}"
    index = findings.index
    assert len(index) == len(findings.score) == len(findings.expected), "columns of findings must be equally long"
    assert np.issubdtype(index.dtype, np.integer), f"positions must be integers, not {index.dtype}"
    if len(index):
        assert index[0] >= 0, "positions must start at 0"
        assert index[-1] < len(batch), "positions must be in the batch"
        assert (np.diff(index) > 0).all(), "positions must ascend, each once"
    assert (np.isfinite(findings.score) & (findings.score >= 0)).all(), "scores must be finite and not negative"
    assert not np.isinf(findings.expected).any(), "an expected value must be finite, or NaN for none"
    return findings


def _advance(detector: Detector, now: int, received: Mapping[int, int] | None = None) -> list[tuple[int, int]]:
    """Advances the time, and checks the rules for silences; ``received`` has the time of each series' last reading."""
    silences = detector.advance(now)
    assert isinstance(silences, Silences), f"advance must return Silences, not {type(silences).__name__}"
    columns = (silences.series, silences.deadline, silences.since, silences.score)
    assert len({len(column) for column in columns}) == 1, "columns of silences must be equally long"
    assert all(np.issubdtype(column.dtype, np.integer) for column in columns[:3]), "series and times must be integers"
    assert len(set(silences.series.tolist())) == len(silences), "a series may be silent once at a time"
    assert (silences.deadline <= now).all(), "a deadline must have passed"
    assert (np.isfinite(silences.score) & (silences.score >= 0)).all(), "scores must be finite and not negative"
    _explained(silences.explanation, since="then", deadline="now", score="1")
    for series, since in zip(silences.series.tolist(), silences.since.tolist(), strict=True):
        if received is not None:
            last = received.get(series)
            assert since == last, f"series {series} is silent since {since}; its last reading was received at {last}"
    return list(zip(silences.series.tolist(), silences.deadline.tolist(), strict=True))


def _explained(explanation: str, **filled: str) -> None:
    """Checks that an explanation is a line of text whose fields can be filled in."""
    try:
        text = explanation.format(**filled)
    except (LookupError, ValueError) as error:
        names = ", ".join(f"{{{name}}}" for name in filled)
        raise AssertionError(f"{explanation!r} cannot be filled in with {names}: {error!r}") from error
    assert text.strip(), f"{explanation!r} says nothing"
    assert text.isprintable(), f"{explanation!r} is not one line"


def _pass_time(
    open_detector: OpenDetector,
    readings: TelemetryBatch,
    catalog: SeriesCatalog,
    cuts: Sequence[int],
    *,
    restart: int = -1,
) -> list[tuple[int, int]]:
    """The silences of a stream, with the core's times; a new detector continues from the state at a position."""
    found: list[tuple[int, int]] = []
    received: dict[int, int] = {}
    now = start = 0
    with _opened(open_detector) as first, _opened(open_detector) as second:
        detector = first
        for end in (*cuts, len(readings)):
            batch = _part(readings, start, end)
            for second_ms, part in parts(batch, now):
                if second_ms > now:
                    now = second_ms
                    found += _advance(detector, now, received)
                shown = batch.take(np.arange(part.start, part.stop))
                _observe(detector, shown, catalog)
                for series, time in zip(shown.series.tolist(), shown.received.tolist(), strict=True):
                    received[series] = max(time, received.get(series, time))
            start = end
            if end == restart:
                second.restore(detector.snapshot())
                detector = second
    return found


def _found(findings: Findings, start: int = 0) -> list[Found]:
    return [
        # Minus infinity means "unknown": unlike NaN it equals itself.
        Found(start + int(i), float(score), -math.inf if math.isnan(expected) else float(expected))
        for i, score, expected in zip(findings.index, findings.score, findings.expected, strict=True)
    ]


def _run(
    open_detector: OpenDetector,
    readings: TelemetryBatch,
    catalog: SeriesCatalog,
    cuts: Sequence[int] = (),
    *,
    snapshots: bool = False,
) -> list[Found]:
    """The findings of a stream, observed in batches; ``snapshots`` takes one after each batch."""
    found: list[Found] = []
    with _opened(open_detector) as detector:
        start = 0
        for end in (*cuts, len(readings)):
            found += _found(_observe(detector, _part(readings, start, end), catalog), start)
            if snapshots:
                detector.snapshot()
            start = end
    return found


def _assert_equal(got: Sequence[Found], expected: Sequence[Found], how: str) -> None:
    assert [item.position for item in got] == [item.position for item in expected], how
    for here, there in zip(got, expected, strict=True):
        assert here.score == pytest.approx(there.score, rel=TOLERANCE, abs=TOLERANCE), f"{how}: {here} {there}"
        assert here.expected == pytest.approx(there.expected, rel=TOLERANCE, abs=TOLERANCE), f"{how}: {here} {there}"
