"""One device in a campaign: a table of states, and a pure function of execution, event and time."""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from fleetcore.model.eligibility import Hold
from fleetcore.model.firmware import EXECUTION_ENDS, PROGRESS_ORDER, Execution, ExecutionState
from fleetcore.model.rollout import Rollout

_S = ExecutionState
#: States in which a device works on the update.
UNDER_WAY = (_S.OFFERED, _S.DEFERRED, _S.ACCEPTED, _S.DOWNLOADING, _S.DOWNLOADED, _S.INSTALLING, _S.REBOOTING)
#: States in which it may be held: before the offer, and with the image before the installation.
HELD = (_S.WAITING, _S.DOWNLOADED)
#: The codes of holds.
HOLDS = frozenset(Hold)
#: Ends that a retry follows by default; the others only where their code has retries of its own.
_RETRIED = frozenset({_S.FAILED, _S.TIMED_OUT})


class Cause(Enum):
    """Where a transition comes from."""

    DEVICE = "the device reports it"
    SERVER = "the campaign decides it"
    TIME = "a time-out"


def _table() -> Mapping[ExecutionState, Mapping[ExecutionState, Cause]]:
    reports = (*UNDER_WAY[1:], _S.SUCCEEDED, _S.FAILED, _S.REJECTED, _S.CANCELLED, _S.REVERTED)
    moves: dict[ExecutionState, dict[ExecutionState, Cause]] = {
        _S.WAITING: {_S.OFFERED: Cause.SERVER, _S.REJECTED: Cause.SERVER, _S.CANCELLED: Cause.SERVER,
                     _S.SKIPPED: Cause.SERVER, _S.TIMED_OUT: Cause.TIME},
    }  # fmt: skip
    for state in (*UNDER_WAY, _S.UNKNOWN):
        found: dict[ExecutionState, Cause] = {
            to: Cause.DEVICE for to in reports if PROGRESS_ORDER[to] > PROGRESS_ORDER[state]
        }
        found |= {_S.TIMED_OUT: Cause.TIME, _S.WAITING: Cause.SERVER, _S.CANCELLED: Cause.SERVER}
        if state in (_S.OFFERED, _S.DEFERRED):
            found[_S.REJECTED] = Cause.DEVICE
        moves[state] = found
    moves[_S.REBOOTING][_S.UNKNOWN] = Cause.TIME
    moves[_S.UNKNOWN][_S.REBOOTING] = Cause.DEVICE
    moves[_S.SUCCEEDED] = {_S.REVERTED: Cause.DEVICE}
    # A device that left a campaign's targets and comes back goes on where its retries were.
    moves[_S.CANCELLED] = {_S.WAITING: Cause.SERVER}
    for state in EXECUTION_ENDS:
        moves.setdefault(state, {})
    return MappingProxyType({state: MappingProxyType(found) for state, found in moves.items()})


#: State → the states that may follow, and why they do.
TRANSITIONS = _table()


class Placed(Struct, frozen=True):
    """It has a place in a wave: the device may get the offer."""

    wave: int


class Offered(Struct, frozen=True):
    """The device gets the offer; ``running`` is the version that it has."""

    running: str | None = None
    #: The device's site, where the campaign limits those.
    site: str = ""
    #: The step that is offered; None for the present one.
    step: int | None = None


class Reported(Struct, frozen=True, kw_only=True, gc=False):
    """The device reports a state of a step; None for the present one."""

    state: ExecutionState
    step: int | None = None
    progress: float | None = None
    bytes: int | None = None
    code: str | None = None
    reason: str | None = None
    until: int | None = None
    version: str | None = None


class Observed(Struct, frozen=True):
    """The device says which version runs."""

    version: str


class Held(Struct, frozen=True, kw_only=True):
    """The device may not begin yet, or not install.

    Attributes:
        until: when that is judged again; ms since the epoch.
        counts: whether the wait counts toward the time in which a device has to fetch its offer.
    """

    code: str
    reason: str
    until: int
    counts: bool


class Consented(Struct, frozen=True):
    """The device's user agrees to the update."""


class Due(Struct, frozen=True):
    """The execution's time (``due``) has come."""


class Ended(Struct, frozen=True):
    """The campaign, or the device's departure, ends it."""

    state: ExecutionState
    code: str
    reason: str | None = None


