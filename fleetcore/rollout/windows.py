"""Maintenance windows: recurring times of a time zone, across daylight saving."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from attrs import frozen
from cronsim import CronSim, CronSimError

from fleetcore.errors import Refused
from fleetcore.model.days import DAY_MS, HOUR_MS

_DURATION = re.compile(r"([1-9][0-9]{0,4})(min|h|d)")
_MS = {"min": 60_000, "h": HOUR_MS, "d": DAY_MS}
#: A window does not last longer.
_LONGEST_MS = 7 * DAY_MS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@frozen
class Window:
    """One recurring time."""

    cron: str
    duration_ms: int


@frozen
class Opening:
    """Whether a window is open at a time, and the times around it, in ms since the epoch.

    Attributes:
        is_open: whether one is open.
        since: when it began; None where none is open, or where there are no windows.
        until: when it closes, or, where none is open, when the next one opens; None where none ever opens.
    """

    is_open: bool
    since: int | None
    until: int | None


#: Without windows.
ALWAYS = Opening(True, None, None)


@lru_cache(maxsize=1024)
def parse_window(text: str) -> Window:
    """A window from five cron fields and a duration (``30min``, ``4h``, ``2d``).

    Raises:
        Refused: it is not one, never opens, or lasts longer than a week.
    """
    cron, _, length = text.strip().rpartition(" ")
    found = _DURATION.fullmatch(length)
    if found is None:
        raise Refused(
            f"{text!r} is not a window: a duration is missing at its end",
            remedy="Write five cron fields and a duration, for example '0 2 * * * 4h'",
        )
    duration_ms = int(found[1]) * _MS[found[2]]
    if duration_ms > _LONGEST_MS:
        raise Refused(f"The window {text!r} is longer than a week")
    try:
        if len(cron.split()) != 5:
            raise CronSimError("it has five fields")
        next(CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        raise Refused(
            f"The times of the window {text!r} cannot be read: {str(error) or 'it never opens'}",
            remedy="Write minute, hour, day of the month, month and day of the week, as in crontab(5)",
        ) from None
    return Window(cron, duration_ms)


def check_zone(zone: str) -> str:
    """The name of a time zone; raises Refused for another text."""
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise Refused(f"{zone!r} is not a time zone", remedy="Use a name such as Europe/Berlin") from None
    return zone


class Windows:
    """The windows of a campaign: when they are open in a time zone. It remembers the last answer for each zone."""

    def __init__(self, windows: Sequence[str]) -> None:
        self._windows = [parse_window(text) for text in windows]
        self._known: dict[str, tuple[int, Opening]] = {}

    def at(self, zone: str, now: int) -> Opening:
        """Whether one is open at a time in ms.

        Args:
            zone: a valid name.
        """
        if not self._windows:
            return ALWAYS
        since, known = self._known.get(zone, (0, None))
        if known is None or now < since or (known.until is not None and now >= known.until):
            since, known = now, self._opening(ZoneInfo(zone), now)
            self._known[zone] = (since, known)
        return known

    def _opening(self, zone: ZoneInfo, now: int) -> Opening:
        found = [_of(window, zone, now) for window in self._windows]
        spans = [each for each in found if each.is_open]
        if spans:
            return max(spans, key=lambda each: each.until or 0)
        return Opening(False, None, min((each.until for each in found if each.until is not None), default=None))


def _of(window: Window, zone: ZoneInfo, now: int) -> Opening:
    # Searched for from the minute after: a start at this moment counts.
    last = next(CronSim(window.cron, _local(now - now % 60_000 + 60_000, zone), reverse=True), None)
    if last is not None and _ms(last) + window.duration_ms > now:
        return Opening(True, _ms(last), _ms(last) + window.duration_ms)
    following = next(CronSim(window.cron, _local(now, zone)), None)
    return Opening(False, None, None if following is None else _ms(following))


def _local(ms: int, zone: ZoneInfo) -> datetime:
    return (_EPOCH + timedelta(milliseconds=ms)).astimezone(zone)


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
