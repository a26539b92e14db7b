"""The evidence of a campaign's health gate: what its stored observations show, for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import exp

from attrs import field, frozen, mutable

from fleetcore.fleet.health_gates import HealthGates
from fleetcore.model.firmware import Campaign
from fleetcore.model.gate import GateScore, Observation, Verdict

#: Devices that are named with their reasons, and points of the course.
_NAMED, _POINTS = 20, 200


@mutable(kw_only=True)
class WaveEvidence:
    """The observed devices of a wave, and those that they were compared with.

    Attributes:
        observing: devices whose window has not ended.
        uncompared: devices that could be compared with nothing.
        matching: how many were compared with devices of which closeness.
    """

    wave: int
    observing: int = 0
    uncompared: int = 0
    updated: int = 0
    updated_bad: int = 0
    controls: int = 0
    controls_bad: int = 0
    matching: Counter[str] = field(factory=Counter)


@frozen(kw_only=True)
class Evidence:
    """All of it.

    Attributes:
        score: of the test, since an operator accepted the evidence before.
        e_value: of the score; at the limit the campaign stops.
        rules: how many updated devices, and controls, each rule made bad.
        worst: the last bad devices.
        points: the course: after how many devices the e-value was what, and how many of them were bad.
    """

    score: GateScore
    e_value: float
    waves: Sequence[WaveEvidence]
    rules: Mapping[str, tuple[int, int]]
    worst: Sequence[Observation]
    points: Sequence[tuple[int, float, int]]


async def evidence_of(gates: HealthGates, campaign: Campaign) -> Evidence:
    """The evidence of a campaign; the cost follows the number of its observed devices, which the gate bounds."""
    waves: dict[int, WaveEvidence] = {}
    updated: Counter[str] = Counter()
    others: Counter[str] = Counter()
    bad: list[Observation] = []
    points = []
    async for each in gates.records.iterate(ref=("campaign", campaign.id)):
        wave = waves.setdefault(each.wave, WaveEvidence(wave=each.wave))
        if each.verdict is Verdict.OPEN:
            wave.observing += 1
        elif each.verdict is Verdict.UNCOMPARED:
            wave.uncompared += 1
        else:
            wave.updated += 1
            wave.updated_bad += each.verdict is Verdict.BAD
            wave.controls += len(each.controls)
            wave.controls_bad += sum(bool(control.rules) for control in each.controls)
            wave.matching[str(each.matching)] += 1
            updated.update(each.rules)
            others.update(rule for control in each.controls for rule in control.rules)
            bad += [each] if each.verdict is Verdict.BAD else []
            points.append((each.number, each.e_value, len(bad)))
    score = campaign.gate_score or GateScore()
    every = -(-len(points) // _POINTS) or 1
    return Evidence(
        score=score,
        e_value=exp(score.log_e),
        waves=[waves[number] for number in sorted(waves)],
        rules={rule: (updated[rule], others[rule]) for rule in sorted({*updated, *others})},
        worst=bad[: -_NAMED - 1 : -1],
        points=points[::every] + (points[-1:] if len(points) % every != 1 and every > 1 else []),
    )
