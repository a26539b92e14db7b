"""Readings: newest, in ranges, in buckets, across devices; as JSON, CSV or Arrow."""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Annotated, Any, Literal

from litestar import Response, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from fleetcore.calls.cursors import decode, encode
from fleetcore.errors import Refused
from fleetcore.model.names import check_metric
from fleetcore.model.operator import Permission
from fleetcore.model.telemetry import Series, SeriesKind
from fleetcore.query.parse import parse
from fleetcore.wire.times import format_time
from fleetcore_api.access import Access
from fleetcore_api.models import shown
from fleetcore_api.models_seen import (
    BucketOut,
    BucketsOut,
    LatestOut,
    ReadingIn,
    SeriesInfoOut,
    SeriesOut,
    StoredOut,
    Value,
)
from fleetcore_api.pages import Cursor, Page
from fleetcore_api.parameters import Caller
from fleetcore_api.tables import ARROW, CSV, arrow, table
from fleetcore_api.times import End, Start, span

Format = Annotated[Literal["json", "csv", "arrow"], QueryParameter(description="How the answer is written.")]
Metric = Annotated[str, QueryParameter(min_length=1, max_length=64)]
Devices = Annotated[int, QueryParameter(ge=1, le=100, description="How many devices at most.")]
Device = Annotated[str | None, QueryParameter(max_length=64)]
Where = Annotated[str | None, QueryParameter(max_length=4096, description="A query of the fleet query grammar.")]
_NAMES = ("count", "min", "max", "mean", "sum", "first", "last")


async def _selected(
    access: Access, device: str | None, where: str | None, cursor: str | None, limit: int
) -> tuple[list[str], str | None]:
    """Devices that are asked for and may be seen, and the cursor of the next ones."""
    if device is not None:
        if where is not None:
            raise Refused("Say which devices: either by a query or by an id")
        return [await access.device(device)], None
    after = decode(cursor)
    clause = None if where is None else parse(where)
    selectable = access.rights.selectable(Permission.DEVICES_READ)
    if selectable.nothing:
        return [], None
    page = await access.fleet.search.page(selectable.narrowed(clause), after=after, limit=limit)
    return list(page.ids), encode(page.after)


async def _latest(access: Access, device: str) -> list[LatestOut]:
    return [
        LatestOut(
            device=device,
            metric=one.series.metric,
            value=_value(one.series, one.value),
            unit=one.series.unit,
            time=format_time(one.time),
        )
        for one in await access.fleet.telemetry.latest(device)
    ]


def _value(series: Series, value: float | str) -> Value:
    return bool(value) if series.kind is SeriesKind.BOOLEAN else value


@get("/devices/{device_id:str}/telemetry", permission=Permission.DEVICES_READ)
async def latest_of_device(access: Caller, device_id: FromPath[str]) -> Page[LatestOut]:
    """The newest reading of each metric of a device, by event time."""
    return Page(items=await _latest(access, await access.device(device_id)), next=None)


@post("/devices/{device_id:str}/telemetry", permission=Permission.TELEMETRY_WRITE)
async def collect(access: Caller, device_id: FromPath[str], data: JSONBody[ReadingIn]) -> StoredOut:
    """Puts one reading of a device in, through the whole data path; it is committed when this is answered."""
    await access.device(device_id, Permission.TELEMETRY_WRITE)
    fleet = access.fleet
    session = await access.site.sessions.of(device_id)
    found = await fleet.telemetry.collect(
        session, device_id, data.metric, data.value, data.unit, time=data.time, id=data.id
    )
    return StoredOut(device=device_id, metric=data.metric, stored=found.stored)


@get("/telemetry/series", permission=Permission.DEVICES_READ)
async def list_series(
    access: Caller, device: Device = None, where: Where = None, limit: Devices = 50, cursor: Cursor = None
) -> Page[SeriesInfoOut]:
    """Which series the selected devices have."""
    devices, more = await _selected(access, device, where, cursor, limit)
    found = [one for device in devices for one in await access.fleet.telemetry.series(device)]
    return Page(items=[shown(SeriesInfoOut, one) for one in found], next=more)


@get("/telemetry/latest", permission=Permission.DEVICES_READ)
async def latest(
    access: Caller, device: Device = None, where: Where = None, limit: Devices = 50, cursor: Cursor = None
) -> Page[LatestOut]:
    """The newest reading of each metric of the selected devices."""
    devices, more = await _selected(access, device, where, cursor, limit)
    return Page(items=[found for one in devices for found in await _latest(access, one)], next=more)


