"""The health gate's test on simulated campaigns: how often it stops without a difference, and how soon with one.

Without a difference a campaign has 1,200 judged devices, a canary of 200 and two waves more; at some sites and hours
more devices are bad than at others, updated ones and controls alike. With a difference the canary alone counts: of its
200 devices five points more are bad than of the controls. For comparison: one exact binomial test at the canary's end
that knows the share of bad controls, at 5 %. No test that looks more often, or has to estimate that share, detects more
at that level.
"""

import random
from math import comb
from statistics import median

from benchmarks.measure import Row
from fleetcore.model.gate import GateScore
from fleetcore.model.rollout import HealthGate
from fleetcore.rollout.gate import compared, reached

_GATE = HealthGate()
_BASES = (0.01, 0.02, 0.05)
_CANARY, _WAVE, _ALL, _MORE = 200, 500, 1_200, 0.05
#: How much the share of bad devices differs between sites and hours: a Beta distribution with so many pseudo-counts.
_SPREAD = 20.0


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    campaigns = 200 if quick else 1_000
    rows = []
    for base in _BASES:
        chance = random.Random(f"same {base}")  # a simulation has no secrets
        stopped = sum(_stops(chance, base, 0.0, _ALL) is not None for _ in range(campaigns)) / campaigns
        rows.append(
            Row(
                name=f"{base:.0%} bad, no difference: campaigns of {campaigns:,} stopped", value=100 * stopped,
                unit="%", goal="≤ 5 %", met=stopped <= 0.05,
            )
        )  # fmt: skip
    for base in _BASES:
        chance = random.Random(f"worse {base}")  # a simulation has no secrets
        when = [_stops(chance, base, _MORE, _CANARY) for _ in range(campaigns)]
        caught = sum(at is not None for at in when) / campaigns
        best = _fixed(base, base + _MORE, _CANARY)
        middle = median(_CANARY * 10 if at is None else at for at in when) / _CANARY
        rows += [
            Row(
                name=f"{base:.0%} bad, five points more in a canary of {_CANARY}: caught", value=100 * caught,
                unit="%", against=f"one exact test at its end ({best:.0%})", ratio=caught / best, goal="≥ 90 %",
                met=caught >= 0.9,
            ),
            Row(
                name=f"{base:.0%} bad, the same: median of the judged share of the wave", value=100 * middle, unit="%",
                goal="< 60 %", met=middle < 0.6,
            ),
        ]  # fmt: skip
    return rows


def _stops(chance: random.Random, base: float, more: float, devices: int) -> int | None:
    """After how many devices a campaign stops; None for one that does not."""
    score, count = GateScore(), _GATE.controls
    for number in range(1, devices + 1):
        # With a difference each site is as bad as the others, so that the five points are exact.
        share = base if more else chance.betavariate(base * _SPREAD, (1 - base) * _SPREAD)
        bad = chance.random() < share + more
        others = sum(chance.random() < share for _ in range(count))
        left = _CANARY - number + 1 if number <= _CANARY else _WAVE - (number - _CANARY - 1) % _WAVE
        score = compared(score, _GATE, bad=bad, controls=count, controls_bad=others, left=left)
        if reached(score, _GATE):
            return number
    return None


def _fixed(base: float, worse: float, devices: int) -> float:
    """The power of an exact binomial test at 5 % with a known base."""
    critical = next(at for at in range(devices + 2) if _at_least(at, base, devices) <= 0.05)
    return _at_least(critical, worse, devices)


def _at_least(least: int, share: float, devices: int) -> float:
    below = (comb(devices, at) * share**at * (1 - share) ** (devices - at) for at in range(least))
    return 1 - sum(below)
