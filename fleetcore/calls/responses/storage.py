"""The store: what it takes, what retention drops of it, and what removed pieces left behind."""

from fleetcore.calls.types import Ms, Response


class RetentionResponse(Response, frozen=True):
    """What ``[retention]`` says, and what went so far; null days are for ever.

    ``last`` is when a pass over all series ended last, since the server started.
    """

    default_days: float | None
    metric_days: dict[str, float | None]
    readings: int
    texts: int
    size_bytes: int
    last: Ms | None


class StorageResponse(Response, frozen=True):
    """How much room the store takes, in bytes.

    ``parts`` are ``database``, ``log`` (the write-ahead log), ``artifacts`` and ``other`` files below the data folder;
    ``free_bytes`` of them are used again before anything grows. Without ``limit_bytes`` the disk is the limit.
    """

    total_bytes: int
    limit_bytes: int | None
    free_bytes: int
    parts: dict[str, int]
    retention: RetentionResponse


class MetricRetentionResponse(Response, frozen=True):
    """What of a metric is due: ``readings`` and ``texts`` that would go now, and about how much room they take.

    ``days`` is how long its readings are kept, null for ever; ``series`` how many devices have it.
    """

    metric: str
    days: float | None
    series: int
    readings: int
    texts: int
    size_bytes: int


class LeftBehindResponse(Response, frozen=True):
    """The place in the log of a piece that is not configured any more.

    ``goes`` is when it goes by itself, ``behind`` how many commits it holds back.
    """

    name: str
    goes: Ms
    behind: int