async def _series(access: Access, devices: Iterable[str]) -> AsyncIterator[Series]:
    """The series of some devices, one device after the other, as long as the caller may see it."""
    for device in devices:
        await access.still(Permission.DEVICES_READ, device)
        for series in await access.fleet.telemetry.series(device):
            yield series


@get("/telemetry", permission=Permission.DEVICES_READ, csv=True)
async def readings(
    access: Caller,
    metric: Metric,
    device: Device = None,
    where: Where = None,
    start: Start = None,
    end: End = None,
    points: Annotated[int, QueryParameter(ge=1, le=10_000, description="Points of one series at most.")] = 1000,
    limit: Devices = 50,
    cursor: Cursor = None,
    format: Format = "json",
) -> Response[Page[SeriesOut]]:
    """The points of a metric with ``start <= time < end``, a series per device; gaps stay gaps."""
    check_metric(metric)
    first, last = span(start, end)
    devices, more = await _selected(access, device, where, cursor, limit)
    found = [
        await _points(access, series, first, last, points)
        async for series in _series(access, devices)
        if series.metric == metric
    ]
    if format == "json":
        return Response(Page(items=found, next=more))
    rows = ((one.device, one.metric, time, value, one.unit) for one in found for time, value in one.points)
    return _table(format, ("device", "metric", "time", "value", "unit"), rows, more)


async def _points(access: Access, series: Series, start: int, end: int, most: int) -> SeriesOut:
    storage = access.fleet.storage
    found: list[tuple[int, Value]] = []
    if series.kind is SeriesKind.TEXT:
        async for text in storage.read_texts(series.index, start, end):
            found.append((text.time, text.value))
            if len(found) > most:
                break
    else:
        async for piece in storage.read(series.index, start, end):
            times, values = piece.time[: most + 1].tolist(), piece.value[: most + 1].tolist()
            found += [(time, _value(series, value)) for time, value in zip(times, values, strict=True)]
            if len(found) > most:
                break
    return SeriesOut(
        device=series.device,
        metric=series.metric,
        unit=series.unit,
        points=[(format_time(time), value) for time, value in found[:most]],
        more=format_time(found[most][0]) if len(found) > most else None,
    )


@get("/telemetry/buckets", permission=Permission.DEVICES_READ, csv=True)
async def buckets(
    access: Caller,
    metric: Metric,
    bucket_s: Annotated[float, QueryParameter(gt=0, le=31_622_400, description="Seconds a bucket.")],
    device: Device = None,
    where: Where = None,
    start: Start = None,
    end: End = None,
    limit: Devices = 50,
    cursor: Cursor = None,
    format: Format = "json",
) -> Response[Page[BucketsOut]]:
    """The points of a metric in buckets aligned to the epoch; empty buckets are left out."""
    check_metric(metric)
    first, last = span(start, end)
    devices, more = await _selected(access, device, where, cursor, limit)
    wide = max(1, int(bucket_s * 1000))
    found = [
        await _buckets(access, series, first, last, wide)
        async for series in _series(access, devices)
        if series.metric == metric and series.kind is not SeriesKind.TEXT
    ]
    if format == "json":
        return Response(Page(items=found, next=more))
    rows = (
        (one.device, one.metric, bucket.start, *(getattr(bucket, name) for name in _NAMES))
        for one in found
        for bucket in one.buckets
    )
    return _table(format, ("device", "metric", "start", *_NAMES), rows, more)


async def _buckets(access: Access, series: Series, start: int, end: int, bucket_ms: int) -> BucketsOut:
    found = await access.fleet.storage.aggregate(series.index, start, end, bucket_ms)
    columns = [getattr(found, name).tolist() for name in _NAMES]
    return BucketsOut(
        device=series.device,
        metric=series.metric,
        unit=series.unit,
        buckets=[
            BucketOut(start=format_time(time), **dict(zip(_NAMES, row, strict=True)))
            for time, *row in zip(found.start.tolist(), *columns, strict=True)
        ],
    )


def _table(format: str, header: tuple[str, ...], rows: Iterator[tuple[object, ...]], more: str | None) -> Response[Any]:
    headers = {} if more is None else {"Fleetcore-Next": more}
    if format == "arrow":
        return Response(arrow(header, rows), media_type=ARROW, headers=headers)
    return Response(table(header, rows), media_type=CSV, headers=headers)


HANDLERS = [latest_of_device, collect, list_series, latest, readings, buckets]
