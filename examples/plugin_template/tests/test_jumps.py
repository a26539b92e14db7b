"""The contract that every detector must pass, and what this one is for."""

import numpy as np
import pytest
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing import context
from fleetcore.testing.detector_contract import DetectorContract, PlainCatalog

from fleetcore_jumps.detector import JumpDetector, open_detector
from fleetcore_jumps.plugin import JumpsConfig


class TestContract(DetectorContract):
    @pytest.fixture
    def open_detector(self):
        return lambda: open_detector(JumpsConfig(limit=5.0), context())

    @pytest.fixture
    def stream(self):
        """Three series of 100 readings around 20, one of which jumps at its 40th reading and back at its 41st."""
        value = np.random.default_rng(1).normal(20.0, 0.5, 300)
        value[3 * 40] = 60.0
        batch = TelemetryBatch.of(np.arange(300) % 3, 1_767_225_600_000 + np.arange(300) * 1000, value)
        return batch, [3 * 40, 3 * 41]


def test_a_jump_is_found_in_its_own_series_only():
    detector = JumpDetector(JumpsConfig(limit=5.0))
    batch = TelemetryBatch.of([0, 1, 0, 1], [1, 1, 2, 2], [20.0, 50.0, 30.0, 51.0])

    findings = detector.observe(batch, PlainCatalog())

    assert findings.index.tolist() == [2]
    assert np.allclose(findings.expected, 20.0)
