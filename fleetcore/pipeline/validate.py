"""Validate: whether a reading may be stored: its time, its metric, its unit, its subject. Nothing is clamped.

Valid readings go into the columns of the batch; refused ones are noted at their message, with a code.
"""

import numpy as np

from fleetcore.interfaces.codec import Decoded, DecodedReading
from fleetcore.interfaces.provider import Limits
from fleetcore.model.names import is_metric
from fleetcore.model.telemetry import NO_SEQ, Series, SeriesCatalog, TelemetryBatch
from fleetcore.model.units import convert
from fleetcore.pipeline import reasons
from fleetcore.pipeline.columns import Columns, server_time
from fleetcore.pipeline.message import Envelope, Message, answer_of
from fleetcore.wire.times import EARLIEST_MS, MAX_AGE_MS, time_or_code


def validate(
    columns: Columns, place: int, message: Message, decoded: Decoded, catalog: SeriesCatalog, limits: Limits
) -> None:
    """Puts the valid readings of a message into the columns; ``place`` is the message's position in its batch.

    Every allowed metric already has its series.
    """
    received = message.delivery[3]
    first: dict[str, Envelope] = {}
    for repeated in message.envelopes.values():
        if repeated.mark is not None:
            known = answer_of(repeated.mark)
            message.repeat(repeated, known.stored, known.refused)
    for reading in decoded.readings:
        envelope = None if reading.id is None else message.envelopes[reading.index]
        if envelope is not None and (envelope.mark is not None or _comes_again(message, envelope, first)):
            continue
        state = message.about(reading.subject)
        if state is None or state.blocked is not None:
            message.refuse(reading.index, reading.metric, "not_your_device" if state is None else str(state.blocked))
            continue
        time = reading_time(reading, received, limits)
        if isinstance(time, str):
            message.refuse(reading.index, reading.metric, time, reasons.of_time(reading, time, received, limits))
            continue
        index = state.metrics.get(reading.metric)
        if index is None:
            code = check_new_metric(reading.metric, len(state.metrics), limits) or "too_many_metrics"
            why = reasons.of_new_metric(reading.metric, code, limits)
            message.refuse(reading.index, reading.metric, code, why)
            continue
        value = reading.value
        if reading.unit is not None:
            converted = in_unit_of(catalog.series(index), reading)
            if converted is None:
                why = reasons.of_unit(catalog.series(index), reading)
                message.refuse(reading.index, reading.metric, "unit_mismatch", why)
                continue
            value = converted
        quality = server_time(state.quality) if time is None else state.quality
        seq = NO_SEQ if reading.seq is None else reading.seq
        message.count += 1
        if envelope is not None:
            envelope.stored += 1
        columns.add(place, index, value, received if time is None else time, received, quality, seq)


def _comes_again(message: Message, envelope: Envelope, first: dict[str, Envelope]) -> bool:
    """Whether an earlier envelope with its id in this message was stored: then it gets that answer."""
    earlier = first.setdefault(envelope.id, envelope)
    if earlier is envelope or envelope.again:
        return envelope.again
    if not earlier.stored:
        first[envelope.id] = envelope
        return False
    envelope.again = True
    message.repeat(envelope, earlier.stored, earlier.refused)
    return True


def check_time(value: object, received: int, limits: Limits) -> int | str:
    """An event time in ms, or the code of its refusal."""
    if type(value) is int and EARLIEST_MS <= value <= received:
        return value
    time = time_or_code(value)
    if isinstance(time, int) and time > received + limits.future_ms:
        return "time_in_future"
    return time


def reading_time(reading: DecodedReading, received: int, limits: Limits) -> int | str | None:
    """A reading's event time, None if the server is to assign it, or the code of its refusal."""
    if reading.age_ms is not None:
        if reading.time is not None:
            return "time_ambiguous"
        age = reading.age_ms
        if isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age <= MAX_AGE_MS:
            return "time_out_of_range"
        return received - int(age)
    return None if reading.time is None else check_time(reading.time, received, limits)


def check_new_metric(metric: str, known: int, limits: Limits) -> str | None:
    """The code of why a device with ``known`` metrics may not have another, or None."""
    if not is_metric(metric):
        return "metric_name_invalid"
    return "too_many_metrics" if known >= limits.metrics else None


def in_unit_of(series: Series, reading: DecodedReading) -> float | bool | str | None:
    """The value in the series' unit, or None where the units do not convert."""
    if reading.unit is None or reading.unit == series.unit or isinstance(reading.value, str):
        return reading.value
    if series.unit is None:
        return None
    return convert(float(reading.value), reading.unit, series.unit)


def not_finite(batch: TelemetryBatch) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Positions of values that are not finite: no codec should return them, and a store must not get them."""
    finite = np.isfinite(batch.value)
    return np.empty(0, np.int64) if finite.all() else np.flatnonzero(~finite)
