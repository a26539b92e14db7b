"""Time zones by their IANA names, and the spans in which a zone keeps its offset from UTC."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import frozen

from fleetcore.errors import Refused

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_S = 86_400
#: The span, in seconds, whose transitions are computed and cached together.
_BLOCK_S = 512 * _DAY_S


@frozen
class Span:
    """From ``begin`` until before ``end`` local time is UTC plus ``offset``; all in ms."""

    begin: int
    end: int
    offset: int


def zone_of(name: str) -> tzinfo:
    """A time zone by its IANA name; raises Refused for a name that the system does not have."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        remedy = "Write an IANA name, as in Europe/Berlin, or UTC; on a system without them: pip install tzdata"
        raise Refused(f"{name!r} is not a time zone that this system knows", remedy=remedy) from None


def spans(zone: tzinfo, start: int, end: int) -> Iterator[Span]:
    """The spans of constant offset that together cover ``start <= time < end`` (ms)."""
    begin, offset = start, _offset(zone, start // 1000)
    for block in range(start // 1000 // _BLOCK_S, (end - 1) // 1000 // _BLOCK_S + 1):
        for at, after in _transitions(zone, block):
            if start < at * 1000 < end:
                yield Span(begin, at * 1000, offset * 1000)
                begin = at * 1000
                offset = after
    if begin < end:
        yield Span(begin, end, offset * 1000)


@lru_cache(maxsize=1024)
def _transitions(zone: tzinfo, block: int) -> tuple[tuple[int, int], ...]:
    """The seconds in a block at which the offset changes, with the new offset. No zone changes twice within a day."""
    found = []
    last = block * _BLOCK_S - _DAY_S
    before = _offset(zone, last)
    for day in range(block * _BLOCK_S, (block + 1) * _BLOCK_S, _DAY_S):
        after = _offset(zone, day)
        if after != before:
            low, high = last, day
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
            found.append((high, after))
        last, before = day, after
    return tuple(found)


def _offset(zone: tzinfo, second: int) -> int:
    """The offset of local time from UTC, in seconds."""
    offset = (_EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())
