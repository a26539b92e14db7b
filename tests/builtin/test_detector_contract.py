"""The built-in detectors pass the contract, and broken ones do not."""

from collections.abc import Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from attrs import evolve

from fleetcore.builtin.statistical import StatisticalConfig, StatisticalDetector
from fleetcore.builtin.threshold import ThresholdConfig, ThresholdDetector
from fleetcore.interfaces.detector import Detector
from fleetcore.model.anomaly import Findings
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing.detector_contract import DetectorContract, PlainCatalog

START = 1_767_225_600_000


def opener(make: Callable[[], Detector]):
    @asynccontextmanager
    async def open_it():
        yield make()

    return open_it


def hot_stream() -> tuple[TelemetryBatch, list[int]]:
    """Five series around 20, three of which get hot once each."""
    rng = np.random.default_rng(5)
    values = rng.normal(20, 0.5, 600)
    abnormal = [203, 311, 599]
    values[abnormal] = 95
    return TelemetryBatch.of(np.arange(600) % 5, START + np.arange(600) * 1000, values), abnormal


class TestThreshold(DetectorContract):
    @pytest.fixture
    def open_detector(self):
        return opener(lambda: ThresholdDetector(ThresholdConfig(above=80, hysteresis=5)))

    @pytest.fixture
    def stream(self):
        return hot_stream()


class TestThresholdThatWaits(DetectorContract):
    @pytest.fixture
    def open_detector(self):
        return opener(lambda: ThresholdDetector(ThresholdConfig(below=10, above=80, for_points=3, duration_s=20)))

    @pytest.fixture
    def stream(self):
        values = np.full(300, 20.0)
        values[[50, 55, 60]] = 90  # three in a row, too short
        values[100:160:5] = 5  # the fifth has lasted 20 s
        return TelemetryBatch.of(np.arange(300) % 5, START + np.arange(300) * 1000, values), [120]


class TestStatistical(DetectorContract):
    @pytest.fixture
    def open_detector(self):
        return opener(lambda: StatisticalDetector(StatisticalConfig()))

    @pytest.fixture
    def stream(self):
        return hot_stream()


class Broken(ThresholdDetector):
    """Right but for one thing, which a subclass changes."""

    def __init__(self) -> None:
        super().__init__(ThresholdConfig(above=80, hysteresis=5))


class FindsNothing(Broken):
    def observe(self, batch, catalog):
        return Findings.none()


class FindsTooMuch(Broken):
    def observe(self, batch, catalog):
        super().observe(batch, catalog)
        every = np.arange(len(batch))
        return Findings(index=every, score=np.ones(len(batch)), expected=np.full(len(batch), np.nan))


class Descending(Broken):
    def observe(self, batch, catalog):
        found = super().observe(batch, catalog)
        return evolve(found, index=found.index[::-1])


class BeyondTheBatch(Broken):
    def observe(self, batch, catalog):
        found = super().observe(batch, catalog)
        return evolve(found, index=found.index + len(batch))


class InfiniteScores(Broken):
    def observe(self, batch, catalog):
        found = super().observe(batch, catalog)
        return evolve(found, score=np.full(len(found), np.inf))


class WritesIntoTheBatch(Broken):
    def observe(self, batch, catalog):
        batch.value[:] = batch.value
        return super().observe(batch, catalog)


class ForgetsOverRestarts(StatisticalDetector):
    def __init__(self) -> None:
        super().__init__(StatisticalConfig())

    def snapshot(self):
        return StatisticalDetector(StatisticalConfig()).snapshot()


class KeepsNothingBetweenBatches(StatisticalDetector):
    def __init__(self) -> None:
        super().__init__(StatisticalConfig())

    def observe(self, batch, catalog):
        return StatisticalDetector(StatisticalConfig()).observe(batch, catalog)


class Random(Broken):
    rng = np.random.default_rng(5)

    def observe(self, batch, catalog):
        found = super().observe(batch, catalog)
        return evolve(found, score=found.score + self.rng.random(len(found)))


class StartsAgainAtEachSnapshot(StatisticalDetector):
    """What it gives is right, and what it goes on from is not."""

    def __init__(self) -> None:
        super().__init__(StatisticalConfig())

    def snapshot(self):
        self.restore(StatisticalDetector(StatisticalConfig()).snapshot())
        return super().snapshot()


class RaisesOnAnEmptyBatch(Broken):
    def observe(self, batch, catalog):
        batch.series[0]
        return super().observe(batch, catalog)


class RestoresAnything(Broken):
    def restore(self, state):
        pass


class FewSeries(Broken):
    def observe(self, batch, catalog):
        if len(batch) and batch.series.max() > 1000:
            raise IndexError("series")
        return super().observe(batch, catalog)


class UnfillableExplanation(Broken):
    def observe(self, batch, catalog):
        return evolve(super().observe(batch, catalog), explanation="{limit} is exceeded")


@pytest.mark.parametrize(
    ("detector", "test"),
    [
        (FindsNothing, "test_it_finds_exactly_what_is_abnormal"),
        (FindsTooMuch, "test_it_finds_exactly_what_is_abnormal"),
        (Descending, "test_it_finds_exactly_what_is_abnormal"),
        (BeyondTheBatch, "test_it_finds_exactly_what_is_abnormal"),
        (InfiniteScores, "test_it_finds_exactly_what_is_abnormal"),
        (WritesIntoTheBatch, "test_it_finds_exactly_what_is_abnormal"),
        (ForgetsOverRestarts, "test_a_restart_at_any_place_changes_nothing"),
        (StartsAgainAtEachSnapshot, "test_a_restart_at_any_place_changes_nothing"),
        (StartsAgainAtEachSnapshot, "test_a_snapshot_changes_nothing"),
        (KeepsNothingBetweenBatches, "test_how_the_stream_is_cut_changes_nothing"),
        (Random, "test_the_same_batches_give_the_same_findings"),
        (RaisesOnAnEmptyBatch, "test_an_empty_batch_has_no_findings_and_changes_nothing"),
        (RestoresAnything, "test_a_state_it_cannot_read_is_a_value_error"),
        (FewSeries, "test_new_series_may_appear_at_any_time_with_any_index"),
        (UnfillableExplanation, "test_the_explanation_can_be_filled_in"),
    ],
)
def test_the_contract_bites(detector, test):
    given = {"open_detector": opener(detector), "stream": hot_stream(), "catalog": PlainCatalog()}
    contract = DetectorContract()
    method = getattr(contract, test)
    wanted = method.__code__.co_varnames[1 : method.__code__.co_argcount]

    # pytest.raises reports with an exception of its own, which is no Exception.
    with pytest.raises(BaseException) as failure:
        method(**{name: given[name] for name in wanted})

    assert isinstance(failure.value, (AssertionError, IndexError, KeyError, ValueError, pytest.fail.Exception))
    assert str(failure.value).strip(), "a bare failure shows nothing"
