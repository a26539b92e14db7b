"""Durable transitions of executions a second, alone and beside telemetry, and what the telemetry then waits.

Each device reports the six states of its update through the data path; a transition counts once it is acknowledged.
Beside 5,000 points/s of other devices, the time from a message's delivery to its acknowledgement is compared with that
without a campaign, in turn. Before one commit held the reports of many devices is the state of commit d52488b5.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.earlier import earlier, measure
from benchmarks.measure import Row, at_most, median_ratio

_MODULE = "durable_child"
#: Before reports that come together were stored in one commit.
_EARLIER = "d52488b5"
_GOAL, _POINTS, _TWICE = 5_000, 5_000, 2.0


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rounds, devices, seconds = (3, 2_000, 4) if quick else (5, 10_000, 12)
    alone, before, without, beside = [], [], [], []
    with earlier(_EARLIER) as checkout:
        for _ in range(rounds):
            alone.append(_measured(devices))
            if checkout is not None:
                before.append(_measured(devices // 2, checkout))
            without.append(_measured(0, points_per_s=_POINTS, seconds=seconds))
            beside.append(_measured(devices, per_s=_GOAL, points_per_s=_POINTS))
    rows = [_rate("durable transitions", alone, before), _cost(alone, before)]
    name = f"the same, {_GOAL:,}/s offered, beside {_POINTS:,} points/s"
    waited = [[found["p99_ms"] for found in some] for some in (beside, without)]
    return [
        *rows, _rate(name, beside, []),
        at_most("p99 of those points' messages", waited[0], "without a campaign", waited[1], "ms", _TWICE),
    ]  # fmt: skip


def _measured(
    devices: int, checkout: Path | None = None, *, per_s: int = 0, points_per_s: int = 0, seconds: int = 0
) -> Mapping[str, float]:
    task: dict[str, Any] = {
        "devices": devices, "per_s": per_s, "points_per_s": points_per_s, "seconds": seconds,
    }  # fmt: skip
    return measure(_MODULE, task, checkout)


def _rate(name: str, ours: list[Mapping[str, float]], theirs: list[Mapping[str, float]]) -> Row:
    rates, others = [found["per_s"] for found in ours], [found["per_s"] for found in theirs]
    rate = median(rates)
    # What is offered at a rate ends a moment after its last report.
    return Row(
        name=name, value=rate, unit="/s", goal=f"≥ {_GOAL:,}", met=rate >= 0.99 * _GOAL,
        against=f"commit {_EARLIER} ({median(others):.4g} /s)" if others else "",
        ratio=median_ratio(rates, others) if others else None,
    )  # fmt: skip


def _cost(ours: list[Mapping[str, float]], theirs: list[Mapping[str, float]]) -> Row:
    spent, others = [found["cpu_us"] for found in ours], [found["cpu_us"] for found in theirs]
    return Row(
        name="processor time of one, all threads", value=median(spent), unit="µs",
        against=f"commit {_EARLIER} ({median(others):.4g} µs)" if others else "",
        ratio=median_ratio(spent, others) if others else None,
    )  # fmt: skip
