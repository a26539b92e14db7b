"""Readings: series, points, buckets, the newest."""

from fleetcore.calls.types import Ms, Response
from fleetcore.model.kinds import SeriesKind

Value = float | bool | str


class StoredResponse(Response, frozen=True):
    """The number of new readings."""

    device: str
    metric: str
    stored: int


class RefusedReadingResponse(Response, frozen=True):
    """A refused reading; ``item`` is its place in the part, from 1."""

    item: int
    device: str
    metric: str
    code: str
    reason: str


class ImportedReadingsResponse(Response, frozen=True):
    """What became of the readings of a part: ``count`` is ``stored + duplicates + conflicts + refused``.

    ``duplicates`` were there already, ``conflicts`` have the time of another value: the greater stays. A dry run counts
    what a run would count now. ``reasons`` counts the refused by code; ``failures`` has some.
    """

    count: int
    stored: int
    duplicates: int
    conflicts: int
    refused: int
    reasons: dict[str, int]
    failures: list[RefusedReadingResponse]


class SeriesResponse(Response, frozen=True):
    """A series of a device: its metric, its unit, and the kind of its newest reading."""

    device: str
    metric: str
    unit: str | None
    kind: SeriesKind


class LatestResponse(Response, frozen=True):
    """The reading with the newest event time of a series.

    A long text in ``value`` is cut to its first 256 characters, and ``characters`` is its full length; else that is
    null. ``GET /telemetry`` returns the whole text.
    """

    device: str
    metric: str
    value: Value
    unit: str | None
    time: Ms
    characters: int | None = None


class ReadingsResponse(Response, frozen=True):
    """Points of one series in order of time, ``[time, value]`` each."""

    device: str
    metric: str
    unit: str | None
    points: list[tuple[Ms, Value]]


class BucketResponse(Response, frozen=True):
    """The aggregate of a bucket's points."""

    start: Ms
    count: int
    min: float
    max: float
    mean: float
    sum: float
    first: float
    last: float


class BucketsResponse(Response, frozen=True):
    """One series in buckets; empty buckets are left out. ``texts`` counts readings that are in none."""

    device: str
    metric: str
    unit: str | None
    buckets: list[BucketResponse]
    texts: int = 0
