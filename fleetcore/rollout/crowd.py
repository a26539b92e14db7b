"""A campaign under a virtual clock for very many devices: the course of :mod:`.simulation`, on arrays.

What happens to a device between its place and its end is drawn for many devices at once. Everything about the campaign
is the engine's own: :func:`.campaigns.decide`, :class:`.pacing.Pace`, retries, time limits. The tests compare the two.

A course here looks at the campaign once a second, later ones of long campaigns less often, and makes the offers that a
rate limits at those moments. Windows, freezes and other conditions are not in it: :func:`fits` says where it applies.
"""

from collections import deque
from collections.abc import Iterable
from enum import IntEnum
from math import ceil

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from fleetcore.model.firmware import EXECUTION_ENDS, Campaign, CampaignState, Execution, ExecutionState
from fleetcore.rollout.campaigns import Begin, Counts, Expire, Finish, Place, Stop, decide, has_places
from fleetcore.rollout.pacing import Pace
from fleetcore.rollout.simulation import LOOK_MS, Behaviour, Course, course_of, without_gate
from fleetcore.rollout.steps import image_at
from fleetcore.rollout.turns import digest_of

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_STATES = tuple(ExecutionState)
_CODE = {state: code for code, state in enumerate(_STATES)}
_S = ExecutionState
_WAITING, _OFFERED = _CODE[_S.WAITING], _CODE[_S.OFFERED]
_REBOOTING, _UNKNOWN = _CODE[_S.REBOOTING], _CODE[_S.UNKNOWN]
_SUCCEEDED, _FAILED, _TIMED_OUT = _CODE[_S.SUCCEEDED], _CODE[_S.FAILED], _CODE[_S.TIMED_OUT]
_ENDS = np.array([state in EXECUTION_ENDS for state in _STATES])
#: A time that never comes.
_NEVER = np.iinfo(np.int64).max
#: A campaign is looked at again after this part of the time that it has taken, at least after a second.
_LOOK_AFTER = 250
#: Events of so many looks are kept apart from the later ones.
_NEAR = 64
#: Members of a device, in the order of the columns.
_COLUMNS = ("state", "wave", "attempt", "step", "placed", "first", "changed", "until", "soaking")


class _What(IntEnum):
    FETCH = 0
    REPORT = 1
    LOST = 2
    TIMEOUT = 3
    SOAKED = 4
    OVERDUE = 5


def fits(campaign: Campaign) -> bool:
    """Whether a course on arrays knows all that the campaign waits for; freezes are not part of a campaign."""
    wanted = campaign.rollout.eligibility
    return not wanted.windows and not wanted.spread_ms and not wanted.site_limit


