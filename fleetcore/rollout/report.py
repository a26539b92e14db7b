"""What became of a campaign: its course over time, its failures by cause, its slowest devices, and what is left."""

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heappush, heapreplace

from attrs import field, frozen

from fleetcore.model.firmware import (
    EXECUTION_ENDS,
    EXECUTION_FAILURES,
    Campaign,
    CampaignState,
    Execution,
    ExecutionState,
)
from fleetcore.rollout.campaigns import Counts
from fleetcore.rollout.waves import wave_sizes

_S = ExecutionState
#: Points of the course, and devices that are named.
POINTS = 200
SLOWEST = 20
#: The rate is that of the last so many ms.
RECENT_MS = 10 * 60_000


@frozen(kw_only=True)
class Slow:
    """A device that took long: from its first offer to its success, in ms."""

    device: str
    took_ms: int
    attempts: int


@frozen(kw_only=True)
class WaveReport:
    """One wave; number 0 has the devices without a place.

    Attributes:
        begun: when the first of its devices got a place; ms since the epoch.
        left: devices that have not ended.
        eta_ms: when they have at the rate of the last minutes; None where nothing ended in them.
    """

    number: int
    devices: int
    succeeded: int
    failed: int
    left: int
    begun: int | None
    eta: int | None


@frozen(kw_only=True)
class Report:
    """A campaign's devices, summed up.

    Attributes:
        points: time in ms, and how many had succeeded, failed and ended otherwise by then.
        failures: devices that failed by state, code and model; the most frequent first.
        per_minute: devices that ended in the last minutes.
    """

    points: Sequence[tuple[int, int, int, int]]
    failures: Sequence[tuple[tuple[str, str, str], int]]
    slowest: Sequence[Slow]
    median_ms: int | None
    waves: Sequence[WaveReport]
    per_minute: float


@frozen(kw_only=True)
class _Wave:
    states: Counter[ExecutionState] = field(factory=Counter)
    begun: list[int] = field(factory=list)


class Reporter:
    """Sums executions up, one after the other; it stores their end times and little else."""

    def __init__(self) -> None:
        self._ends: list[tuple[int, int]] = []
        self._took: list[int] = []
        self._failures: Counter[tuple[str, str, str]] = Counter()
        self._slowest: list[tuple[int, str, int]] = []
        self._waves: dict[int, _Wave] = {}

    def add(self, execution: Execution, model: str) -> None:
        """Counts an execution; ``model`` is its device's, needed for those that failed."""
        wave = self._waves.setdefault(execution.wave, _Wave())
        wave.states[execution.state] += 1
        if execution.placed is not None and (not wave.begun or execution.placed < wave.begun[0]):
            wave.begun[:] = [execution.placed]
        if execution.state not in EXECUTION_ENDS:
            return
        self._ends.append((execution.changed, _kind(execution.state)))
        if execution.state in EXECUTION_FAILURES:
            self._failures[execution.state.value, execution.code or "", model] += 1
        if execution.state is _S.SUCCEEDED and execution.first_offered is not None:
            took = execution.changed - execution.first_offered
            self._took.append(took)
            slow = (took, execution.device, execution.attempt)
            if len(self._slowest) < SLOWEST:
                heappush(self._slowest, slow)
            elif slow > self._slowest[0]:
                heapreplace(self._slowest, slow)

    def report(self, now: int) -> Report:
        """The sums at a time in ms."""
        self._ends.sort()
        self._took.sort()
        recent = sum(1 for at, _ in self._ends if at > now - RECENT_MS)
        first = self._ends[0][0] if self._ends else now
        minutes = max(1.0, min(RECENT_MS, now - first) / 60_000)
        rate = recent / minutes
        return Report(
            points=_course(self._ends),
            failures=sorted(self._failures.items(), key=lambda item: (-item[1], item[0])),
            slowest=[
                Slow(device=device, took_ms=took, attempts=attempts)
                for took, device, attempts in sorted(self._slowest, reverse=True)
            ],
            median_ms=self._took[len(self._took) // 2] if self._took else None,
            waves=[_wave(number, wave, rate, now) for number, wave in sorted(self._waves.items())],
            per_minute=rate,
        )


def wave_left_ms(campaign: Campaign, counts: Counts, now: int) -> int | None:
    """How long the present wave takes until all its devices have ended, at its mean rate so far.

    Without waves all devices are one. None where the campaign does not run, or nothing has ended yet.
    """
    states = counts.waves.get(campaign.wave, {}) if campaign.wave else counts.states
    devices = sum(states.values())
    if campaign.wave:
        # With a rate, some have no place yet.
        sizes = wave_sizes(campaign.rollout.waves, campaign.total)
        devices = max(devices, sizes[campaign.wave - 1] if campaign.wave <= len(sizes) else counts.unplaced_waiting)
    ended = sum(states.get(state, 0) for state in EXECUTION_ENDS)
    passed = now - (campaign.wave_begun or campaign.begins)
    if campaign.state is not CampaignState.RUNNING or not ended or passed <= 0:
        return None
    return round((devices - ended) * passed / ended)


def _kind(state: ExecutionState) -> int:
    return 0 if state is _S.SUCCEEDED else 1 if state in EXECUTION_FAILURES else 2


def _course(ends: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int, int, int]]:
    """The counts over time, in at most some hundred points; the last one is always there."""
    every = max(1, len(ends) // POINTS)
    counts = [0, 0, 0]
    found: list[tuple[int, int, int, int]] = []
    for number, (at, kind) in enumerate(ends, 1):
        counts[kind] += 1
        if number % every == 0 or number == len(ends):
            found.append((at, *counts))  # type: ignore[arg-type]  # three counts
    return found


def _wave(number: int, wave: _Wave, rate: float, now: int) -> WaveReport:
    def among(states: Iterable[ExecutionState]) -> int:
        return sum(wave.states[state] for state in states)

    devices = wave.states.total()
    left = devices - among(EXECUTION_ENDS)
    return WaveReport(
        number=number, devices=devices, succeeded=wave.states[_S.SUCCEEDED], failed=among(EXECUTION_FAILURES),
        left=left, begun=wave.begun[0] if wave.begun else None,
        eta=now + round(left / rate * 60_000) if left and rate else None,
    )  # fmt: skip
