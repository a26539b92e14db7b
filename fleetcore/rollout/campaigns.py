"""A whole campaign: what happens next, decided from the number of its devices in each state and wave."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from fractions import Fraction
from itertools import accumulate
from typing import TypeAlias

from attrs import field, frozen
from msgspec.structs import replace

from fleetcore.model.firmware import EXECUTION_ENDS, Campaign, CampaignState, Execution, ExecutionState
from fleetcore.model.rollout import FailureLimit, OnFailure, Rollout
from fleetcore.rollout.gate import in_words, reached
from fleetcore.rollout.waves import wave_sizes

_S = ExecutionState
#: Ends that say nothing about the firmware: the device left, or needed no update.
_NEUTRAL = (_S.CANCELLED, _S.SKIPPED)
#: States of devices that an attempt ended for, or whose return is overdue.
EXECUTED = (*(state for state in ExecutionState if state in EXECUTION_ENDS and state not in _NEUTRAL), _S.UNKNOWN)


class Reason(StrEnum):
    """Why a campaign changed by itself; the ``code`` of the event."""

    TOO_MANY_FAILURES = "too_many_failures"
    WAVE_FAILED = "wave_failed"
    HEALTH_GATE = "health_gate"


def counter_name(execution: Execution) -> str:
    """The name of the counter that has an execution: its state, and its wave in front once it has a place."""
    return f"{execution.wave}/{execution.state}" if execution.wave else execution.state.value


def has_places(rollout: Rollout) -> bool:
    """Whether a device needs a place before it gets the offer; otherwise all may have it at once."""
    return bool(rollout.waves) or rollout.rate is not None


@frozen(kw_only=True)
class Counts:
    """How many devices of a campaign are in each state: those without a place, and those of each wave.

    Attributes:
        observing: how many devices of each wave the health gate observes now.
    """

    unplaced: Mapping[ExecutionState, int] = field(factory=dict)
    waves: Mapping[int, Mapping[ExecutionState, int]] = field(factory=dict)
    observing: Mapping[int, int] = field(factory=dict)

    @classmethod
    def of(cls, counters: Mapping[str, int]) -> "Counts":
        """From the stored counters."""
        unplaced: dict[ExecutionState, int] = {}
        waves: dict[int, dict[ExecutionState, int]] = {}
        for name, count in counters.items():
            wave, _, state = name.rpartition("/")
            place = waves.setdefault(int(wave), {}) if wave else unplaced
            place[ExecutionState(state)] = count
        return cls(unplaced=unplaced, waves=waves)

    @property
    def states(self) -> Mapping[ExecutionState, int]:
        """All devices by state."""
        total = dict(self.unplaced)
        for wave in self.waves.values():
            for state, count in wave.items():
                total[state] = total.get(state, 0) + count
        return total

    @property
    def total(self) -> int:
        """All devices, without those that were erased."""
        return sum(self.states.values())

    @property
    def executed(self) -> int:
        """Devices whose update ended, or whose return is overdue."""
        return self.among(EXECUTED)

    def among(self, wanted: Iterable[ExecutionState]) -> int:
        """Devices in any of some states."""
        states = self.states
        return sum(states.get(state, 0) for state in wanted)

    @property
    def unplaced_waiting(self) -> int:
        """Devices that may still get a place."""
        return self.unplaced.get(_S.WAITING, 0)

    @property
    def placed(self) -> int:
        """Devices that have or had a place, without those that say nothing about the firmware: others replace them.

        Executions of earlier releases have no place until they end or begin.
        """
        return self.total - self.unplaced_waiting - self.among(_NEUTRAL)


@frozen
class Place:
    """The number of devices that get a place in the current wave now."""

    count: int


@frozen
class Stop:
    """The campaign stops by itself: ``aborted`` and ``rolled back`` need more than the new state."""

    action: OnFailure
    code: Reason
    reason: str


@frozen
class Finish:
    """No device is left."""

    reason: str


@frozen
class Expire:
    """The campaign's time is over: devices that wait end."""


@frozen
class Begin:
    """A wave begins; ``devices`` is its size, None for all others."""

    wave: int
    devices: int | None


CampaignEffect: TypeAlias = Place | Stop | Finish | Begin | Expire


def failures(limit: FailureLimit, campaign: Campaign, counts: Counts) -> tuple[int, int]:
    """The failures that a limit counts, and the updates of which they are a share, since the campaign was resumed."""

    def later(kinds: Iterable[ExecutionState]) -> int:
        accepted = sum(campaign.accepted.get(kind, 0) for kind in kinds)
        return max(0, counts.among(kinds) - accepted)

    return later(tuple(map(_S, limit.kinds))), later(EXECUTED)


def exceeded(limit: FailureLimit, campaign: Campaign, counts: Counts) -> bool:
    """Whether more have failed than the limit allows. Exact at its edge: a share that equals it is allowed."""
    failed, executed = failures(limit, campaign, counts)
    return executed >= limit.min_executed and failed > Fraction(str(limit.share)) * executed


