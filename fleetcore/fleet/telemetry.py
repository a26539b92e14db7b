"""Telemetry for operators: by device and metric, in ranges, in buckets, the newest; and readings entered by hand."""

from collections.abc import Sequence
from datetime import UTC, tzinfo

import numpy as np
from attrs import evolve

from fleetcore.errors import FleetError, NotFound, Refused
from fleetcore.fleet.local_buckets import Bucket, local_buckets
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import Session
from fleetcore.interfaces.storage import Storage
from fleetcore.model.message import Accepted, Inbound
from fleetcore.model.names import check_metric
from fleetcore.model.telemetry import Latest, Series, SeriesData, TextReading, shown
from fleetcore.wire import messages
from fleetcore.wire.strict_json import dumps

#: Later than any accepted event time (wire.md §3).
END_OF_TIME = 4 * 10**12


class Telemetry:
    """Reads stored readings, and passes readings to the same data path that devices use."""

    def __init__(self, storage: Storage, clock: Clock, ingest: Ingest) -> None:
        self._storage, self._clock, self._ingest = storage, clock, ingest

    async def series(self, device: str | None = None) -> Sequence[Series]:
        """The series of a device, or all."""
        return await self._storage.series_of(device)

    async def _series(self, device: str, metric: str) -> Series:
        for series in await self._storage.series_of(device):
            if series.metric == metric:
                return series
        raise no_series(device, metric)

    async def query(self, device: str, metric: str, *, start: int = 0, end: int | None = None) -> SeriesData:
        """The points with ``start <= time < end`` (ms); raises NotFound for a series that never existed."""
        series = await self._series(device, metric)
        pieces = [piece async for piece in self._storage.read(series.index, start, end or END_OF_TIME)]
        if not pieces:
            return SeriesData(
                series=series, time=np.empty(0, np.int64), value=np.empty(0), quality=np.empty(0, np.uint8)
            )
        return evolve(
            pieces[0],
            time=np.concatenate([piece.time for piece in pieces]),
            value=np.concatenate([piece.value for piece in pieces]),
            quality=np.concatenate([piece.quality for piece in pieces]),
        )

    async def texts(self, device: str, metric: str, *, start: int = 0, end: int | None = None) -> Sequence[TextReading]:
        """The text readings of a series."""
        series = await self._series(device, metric)
        return [item async for item in self._storage.read_texts(series.index, start, end or END_OF_TIME)]

    async def points(
        self, series: Series, start: int, end: int, limit: int
    ) -> tuple[Sequence[tuple[int, float | bool | str]], int | None]:
        """The first points of a series with ``start <= time < end``, and the time of the next one; None at the end.

        Numbers, booleans and texts as they were sent, by time. A number and a text of one time are never separated:
        there may then be one more than ``limit``.
        """
        most = limit + 2  # one to continue with, and one that may belong to the last
        numbers: list[tuple[int, float | bool | str]] = []
        async for piece in self._storage.read(series.index, start, end):
            part = slice(most - len(numbers))
            numbers += zip(
                piece.time[part].tolist(), shown(series, piece.value[part], piece.quality[part]), strict=True
            )
            if len(numbers) >= most:
                break
        texts: list[tuple[int, float | bool | str]] = []
        async for text in self._storage.read_texts(series.index, start, end):
            texts.append((text.time, text.value))
            if len(texts) >= most:
                break
        found = sorted(numbers + texts, key=lambda point: point[0])
        cut = limit + 1 if limit < len(found) and limit and found[limit][0] == found[limit - 1][0] else limit
        return found[:cut], found[cut][0] if len(found) > cut else None

    async def count_texts(self, series: Series, start: int, end: int) -> int:
        """The number of text readings with ``start <= time < end``, which are in no bucket."""
        return sum([1 async for _ in self._storage.read_texts(series.index, start, end)])

    async def buckets(
        self, series: Series, start: int, end: int, bucket_ms: int, limit: int, zone: tzinfo = UTC
    ) -> tuple[Sequence[Bucket], int | None]:
        """The first buckets of the points with ``start <= time < end``, and the start of the next one.

        Each is start, count, min, max, mean, sum, first and last; the buckets follow the zone's clock.
        """
        if zone is not UTC:
            rows = await local_buckets(self._storage, series.index, start, end, bucket_ms, zone, limit + 1)
            return rows[:limit], rows[limit][0] if len(rows) > limit else None
        found = await self._storage.aggregate(series.index, start, end, bucket_ms)
        names = ("start", "count", "min", "max", "mean", "sum", "first", "last")
        columns = [getattr(found, name)[: limit + 1].tolist() for name in names]
        rows = list(zip(*columns, strict=True))
        return rows[:limit], rows[limit][0] if len(rows) > limit else None

    async def latest(self, device: str) -> Sequence[Latest]:
        """The newest reading of each metric, by event time."""
        series = await self._storage.series_of(device)
        found = await self._storage.latest([series_.index for series_ in series])
        return [item for item in found if item is not None]

    async def collect(
        self,
        session: Session,
        device: str,
        metric: str,
        value: float | bool | str,
        unit: str | None = None,
        *,
        time: int | str | None = None,
        id: str | None = None,
    ) -> Accepted:
        """Stores one reading, through the whole data path; returns after the commit.

        Raises the refusal as an error of the matching class.
        """
        check_metric(metric)
        body: dict[str, object] = {"metric": metric, "value": value}
        if unit is not None:
            body["unit"] = unit
        if time is not None:
            body["time"] = time
        message = Inbound(
            type=messages.TELEMETRY,
            subject=device,
            payload=dumps(body),
            content_type="application/json",
            id=id,
        )
        outcome = await self._ingest.submit(session, message)
        if isinstance(outcome, Accepted):
            return outcome
        code = getattr(outcome, "code", "internal")
        refused = getattr(outcome, "refused", ())
        if refused:
            code = refused[0].code
        raise _error(code)(outcome.reason, code=code, device=device, metric=metric)


def _error(code: str) -> type[FleetError]:
    from fleetcore.errors import CODES, NotAuthorised, Unavailable

    if CODES[code].temporary:
        return Unavailable
    return NotAuthorised if CODES[code].http == 403 else Refused


def no_series(device: str, metric: str) -> NotFound:
    """The error for a series that never existed."""
    return NotFound(
        f"Device {device!r} has sent no {metric!r}",
        remedy="`fleetcore telemetry series` lists the series",
        device=device,
        metric=metric,
    )
