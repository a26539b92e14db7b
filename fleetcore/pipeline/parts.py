"""Parts of an import as they are transferred: JSON of columns, read with its types checked in one pass."""

from typing import Annotated

import msgspec
import numpy as np

from fleetcore.errors import Refused
from fleetcore.pipeline.bulk import Part

#: Readings of a part: one commit, about 4 MB of columns and 10 MB while it is checked.
MAX_READINGS = 100_000

_Time = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


class _Columns(msgspec.Struct, forbid_unknown_fields=True):
    series: list[tuple[str, str, str | None]]
    at: list[Annotated[int, msgspec.Meta(ge=0, le=2**31)]]
    time: list[_Time]
    value: list[int | float | bool | str]
    before: Annotated[int, msgspec.Meta(ge=0)] = 0


_decode = msgspec.json.Decoder(_Columns).decode


def read_part(body: bytes) -> Part:
    """The part; raises Refused if it is malformed or too long."""
    try:
        columns = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"The part must be JSON of columns: {error}", code="schema_invalid") from None
    n = len(columns.at)
    if not n or not n == len(columns.time) == len(columns.value):
        raise Refused("at, time and value must be of one length, and not empty", code="schema_invalid")
    if n > MAX_READINGS:
        raise Refused(f"A part may have at most {MAX_READINGS} readings", code="limit_exceeded")
    at = np.array(columns.at, np.int64)
    if int(at.max()) >= len(columns.series):
        raise Refused("at names a series that does not exist", code="schema_invalid", pointer="/at")
    return Part(columns.series, at, np.array(columns.time, np.int64), columns.value, min(columns.before, n))
