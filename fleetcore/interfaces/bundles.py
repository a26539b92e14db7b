"""Groups readings into messages for a hub: each of one device, in the device's order, within the hub's size limit.

A message that the hub did not take is sent again, with all later ones of its device, which keeps each device's order.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from fleetcore.interfaces.call_failed import CallFailed, for_all, is_for_all, unavailable
from fleetcore.interfaces.cloud import Sent
from fleetcore.model.telemetry import Series, SeriesCatalog, TelemetryBatch, TextReading, shown


@frozen(kw_only=True)
class Reading:
    """One reading and its index in the readings that are sent."""

    at: int
    series: Series
    time: int
    said: float | bool | str


@frozen(kw_only=True)
class Message:
    """Readings of one device, in their order.

    Attributes:
        name: the device's name at the hub.
        indices: the indices of its readings in what is sent.
        first, last: the earliest and the latest time, milliseconds.
        data: the text that is sent.
    """

    name: str
    indices: Sequence[int]
    first: int
    last: int
    data: bytes


def of_numbers(batch: TelemetryBatch, catalog: SeriesCatalog) -> tuple[list[Reading], dict[int, str]]:
    """The readings of a batch, and those that JSON cannot represent, with the reason."""
    refused: dict[int, str] = {}
    readings = []
    for at, (index, time, value) in enumerate(
        zip(batch.series.tolist(), batch.time.tolist(), batch.value.tolist(), strict=True)
    ):
        series = catalog.series(index)
        if not math.isfinite(value):
            refused[at] = "JSON has no form for a number that is not finite"
            continue
        (said,) = shown(series, batch.value[at : at + 1], batch.quality[at : at + 1])
        readings.append(Reading(at=at, series=series, time=time, said=said))
    return readings, refused


def of_texts(texts: Sequence[TextReading], catalog: SeriesCatalog) -> list[Reading]:
    """As :func:`of_numbers`, for text readings."""
    return [
        Reading(at=at, series=catalog.series(text.series), time=text.time, said=text.value)
        for at, text in enumerate(texts)
    ]


def bundled(
    readings: Sequence[Reading], name_of: Callable[[str], str | None], fleet: str, largest: int, unnamed: str
) -> tuple[list[Message], dict[int, str]]:
    """The messages, and the readings without one: of devices without a name at the hub, for the reason ``unnamed``."""
    devices: dict[str, list[tuple[Reading, bytes]]] = {}
    for each in readings:
        plain: dict[str, object] = {"metric": each.series.metric, "time": each.time, "value": each.said}
        if each.series.unit is not None:
            plain["unit"] = each.series.unit
        devices.setdefault(each.series.device, []).append((each, json.dumps(plain, separators=(",", ":")).encode()))
    refused: dict[int, str] = {}
    messages: list[Message] = []
    for device, parts in devices.items():
        name = name_of(device)
        if name is None:
            refused |= {each.at: unnamed for each, _ in parts}
            continue
        head = json.dumps({"device": device, "fleet": fleet}, separators=(",", ":"))[:-1].encode()
        messages += [_message(name, head, part) for part in _cut(parts, largest)]
    return messages, refused


def _cut(parts: Sequence[tuple[Reading, bytes]], largest: int) -> list[list[tuple[Reading, bytes]]]:
    found: list[list[tuple[Reading, bytes]]] = [[]]
    length = 0
    for each in parts:
        if found[-1] and length + len(each[1]) > largest:
            found.append([])
            length = 0
        found[-1].append(each)
        length += len(each[1]) + 1
    return found


def _message(name: str, head: bytes, part: Sequence[tuple[Reading, bytes]]) -> Message:
    times = [each.time for each, _ in part]
    return Message(
        name=name,
        indices=[each.at for each, _ in part],
        first=min(times),
        last=max(times),
        data=head + b',"readings":[' + b",".join(text for _, text in part) + b"]}",
    )


def sent_of(
    count: int, messages: Sequence[Message], failures: Sequence[CallFailed | None], refused: Mapping[int, str]
) -> Sent:
    """The result of sending ``count`` readings, of which ``refused`` made no message; ``failures`` are the messages'.

    Raises what :func:`for_all` gives where a failure concerns every call, or where no message got an answer.
    """
    errors = [failed for failed in failures if failed is not None]
    for error in errors:
        if is_for_all(error):
            raise for_all(error) from error
    if errors and len(errors) == len(messages) and all(error.lost for error in errors):
        raise unavailable(errors[0]) from errors[0]
    turned_away = dict(refused)
    rest: list[int] = []
    stopped: set[str] = set()
    for message, failed in zip(messages, failures, strict=True):
        if failed is not None and failed.kind == "invalid" and message.name not in stopped:
            turned_away |= dict.fromkeys(message.indices, str(failed))
        elif failed is not None or message.name in stopped:
            stopped.add(message.name)
            rest += message.indices
    return Sent(
        taken=count - len(turned_away) - len(rest),
        refused=turned_away,
        rest=sorted(rest),
        retry_after_s=max((error.retry_after_s for error in errors), default=0.0),
    )
