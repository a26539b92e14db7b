"""The health gate's statistics: a sequential test of updated devices against comparable ones.

A block is one updated device and k controls. Without a difference the devices of a block are exchangeable: given that m
of its k + 1 devices are bad, the updated one is among them with probability m / (k + 1), whatever makes devices bad at
that site and hour, and however much they have in common. The test bets on more than that, and multiplies what it wins:
the product is an e-value. By Ville's inequality it ever reaches 1 / alpha with a probability of at most alpha, however
often it is looked at (Ville 1939; Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid
inference", Statistical Science 38, 2023). With alternatives that are odds ratios, a block's e-value is that of the
noncentral hypergeometric distribution against the central one.

Blocks must not share a control in overlapping windows: then what is known of one says something about the next.
"""

import hashlib
from collections.abc import Sequence
from math import exp, log
from statistics import median

from msgspec.structs import replace

from fleetcore.model.firmware import PROGRESS_ORDER, Campaign, Execution, ExecutionState
from fleetcore.model.gate import GateScore
from fleetcore.model.rollout import HealthGate
from fleetcore.rollout.waves import wave_sizes

_S = ExecutionState
#: The odds ratios that the test bets on, and how much it believes in each at first, tried by the benchmark ``gate``.
#: Five points more of bad devices are an odds ratio of 6.3 over one percent, 3.7 over two and 2.1 over five.
ODDS = (2.5, 4.0, 8.0, 50.0)
_PRIOR = (0.3, 0.4, 0.2, 0.1)
#: The e-value's logarithm is to grow by so much a device to reach the limit with the last one of a wave; where it needs
#: more the odds ratios are larger, up to twice. Five points more than two percent, with 16 controls, give 0.035.
_GROWTH, _BOLDEST = 0.03, 2.0
#: For rounding: at the limit counts as reached.
_ROUNDING = 1e-9
#: A change of a metric is an outlier if it is so many robust standard deviations from the median of the others.
OUTLIER = 6.0
#: The fewest others from which it is told.
_FEWEST = 4
#: The median absolute deviation of a normal distribution is its standard deviation divided by this.
_MAD_TO_SIGMA = 1.4826
#: The least standard deviation of changes, as a share of the metric's level: constant readings have none.
_LEAST_SIGMA = 0.001
#: States that an updated device is observed after. One that is `unknown` may still come back.
OBSERVED = frozenset({_S.SUCCEEDED, _S.FAILED, _S.REVERTED, _S.TIMED_OUT, _S.UNKNOWN})


def reached(score: GateScore, gate: HealthGate) -> bool:
    """Whether the test rejects: the updated devices do worse."""
    return score.log_e >= log(1 / gate.alpha) - _ROUNDING


def compared(
    score: GateScore, gate: HealthGate, *, bad: bool, controls: int, controls_bad: int, left: int
) -> GateScore:
    """The score after a block of one updated device and its controls.

    What it bets depends on earlier blocks only, and on how many of the block are bad. It is bolder where the wave nears
    its end and the limit is far. It never stakes more than it takes to reach the limit, and nothing once it has: what
    it would win beyond is of no use.

    Args:
        left: how many devices of the wave are still to be judged, about, this one included.
    """
    counted = replace(
        score, updated=score.updated + 1, updated_bad=score.updated_bad + bad, controls=score.controls + controls,
        controls_bad=score.controls_bad + controls_bad,
    )  # fmt: skip
    size, failed = controls + 1, controls_bad + bad
    if failed in (0, size):
        return counted
    chance = failed / size
    short = log(1 / gate.alpha) - score.log_e
    boldness = min(max(1.0, short / (_GROWTH * max(1, left))), _BOLDEST)
    bets = [_bet(boldness * odds, failed, size) for odds in ODDS]
    beliefs = score.beliefs or tuple(log(weight) for weight in _PRIOR)
    largest = max(beliefs)
    weights = [exp(belief - largest) for belief in beliefs]
    bet = sum(weight * its for weight, its in zip(weights, bets, strict=True)) / sum(weights)
    bet = min(bet, max(chance, chance * exp(short)))
    return replace(
        counted,
        log_e=score.log_e + log(bet / chance if bad else (1 - bet) / (1 - chance)),
        beliefs=tuple(
            belief + log(_bet(odds, failed, size) if bad else 1 - _bet(odds, failed, size))
            for belief, odds in zip(beliefs, ODDS, strict=True)
        ),
    )


def _bet(odds: float, failed: int, size: int) -> float:
    """The probability that the updated device is among the failed ones of its block, by an odds ratio."""
    return odds * failed / (odds * failed + size - failed)


def begun_anew(score: GateScore | None) -> GateScore | None:
    """The score once an operator has accepted the evidence so far."""
    return score and GateScore(number=score.number)


def in_words(score: GateScore, gate: HealthGate) -> str:
    """The score with its numbers."""
    return (
        f"{score.updated_bad} of {score.updated} updated devices are bad, and {score.controls_bad} of {score.controls} "
        f"comparable ones: e-value {exp(score.log_e):.3g}, the limit is {1 / gate.alpha:.3g}"
    )


def outliers(changes: Sequence[float | None], level: float) -> list[float | None]:
    """For each change of a metric that is an outlier the median of the others; all are judged by the same rule.

    Args:
        changes: of each device; None where it cannot be told.
        level: a typical absolute value of the metric.
    """
    found: list[float | None] = []
    for at, change in enumerate(changes):
        others = [other for number, other in enumerate(changes) if number != at and other is not None]
        if change is None or len(others) < _FEWEST:
            found.append(None)
            continue
        middle = median(others)
        sigma = _MAD_TO_SIGMA * median(abs(other - middle) for other in others)
        far = abs(change - middle) > OUTLIER * max(sigma, _LEAST_SIGMA * level, _ROUNDING)
        found.append(middle if far else None)
    return found


def observed_of(campaign: Campaign, gate: HealthGate, wave: int) -> tuple[int, int]:
    """How many devices of a wave are observed, about, and how many it has. Without waves all are one."""
    sizes = wave_sizes(campaign.rollout.waves, campaign.total)
    size = sizes[wave - 1] if 0 < wave <= len(sizes) else campaign.total
    return min(size, gate.max_judged), size


def begins(campaign: Campaign, old: Execution, new: Execution) -> bool:
    """Whether a gate observes a device from a transition on.

    Of a large wave a sample is observed, chosen by a digest: it depends on nothing that happens to the devices.
    """
    gate = campaign.rollout.gate
    if gate is None or new.observed is not None or new.state not in OBSERVED or old.state in OBSERVED:
        return False
    if new.state is _S.TIMED_OUT and old.attempt == 1 and PROGRESS_ORDER[old.state] < PROGRESS_ORDER[_S.ACCEPTED]:
        return False  # it never took the offer
    wanted, size = observed_of(campaign, gate, new.wave)
    digest = hashlib.sha256(f"gate/{new.id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * size < wanted << 64