def first_state(campaign: Campaign, now: int) -> tuple[CampaignState, str | None]:
    """The state of a campaign that has not begun yet at a time in ms, and its code."""
    if campaign.sha256 is None or campaign.size is None:
        return CampaignState.DRAFT, "artifact_unpinned"
    if campaign.approval and campaign.approved_by is None:
        return CampaignState.AWAITING_APPROVAL, None
    if campaign.starts_at is not None and campaign.starts_at > now:
        return CampaignState.SCHEDULED, None
    return (CampaignState.PAUSED, "held") if campaign.held else (CampaignState.RUNNING, None)


def decide(
    campaign: Campaign, counts: Counts, now: int, places: int | None = None
) -> tuple[Campaign, tuple[CampaignEffect, ...]]:
    """What a running campaign does next; the same object and nothing where it waits.

    Args:
        now: ms since the epoch.
        places: the most devices that may get a place now; None for any number.
    """
    if campaign.state is not CampaignState.RUNNING or campaign.adding:
        return campaign, ()
    for limit in campaign.rollout.failures:
        if exceeded(limit, campaign, counts):
            failed, executed = failures(limit, campaign, counts)
            reason = f"{failed} of {executed} devices failed; {limit.share * 100:g} % may"
            return campaign, (Stop(limit.action, Reason.TOO_MANY_FAILURES, reason),)
    gate, score = campaign.rollout.gate, campaign.gate_score
    if gate is not None and score is not None and reached(score, gate):
        return campaign, (Stop(gate.action, Reason.HEALTH_GATE, in_words(score, gate)),)
    over = now >= campaign.begins + campaign.rollout.limits.campaign_ms
    if not any(state not in EXECUTION_ENDS for state in counts.states) and not any(counts.observing.values()):
        # More devices may come to a continuous campaign.
        return campaign, () if campaign.continuous and not over else (Finish(summary(campaign, counts)),)
    if over and counts.among((_S.WAITING,)):
        return campaign, (Expire(),)
    if not has_places(campaign.rollout):
        return campaign, ()
    effects: list[CampaignEffect] = []
    bounds = (*accumulate(wave_sizes(campaign.rollout.waves, campaign.total)),)
    if campaign.wave == 0:
        campaign = replace(campaign, wave=1, wave_begun=now)
        effects.append(_begin(1, bounds))
    if campaign.wave < len(bounds):
        campaign, stop = _judged(campaign, counts, bounds, now)
        if stop is not None:
            return campaign, (stop,)
        done = campaign.wave_done
        if done is not None and now >= done + campaign.rollout.wave_soak_ms:
            campaign = replace(campaign, wave=campaign.wave + 1, wave_begun=now, wave_done=None)
            effects.append(_begin(campaign.wave, bounds))
    room = _room(campaign, counts, bounds, places)
    return campaign, (*effects, Place(room)) if room else tuple(effects)


def _begin(wave: int, bounds: tuple[int, ...]) -> Begin:
    before = bounds[wave - 2] if wave > 1 else 0
    return Begin(wave, bounds[wave - 1] - before if wave < len(bounds) else None)


def _judged(campaign: Campaign, counts: Counts, bounds: tuple[int, ...], now: int) -> tuple[Campaign, Stop | None]:
    """The campaign with the moment at which its wave succeeded; a stop where it no longer can."""
    wave = counts.waves.get(campaign.wave, {})
    size = sum(count for state, count in wave.items() if state not in _NEUTRAL)
    full = not counts.unplaced_waiting or counts.placed >= bounds[campaign.wave - 1]
    succeeded = wave.get(_S.SUCCEEDED, 0)
    share = campaign.rollout.min_succeeded
    enough = succeeded >= Fraction(str(share)) * size or campaign.accepted_wave == campaign.wave
    if full and enough and not counts.observing.get(campaign.wave):
        return (campaign if campaign.wave_done is not None else replace(campaign, wave_done=now)), None
    if full and not enough and all(state in EXECUTION_ENDS for state in wave):
        reason = f"{succeeded} of {size} devices of wave {campaign.wave} succeeded; {share * 100:g} % have to"
        return campaign, Stop(OnFailure.PAUSE, Reason.WAVE_FAILED, reason)
    return (campaign if campaign.wave_done is None else replace(campaign, wave_done=None)), None


def _room(campaign: Campaign, counts: Counts, bounds: tuple[int, ...], places: int | None) -> int:
    """How many more devices may have a place now."""
    room = counts.unplaced_waiting
    if campaign.wave < len(bounds):
        room = min(room, bounds[campaign.wave - 1] - counts.placed)
    return max(0, room if places is None else min(room, places))


def finished_as(counts: Counts) -> CampaignState:
    """How a campaign without open executions ended: it succeeded where any device runs the version by it, or before."""
    good = counts.among((_S.SUCCEEDED, _S.SKIPPED))
    return CampaignState.SUCCEEDED if good else CampaignState.FAILED


def summary(campaign: Campaign, counts: Counts) -> str:
    """How many devices were updated, and what became of the others."""
    states = counts.states
    updated = states.get(_S.SUCCEEDED, 0)
    named = [f"{count} {state}" for state, count in states.items() if state is not _S.SUCCEEDED and count]
    erased = campaign.total - counts.total
    rest = ", ".join([*named, *([f"{erased} erased"] if erased else [])])
    return f"{updated} of {campaign.total} devices updated" + (f": {rest}" if rest else "")
