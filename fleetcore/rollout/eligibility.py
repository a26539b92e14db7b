"""Whether a device may install now, as a function of what is known about it and the time."""

from attrs import frozen

from fleetcore.model.days import DAY_MS, HOUR_MS
from fleetcore.model.eligibility import Eligibility, Freeze, Hold
from fleetcore.model.firmware import Execution
from fleetcore.rollout.executions import Held
from fleetcore.rollout.turns import digest_of
from fleetcore.rollout.windows import ALWAYS, Opening, Windows

#: After so long a hold is judged again, where nothing says when it ends.
AGAIN_MS = 15 * 60_000


@frozen(kw_only=True)
class Facts:
    """What is known about a device.

    Attributes:
        zone: its time zone.
        battery: percent of charge; None where it charges, or has no battery.
        selected: whether the campaign's requirement selects it.
        freeze: one that covers it now.
        site: where it is; empty where that is unknown.
    """

    zone: str = "UTC"
    battery: float | None = None
    selected: bool = True
    freeze: Freeze | None = None
    site: str = ""


@frozen(kw_only=True)
class Judgement:
    """Whether a device may install.

    Attributes:
        held: why it has to wait; None where it may now.
        until: when the window closes in which it may; ms since the epoch, None without windows.
        site: where the device is; empty where that is unknown.
    """

    held: Held | None = None
    until: int | None = None
    site: str = ""


def judge(wanted: Eligibility, windows: Windows, facts: Facts, execution: Execution, begun: int, now: int) -> Judgement:
    """Whether a device may install at a time in ms.

    Args:
        windows: those of ``wanted``.
        begun: when the campaign was made.
    """
    opening = ALWAYS
    if not wanted.emergency:
        opening = windows.at(facts.zone, now)
        spread = spread_of(wanted, execution.id)
        placed = begun if execution.placed is None else execution.placed
        held = (
            _frozen(facts.freeze, now)
            or _outside(opening, facts.zone, spread, now)
            or _spread((placed if opening.since is None else opening.since) + spread, now)
        )
        if held is not None:
            return Judgement(held=held)
    if not facts.selected:
        return _again(Hold.REQUIREMENT_UNMET, f"{wanted.requirement} does not select it", now)
    if facts.battery is not None and facts.battery < wanted.min_battery:
        return _again(Hold.BATTERY_LOW, f"Its battery has {facts.battery:g} % of {wanted.min_battery:g} %", now)
    if wanted.consent and execution.consented is None and not wanted.emergency:
        return Judgement(held=_held(Hold.CONSENT_MISSING, "Its user has not agreed", now + DAY_MS))
    return Judgement(until=opening.until, site=facts.site)


def spread_of(wanted: Eligibility, execution: str) -> int:
    """How many ms later than it could a device begins."""
    return wanted.spread_ms * int(digest_of(execution)[:8], 16) >> 32


def _held(code: Hold, reason: str, until: int, *, counts: bool = True) -> Held:
    return Held(code=code.value, reason=reason, until=until, counts=counts)


def _again(code: Hold, reason: str, now: int) -> Judgement:
    return Judgement(held=_held(code, reason, now + AGAIN_MS))


def _frozen(freeze: Freeze | None, now: int) -> Held | None:
    if freeze is None:
        return None
    # One that is removed early frees its devices within the hour.
    until = now + HOUR_MS if freeze.end is None else min(freeze.end, now + HOUR_MS)
    reason = f"The freeze {freeze.id!r} covers it" + (f": {freeze.reason}" if freeze.reason else "")
    return _held(Hold.FROZEN, reason, until, counts=False)


def _outside(opening: Opening, zone: str, spread: int, now: int) -> Held | None:
    if opening.is_open:
        return None
    until = now + DAY_MS if opening.until is None else opening.until + spread
    return _held(Hold.OUTSIDE_WINDOW, f"No window is open in {zone}", until, counts=False)


def _spread(begins: int, now: int) -> Held | None:
    if begins <= now:
        return None
    return _held(Hold.START_SPREAD, "Devices begin at different times", begins, counts=False)
