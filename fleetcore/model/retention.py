"""Retention of readings by metric: a default, and exceptions by name or pattern."""

import re
from collections.abc import Mapping

from attrs import field, frozen

from fleetcore.model.days import HOUR_MS
from fleetcore.model.names import MAX_METRIC_LENGTH, METRIC_ALPHABET

#: Stores drop readings in larger units: readings may stay a tenth of their period longer, and an hour at least, since a
#: store seals its readings within an hour.
_LATE, _MIN_LATE_MS = 10, HOUR_MS
_PATTERN = re.compile(rf"[{METRIC_ALPHABET}*]{{1,{MAX_METRIC_LENGTH}}}", re.ASCII)


@frozen(kw_only=True)
class Periods:
    """The periods in ms; None means forever.

    Attributes:
        default_ms: for a metric that no pattern matches.
        metrics: by the name of a metric, or a pattern: ``*`` stands for any number of characters. Of several matches,
            the one with the most characters apart from ``*`` counts; of two equal ones, the longer period.
    """

    default_ms: int | None = None
    metrics: Mapping[str, int | None] = field(factory=dict)

    @property
    def is_on(self) -> bool:
        """Whether any reading is ever dropped."""
        return any(period is not None for period in (self.default_ms, *self.metrics.values()))

    @property
    def shortest_ms(self) -> int | None:
        """The shortest period."""
        return min((period for period in (self.default_ms, *self.metrics.values()) if period is not None), default=None)

    def of(self, metric: str) -> int | None:
        """The period of a metric."""
        found = [
            (len(pattern.replace("*", "")), "*" not in pattern, float("inf") if period is None else period, period)
            for pattern, period in self.metrics.items()
            if fits(pattern, metric)
        ]
        return max(found, key=lambda each: each[:3])[3] if found else self.default_ms


@frozen(kw_only=True)
class MetricDue:
    """What is due of one metric: readings, texts, and about how much room they take.

    Attributes:
        period_ms: how long its readings are stored; None means forever.
        series: the number of devices that have it.
    """

    metric: str
    period_ms: int | None
    series: int
    readings: int
    texts: int
    size_bytes: int


def late_ms(period_ms: int) -> int:
    """How much longer than their period readings may stay."""
    return max(period_ms // _LATE, min(_MIN_LATE_MS, period_ms))


def is_pattern(text: str) -> bool:
    """Whether some metric's name could match it."""
    return _PATTERN.fullmatch(text) is not None


def fits(pattern: str, metric: str) -> bool:
    """Whether a pattern, or a name, matches a metric."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), metric) is not None
