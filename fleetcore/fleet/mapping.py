"""The map of distributed processing: a gateway summarises its own readings, a part at a time.

It reads in pieces and holds one part in memory. A part ends before it is too long for a command's output, and says
where the next one begins; so the core asks until it has all.
"""

import asyncio
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from fleetcore.errors import Refused
from fleetcore.interfaces.storage import Storage
from fleetcore.model.summaries import Key, Part, Summary, Table, part_to_document, read_place
from fleetcore.model.telemetry import Int64, Series
from fleetcore.wire.messages import OUTPUT_BYTES

#: The name of the gateway's command.
MAP = "edge.map"
#: How many readings are added at once: so many buckets of a sketch one step may add at most.
_STEP = 512
#: A part ends once it has so many bytes: one step and its names fit into the rest of the output.
_PART_BYTES = OUTPUT_BYTES - 20 * 1024
#: Names of metrics in the answer where none is as wanted.
_KNOWN = 20
#: After how many steps others get their turn.
_TURN = 16


@frozen(kw_only=True)
class Wanted:
    """What a gateway is to summarise.

    Attributes:
        metric: a pattern with ``*`` and ``?``.
        start, end: of the readings, ``start <= time < end``, ms since the epoch.
        bucket_ms: the length of a bucket; None for one over the whole range, which begins with it.
        groups: the devices of each group.
        by_device: each device is a group of its own.
        sketched: whether quantiles are wanted.
        after: where the part begins.
    """

    metric: str
    start: int
    end: int
    bucket_ms: int | None = None
    groups: Mapping[str, Sequence[str]] = field(factory=dict)
    by_device: bool = False
    sketched: bool = False
    after: tuple[str, str, int] | None = None

    def to_arguments(self) -> dict[str, object]:
        """As the arguments of the command."""
        return {
            "metric": self.metric, "start": self.start, "end": self.end, "bucket_ms": self.bucket_ms,
            "groups": {name: list(devices) for name, devices in self.groups.items()}, "by_device": self.by_device,
            "sketched": self.sketched, "after": None if self.after is None else list(self.after),
        }  # fmt: skip


def read_wanted(arguments: Mapping[str, object]) -> Wanted:
    """The arguments of a command; raises Refused with the ``pointer`` of a wrong one."""
    given: dict[str, Any] = dict(arguments)
    for name in ("start", "end"):
        if type(given.get(name)) is not int:
            raise Refused(f"{name} is a time in ms", pointer=f"/{name}")
    bucket, groups = given.get("bucket_ms"), given.get("groups")
    if bucket is not None and not (type(bucket) is int and bucket > 0):
        raise Refused("bucket_ms is a number of milliseconds", pointer="/bucket_ms")
    if not isinstance(given.get("metric"), str):
        raise Refused("metric is a pattern", pointer="/metric")
    if not isinstance(groups, Mapping) or not all(
        isinstance(devices, Sequence) and all(isinstance(device, str) for device in devices)
        for devices in groups.values()
    ):
        raise Refused("groups has the devices of each group", pointer="/groups")
    return Wanted(
        metric=given["metric"], start=given["start"], end=given["end"], bucket_ms=bucket, groups=groups,
        by_device=given.get("by_device") is True, sketched=given.get("sketched") is True,
        after=read_place(given.get("after")),
    )  # fmt: skip


def check_answer(table: Table, wanted: Wanted) -> None:
    """Raises Refused where summaries are of something else than what was wanted: a gateway may have made them up."""
    groups = set(wanted.groups)
    if wanted.by_device:
        groups = {device for devices in wanted.groups.values() for device in devices}
    bucket = wanted.bucket_ms
    for key in table:
        if key.group not in groups or not fnmatch.fnmatchcase(key.metric, wanted.metric):
            raise Refused(f"{key.metric} of {key.group!r} was not asked for")
        if bucket is None:
            fits = key.start == wanted.start
        else:
            fits = not key.start % bucket and wanted.start - bucket < key.start < wanted.end
        if not fits:
            raise Refused(f"{key.start} is not the start of a bucket")


async def summarise(
    storage: Storage, wanted: Wanted, progress: Callable[[float], None] = lambda _percent: None
) -> dict[str, object]:
    """The next part of the summaries, as JSON of at most ``OUTPUT_BYTES``.

    Texts are not counted; true is 1 and false is 0.
    """
    group_of = {device: group for group, devices in wanted.groups.items() for device in devices}
    there = [series for device in sorted(group_of) for series in await storage.series_of(device)]
    matching = sorted(
        (series for series in there if fnmatch.fnmatchcase(series.metric, wanted.metric)),
        key=lambda series: (series.device, series.metric),
    )
    left = [each for each in matching if wanted.after is None or (each.device, each.metric) >= wanted.after[:2]]
    known = () if matching else sorted({series.metric for series in there})[:_KNOWN]
    table, place = Table(), None
    size = sum(len(name) + 4 for name in known)
    for number, series in enumerate(left):
        progress(100 * (len(matching) - len(left) + number) / len(matching))
        first = wanted.after is not None and (series.device, series.metric) == wanted.after[:2]
        start = wanted.after[2] if first and wanted.after is not None else wanted.start
        group = series.device if wanted.by_device else group_of[series.device]
        size, place = await _add(storage, series, group, start, wanted, table, size)
        if place is not None:
            break
    counted = len(matching) if wanted.after is None else 0
    part = Part(table=table, series=counted, next=place, metrics=known)
    return part_to_document(part, sketched=wanted.sketched)


async def _add(
    storage: Storage, series: Series, group: str, start: int, wanted: Wanted, table: Table, size: int
) -> tuple[int, tuple[str, str, int] | None]:
    """Adds a series from a time on; returns the part's size, and where the next part begins."""
    steps = 0
    async for piece in storage.read(series.index, start, wanted.end):
        for bucket, low, high in _steps(piece.time, wanted):
            if size >= _PART_BYTES:
                return size, (series.device, series.metric, int(piece.time[low]))
            key = Key(series.metric, group, bucket)
            summary = table.get(key)
            before = -len(series.metric) - 2 * len(group) if summary is None else summary.bytes
            if summary is None:
                summary = table[key] = Summary()
            summary.add(piece.value[low:high], sketched=wanted.sketched)
            size += summary.bytes - before
            steps += 1
            if steps % _TURN == 0:
                await asyncio.sleep(0)
    return size, None


def _steps(time: Int64, wanted: Wanted) -> Iterator[tuple[int, int, int]]:
    """The bucket's start, and the first and the last place of each step of a piece."""
    if wanted.bucket_ms is None:
        borders, starts = [0, len(time)], [wanted.start]
    else:
        bucket = time // wanted.bucket_ms
        first = np.flatnonzero(np.diff(bucket)) + 1
        borders = [0, *first.tolist(), len(time)]
        starts = [int(bucket[at]) * wanted.bucket_ms for at in borders[:-1]]
    for start, low, high in zip(starts, borders, borders[1:], strict=False):
        for at in range(low, high, _STEP):
            yield start, at, min(at + _STEP, high)
