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
        expected: what a plan takes for granted about it: its zone and its freeze.
    """

    held: Held | None = None
    until: int | None = None
    site: str = ""
    expected: Facts = Facts()


def judge(wanted: Eligibility, windows: Windows, facts: Facts, execution: Execution, begun: int, now: int) -> Judgement:
    """Whether a device may install at a time in ms.

    Args:
        windows: those of ``wanted``.
        begun: when the campaign begins.
    """
    opening = ALWAYS if wanted.emergency else windows.at(facts.zone, now)
    held = (
        (None if wanted.emergency else _not_now(wanted, opening, facts, execution, begun, now))
        or _unselected(wanted, facts, now)
        or _discharged(wanted, facts, now)
        or (None if wanted.emergency else _unasked(wanted, execution, now))
    )
    return Judgement(
        held=held, until=opening.until if held is None else None, site=facts.site,
        expected=Facts(zone=facts.zone, freeze=facts.freeze),
    )  # fmt: skip


def paused(now: int) -> Judgement:
    """For a device that has the image and waits to install it, while its campaign is paused."""
    reason = "The campaign is paused"
    return Judgement(held=_held(Hold.CAMPAIGN_PAUSED, reason, now + AGAIN_MS, counts=False))


def spread_of(wanted: Eligibility, execution: str) -> int:
    """How many ms later than it could a device begins."""
    return wanted.spread_ms * int(digest_of(execution)[:8], 16) >> 32


def _held(code: Hold, reason: str, until: int, *, counts: bool = True) -> Held:
    return Held(code=code.value, reason=reason, until=until, counts=counts)


def _not_now(
    wanted: Eligibility, opening: Opening, facts: Facts, execution: Execution, begun: int, now: int
) -> Held | None:
    spread = spread_of(wanted, execution.id)
    placed = begun if execution.placed is None else execution.placed
    return (
        _frozen(facts.freeze, now)
        or _outside(opening, facts.zone, spread, now)
        or _spread((placed if opening.since is None else opening.since) + spread, now)
    )


def _unselected(wanted: Eligibility, facts: Facts, now: int) -> Held | None:
    if facts.selected:
        return None
    return _held(Hold.REQUIREMENT_UNMET, f"{wanted.requirement} does not select it", now + AGAIN_MS)


def _discharged(wanted: Eligibility, facts: Facts, now: int) -> Held | None:
    if facts.battery is None or facts.battery >= wanted.min_battery:
        return None
    reason = f"Its battery has {facts.battery:g} % and needs {wanted.min_battery:g} %"
    return _held(Hold.BATTERY_LOW, reason, now + AGAIN_MS)


def _unasked(wanted: Eligibility, execution: Execution, now: int) -> Held | None:
    if not wanted.consent or execution.consented is not None:
        return None
    return _held(Hold.CONSENT_MISSING, "Its user has not agreed", now + DAY_MS)


def _frozen(freeze: Freeze | None, now: int) -> Held | None:
    if freeze is None:
        return None
    # One that is removed early frees its devices within the hour.
    until = now + HOUR_MS if freeze.end is None else min(freeze.end, now + HOUR_MS)
    reason = f"The freeze {freeze.id!r} covers it" + (f": {freeze.reason}" if freeze.reason else "")
    return _held(Hold.FROZEN, reason, until, counts=freeze.end is None)


def _outside(opening: Opening, zone: str, spread: int, now: int) -> Held | None:
    if opening.is_open:
        return None
    until = now + DAY_MS if opening.until is None else opening.until + spread
    return _held(Hold.OUTSIDE_WINDOW, f"No window is open in {zone}", until, counts=False)


def _spread(begins: int, now: int) -> Held | None:
    if begins <= now:
        return None
    return _held(Hold.START_SPREAD, "Devices begin at different times", begins)