class Rejoined(Struct, frozen=True):
    """The device is among the targets again after it left."""


ExecutionEvent: TypeAlias = Placed | Offered | Reported | Observed | Held | Consented | Due | Ended | Rejoined


class Effect(Enum):
    """What is to be done once the new state is stored."""

    #: The device may have something to fetch.
    TELL = "tell"
    #: The device is to give up an offer that it has.
    WITHDRAW = "withdraw"


class Step(Struct, frozen=True, gc=False):
    """The next state, and what is to be done. An unchanged execution is the same object.

    Attributes:
        refused: why a report of the device is refused, if it is.
    """

    execution: Execution
    effects: tuple[Effect, ...] = ()
    refused: str = ""


def step(
    execution: Execution, event: ExecutionEvent, now: int, *, release: str, rollout: Rollout, last: bool = True
) -> Step:
    """The execution after an event.

    Args:
        now: ms since the epoch.
        release: the version that the device installs now.
        last: whether that is the campaign's own; after any other the device waits for the next one.
    """
    match event:
        case Reported():
            return _reported(execution, event, now, rollout, last=last)
        case Due():
            return _due(execution, now, release, rollout)
        case Offered():
            return _offered(execution, event, now, rollout)
        case Held():
            return _held(execution, event, now, rollout)
        case Consented():
            return _consented(execution, now, rollout)
        case Placed(wave):
            if execution.state is not _S.WAITING or execution.wave:
                return Step(execution)
            return Step(_timed(replace(execution, wave=wave, placed=now), rollout), (Effect.TELL,))
        case Observed(version):
            return _observed(execution, version, now, release, rollout)
        case Ended(state, code, reason):
            return _ended(execution, state, code, now, reason)
        case Rejoined():
            if execution.state is not _S.CANCELLED:
                return Step(execution)
            return Step(replace(execution, state=_S.WAITING, wave=0, code=None, reason=None, changed=now, due=None))
        case _:
            assert_never(event)


def _offered(execution: Execution, event: Offered, now: int, rollout: Rollout) -> Step:
    if execution.state is not _S.WAITING:
        return Step(execution)
    first = now if execution.first_offered is None else execution.first_offered
    made = replace(
        execution, state=_S.OFFERED, changed=now, first_offered=first, until=None,
        previous_version=execution.previous_version or event.running, site=event.site or execution.site,
        step=execution.step if event.step is None else event.step,
    )  # fmt: skip
    return Step(_timed(_unheld(made), rollout))


def _unheld(execution: Execution) -> Execution:
    """The execution without its hold, and without the reason of its last one."""
    if execution.code not in HOLDS:
        return execution
    return replace(execution, code=None, reason=None, until=None if execution.held else execution.until, held=False)


def _held(execution: Execution, event: Held, now: int, rollout: Rollout) -> Step:
    if execution.state not in HELD or (_waits(execution, now) and (not execution.held or execution.code == event.code)):
        return Step(execution)
    placed = execution.placed
    if not event.counts and placed is not None:
        placed = max(placed, event.until)
    made = replace(
        execution, code=event.code, reason=event.reason, until=event.until, placed=placed, held=True
    )  # fmt: skip
    return Step(_timed(made, rollout))


def _released(execution: Execution, rollout: Rollout, **changes: int) -> Step:
    """The hold is over: the device may ask again."""
    freed = replace(execution, until=None, held=False, **changes)
    return Step(_timed(freed, rollout), (Effect.TELL,))


def _consented(execution: Execution, now: int, rollout: Rollout) -> Step:
    if execution.state in EXECUTION_ENDS or execution.consented is not None:
        return Step(execution)
    agreed = replace(execution, consented=now)
    if not execution.held:
        return Step(agreed, (Effect.TELL,))
    # One that has the image gets its whole time to install it.
    changed = now if execution.state is _S.DOWNLOADED else execution.changed
    return _released(agreed, rollout, changed=changed)


