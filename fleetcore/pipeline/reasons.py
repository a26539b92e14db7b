"""Why a reading is refused, in a sentence with a remedy for the author of the device.

Only called for refused readings, so it need not be fast.
"""

from attrs import evolve

from fleetcore.errors import CODES, Refused
from fleetcore.interfaces.codec import DecodedReading
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import PointRefusal, Rejected
from fleetcore.model.names import METRIC_IN_WORDS
from fleetcore.model.telemetry import Series
from fleetcore.wire.times import MAX_AGE_DAYS, parse_time

#: The longest name or text of a sender that a sentence quotes.
_SHOWN = 64
_REASONS = {
    "metric_name_invalid": f"a metric must be {METRIC_IN_WORDS}",
    "schema_invalid": "a value must be a number, text, true or false: send nested values under separate names",
    "number_not_finite": "NaN and infinities are not stored: leave the reading out",
    "number_inexact": "an integer beyond 2^53 cannot be stored exactly: send it as text, or in a smaller unit",
    "not_your_device": "the sender may not send about this device",
    "time_ambiguous": "time and age_ms are both given: send only one of them",
}


def of_code(code: str) -> str:
    """The reason for a code, wherever it is given."""
    return _REASONS.get(code) or (CODES[code].title.lower() if code in CODES else code)


def of_time(reading: DecodedReading, code: str, received: int, limits: Limits) -> str:
    """Why the time of a reading is refused."""
    if code in _REASONS:
        return _REASONS[code]
    if reading.age_ms is not None:
        given = str(reading.age_ms)[:_SHOWN]
        return f"age_ms must be a number of milliseconds from 0 to {MAX_AGE_DAYS} days, not {given}"
    try:
        time = parse_time(reading.time)
    except Refused as error:
        return error.message
    ahead = (time - received) / 1000
    return f"the time is {ahead:.0f} s ahead of the server's clock; at most {limits.future_ms / 1000:g} s are accepted"


def of_new_metric(metric: str, code: str, limits: Limits) -> str:
    """Why a new metric of the device is refused."""
    if code == "too_many_metrics":
        return f"a device has at most {limits.metrics} metrics, and {metric[:_SHOWN]!r} would be one more"
    return of_code(code)


def of_unit(series: Series, reading: DecodedReading) -> str:
    """Why a unit is refused."""
    has = "was first sent without a unit" if series.unit is None else f"is stored in {series.unit!r}"
    return f"{reading.metric} {has}, and {str(reading.unit)[:_SHOWN]!r} does not convert to it"


def rejected(refused: tuple[PointRefusal, ...], limits: Limits) -> Rejected:
    """The outcome of a message without a stored reading: the first reading's reason, and how many more there are."""
    first = refused[0]
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    outcome = Rejected(
        code=first.code,
        reason=f"No reading could be stored: {first.metric[:_SHOWN]}: {first.reason}{more}",
        refused=refused,
    )
    match first.code:
        case "too_many_metrics":
            return evolve(outcome, limit=limits.metrics, unit="metrics", scope="device")
        case "time_in_future":
            return evolve(outcome, limit=limits.future_ms, unit="ms", scope="message")
        case _:
            return outcome
