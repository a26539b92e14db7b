"""Judges the members of what a device says of itself, before any of it is stored: their types and their bounds.

Each function takes one optional member; null is as good as absent. It raises Refused with the member's pointer:
``limit_exceeded`` with limit and unit for what lies beyond a bound, ``schema_invalid`` for anything else. On the data
path a refusal is an outcome: :func:`rejected` makes it one.
"""

import math
from collections.abc import Mapping
from typing import Any

from fleetcore.errors import Refused
from fleetcore.model.message import Rejected
from fleetcore.wire.members import LARGEST
from fleetcore.wire.times import parse_time

#: How far ahead a device may say that it sleeps: a year (WIRE.md §4), a leap year's days.
AHEAD_S = 366 * 86_400
#: Code and reason of a result are cut to it.
TEXT_CHARACTERS = 1024

Body = Mapping[str, Any]


def number(body: Body, name: str, high: float, unit: str, low: float = 0) -> float | None:
    """A finite number from ``low`` to ``high``."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < low:
        raise _wrong(name, f"a number from {low:g} to {high:g} {unit}")
    if value > high:
        raise _beyond(name, high, unit)
    return float(value)


def integer(body: Body, name: str, unit: str, low: int = 0, high: int = LARGEST) -> int | None:
    """An integer from ``low`` to ``high``; by default to what every JSON reader keeps exactly."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or value < low:
        raise _wrong(name, f"an integer from {low} to {high}")
    if value > high:
        raise _beyond(name, high, unit)
    return value


def text(body: Body, name: str, most: int) -> str | None:
    """Text of ``most`` characters."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _wrong(name, "text")
    if len(value) > most:
        raise _beyond(name, most, "characters")
    return value


def cut_text(body: Body, name: str) -> str | None:
    """Text for people; what is longer than ``TEXT_CHARACTERS`` is cut."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "text")
    return None if value is None else value[:TEXT_CHARACTERS]


def time_ahead(body: Body, name: str, now_ms: int) -> int | None:
    """A time that lies at most ``AHEAD_S`` ahead."""
    value = body.get(name)
    if value is None:
        return None
    try:
        found = parse_time(value)
    except Refused as error:
        raise Refused(f"{name}: {error.message}", code=error.code, pointer=f"/{name}") from error
    if found > now_ms + AHEAD_S * 1000:
        raise _beyond(name, AHEAD_S, "seconds ahead")
    return found


def rejected(error: Refused) -> Rejected:
    """The outcome that a refusal is for the device that said so."""
    limit, unit, scope = error.ids.get("limit"), error.ids.get("unit"), error.ids.get("scope")
    return Rejected(
        code=error.code,
        reason=str(error),
        pointer=str(error.ids.get("pointer", "")),
        limit=limit if isinstance(limit, int) else None,
        unit=unit if isinstance(unit, str) else None,
        scope=scope if isinstance(scope, str) else None,
    )


def _wrong(name: str, wanted: str) -> Refused:
    return Refused(f"{name} is {wanted}", pointer=f"/{name}")


def _beyond(name: str, limit: float, unit: str) -> Refused:
    return Refused(
        f"{name} is at most {limit:.0f} {unit}",
        code="limit_exceeded",
        pointer=f"/{name}",
        limit=int(limit),
        unit=unit,
        scope="message",
    )