def _reported(execution: Execution, event: Reported, now: int, rollout: Rollout, *, last: bool) -> Step:
    old, state = execution.state, event.state
    if event.step is not None and event.step != execution.step:
        # A late report: that the step succeeded is known.
        known = event.step < execution.step and state is _S.SUCCEEDED
        about = f"The execution is at step {execution.step + 1}, not {event.step + 1}"
        return Step(execution, refused="" if known else about)
    if execution.withdrawn:
        # The device knows: the withdrawal is not sent again.
        return Step(replace(execution, withdrawn=False), refused="" if state is old else _not_to(old, state))
    repeated = old is state and (old in EXECUTION_ENDS or state is not _S.DOWNLOADING)
    # A device that repeats its last report has not seen that it gets another attempt, or that it is soaked.
    if repeated or (old is _S.WAITING and execution.attempt > 1 and state is execution.failed_as):
        return Step(execution)
    if execution.soaking and state is _S.SUCCEEDED:
        return Step(execution)
    if old in EXECUTION_ENDS or old is _S.WAITING or PROGRESS_ORDER[state] < PROGRESS_ORDER[old]:
        return Step(execution, refused=_not_to(old, state))
    new = replace(
        execution,
        progress=event.progress,
        bytes=execution.bytes if event.bytes is None else event.bytes,
        code=event.code,
        reason=event.reason,
        until=event.until,
        held=False,
        reported_version=execution.reported_version if event.version is None else event.version,
    )
    if state is _S.SUCCEEDED:
        return _runs(new, now, rollout) if last else _goes_on(new, now, rollout)
    if state in EXECUTION_ENDS:
        return _failed(new, state, now, rollout)
    return Step(_timed(replace(new, state=state, soaking=False, changed=now), rollout))


def _not_to(old: ExecutionState, state: ExecutionState) -> str:
    return f"The execution is {old} and cannot go to {state}"


def _runs(execution: Execution, now: int, rollout: Rollout) -> Step:
    """The new version runs: the device has succeeded once it has run it long enough."""
    if not rollout.soak_ms:
        return Step(replace(execution, state=_S.SUCCEEDED, changed=now, due=None))
    return Step(_timed(replace(execution, state=_S.REBOOTING, soaking=True, changed=now), rollout))


def _goes_on(execution: Execution, now: int, rollout: Rollout) -> Step:
    """An image that had to be installed first runs: the device keeps its place, and gets the offer of the next one."""
    reason = f"{execution.reported_version} is installed; the next image follows"
    made = replace(
        execution, state=_S.WAITING, step=execution.step + 1, installed=execution.installed | 1 << execution.step,
        progress=None, bytes=None, code=None, reason=reason,
        until=None, previous_version=None, failed_as=None, assigned=0, changed=now, placed=now,
    )  # fmt: skip
    return Step(_timed(made, rollout), (Effect.TELL,))


def _failed(execution: Execution, state: ExecutionState, now: int, rollout: Rollout) -> Step:
    """An attempt has ended without success: another one follows, or the execution ends."""
    retries, code = rollout.retries, execution.code
    allowed = retries.allowed(code) if state in _RETRIED else retries.by_code.get(code or "", 0)
    if state is _S.CANCELLED or execution.attempt > allowed:
        return Step(replace(execution, state=state, soaking=False, changed=now, until=None, due=None))
    attempt = execution.attempt + 1
    again = now + retries.wait_before(attempt)
    return Step(
        _timed(
            replace(
                execution, state=_S.WAITING, attempt=attempt, failed_as=state, until=again, soaking=False,
                progress=None, changed=now, placed=now,
            ),
            rollout,
        )
    )  # fmt: skip


def _observed(execution: Execution, version: str, now: int, release: str, rollout: Rollout) -> Step:
    seen = replace(execution, reported_version=version) if execution.reported_version != version else execution
    went_back = version != release and version == execution.previous_version
    match execution.state:
        case _S.SUCCEEDED if went_back:
            return Step(
                replace(
                    seen, state=_S.REVERTED, code="health_failed", changed=now,
                    reason=f"It went back to {version} after it had succeeded",
                )
            )  # fmt: skip
        case _S.REBOOTING if execution.soaking and version != release:
            return _failed(
                replace(seen, code="health_failed", reason=f"It runs {version} again"), _S.REVERTED, now, rollout
            )
        case _S.UNKNOWN:
            return Step(_timed(replace(seen, state=_S.REBOOTING, changed=now), rollout))
        case _:
            return Step(seen)


def _waits(execution: Execution, now: int) -> bool:
    """Whether a time is set before which nothing is offered."""
    return execution.until is not None and execution.until > now


