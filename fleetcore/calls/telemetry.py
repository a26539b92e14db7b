"""Telemetry: series, newest readings, points and buckets of a metric, and readings entered by hand."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

from msgspec import Meta

from fleetcore.calls.caller import Caller
from fleetcore.calls.cursors import decode, encode, foreign
from fleetcore.calls.responses.telemetry import (
    BucketResponse,
    BucketsResponse,
    ImportedReadingsResponse,
    LatestResponse,
    ReadingsResponse,
    RefusedReadingResponse,
    SeriesResponse,
    StoredResponse,
    Value,
)
from fleetcore.calls.table import BY_CALL, Rows, call, on
from fleetcore.calls.types import Content, Cursor, DeviceId, Limit, Ms, Page, Response, Where, Word
from fleetcore.errors import CODES, NotAuthorised, NotFound, Refused
from fleetcore.fleet.telemetry import END_OF_TIME, no_series
from fleetcore.model.names import MAX_METRIC_LENGTH, METRIC_ALPHABET
from fleetcore.model.operator import Permission
from fleetcore.model.telemetry import Latest, Series
from fleetcore.query.fitting import parse_new
from fleetcore.runtime.put_readings import put_readings
from fleetcore.wire.zones import zone_of

Metric = Annotated[
    str, Meta(pattern=rf"^[{METRIC_ALPHABET}]{{1,{MAX_METRIC_LENGTH}}}$(?!\n)", description="The metric's name.")
]
OfDevice = Annotated[DeviceId, Meta(description="Only this device.")]
Start = Annotated[Ms, Meta(description="From this time on.")]
End = Annotated[Ms, Meta(description="Up to, and without, this time.")]
Points = Annotated[int, Meta(ge=1, le=10_000, description="The most points of a page, over all its series.")]
Buckets = Annotated[int, Meta(ge=1, le=10_000, description="The most buckets of a page, over all its series.")]
BucketSeconds = Annotated[float, Meta(gt=0, le=31_622_400, description="A bucket's length, in seconds."), Word("every")]
Zone = Annotated[
    str, Meta(max_length=64, description="The time zone of days and hours, by its IANA name, as in Europe/Berlin.")
]
Reading = Annotated[int | Value, Meta(description="A number, true or false, or text.")]
Unit = Annotated[str, Meta(max_length=64, description="Its unit.")]
When = Annotated[Ms, Meta(description="The time of the reading; now by default.")]
ReadingId = Annotated[str, Meta(min_length=1, max_length=64, description="A message id; a repetition is stored once.")]

DryRun = Annotated[bool, Meta(description="Only report what would be stored; nothing is stored.")]

#: The longest text among the newest readings, in characters: a list of a thousand devices stays at some hundred kB.
_PREVIEW = 256
_PART_BYTES = 32 << 20
_SHOWN_FAILURES = 100
_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
_BUCKET = ("start", "count", "min", "max", "mean", "sum", "first", "last")
T = TypeVar("T")
R = TypeVar("R", bound=Response)
#: Reads items of a series from a time on: (series, start, end, how many) → items, and the time of the next item.
Read = Callable[[Series, int, int, int], Awaitable[tuple[Sequence[T], int | None]]]


@call(
    "POST /devices/{device_id}/telemetry", Permission.TELEMETRY_WRITE, scope=on("device_id"), status=201,
    cli="telemetry put DEVICE_ID METRIC VALUE",
)  # fmt: skip
async def collect_telemetry(
    caller: Caller,
    device_id: DeviceId,
    metric: Metric,
    value: Reading,
    unit: Unit | None = None,
    *,
    time: When | None = None,
    id: ReadingId | None = None,
) -> StoredResponse:
    """Stores one reading of a device, through the whole data path; it is committed when this returns.

    Raises:
        NotFound: there is no such device.
        Refused: the data path refuses the reading.
    """
    session = await caller.fleet.sessions.of(device_id)
    found = await caller.fleet.telemetry.collect(
        session, device_id, metric, value, unit, time=None if time is None else int(time), id=id
    )
    return StoredResponse(device=device_id, metric=metric, stored=found.stored)


@call(
    "POST /telemetry/imports", Permission.TELEMETRY_WRITE, scope=BY_CALL,
    no_cli="`fleetcore telemetry import` sends a file",
)  # fmt: skip
async def import_readings(caller: Caller, content: Content, *, dry_run: DryRun = False) -> ImportedReadingsResponse:
    """Stores a part of the readings of many devices; it is committed when this returns. Repeating it changes nothing.

    Args:
        content: JSON of columns: ``series`` lists device, metric and unit or null; ``at`` is the index in it for each
            reading, ``time`` its milliseconds since the epoch, ``value`` a number, true or false, or text. At most
            100,000 readings and 32 MiB. In a dry run, the first ``before`` readings repeat readings of earlier parts
            whose times occur again in this one; they are not counted.

    Raises:
        Refused: the content does not have such columns, or is too long. A refused reading is counted in the answer.
    """
    body = bytearray()
    async for piece in content:
        body += piece
        if len(body) > _PART_BYTES:
            raise Refused(
                "The part is too long", code="limit_exceeded", remedy=f"Send at most {_PART_BYTES} bytes at once"
            )

    async def refused(device: str) -> str | None:
        try:
            await caller.record(device)
        except NotFound:
            return "device_unknown"
        except NotAuthorised as error:
            return error.code
        return None

    part, done = await put_readings(caller.fleet, bytes(body), refused, dry_run=dry_run)
    tally = done.tally
    return ImportedReadingsResponse(
        count=tally.sent, stored=tally.stored, duplicates=tally.duplicates, conflicts=tally.conflicts,
        refused=tally.refused, reasons=dict(done.reasons),
        failures=[
            RefusedReadingResponse(
                item=place + 1 - part.before,
                device=part.series[part.at[place]][0],
                metric=part.series[part.at[place]][1],
                code=code,
                reason=CODES[code].title,
            )
            for place, code in zip(done.refused[:_SHOWN_FAILURES].tolist(), done.codes, strict=False)
        ],
    )  # fmt: skip


@call(
    "GET /telemetry/series", Permission.DEVICES_READ, scope=BY_CALL, cli="telemetry series DEVICE",
    columns=("device", "metric", "unit", "kind"),
)  # fmt: skip
async def list_series(
    caller: Caller,
    device: OfDevice | None = None,
    *,
    where: Where | None = None,
    limit: Limit = 100,
    cursor: Cursor | None = None,
) -> Page[SeriesResponse]:
    """Lists all series of some devices; ``limit`` counts devices.

    ``kind`` is the kind of the newest reading; readings of one metric may differ in it.

    Raises:
        NotFound: there is no such device.
        QuerySyntaxError: the query cannot be read.
    """
    devices, more = await _devices(caller, device, where, decode(cursor), limit)
    telemetry = caller.fleet.telemetry
    found: list[SeriesResponse] = []
    for name in devices:
        kinds = {latest.series.index: latest.kind for latest in await telemetry.latest(name)}
        found += [
            SeriesResponse(
                device=series.device,
                metric=series.metric,
                unit=series.unit,
                kind=kinds.get(series.index, series.kind),
            )
            for series in await telemetry.series(name)
        ]
    return Page(found, encode(more))


@call(
    "GET /telemetry/latest", Permission.DEVICES_READ, scope=BY_CALL, cli="telemetry latest DEVICE",
    columns=("device", "metric", "value", "unit", "time"),
)  # fmt: skip
async def list_latest_readings(
    caller: Caller,
    device: OfDevice | None = None,
    *,
    where: Where | None = None,
    limit: Limit = 100,
    cursor: Cursor | None = None,
) -> Page[LatestResponse]:
    """Lists the newest reading, by event time, of each metric of some devices; ``limit`` counts devices.

    A long text is cut; `list_readings` returns all of it.

    Raises:
        NotFound: there is no such device.
        QuerySyntaxError: the query cannot be read.
    """
    devices, more = await _devices(caller, device, where, decode(cursor), limit)
    telemetry = caller.fleet.telemetry
    return Page([_latest(item) for name in devices for item in await telemetry.latest(name)], encode(more))


@call(
    "GET /devices/{device_id}/telemetry", Permission.DEVICES_READ, scope=on("device_id"),
    no_cli="`fleetcore telemetry latest DEVICE` shows the same",
)  # fmt: skip
async def list_device_latest_readings(caller: Caller, device_id: DeviceId) -> Page[LatestResponse]:
    """Lists the newest reading, by event time, of each metric of a device.

    A long text is cut; `list_readings` returns all of it.

    Raises:
        NotFound: there is no such device.
    """
    return Page([_latest(item) for item in await caller.fleet.telemetry.latest(device_id)])


_POINTS = Rows(
    ("device", "metric", "time", "value", "unit"),
    lambda found: [(found.device, found.metric, time, value, found.unit) for time, value in found.points],
)
_BUCKETS = Rows(
    ("device", "metric", *_BUCKET),
    lambda found: [(found.device, found.metric, *(bucket[name] for name in _BUCKET)) for bucket in found.buckets],
)


@call(
    "GET /telemetry", Permission.DEVICES_READ, scope=BY_CALL, cli="telemetry query DEVICE METRIC", rows=_POINTS,
)  # fmt: skip
async def list_readings(
    caller: Caller,
    metric: Metric,
    *,
    device: OfDevice | None = None,
    where: Where | None = None,
    start: Start | None = None,
    end: End | None = None,
    points: Points = 1000,
    limit: Limit = 100,
    cursor: Cursor | None = None,
) -> Page[ReadingsResponse]:
    """Lists the points of a metric with ``start <= time < end``, one device's series after the other.

    A page ends after ``points`` points or ``limit`` devices; the next page continues a series that was cut.

    Raises:
        NotFound: there is no such device, or it has sent no reading of the metric.
        QuerySyntaxError: the query cannot be read.
    """

    async def read(series: Series, first: int, last: int, count: int) -> tuple[Sequence[tuple[Ms, Value]], int | None]:
        found, following = await caller.fleet.telemetry.points(series, first, last, count)
        return [(Ms(time), value) for time, value in found], following

    return await _series_page(
        caller, device, where, (start, end), points, limit, cursor,
        metric, read,
        lambda series, found: ReadingsResponse(
            device=series.device, metric=series.metric, unit=series.unit, points=list(found)
        ),
    )  # fmt: skip


@call(
    "GET /telemetry/buckets", Permission.DEVICES_READ, scope=BY_CALL, cli="telemetry aggregate DEVICE METRIC",
    rows=_BUCKETS,
)  # fmt: skip
async def list_buckets(
    caller: Caller,
    metric: Metric,
    bucket_s: BucketSeconds = 3600.0,
    *,
    device: OfDevice | None = None,
    where: Where | None = None,
    start: Start | None = None,
    end: End | None = None,
    tz: Zone = "UTC",
    points: Buckets = 1000,
    limit: Limit = 100,
    cursor: Cursor | None = None,
) -> Page[BucketsResponse]:
    """Lists count, min, max, mean, sum, first and last of a metric per bucket; empty buckets are left out.

    A bucket begins where the clock of ``tz``, counted from 1970-01-01 00:00, is a multiple of ``bucket_s``: one of
    86,400 s is a calendar day, of 23 or 25 hours at a change of the clock; an hour that the clock runs through twice is
    two buckets. ``start`` of a bucket is in UTC.

    Buckets hold the numbers, with true as 1 and false as 0; ``texts`` counts the text readings, which are in no bucket.

    A page ends after ``points`` buckets or ``limit`` devices; the next page continues a series that was cut.

    Raises:
        NotFound: there is no such device, or it has sent no reading of the metric.
        QuerySyntaxError: the query cannot be read.
        Refused: ``tz`` is not a time zone.
    """
    bucket_ms, zone = max(1, int(bucket_s * 1000)), zone_of(tz)
    texts: dict[int, int] = {}

    async def read(series: Series, first: int, last: int, count: int) -> tuple[Sequence[BucketResponse], int | None]:
        telemetry = caller.fleet.telemetry
        found, following = await telemetry.buckets(series, first, last, bucket_ms, count, zone)
        texts[series.index] = await telemetry.count_texts(series, first, last if following is None else following)
        return [BucketResponse(Ms(row[0]), *row[1:]) for row in found], following

    return await _series_page(
        caller, device, where, (start, end), points, limit, cursor,
        metric, read,
        lambda series, found: BucketsResponse(
            device=series.device, metric=series.metric, unit=series.unit, buckets=list(found),
            texts=texts.pop(series.index, 0),
        ),
    )  # fmt: skip


def _latest(latest: Latest) -> LatestResponse:
    series, value = latest.series, latest.value
    characters = len(value) if isinstance(value, str) and len(value) > _PREVIEW else None
    return LatestResponse(
        device=series.device,
        metric=series.metric,
        value=value[:_PREVIEW] if isinstance(value, str) else value,
        unit=series.unit,
        time=Ms(latest.time),
        characters=characters,
    )


async def _devices(
    caller: Caller, device: str | None, where: str | None, after: str | None, limit: int
) -> tuple[Sequence[str], str | None]:
    """The requested devices that the caller may see, and the id after which to continue."""
    if device is not None:
        if where is not None:
            raise Refused("Select the devices by a query or by an id, not both", pointer="/where")
        return [await caller.device(device)], None
    found = await caller.fleet.search.page(
        caller.narrowed(None if where is None else parse_new(where)), after=after, limit=limit
    )
    return found.ids, found.after


async def _series_page(
    caller: Caller,
    device: str | None,
    where: str | None,
    span: tuple[int | None, int | None],
    points: int,
    limit: int,
    cursor: str | None,
    metric: str,
    read: Read[T],
    show: Callable[[Series, Sequence[T]], R],
) -> Page[R]:
    """Series of a metric until this many items were read; the cursor has the device, its series and the time."""
    start, end = span[0] or 0, END_OF_TIME if span[1] is None else span[1]
    if end <= start:
        raise Refused("/end: the range is empty", remedy="Let end be after start", pointer="/end")
    after, number, since = _place(cursor)
    devices, more = await _devices(caller, device, where, after, limit)
    if number is not None and device is None:
        assert after is not None
        devices = [after, *devices]
    found: list[R] = []
    for name in devices:
        await caller.still(device=name)  # a page of many devices may take longer than the rights last
        at = 0 if number is None else number
        known = [series for series in await caller.fleet.telemetry.series(name) if series.metric == metric]
        if device is not None and not known:
            raise no_series(name, metric)
        for series in known[at:]:
            if points <= 0:
                return Page(found, encode(f"{name}\0{at}\0{start}"))
            items, following = await read(series, max(start, since), end, points)
            found.append(show(series, items))
            if following is not None:
                return Page(found, encode(f"{name}\0{at}\0{following}"))
            points -= len(items)
            at, since = at + 1, start
        number, since = None, start
    return Page(found, encode(more))


def _place(cursor: str | None) -> tuple[str | None, int | None, int]:
    """The device after which to continue; or the device to continue with, the number of its series, and the time."""
    text = decode(cursor)
    if text is None or "\0" not in text:
        return text, None, 0
    device, *rest = text.split("\0")
    if len(rest) != 2 or not all(_DIGITS.fullmatch(part) for part in rest):
        raise foreign()
    number, time = rest
    return device, int(number), int(time)
