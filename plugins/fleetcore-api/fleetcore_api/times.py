"""Times in addresses."""

from typing import Annotated

from litestar.params import QueryParameter

from fleetcore.errors import Refused
from fleetcore.wire.times import parse_time

Start = Annotated[
    str | None, QueryParameter(max_length=64, description="From then on: RFC 3339, or ms since the epoch.")
]
End = Annotated[
    str | None, QueryParameter(max_length=64, description="Until before then: RFC 3339, or ms since the epoch.")
]
#: Later than any event time that is accepted (WIRE.md §3).
END_OF_TIME = 4 * 10**12


def instant(text: str) -> int:
    """A time as ms since the epoch; raises Refused."""
    return parse_time(int(text) if text.isascii() and text.isdigit() and len(text) < 19 else text)


def span(start: str | None, end: str | None) -> tuple[int, int]:
    """Both ends in ms; raises Refused where they are the wrong way round."""
    first = 0 if start is None else instant(start)
    last = END_OF_TIME if end is None else instant(end)
    if last <= first:
        raise Refused("The range is empty", remedy="Let end be after start")
    return first, last
