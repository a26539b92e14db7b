"""A campaign under a virtual clock: the real engine on the real devices, whose behaviour is drawn by chance.

Only the waits between events are assumptions (:class:`Behaviour`). Places, rate, retries, time-outs and limits are
those of the campaign, by :mod:`.executions`, :mod:`.campaigns` and :mod:`.pacing`. What a health gate would find is not
simulated: it never stops a course, and each wave waits for its window.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum

from attrs import evolve, field, frozen
from msgspec.structs import replace

from fleetcore.model.eligibility import Hold
from fleetcore.model.firmware import EXECUTION_ENDS, Campaign, CampaignState, Execution, ExecutionState
from fleetcore.model.rollout import OnFailure, Rollout
from fleetcore.rollout.campaigns import Begin, Counts, Expire, Finish, Place, Stop, decide, finished_as, has_places
from fleetcore.rollout.eligibility import Facts, judge
from fleetcore.rollout.executions import (
    Due,
    Effect,
    Ended,
    ExecutionEvent,
    Held,
    Offered,
    Placed,
    Reported,
    place_ends,
    step,
)
from fleetcore.rollout.pacing import Pace
from fleetcore.rollout.steps import at_step, is_last
from fleetcore.rollout.turns import digest_of
from fleetcore.rollout.windows import Windows

_S = ExecutionState
#: How often a whole campaign is looked at, in ms: the fleet looks after each end.
LOOK_MS = 1000
#: The most points of a course.
_POINTS = 500


@frozen(kw_only=True)
class Behaviour:
    """How devices behave. Times are exponential with these means, in seconds.

    Attributes:
        fetch_s: from the moment a device is told to its request for the offer.
        install_s: from the offer to the last report: download, installation and restart.
        fails: the share of attempts that fail.
    """

    fetch_s: float = 60.0
    install_s: float = 300.0
    fails: float = 0.0


@frozen(kw_only=True)
class Course:
    """How a campaign went.

    Attributes:
        state: how it ended, or ``paused``, with ``reason``.
        duration_ms: until then.
        waves: when each wave began, ms after the start.
        offers: all of them, retries included; ``bytes`` of their images.
        counts: the devices by state at the end.
        points: ms after the start, and how many had succeeded, and had ended otherwise, by then.
    """

    state: CampaignState
    reason: str
    duration_ms: int
    waves: Sequence[int]
    offers: int
    bytes: int
    counts: dict[ExecutionState, int]
    points: Sequence[tuple[int, int, int]] = field(repr=False)


def course_of(
    stopped: Stop | Finish | None, counts: Counts, *, duration_ms: int, waves: Sequence[int], offers: int, bytes: int,
    points: Sequence[tuple[int, int, int]],
) -> Course:  # fmt: skip
    """A course that has ended, by what stopped it."""
    match stopped:
        case Stop(action, _, reason):
            state = {
                OnFailure.PAUSE: CampaignState.PAUSED, OnFailure.ABORT: CampaignState.ABORTED,
                OnFailure.ROLL_BACK: CampaignState.ROLLED_BACK,
            }[action]  # fmt: skip
        case Finish(reason):
            state = finished_as(counts)
        case _:
            state, reason = CampaignState.RUNNING, "Nothing more happens by itself"
    return Course(
        state=state, reason=reason, duration_ms=duration_ms, waves=tuple(waves), offers=offers, bytes=bytes,
        counts={name: count for name, count in counts.states.items() if count},
        points=tuple(points[:: max(1, len(points) // _POINTS)]),
    )  # fmt: skip


class _What(IntEnum):
    FETCH = 0
    REPORT = 1
    DUE = 2
    LOOK = 3


def simulate(
    campaign: Campaign,
    executions: Iterable[Execution],
    now: int,
    behaviour: Behaviour,
    seed: int,
    *,
    facts: Mapping[str, Facts] | None = None,
) -> Course:
    """The course of a campaign from its present state on, as if it ran; the same seed gives the same course.

    A continuous campaign is simulated with the devices that it has. Windows and freezes hold devices as they do in the
    campaign. What the future decides does not: batteries, requirements and consent are as they are now.

    Args:
        executions: all of the campaign.
        now: ms since the epoch.
        facts: what is known of the devices, by execution; the default for others.
    """
    return _Simulation(campaign, executions, now, behaviour, seed, facts or {}).run()


def without_gate(rollout: Rollout) -> Rollout:
    """A rollout whose gate finds nothing, but takes its time after each wave."""
    if rollout.gate is None:
        return rollout
    return evolve(rollout, gate=None, wave_soak_ms=rollout.wave_soak_ms + rollout.gate.window_ms)


class _Simulation:
    def __init__(
        self, campaign: Campaign, executions: Iterable[Execution], now: int, behaviour: Behaviour, seed: int,
        facts: Mapping[str, Facts],
    ) -> None:  # fmt: skip
        rollout = without_gate(campaign.rollout)
        self._campaign = replace(campaign, state=CampaignState.RUNNING, continuous=False, rollout=rollout)
        self._behaviour, self._start, self._now = behaviour, now, now
        self._chance = random.Random(seed)  # noqa: S311  # a simulation has no secrets
        self._all = sorted(executions, key=lambda each: (each.missed > 0, digest_of(each.id)))
        self._unplaced: dict[ExecutionState, int] = {}
        self._waves: dict[int, dict[ExecutionState, int]] = {}
        self._events: list[tuple[int, int, _What, int]] = []
        self._order = itertools.count()
        self._queue: Iterator[int] = iter(())
        self._missed: deque[int] = deque()
        self._kept_back: deque[int] = deque()
        self._pace, self._places = Pace(0.0), Pace(0.0)
        self._facts, self._unknown = facts, Facts()
        wanted = self._campaign.rollout.eligibility
        self._windows = Windows(() if wanted.emergency else wanted.windows)
        #: When devices that wait are given up.
        self._ends = campaign.begins + campaign.rollout.limits.campaign_ms
        self._offers, self._bytes, self._begun = 0, 0, list[int]()
        self._points: list[tuple[int, int, int]] = []
        #: When the campaign is looked at next.
        self._looks: int | None = None
        self._stopped: Stop | Finish | None = None

    def run(self) -> Course:
        for execution in self._all:
            self._count(execution, 1)
        self._queue = iter([at for at, each in enumerate(self._all) if each.state is _S.WAITING and not each.wave])
        places = has_places(self._campaign.rollout)
        for at, execution in enumerate(self._all):
            if execution.due is not None and execution.state not in EXECUTION_ENDS:
                heapq.heappush(self._events, (max(execution.due, self._now), next(self._order), _What.DUE, at))
            if execution.state is _S.WAITING and (execution.wave or not places):
                self._plan(_What.FETCH, at, self._behaviour.fetch_s)
            elif execution.state not in EXECUTION_ENDS and execution.state is not _S.WAITING and not execution.soaking:
                self._plan(_What.REPORT, at, self._behaviour.install_s)
        heapq.heappush(self._events, (max(self._now, self._ends), next(self._order), _What.LOOK, 0))
        self._look_at(self._now)
        while self._events and self._stopped is None:
            self._now, _, what, at = heapq.heappop(self._events)
            match what:
                case _What.LOOK if self._now == self._looks or self._now >= self._ends:
                    self._look()
                case _What.LOOK:
                    pass  # an earlier look came before this one
                case _What.FETCH:
                    self._fetch(at)
                case _What.REPORT:
                    self._report(at)
                case _What.DUE:
                    self._move(at, Due())
        return self._course()

    def _course(self) -> Course:
        return course_of(
            self._stopped, Counts(unplaced=self._unplaced, waves=self._waves), duration_ms=self._now - self._start,
            waves=self._begun, offers=self._offers, bytes=self._bytes, points=self._points,
        )  # fmt: skip

    def _count(self, execution: Execution, delta: int) -> None:
        place = self._waves.setdefault(execution.wave, {}) if execution.wave else self._unplaced
        count = place.get(execution.state, 0) + delta
        # As in a store, a state without devices has no counter.
        if count:
            place[execution.state] = count
        else:
            del place[execution.state]

    def _plan(self, what: _What, at: int, mean_s: float) -> None:
        wait = self._chance.expovariate(1 / mean_s) * 1000 if mean_s else 0.0
        heapq.heappush(self._events, (self._now + round(wait), next(self._order), what, at))

    def _look_at(self, when: int) -> None:
        if self._looks is None or when < self._looks:
            self._looks = when
            heapq.heappush(self._events, (when, next(self._order), _What.LOOK, 0))

    def _move(self, at: int, event: ExecutionEvent) -> None:
        old = self._all[at]
        release, last = at_step(self._campaign, old).release, is_last(self._campaign, old)
        made = step(old, event, self._now, release=release, rollout=self._campaign.rollout, last=last)
        new = made.execution
        if new is old:
            return
        self._all[at] = new
        if new.state is not old.state or new.wave != old.wave:
            self._count(old, -1)
            self._count(new, 1)
            if new.state in EXECUTION_ENDS or new.state is _S.UNKNOWN or new.wave < old.wave:
                self._look_at(self._now + LOOK_MS)
        if new.missed > old.missed:
            self._missed.append(at)
        if new.due is not None and new.due != old.due:
            heapq.heappush(self._events, (max(new.due, self._now), next(self._order), _What.DUE, at))
        if Effect.TELL in made.effects:
            self._plan(_What.FETCH, at, self._behaviour.fetch_s)

    def _fetch(self, at: int) -> None:
        execution = self._all[at]
        if execution.state is not _S.WAITING or (execution.until is not None and execution.until > self._now):
            return
        if not execution.wave and has_places(self._campaign.rollout):
            return  # it has lost its place
        held = self._hold_of(execution)
        if held is not None:
            self._move(at, held)
            return
        rate = self._campaign.rollout.rate
        if rate is not None and not self._pace.take(rate, self._succeeded, self._now / 1000):
            self._kept_back.append(at)
            self._look_at(self._now + LOOK_MS)
            return
        self._offers += 1
        self._bytes += at_step(self._campaign, execution).size or 0
        self._move(at, Offered())
        self._plan(_What.REPORT, at, self._behaviour.install_s)

    def _hold_of(self, execution: Execution) -> Held | None:
        wanted, facts = self._campaign.rollout.eligibility, self._facts.get(execution.id, self._unknown)
        freeze = facts.freeze
        if freeze is not None and not freeze.covers(self._now):
            facts = evolve(facts, freeze=None)
        if wanted.consent and execution.consented is None:
            execution = replace(execution, consented=self._now)
        held = judge(wanted, self._windows, facts, execution, self._campaign.begins, self._now).held
        if held is None or facts.freeze is None or held.code != Hold.FROZEN:
            return held
        if facts.freeze.end is not None:
            return replace(held, until=facts.freeze.end)
        until = self._ends + LOOK_MS
        if execution.wave and execution.placed is not None:
            until = min(until, place_ends(execution.placed, self._campaign.rollout))
        return replace(held, until=max(until, held.until))

    @property
    def _succeeded(self) -> int:
        waves = sum(wave.get(_S.SUCCEEDED, 0) for wave in self._waves.values())
        return waves + self._unplaced.get(_S.SUCCEEDED, 0)

    def _report(self, at: int) -> None:
        if self._chance.random() < self._behaviour.fails:
            self._move(at, Reported(state=_S.FAILED, code="internal"))
        else:
            self._move(at, Reported(state=_S.SUCCEEDED, version=at_step(self._campaign, self._all[at]).release))

    def _look(self) -> None:
        self._looks = None
        rate = self._campaign.rollout.rate
        if rate is not None and self._kept_back:
            for _ in range(min(len(self._kept_back), self._pace.left(rate, self._succeeded, self._now / 1000))):
                self._plan(_What.FETCH, self._kept_back.popleft(), 0.0)
            if self._kept_back:
                self._look_at(self._now + LOOK_MS)
        counts = Counts(unplaced=self._unplaced, waves=self._waves)
        ended = counts.among(EXECUTION_ENDS)
        self._points.append((self._now - self._start, self._succeeded, ended - self._succeeded))
        places = None if rate is None else self._places.left(rate, self._succeeded, self._now / 1000)
        self._campaign, effects = decide(self._campaign, counts, self._now, places)
        for effect in effects:
            match effect:
                case Place(count):
                    self._place(count)
                case Begin():
                    self._begun.append(self._now - self._start)
                    self._look_at(self._now)
                case Expire():
                    for at, execution in enumerate(self._all):
                        if execution.state is _S.WAITING:
                            self._move(at, Ended(_S.TIMED_OUT, "too_late"))
                case Stop() | Finish():
                    self._stopped = effect
        if self._stopped is None and places is not None and self._unplaced.get(_S.WAITING):
            placed = sum(effect.count for effect in effects if isinstance(effect, Place))
            if placed >= places:
                self._look_at(self._now + LOOK_MS)
        soaks = self._campaign.wave_done
        if self._stopped is None and soaks is not None:
            self._look_at(max(self._now + LOOK_MS, soaks + self._campaign.rollout.wave_soak_ms))

    def _place(self, count: int) -> None:
        if self._campaign.rollout.rate is not None:
            self._places.add(count, self._now / 1000)
        for at in itertools.islice(itertools.chain(self._queue, self._again()), count):
            self._move(at, Placed(self._campaign.wave))

    def _again(self) -> Iterator[int]:
        while self._missed:
            yield self._missed.popleft()
