"""The plugin project that ``fleetcore plugin new`` writes: a detector, its contract test, its packaging.

The same text is in examples/plugin_template, written by this code and run by the tests.
"""

from pathlib import Path

from fleetcore.errors import Refused

_FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "fleetcore-{name}"
version = "0.1.0"
description = "A detector for fleetcore."
requires-python = ">=3.11"
dependencies = ["fleetcore>=0.1,<0.2"]

[project.optional-dependencies]
test = ["fleetcore[test]"]

[project.entry-points.fleetcore]
{name} = "fleetcore_{name}.plugin"

[tool.hatch.build.targets.wheel]
packages = ["fleetcore_{name}"]

[tool.pytest.ini_options]
addopts = ["--import-mode=importlib"]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"

[tool.ruff]
line-length = 120
""",
    "README.md": """\
# fleetcore-{name}

A detector for fleetcore that finds jumps: readings that differ from the one before by more than `limit`.

```toml
[detectors.{name}]
limit = 10.0
metrics = ["temperature"]
```

`pip install -e '.[test]' && pytest` runs the contract that every detector must pass.
""",
    "fleetcore_{name}/__init__.py": '"""A detector for fleetcore."""\n',
    "fleetcore_{name}/plugin.py": '''\
"""What this package offers; imports nothing heavy, since it is loaded at every start."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import frozen
from fleetcore import hookimpl, offer_detector

if TYPE_CHECKING:
    from fleetcore.interfaces import Detector, Provider

FLEETCORE_PLUGIN_API = 2


@frozen(kw_only=True)
class {title}Config:
    """``[detectors.{name}]``. Attributes: limit: the largest change between two readings that is normal."""

    limit: float = 10.0


@hookimpl
def fleetcore_detectors() -> "Iterable[Provider[Detector]]":
    """One detector kind, ``{name}``."""
    from fleetcore_{name}.detector import open_detector

    return [offer_detector("{name}", {title}Config, open_detector, summary="finds jumps between two readings")]
''',
    "fleetcore_{name}/detector.py": '''\
"""The detector: each reading against the one before it in its series."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from fleetcore.interfaces import Context, Detector
from fleetcore.model.anomaly import Findings
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch

from fleetcore_{name}.plugin import {title}Config

# The first bytes of a state, so that foreign bytes and those of later versions are refused.
_FORM = b"{name}1"


class JumpDetector(Detector):
    """Keeps the last value of each series; NaN where there was none."""

    def __init__(self, config: {title}Config) -> None:
        self._limit = config.limit
        self._last = np.empty(0)

    def observe(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Findings:
        if not len(batch):
            return Findings.none()
        self._grow(int(batch.series.max()) + 1)
        # Sorting by series, stably, puts each reading right behind the one before it.
        order = np.argsort(batch.series, kind="stable")
        series, value = batch.series[order], batch.value[order]
        first = np.r_[True, series[1:] != series[:-1]]
        before = np.where(first, self._last[series], np.r_[np.nan, value[:-1]])
        last = np.r_[first[1:], True]
        self._last[series[last]] = value[last]
        change = np.abs(value - before)
        found = np.flatnonzero(change > self._limit)
        place = np.argsort(order[found])
        found = found[place]
        return Findings(
            index=order[found],
            score=change[found] / self._limit,
            expected=before[found],
            explanation="jumped to {{value}} from {{expected}}",
        )

    def _grow(self, size: int) -> None:
        if size > len(self._last):
            self._last = np.r_[self._last, np.full(size - len(self._last), np.nan)]

    def snapshot(self) -> bytes:
        return _FORM + self._last.astype("<f8").tobytes()

    def restore(self, state: bytes) -> None:
        if not state.startswith(_FORM):
            raise ValueError("this is not a state of a {name} detector")
        self._last = np.frombuffer(state[len(_FORM) :], "<f8").astype(np.float64)


@asynccontextmanager
async def open_detector(config: {title}Config, context: Context) -> AsyncIterator[JumpDetector]:
    """Opens one instance."""
    del context
    yield JumpDetector(config)
''',
    "tests/test_{name}.py": '''\
"""The contract that every detector must pass, and what this one is for."""

import numpy as np
import pytest
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing import context
from fleetcore.testing.detector_contract import DetectorContract, PlainCatalog

from fleetcore_{name}.detector import JumpDetector, open_detector
from fleetcore_{name}.plugin import {title}Config


class TestContract(DetectorContract):
    @pytest.fixture
    def open_detector(self):
        return lambda: open_detector({title}Config(limit=5.0), context())

    @pytest.fixture
    def stream(self):
        """Three series of 100 readings around 20, one of which jumps at its 40th reading and back at its 41st."""
        value = np.random.default_rng(1).normal(20.0, 0.5, 300)
        value[3 * 40] = 60.0
        batch = TelemetryBatch.of(np.arange(300) % 3, 1_767_225_600_000 + np.arange(300) * 1000, value)
        return batch, [3 * 40, 3 * 41]


def test_a_jump_is_found_in_its_own_series_only():
    detector = JumpDetector({title}Config(limit=5.0))
    batch = TelemetryBatch.of([0, 1, 0, 1], [1, 1, 2, 2], [20.0, 50.0, 30.0, 51.0])

    findings = detector.observe(batch, PlainCatalog())

    assert findings.index.tolist() == [2]
    assert np.allclose(findings.expected, 20.0)
''',
}


def write_plugin(name: str, into: Path) -> Path:
    """Writes the project and returns its folder; raises Refused if it exists."""
    folder = into / f"fleetcore-{name}"
    if folder.exists():
        raise Refused(f"{folder} exists already", remedy="Choose another name or folder")
    title = "".join(part.capitalize() for part in name.split("_"))
    for path, text in _FILES.items():
        file = folder / path.format(name=name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(name=name, title=title))
    return folder