def _is_lost(execution: Execution, now: int, rollout: Rollout) -> bool:
    """Whether a device has not fetched its offer in time; a wait for the next attempt does not count."""
    if not execution.wave or _waits(execution, now) or (execution.until is not None and not execution.held):
        return False
    return now >= place_ends(execution.placed or 0, rollout)


def place_ends(placed: int, rollout: Rollout) -> int:
    """When a device that has not fetched its offer loses its place; its share of the spread does not count."""
    return placed + rollout.limits.place_ms + rollout.eligibility.spread_ms


def _due(execution: Execution, now: int, release: str, rollout: Rollout) -> Step:
    if execution.due is None or execution.due > now or execution.state in EXECUTION_ENDS:
        return Step(execution)
    limits = rollout.limits
    if execution.first_offered is not None and now >= execution.first_offered + limits.total_ms:
        ended = replace(execution, code="too_late", reason="The time for the whole update is over")
        return _ended(ended, _S.TIMED_OUT, "too_late", now)
    match execution.state:
        case _S.DOWNLOADED if execution.held and execution.until is not None and now >= execution.until:
            return _released(execution, rollout, changed=now)
        case _S.WAITING if _is_lost(execution, now, rollout):
            # The place goes to another device; this one comes after those that have not had their turn.
            lost = replace(_unheld(execution), wave=0, placed=None, missed=execution.missed + 1)
            return Step(replace(lost, until=None, due=None))
        case _S.WAITING if execution.held and not _waits(execution, now):
            return _released(execution, rollout)
        case _S.WAITING if execution.until is not None and now >= execution.until:
            return Step(_timed(replace(execution, until=None, placed=now), rollout), (Effect.TELL,))
        case _S.REBOOTING if execution.soaking:
            if execution.reported_version in (None, release):
                return Step(replace(execution, state=_S.SUCCEEDED, soaking=False, changed=now, due=None))
            reverted = replace(execution, code="health_failed", reason=f"It runs {execution.reported_version}")
            return _failed(reverted, _S.REVERTED, now, rollout)
        case _S.REBOOTING if now >= execution.changed + limits.return_ms:
            reason = "It has not come back after its restart"
            return Step(_timed(replace(execution, state=_S.UNKNOWN, reason=reason, changed=now), rollout))
        case _S.WAITING | _S.UNKNOWN | _S.REBOOTING:
            return Step(_timed(execution, rollout))
        case state if now >= (execution.until or execution.changed) + limits.step_ms:
            late = replace(execution, code="too_late", reason=f"It has reported nothing since it was {state}")
            failed = _failed(late, _S.TIMED_OUT, now, rollout)
            return Step(failed.execution, (*failed.effects, Effect.WITHDRAW))
        case _:
            return Step(_timed(execution, rollout))


def _ended(execution: Execution, state: ExecutionState, code: str, now: int, reason: str | None = None) -> Step:
    if execution.state in EXECUTION_ENDS or state not in TRANSITIONS[execution.state]:
        return Step(execution)
    seen = execution.state is not _S.WAITING
    freed = _unheld(execution)
    ended = replace(
        freed, state=state, code=code, reason=reason or freed.reason, soaking=False, changed=now, withdrawn=seen,
        due=None,
    )  # fmt: skip
    return Step(ended, (Effect.WITHDRAW,) if seen else ())


def _timed(execution: Execution, rollout: Rollout) -> Execution:
    """The execution with the time at which something happens to it by itself."""
    limits = rollout.limits
    due: int | None
    match execution.state:
        case _S.WAITING if execution.until is not None:
            due = execution.until
        case _S.WAITING:
            due = place_ends(execution.placed, rollout) if execution.wave and execution.placed is not None else None
        case _S.DOWNLOADED if execution.held and execution.until is not None:
            due = execution.until
        case _S.REBOOTING:
            due = execution.changed + (rollout.soak_ms if execution.soaking else limits.return_ms)
        case _S.UNKNOWN:
            due = None
        case _:
            due = (execution.until or execution.changed) + limits.step_ms
    if execution.first_offered is not None:
        total = execution.first_offered + limits.total_ms
        due = total if due is None else min(due, total)
    return execution if due == execution.due else replace(execution, due=due)
