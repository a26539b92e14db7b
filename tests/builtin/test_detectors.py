"""The built-in detectors equal a plain loop over points, however the stream is cut into batches."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore.builtin import ewma
from fleetcore.builtin.ewma import Moments, advance
from fleetcore.builtin.series_state import group
from fleetcore.builtin.statistical import StatisticalConfig, StatisticalDetector
from fleetcore.builtin.threshold import ThresholdConfig, ThresholdDetector
from fleetcore.errors import ConfigError
from fleetcore.interfaces.detector import Detector
from fleetcore.model.anomaly import Severity
from fleetcore.model.telemetry import Series, SeriesKind, TelemetryBatch

START = 1_760_000_000_000


class Catalog:
    def __init__(self, kind: SeriesKind = SeriesKind.NUMBER) -> None:
        self.kind = kind

    def series(self, index: int) -> Series:
        return Series(index=index, device=f"d{index}", metric="m", kind=self.kind)


@frozen
class Point:
    series: int
    value: float
    time: int = START


def batch_of(points: Sequence[Point]) -> TelemetryBatch:
    return TelemetryBatch.of([p.series for p in points], [p.time for p in points], [p.value for p in points])


def run(detector: Detector, points: Sequence[Point], cuts: Sequence[float] = ()) -> dict[int, tuple[float, float]]:
    """Index in the stream → score and expected."""
    found: dict[int, tuple[float, float]] = {}
    edges = [0, *sorted(int(cut * len(points)) for cut in cuts), len(points)]
    for start, end in itertools.pairwise(edges):
        findings = detector.observe(batch_of(points[start:end]), Catalog())
        for i, score, expected in zip(findings.index, findings.score, findings.expected, strict=True):
            found[start + int(i)] = (float(score), float(expected))
    return found


def plain_threshold(config: ThresholdConfig, points: Sequence[Point]) -> list[int]:
    run_, since, alarm = {}, {}, {}
    found = []
    for i, p in enumerate(points):
        s = p.series
        out = (config.above is not None and p.value > config.above) or (
            config.below is not None and p.value < config.below
        )
        inside = (config.above is None or p.value <= config.above - config.hysteresis) and (
            config.below is None or p.value >= config.below + config.hysteresis
        )
        if not out:
            run_[s] = 0
        else:
            if not run_.get(s):
                since[s] = p.time
            run_[s] = run_.get(s, 0) + 1
        before = alarm.get(s, False)
        if inside:
            alarm[s] = False
        elif out and run_[s] >= config.for_points and p.time - since[s] >= config.duration_s * 1000:
            alarm[s] = True
        if out and alarm.get(s, False) and not (config.once and before):
            found.append(i)
    return found


def plain_statistical(config: StatisticalConfig, points: Sequence[Point]) -> dict[int, tuple[float, float]]:
    weight = 2 / (config.window + 1)
    n, mean, variance, quiet = {}, {}, {}, {}
    found = {}
    for i, p in enumerate(points):
        s = p.series
        k, m, v = n.get(s, 0), mean.get(s, 0.0), variance.get(s, 0.0)
        d = p.value - m
        least = max(config.min_deviation, config.min_relative_deviation * abs(m), 1e-300)
        score = min(abs(d) / (config.limit * max(math.sqrt(v), least)), 1e6)
        if k >= config.warm_up and score > 1 + 1e-9 and k >= quiet.get(s, 0):
            found[i] = (score, m)
            quiet[s] = k + 1 + config.refractory
        w = max(weight, 1 / (k + 1))
        n[s], mean[s], variance[s] = k + 1, m + w * d, (1 - w) * (v + w * d * d)
    return found


#: As shares of the stream, so that they fall into short ones too.
cuts = st.lists(st.floats(0, 1), max_size=6)


@st.composite
def noisy_streams(draw: st.DrawFn) -> list[Point]:
    seed = draw(st.integers(0, 2**32 - 1))
    size = draw(st.integers(0, 300))
    series = draw(st.integers(1, 40))
    skew = draw(st.floats(0.2, 5))
    rng = np.random.default_rng(seed)
    ids = (rng.random(size) ** skew * series).astype(int)
    level = draw(st.sampled_from([0.0, 20.0, -1e6, 1e9]))
    values = level + rng.normal(size=size) + (rng.random(size) < 0.05) * rng.normal(size=size) * 30
    times = START + np.cumsum(rng.integers(-2000, 5000, size))
    return [Point(int(s), float(v), int(t)) for s, v, t in zip(ids, values, times, strict=True)]


@settings(max_examples=150, deadline=None)
@given(
    noisy_streams(),
    cuts,
    st.integers(2, 60),
    st.integers(2, 20),
    st.floats(0.5, 6),
    st.integers(0, 20),
)
def test_statistical_findings_equal_a_plain_loop_for_any_cut(points, cuts, window, warm_up, limit, refractory):
    config = StatisticalConfig(window=window, warm_up=warm_up, limit=limit, refractory=refractory)

    found = run(StatisticalDetector(config), points, cuts)

    plain = plain_statistical(config, points)
    assert found.keys() == plain.keys()
    for i, (score, expected) in plain.items():
        assert found[i][0] == pytest.approx(score, rel=1e-7)
        assert found[i][1] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(noisy_streams(), cuts, st.sampled_from([(0.0, 1e9), (1e9, 0.0), (1.0, 1.0)]), st.integers(2, 500))
def test_rounds_and_filter_give_the_moments_of_the_loop_within_1e_9(points, cuts, costs, window):
    weight = 2 / (window + 1)
    plain: dict[int, tuple[int, float, float]] = {}
    for p in points:
        k, m, v = plain.get(p.series, (0, 0.0, 0.0))
        w, d = max(weight, 1 / (k + 1)), p.value - m
        plain[p.series] = (k + 1, m + w * d, (1 - w) * (v + w * d * d))
    state = Moments(np.zeros(40, np.int64), np.zeros(40), np.zeros(40))
    edges = [0, *sorted(int(cut * len(points)) for cut in cuts), len(points)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ewma, "_ROUND_COST", costs[0])
        patch.setattr(ewma, "_FILTER_COST", costs[1])
        for start, end in itertools.pairwise(edges):
            if end > start:
                batch = batch_of(points[start:end])
                groups = group(batch)
                advance(state, groups, batch.value[groups.order], weight)

    for s, (k, m, v) in plain.items():
        assert state.count[s] == k
        assert state.mean[s] == pytest.approx(m, rel=1e-9, abs=1e-9)
        assert state.variance[s] == pytest.approx(v, rel=1e-9, abs=max(1e-9, 1e-13 * m * m))


values = st.one_of(st.floats(-3, 3), st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]))
threshold_points = st.lists(
    st.builds(Point, st.integers(0, 2), values, st.integers(START, START + 10_000)), min_size=4, max_size=60
)


@settings(max_examples=300, deadline=None)
@given(
    threshold_points,
    cuts,
    st.builds(
        ThresholdConfig,
        above=st.sampled_from([1.0, 1.5]),
        below=st.sampled_from([None, -1.0]),
        hysteresis=st.sampled_from([0.0, 0.5, 1.0]),
        for_points=st.integers(1, 4),
        duration_s=st.sampled_from([0.0, 0.0, 2.0]),
        once=st.booleans(),
    ),
)
def test_threshold_findings_equal_a_plain_loop_for_any_cut(points, cuts, config):
    found = run(ThresholdDetector(config), points, cuts)

    assert list(found) == plain_threshold(config, points)
    assert all(score > 1 for score, _ in found.values())


def series(*values: float, step_ms: int = 1000) -> list[Point]:
    return [Point(0, value, START + i * step_ms) for i, value in enumerate(values)]


def test_a_threshold_finds_the_first_reading_of_an_alarm_and_is_ready_again_after_the_hysteresis():
    detector = ThresholdDetector(ThresholdConfig(above=80, hysteresis=5))

    found = run(detector, series(70, 81, 90, 79, 82, 75, 83))

    assert list(found) == [1, 6]


def test_an_alarm_lasts_over_batches():
    points = series(81, 82, 83, 70, 84)

    for cut in (0.2, 0.4, 0.6, 0.8):
        assert list(run(ThresholdDetector(ThresholdConfig(above=80)), points, [cut])) == [0, 4]


def test_a_threshold_waits_for_the_readings_and_the_duration_it_was_told():
    detector = ThresholdDetector(ThresholdConfig(below=10, for_points=2, duration_s=3))

    found = run(detector, series(9, 9, 9, 12, 9, 9, 9, 9, 9))

    assert list(found) == [7]


def test_a_threshold_reports_each_reading_where_asked_to():
    detector = ThresholdDetector(ThresholdConfig(above=80, once=False))

    assert list(run(detector, series(81, 82, 70, 83))) == [0, 1, 3]


def test_a_threshold_says_the_limit_and_how_far_beyond():
    findings = ThresholdDetector(ThresholdConfig(above=80, severity="critical")).observe(
        batch_of(series(120)), Catalog()
    )

    assert findings.expected.tolist() == [80]
    assert findings.score.tolist() == [1.5]
    assert findings.severity is Severity.CRITICAL
    assert findings.explanation.format(value=120, expected=80, score=1.5) == "120 is beyond the limit of 80"


def test_a_spike_is_found_once_and_the_series_stays_quiet_for_the_refractory_period():
    rng = np.random.default_rng(1)
    values = rng.normal(20, 0.1, 120)
    values[[60, 62, 100]] = 25

    found = run(StatisticalDetector(StatisticalConfig(refractory=10)), series(*values))

    assert list(found) == [60, 100]
    assert found[60][1] == pytest.approx(20, abs=0.1)


def test_a_new_level_becomes_normal():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(20, 0.1, 100), rng.normal(25, 0.1, 400)])

    found = run(StatisticalDetector(StatisticalConfig(window=50)), series(*values))

    assert list(found) == [100]


def test_truth_values_are_left_alone():
    batch = batch_of(series(*[0.0] * 100, 1.0))

    assert len(StatisticalDetector(StatisticalConfig()).observe(batch, Catalog(SeriesKind.BOOLEAN))) == 0


def test_the_largest_floats_leave_a_state_that_still_works():
    detector = StatisticalDetector(StatisticalConfig(warm_up=2, window=3))
    run(detector, series(1.7e308, -1.7e308, 1.7e308))

    run(detector, series(*[20.0, 20.1] * 2000))

    assert list(run(detector, series(99.0))) == [0]


@pytest.mark.parametrize(
    "open_detector",
    [
        lambda: StatisticalDetector(StatisticalConfig(warm_up=5)),
        lambda: ThresholdDetector(ThresholdConfig(above=3)),
    ],
)
def test_a_state_that_is_foreign_truncated_or_of_a_later_version_is_refused(open_detector: Callable[[], Detector]):
    detector = open_detector()
    run(detector, series(1, 2, 3))
    state = detector.snapshot()

    for bad in (b"", b"x", state[:-1], state + b"x", b"XXXX" + state[4:], state[:4] + b"\xff\xff" + state[6:]):
        with pytest.raises(ValueError):
            open_detector().restore(bad)


def test_a_state_of_another_kind_is_refused():
    state = ThresholdDetector(ThresholdConfig(above=1)).snapshot()

    with pytest.raises(ValueError):
        StatisticalDetector(StatisticalConfig()).restore(state)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"above": 1, "below": 2},
        {"above": 2, "below": 1, "hysteresis": 1},
        {"above": 1, "hysteresis": -1},
        {"above": 1, "for_points": 0},
        {"above": float("nan")},
        {"above": 1, "duration_s": -1},
    ],
)
def test_a_threshold_that_makes_no_sense_is_refused_with_the_reason(config):
    with pytest.raises(ConfigError, match=r"A threshold (needs|takes)"):
        ThresholdConfig(**config)


@pytest.mark.parametrize(
    "config",
    [{"window": 1}, {"warm_up": 1}, {"limit": 0}, {"refractory": -1}, {"min_deviation": -1}, {"limit": math.inf}],
)
def test_a_statistical_detector_that_makes_no_sense_is_refused_with_the_reason(config):
    with pytest.raises(ConfigError, match=r"A statistical detector (needs|takes)"):
        StatisticalConfig(**config)