class Crowd:
    """The devices of a campaign as arrays, in the order of their turns; give it the executions part by part."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._rows: list[npt.NDArray[np.int64]] = []
        self._keys: list[npt.NDArray[np.uint64]] = []
        self._is_ordered = False

    def add(self, executions: Iterable[Execution]) -> None:
        """Adds some."""
        found, self._is_ordered = list(executions), False
        self._rows.append(
            np.array(
                [
                    (
                        _CODE[each.state], each.wave, each.attempt, each.step, _time(each.placed),
                        _time(each.first_offered), each.changed, _time(each.until), each.soaking,
                    )
                    for each in found
                ],
                dtype=np.int64,
            ).reshape(len(found), len(_COLUMNS)).T
        )  # fmt: skip
        # A device that lost a place comes after the others.
        keys = ((each.missed > 0) << 63 | int(digest_of(each.id)[:16], 16) >> 1 for each in found)
        self._keys.append(np.fromiter(keys, dtype=np.uint64, count=len(found)))

    def ordered(self) -> Ints:
        """The columns of all, each in the order of the turns."""
        if not self._is_ordered and self._rows:
            self._is_ordered = True
            self._rows, self._keys = [np.concatenate(self._rows, axis=1)], [np.concatenate(self._keys)]
            order = np.argsort(self._keys[0], kind="stable")
            self._rows, self._keys = [self._rows[0][:, order]], [self._keys[0][order]]
        return self._rows[0] if self._rows else np.zeros((len(_COLUMNS), 0), dtype=np.int64)

    def course(self, now: int, behaviour: Behaviour, seed: int) -> Course:
        """The course of the campaign from its present state on; the same seed gives the same course."""
        return _Course(self._campaign, self.ordered(), now, behaviour, seed).run()


def _time(moment: int | None) -> int:
    return -1 if moment is None else moment


class _Later:
    """What will happen: times, kinds and devices."""

    def __init__(self) -> None:
        self._near = _nothing()
        self._far: list[tuple[Ints, Ints, Ints]] = []
        self._fresh: list[tuple[Ints, Ints, Ints]] = []
        self._until = -1
        self._first = self._far_first = _NEVER

    def add(self, times: Ints, what: _What, at: Ints) -> None:
        if len(at):
            self._first = min(self._first, int(times.min()))
            self._fresh.append((times, np.full(len(at), what, dtype=np.int64), at))

    @property
    def first(self) -> int:
        """When the next one happens."""
        return self._first

    def due(self, now: int, look_ms: int) -> tuple[Ints, Ints, Ints]:
        """Those until ``now``, which are taken out, in the order of their times."""
        if self._first > now:
            return _nothing()
        if now > self._until:
            self._until = now + _NEAR * look_ms
            self._fresh, self._far = [self._near, *self._far, *self._fresh], []
            self._near, self._far_first = _nothing(), _NEVER
        near = [self._near]
        for chunk in self._fresh:
            far = chunk[0] > self._until
            if far.any():
                self._far.append(_only(chunk, far))
                self._far_first = min(self._far_first, int(self._far[-1][0].min()))
                near.append(_only(chunk, ~far))
            else:
                near.append(chunk)
        self._fresh = []
        times, kinds, at = (np.concatenate([chunk[column] for chunk in near]) for column in range(3))
        is_due = times <= now
        self._near = _only((times, kinds, at), ~is_due)
        self._first = min(self._far_first, int(self._near[0].min(initial=_NEVER)))
        found = _only((times, kinds, at), is_due)
        order = np.argsort(found[0], kind="stable")
        return found[0][order], found[1][order], found[2][order]


def _nothing() -> tuple[Ints, Ints, Ints]:
    empty = np.zeros(0, dtype=np.int64)
    return empty, empty, empty


def _only(chunk: tuple[Ints, Ints, Ints], which: Bools) -> tuple[Ints, Ints, Ints]:
    return chunk[0][which], chunk[1][which], chunk[2][which]


class _Course:
    def __init__(self, campaign: Campaign, columns: Ints, now: int, behaviour: Behaviour, seed: int) -> None:
        rollout = without_gate(campaign.rollout)
        self._campaign = replace(campaign, state=CampaignState.RUNNING, continuous=False, rollout=rollout)
        self._rollout, self._behaviour = rollout, behaviour
        self._start = self._now = now
        self._chance = np.random.Generator(np.random.PCG64(seed))
        state, wave, attempt, step, placed, first, self._changed, until, soaking = columns
        self._state, self._step = state.astype(np.int8), step.astype(np.int8)
        self._wave, self._attempt = wave.astype(np.int16), attempt.astype(np.int16)
        self._placed, self._first, self._until = placed.copy(), first.copy(), until.copy()
        self._is_soaking = soaking > 0
        self._places_needed = has_places(rollout)
        self._sizes = np.array(
            [image_at(campaign, step).size or 0 for step in range(len(campaign.before) + 1)], dtype=np.int64
        )
        self._counts = np.zeros((max(2, int(self._wave.max(initial=0)) + 2, len(rollout.waves) + 3), len(_STATES)), int)
        np.add.at(self._counts, (self._wave, self._state), 1)
        self._later = _Later()
        self._queue = np.flatnonzero((self._state == _WAITING) & (self._wave == 0))
        self._missed: deque[Ints] = deque()
        self._kept_back: deque[Ints] = deque()
        self._pace, self._places = Pace(0.0), Pace(0.0)
        self._ends = campaign.begins + rollout.limits.campaign_ms
        self._offers = self._bytes = 0
        #: Whether only the rate keeps devices from a place.
        self._limited = False
        self._begun: list[int] = []
        self._points: list[tuple[int, int, int]] = []
        self._stopped: Stop | Finish | None = None
        #: Whether a device that lost its place may have several events of one kind.
        self._told_twice = False

    def run(self) -> Course:
        self._begin()
        while True:
            again = self._look()
            if self._stopped is not None:
                break
            following = self._next_look(again)
            if following is None:
                break
            self._now = following
            self._happens()
        counts = self._as_counts()
        return course_of(
            self._stopped, counts, duration_ms=self._now - self._start, waves=self._begun, offers=self._offers,
            bytes=self._bytes, points=self._points,
        )  # fmt: skip

    @property
    def _look_ms(self) -> int:
        return max(LOOK_MS, (self._now - self._start) // _LOOK_AFTER)

    def _begin(self) -> None:
        """What goes on from the present state."""
        now = self._now
        waits = self._state == _WAITING
        told = np.flatnonzero(waits & ((self._wave > 0) | (not self._places_needed)))
        self._told(told, np.maximum(now, self._until[told]))
        soaks = np.flatnonzero(self._is_soaking & ~_ENDS[self._state])
        self._soaks(soaks, self._changed[soaks])
        under_way = np.flatnonzero(~waits & ~_ENDS[self._state] & ~self._is_soaking)
        # No report is due from one that restarts.
        restarts = np.isin(self._state, (_REBOOTING, _UNKNOWN))
        back = self._changed + self._rollout.limits.return_ms
        self._overdue(np.flatnonzero(back <= now), back)
        away = np.flatnonzero((self._state == _REBOOTING) & ~self._is_soaking)
        self._later.add(back[away], _What.OVERDUE, away)
        since = np.where(restarts, now + self._rollout.limits.total_ms, np.maximum(self._changed, self._until))
        self._works(under_way, np.full(len(under_way), now), since[under_way])

    def _next_look(self, again: bool) -> int | None:
        """When the campaign is looked at next; None if nothing happens any more by itself."""
        soonest = self._now + LOOK_MS
        moments = [max(self._now + self._look_ms, self._later.first)] if self._later.first < _NEVER else []
        if self._ends > self._now:
            moments.append(self._ends)
        soaks = self._campaign.wave_done
        if soaks is not None:
            moments.append(max(soonest, soaks + self._campaign.rollout.wave_soak_ms))
        if again:
            moments.append(soonest)
        for pace, waits in ((self._pace, bool(self._kept_back)), (self._places, self._limited)):
            if waits and pace.frees_s is not None:
                moments.append(max(soonest, ceil(pace.frees_s * 1000)))
        return min(moments, default=None)

    # --- devices ------------------------------------------------------------------------------------------------------

    def _drawn(self, mean_s: float, count: int) -> Ints:
        if not mean_s:
            return np.zeros(count, dtype=np.int64)
        return np.rint(self._chance.exponential(mean_s * 1000, count)).astype(np.int64)

    def _becomes(self, at: Ints, state: int) -> None:
        self._move(at, self._wave[at], state)

    def _move(self, at: Ints, wave: Ints | int, state: int) -> None:
        np.subtract.at(self._counts, (self._wave[at], self._state[at]), 1)
        self._wave[at], self._state[at] = wave, state
        np.add.at(self._counts, (self._wave[at], self._state[at]), 1)

    def _told(self, at: Ints, when: Ints) -> None:
        """Devices that wait are told of an offer; they fetch it, lose their place before, or run out of time."""
        limits = self._rollout.limits
        fetches = when + self._drawn(self._behaviour.fetch_s, len(at))
        lost = np.where(self._wave[at] > 0, np.maximum(self._placed[at], when) + limits.place_ms, _NEVER)
        over = np.where(self._first[at] >= 0, self._first[at] + limits.total_ms, _NEVER)
        in_time = fetches < over
        # One that loses its place fetches an offer all the same, if it has another place by then.
        self._later.add(fetches[in_time], _What.FETCH, at[in_time])
        left = lost < np.minimum(fetches, over)
        self._later.add(lost[left], _What.LOST, at[left])
        self._later.add(over[~in_time], _What.TIMEOUT, at[~in_time])

    def _works(self, at: Ints, when: Ints, since: Ints) -> None:
        """Devices install from ``when`` on; ``since`` is their last report."""
        limits = self._rollout.limits
        reports = when + self._drawn(self._behaviour.install_s, len(at))
        over = np.where(self._first[at] >= 0, self._first[at] + limits.total_ms, _NEVER)
        late = np.maximum(np.minimum(since + limits.step_ms, over), self._now)
        in_time = reports < late
        self._later.add(reports[in_time], _What.REPORT, at[in_time])
        self._later.add(late[~in_time], _What.TIMEOUT, at[~in_time])

    def _happens(self) -> None:
        """All that happens until now."""
        self._fetch_kept_back()
        while self._later.first <= self._now:
            times, kinds, at = self._later.due(self._now, self._look_ms)
            for what, done in (
                (_What.FETCH, self._fetch), (_What.REPORT, self._report), (_What.LOST, self._lose),
                (_What.TIMEOUT, self._time_out), (_What.SOAKED, self._soaked), (_What.OVERDUE, self._overdue),
            ):  # fmt: skip
                which = np.flatnonzero(kinds == what)
                if self._told_twice:
                    # The first of several of a device counts.
                    which = which[np.sort(np.unique(at[which], return_index=True)[1])]
                if len(which):
                    done(at[which], times[which])

    def _fetch(self, at: Ints, times: Ints) -> None:
        may = (self._state[at] == _WAITING) & (self._until[at] <= times)
        if self._places_needed:
            may &= self._wave[at] > 0
        at, times = at[may], times[may]
        rate = self._rollout.rate
        if rate is None:
            self._offer(at, times)
            return
        allowed = 0 if self._kept_back else self._pace.left(rate, self._succeeded, self._now / 1000)
        if len(at) > allowed:
            self._kept_back.append(at[allowed:])
        self._offer_now(at[:allowed])

    def _fetch_kept_back(self) -> None:
        rate = self._rollout.rate
        while rate is not None and self._kept_back:
            # Some have lost their place meanwhile, or their time is over.
            at = self._kept_back.popleft()
            if self._told_twice:
                at = at[np.sort(np.unique(at, return_index=True)[1])]
            lost = self._is_lost(at, self._now)
            self._lose(at[lost], np.full(int(lost.sum()), self._now))
            at = at[~lost & (self._state[at] == _WAITING) & (self._until[at] <= self._now)]
            allowed = self._pace.left(rate, self._succeeded, self._now / 1000)
            self._offer_now(at[:allowed])
            if len(at) > allowed:
                self._kept_back.appendleft(at[allowed:])
                return

    def _offer_now(self, at: Ints) -> None:
        if len(at):
            self._pace.add(len(at), self._now / 1000)
            self._offer(at, np.full(len(at), self._now))

    def _offer(self, at: Ints, times: Ints) -> None:
        self._offers += len(at)
        self._bytes += int(self._sizes[self._step[at]].sum())
        self._first[at] = np.where(self._first[at] < 0, times, self._first[at])
        self._becomes(at, _OFFERED)
        self._works(at, times, times)

    def _report(self, at: Ints, times: Ints) -> None:
        may = ~_ENDS[self._state[at]]
        at, times = at[may], times[may]
        failed = self._chance.random(len(at)) < self._behaviour.fails
        if failed.any():
            self._fail(at[failed], times[failed], _FAILED, "internal")
        at, times = at[~failed], times[~failed]
        last = self._step[at] >= len(self._campaign.before)
        between = at[~last]
        if len(between):
            self._step[between] += 1
            self._placed[between] = times[~last]
            self._until[between] = -1
            self._becomes(between, _WAITING)
            self._told(between, times[~last])
        at, times = at[last], times[last]
        if not self._rollout.soak_ms:
            self._becomes(at, _SUCCEEDED)
            return
        self._becomes(at, _REBOOTING)
        self._soaks(at, times)

    def _soaks(self, at: Ints, since: Ints) -> None:
        """Devices run the new version since a time, and have to for some time more."""
        self._is_soaking[at] = True
        soaked, over = since + self._rollout.soak_ms, self._first[at] + self._rollout.limits.total_ms
        well = soaked < np.where(self._first[at] >= 0, over, _NEVER)
        self._later.add(soaked[well], _What.SOAKED, at[well])
        self._later.add(over[~well], _What.TIMEOUT, at[~well])

    def _fail(self, at: Ints, times: Ints, state: int, code: str) -> None:
        """An attempt has failed: another one follows, or the update ends."""
        retries = self._rollout.retries
        again = self._attempt[at] <= retries.allowed(code)
        self._becomes(at[~again], state)
        at, times = at[again], times[again]
        if not len(at):
            return
        self._attempt[at] += 1
        waits = {attempt: retries.wait_before(attempt) for attempt in map(int, np.unique(self._attempt[at]))}
        back = times + np.array([waits[attempt] for attempt in map(int, self._attempt[at])], dtype=np.int64)
        self._placed[at] = self._until[at] = back
        self._becomes(at, _WAITING)
        self._told(at, back)

    def _is_lost(self, at: Ints, times: Ints | int) -> Bools:
        waits = (self._wave[at] > 0) & (self._state[at] == _WAITING)
        found: Bools = waits & (self._placed[at] + self._rollout.limits.place_ms <= times)
        return found

    def _lose(self, at: Ints, times: Ints) -> None:
        """The place goes to another device; these come after those that have not had their turn."""
        at = at[self._is_lost(at, times)]
        if len(at):
            self._told_twice = True
            self._move(at, 0, _WAITING)
            self._missed.append(at)

    def _time_out(self, at: Ints, times: Ints) -> None:
        may = ~_ENDS[self._state[at]]
        at, times = at[may], times[may]
        over = (self._first[at] >= 0) & (times >= self._first[at] + self._rollout.limits.total_ms)
        self._becomes(at[over], _TIMED_OUT)
        self._fail(at[~over], times[~over], _TIMED_OUT, "too_late")

    def _soaked(self, at: Ints, _times: Ints) -> None:
        self._becomes(at, _SUCCEEDED)

    def _overdue(self, at: Ints, _times: Ints) -> None:
        """They have not come back after a restart."""
        self._becomes(at[(self._state[at] == _REBOOTING) & ~self._is_soaking[at]], _UNKNOWN)

    # --- the campaign -------------------------------------------------------------------------------------------------

    @property
    def _succeeded(self) -> int:
        return int(self._counts[:, _SUCCEEDED].sum())

    def _as_counts(self) -> Counts:
        rows = [{_STATES[code]: int(row[code]) for code in np.flatnonzero(row)} for row in self._counts]
        return Counts(unplaced=rows[0], waves={wave: row for wave, row in enumerate(rows) if wave and row})

    def _look(self) -> bool:
        """Does what the campaign decides; whether it is to be looked at again soon."""
        counts = self._as_counts()
        ended, succeeded = int(self._counts[:, _ENDS].sum()), self._succeeded
        self._points.append((self._now - self._start, succeeded, ended - succeeded))
        rate = self._rollout.rate
        places = None if rate is None else self._places.left(rate, succeeded, self._now / 1000)
        self._campaign, effects = decide(self._campaign, counts, self._now, places)
        again, placed = False, 0
        for effect in effects:
            match effect:
                case Place(count):
                    placed += count
                    self._place(count)
                case Begin():
                    self._begun.append(self._now - self._start)
                    again = True
                case Expire():
                    self._becomes(np.flatnonzero(self._state == _WAITING), _TIMED_OUT)
                    again = True
                case Stop() | Finish():
                    self._stopped = effect
        self._limited = places is not None and placed >= places and bool(self._counts[0, _WAITING])
        return again

    def _place(self, count: int) -> None:
        if self._rollout.rate is not None:
            self._places.add(count, self._now / 1000)
        while count:
            if len(self._queue):
                at, self._queue = self._queue[:count], self._queue[count:]
            elif self._missed:
                found = self._missed.popleft()
                at = found[:count]
                if len(found) > count:
                    self._missed.appendleft(found[count:])
            else:
                return
            count -= len(at)
            at = at[self._state[at] == _WAITING]
            self._placed[at] = self._now
            self._move(at, self._campaign.wave, _WAITING)
            self._told(at, np.full(len(at), self._now))
