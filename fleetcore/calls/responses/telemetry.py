"""Readings: series, points, buckets, the newest."""

from fleetcore.calls.types import Ms, Response
from fleetcore.model.kinds import SeriesKind

Value = float | bool | str


class StoredResponse(Response, frozen=True):
    """How many readings were new."""

    device: str
    metric: str
    stored: int


class RefusedReadingResponse(Response, frozen=True):
    """A reading that was not taken; ``item`` is its place in the part, from 1."""

    item: int
    device: str
    metric: str
    code: str
    reason: str


class ImportedReadingsResponse(Response, frozen=True):
    """Where the readings of a part went: ``count`` is ``stored + duplicates + conflicts + refused``.

    ``duplicates`` were there already, ``conflicts`` stand at a time that has another value: the greater stays. A dry
    run counts what a run would count now. ``reasons`` counts the refused by code; ``failures`` has some.
    """

    count: int
    stored: int
    duplicates: int
    conflicts: int
    refused: int
    reasons: dict[str, int]
    failures: list[RefusedReadingResponse]


class SeriesResponse(Response, frozen=True):
    """What of a device is measured, in which unit, and of which kind its newest reading is."""

    device: str
    metric: str
    unit: str | None
    kind: SeriesKind


class LatestResponse(Response, frozen=True):
    """The reading with the newest event time of a series.

    ``value`` of a long text is its first 256 characters, and ``characters`` says how many it has; else that is null.
    ``GET /telemetry`` has the whole text.
    """

    device: str
    metric: str
    value: Value
    unit: str | None
    time: Ms
    characters: int | None = None


class ReadingsResponse(Response, frozen=True):
    """Points of one series in the order of time, ``[time, value]`` each."""

    device: str
    metric: str
    unit: str | None
    points: list[tuple[Ms, Value]]


class BucketResponse(Response, frozen=True):
    """The points of a bucket together."""

    start: Ms
    count: int
    min: float
    max: float
    mean: float
    sum: float
    first: float
    last: float


class BucketsResponse(Response, frozen=True):
    """One series in buckets; buckets without points are left out. ``texts`` counts readings that are in none."""

    device: str
    metric: str
    unit: str | None
    buckets: list[BucketResponse]
    texts: int = 0
