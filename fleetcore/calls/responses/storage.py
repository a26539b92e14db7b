"""The store: its size, what retention drops, and what removed pieces left behind."""

from fleetcore.calls.types import Ms, Response


class RetentionResponse(Response, frozen=True):
    """The settings of ``[retention]``, and what was dropped so far; null days mean forever.

    ``last`` is the end of the last pass over all series since the server started.
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
    """The readings of a metric that are due: ``readings`` and ``texts`` to drop now, and about how much room they take.

    ``days`` is how long its readings are stored, null forever; ``series`` how many devices have it.
    """

    metric: str
    days: float | None
    series: int
    readings: int
    texts: int
    size_bytes: int


class LeftBehindResponse(Response, frozen=True):
    """The feed position of a piece that is no longer configured.

    ``goes`` is when it is dropped automatically, ``behind`` how many commits it holds back.
    """

    name: str
    goes: Ms
    behind: int
