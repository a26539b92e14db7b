"""The store: its size, which readings are too old, and what removed components left behind."""

from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller
from fleetcore.calls.cursors import page_of
from fleetcore.calls.responses.storage import (
    LeftBehindResponse,
    MetricRetentionResponse,
    RetentionResponse,
    StorageResponse,
)
from fleetcore.calls.table import call
from fleetcore.calls.types import Cursor, Limit, Ms, Names, Page, Reason, to_response
from fleetcore.model.days import DAY_MS
from fleetcore.model.names import MAX_METRIC_LENGTH, METRIC_ALPHABET
from fleetcore.model.operator import Permission
from fleetcore.model.retention import Periods, fits

Days = Annotated[float, Meta(ge=1 / 1440, le=100_000, description="Assume this period instead of the configured one.")]
OfMetrics = Annotated[
    str,
    Meta(
        pattern=rf"^[{METRIC_ALPHABET}*]{{1,{MAX_METRIC_LENGTH}}}$(?!\n)",
        description="Only this metric, or those that a pattern with `*` matches.",
    ),
]
LeftBehindName = Annotated[
    str,
    Meta(pattern=r"^(detector|notifier|mirror)/[^\n\x00]{1,128}$(?!\n)", description="The name, from the list."),
    Names("list_left_behind", "name"),
]


@call("GET /storage", Permission.SERVER_READ, cli="storage show")
async def get_storage(caller: Caller) -> StorageResponse:
    """Shows how much room the store takes by part, its limit, and what retention dropped so far."""
    size, retention = await caller.fleet.storage.size(), caller.fleet.retention
    periods = retention.periods
    return StorageResponse(
        total_bytes=size.total_bytes,
        limit_bytes=size.limit_bytes,
        free_bytes=size.free_bytes,
        parts=dict(size.parts),
        retention=RetentionResponse(
            default_days=_days(periods.default_ms),
            metric_days={pattern: _days(period) for pattern, period in periods.metrics.items()},
            readings=retention.dropped.readings,
            texts=retention.dropped.texts,
            size_bytes=retention.dropped.size_bytes,
            last=Ms(retention.last_ms) if retention.last_ms else None,
        ),
    )


@call(
    "GET /storage/retention", Permission.SERVER_READ, cli="storage retention",
    columns=("metric", "days", "series", "readings", "texts", "size_bytes"),
)  # fmt: skip
async def list_due_readings(
    caller: Caller,
    *,
    days: Days | None = None,
    metric: OfMetrics | None = None,
    limit: Limit = 100,
    cursor: Cursor | None = None,
) -> Page[MetricRetentionResponse]:
    """Lists what retention would drop now, metric by metric: a dry run, which drops nothing.

    Without ``days`` the configured periods apply. Readings received within the last hour are dropped an hour later.

    Raises:
        Refused: the store does not drop readings by age.
    """
    fleet = caller.fleet
    periods = fleet.retention.periods
    if days is not None:
        periods = Periods(default_ms=round(days * DAY_MS))
    names = [name for name in sorted(fleet.storage.catalog.by_metric()) if metric is None or fits(metric, name)]
    page = page_of(names, cursor, limit, lambda name: name, lambda name: name)
    return Page(
        [
            to_response(MetricRetentionResponse, found, days=_days(found.period_ms))
            for found in await fleet.retention.due(periods, page.items)
        ],
        page.next,
    )


@call(
    "GET /storage/left-behind", Permission.SERVER_READ, cli="storage left-behind", columns=("name", "behind", "goes"),
)  # fmt: skip
async def list_left_behind(
    caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[LeftBehindResponse]:
    """Lists detectors, notifiers and clouds that are no longer configured and still hold the log back."""
    found = await caller.fleet.left_behind.behind()
    goes = caller.fleet.left_behind.found
    return page_of(
        sorted(found), cursor, limit, lambda name: name,
        lambda name: LeftBehindResponse(name=name, goes=Ms(goes[name]), behind=found[name]),
    )  # fmt: skip


@call(
    "DELETE /storage/left-behind/{name}", Permission.SERVER_WRITE, cli="storage drop NAME", status=204,
    confirm="Drops the feed position and the state of {name}: configured again, it starts anew.",
)  # fmt: skip
async def drop_left_behind(caller: Caller, name: LeftBehindName, *, reason: Reason = "") -> None:
    """Drops the cursor and the state of a component that is no longer configured, before this happens automatically.

    Raises:
        NotFound: it left nothing behind.
        Conflict: it is configured.
    """
    await caller.fleet.left_behind.drop(name, actor=caller.actor, reason=reason)


def _days(period_ms: int | None) -> float | None:
    return None if period_ms is None else period_ms / DAY_MS
