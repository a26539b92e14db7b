"""Converts times of devices and operators to integer milliseconds since the epoch and back.

wire.md §3 *Time*: integers are milliseconds, text is RFC 3339 with an offset. A time that looks like seconds or
nanoseconds is refused, never guessed. The limit on future times is not checked here: that needs a clock.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

from fleetcore.errors import Refused
from fleetcore.model.days import DAY_MS

#: Smaller numbers are seconds until the year 5138 (wire.md §3); as milliseconds it is 1973-03-03.
EARLIEST_MS = 10**11
#: Larger numbers are microseconds and nanoseconds; as milliseconds it is 2096-10-02.
LATEST_MS = 4 * 10**12
#: A device without a clock buffers at most this long; a larger ``age_ms`` is a mistake of unit.
MAX_AGE_DAYS = 366
MAX_AGE_MS = MAX_AGE_DAYS * DAY_MS

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,32}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
#: The range of RFC 3339: years have four digits, and Python's start with 1.
_FIRST_MS = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LAST_MS = (datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC) - _EPOCH) // _MILLISECOND


class Ms(int):
    """A time: an integer of ms since the epoch, which is printed and sent as RFC 3339."""

    __slots__ = ()

    @property
    def datetime(self) -> datetime:
        """The same time, in UTC; a time outside the range of datetime gives the first or the last one."""
        return _EPOCH + min(max(self, _FIRST_MS), _LAST_MS) * _MILLISECOND

    def __str__(self) -> str:
        return format_time(self)

    def __repr__(self) -> str:
        return f"Ms({int(self)}: {self})"


class TimeFault(ValueError):
    """A value is not a time. A ValueError, so that msgspec adds its place; it has the refusal's code and remedy."""

    def __init__(self, message: str, *, code: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message, self.code, self.remedy = message, code, remedy


def read_ms(value: object) -> Ms:
    """As :func:`parse_time`, for msgspec's ``dec_hook``; raises TimeFault."""
    if isinstance(value, Ms):
        return value
    try:
        return Ms(parse_time(value))
    except Refused as error:
        raise TimeFault(error.message, code=error.code, remedy=error.remedy) from error


def parse_time(value: object) -> int:
    """Reads an event time: integer milliseconds (a float only where it is whole) or RFC 3339 text with an offset.

    ``:60`` reads as ``:59`` (a leap second has no place on the epoch's scale); digits past the third are cut off.

    Raises:
        Refused: code ``time_unit`` for a number that cannot be milliseconds, ``time_out_of_range`` for text outside
            the same range, ``time_invalid`` for anything else.
    """
    if type(value) is int:
        return _in_milliseconds(value)
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, float) and value.is_integer():
        return _in_milliseconds(int(value))
    raise Refused("a time is an integer of milliseconds or RFC 3339 text", code="time_invalid")


def format_time(ms: int) -> str:
    """Writes RFC 3339 in UTC with three fraction digits and ``Z``: ``2026-01-31T12:00:00.250Z``.

    A time outside the years 1 to 9999 is written as the nearest one inside. No accepted time lies there, but one stored
    number must not fail an answer about a thousand devices.
    """
    second, fraction = divmod(min(max(ms, _FIRST_MS), _LAST_MS), 1000)
    return f"{_format_second(second)}.{fraction:03d}Z"


@lru_cache(maxsize=64)
def _format_second(second: int) -> str:
    # Times that are written together mostly share a few seconds: now, and some expiries.
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:-6]


def _in_milliseconds(value: int) -> int:
    if EARLIEST_MS <= value <= LATEST_MS:
        return value
    guess = "seconds" if -EARLIEST_MS < value < EARLIEST_MS else "not milliseconds"
    raise Refused(f"the time is {guess}: send milliseconds since the epoch", code="time_unit")


def _parse_text(text: str) -> int:
    match = _RFC3339.fullmatch(text)
    if match is None:
        reason = "the time is not RFC 3339 with an offset, as in 2026-01-31T12:00:00.250Z"
        raise Refused(reason, code="time_invalid")
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    zone: timezone = UTC
    try:
        if sign is not None:
            if int(offset_hours) > 23 or int(offset_minutes) > 59:
                raise Refused("the time's offset does not exist", code="time_invalid")
            offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
            zone = timezone(-offset if sign == "-" else offset)
        when = datetime(
            int(year),
            int(month),
            int(day),
            int(hour),
            int(minute),
            min(int(second), 59 if second == "60" else 60),
            tzinfo=zone,
        )
    except ValueError as error:
        raise Refused(f"the time does not exist: {error}", code="time_invalid") from error
    ms = (when - _EPOCH) // _MILLISECOND + int((fraction or "0")[:3].ljust(3, "0"))
    if not EARLIEST_MS <= ms <= LATEST_MS:
        reason = f"the time lies outside {format_time(EARLIEST_MS)} to {format_time(LATEST_MS)}"
        raise Refused(reason, code="time_out_of_range")
    return ms


def time_or_code(value: object) -> int | str:
    """As :func:`parse_time`, with the refusal's code as a value: on the data path an invalid time is an outcome."""
    try:
        return parse_time(value)
    except Refused as error:
        return error.code
