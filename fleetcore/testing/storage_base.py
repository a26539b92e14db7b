"""Shared by the chapters of the storage contract: the fixtures to override, and short helpers."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio
from attrs import evolve

from fleetcore.interfaces.storage import Storage
from fleetcore.model.parts import parts
from fleetcore.model.store import Commit, Committed, Event, Put, SeriesRequest
from fleetcore.model.telemetry import NO_SEQ, TelemetryBatch, TextReading
from fleetcore.testing.contract import Contract, missing

OpenStorage = Callable[[], AbstractAsyncContextManager[Storage]]
OpenBackup = Callable[[Path], AbstractAsyncContextManager[Storage]]

#: A range with everything that a test writes.
ALWAYS = (-(2**50), 2**50)


class StorageCase(Contract):
    """The fixtures of all chapters.

    Each test has its own store, and opens it from one process at a time: a fleet's lease on its data folder ensures
    that before any store is opened.
    """

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def open_storage(self) -> OpenStorage:
        """Opens an empty store, another one at each call."""
        raise missing(self, "open_storage")

    @pytest.fixture
    def open_again(self) -> OpenStorage:
        """Opens the same store at each call, empty at the first; not overridden by a store that is not durable."""
        pytest.skip("this store does not outlive its opening")

    @pytest.fixture
    def open_backup(self) -> OpenBackup:
        """Opens the store that ``backup()`` wrote into a folder."""
        pytest.skip("no way to open a backup is given")

    @pytest_asyncio.fixture
    async def storage(self, open_storage: OpenStorage) -> AsyncIterator[Storage]:
        """An empty store."""
        async with open_storage() as opened:
            yield opened


def put(key: str, body: dict[str, object] | None = None, *, expect: int | None = None) -> Put:
    """A put of kind ``thing``."""
    return Put(kind="thing", key=key, body=body if body is not None else {"key": key}, expect=expect)


def event(number: int) -> Event:
    """An event with a number."""
    return Event(type="happened", subject=f"device-{number}", time=number, data={"number": number})


async def series(storage: Storage, *metrics: str, device: str = "device") -> list[int]:
    """Indices of series of one device."""
    return [item.index for item in await storage.intern([SeriesRequest(device, metric) for metric in metrics])]


async def store(
    storage: Storage,
    index: int,
    time: Sequence[int],
    value: Sequence[float],
    *,
    seq: Sequence[int] | int = NO_SEQ,
    quality: Sequence[int] | int = 0,
) -> Committed:
    """Commits readings of one series."""
    batch = TelemetryBatch.of([index] * len(time), time, value, seq=seq, quality=quality)
    return await storage.commit(Commit(readings=batch))


async def readings(
    storage: Storage, index: int, start: int = ALWAYS[0], end: int = ALWAYS[1]
) -> list[tuple[int, float]]:
    """Times and values of a series."""
    found: list[tuple[int, float]] = []
    async for piece in storage.read(index, start, end):
        found += zip(piece.time.tolist(), piece.value.tolist(), strict=True)
    return found


async def texts(storage: Storage, index: int, start: int = ALWAYS[0], end: int = ALWAYS[1]) -> list[TextReading]:
    """Text readings of a series."""
    return [reading async for reading in storage.read_texts(index, start, end)]


async def shown(storage: Storage, after: int = 0) -> list[tuple[int, int, float]]:
    """Series, time and value of all readings in the feed, in order."""
    found: list[tuple[int, int, float]] = []
    for entry in await storage.feed(after):
        if entry.readings is not None:
            batch = entry.readings
            found += zip(batch.series.tolist(), batch.time.tolist(), batch.value.tolist(), strict=True)
    return found


async def problems(storage: Storage) -> list[str]:
    """The findings of both checks: the quick one, and all parts of the full one."""
    found = list(await storage.check())
    named: set[str] = set()
    async for part in parts(storage.verify, lambda part: part.after):
        assert 0 <= part.done <= part.total, "a check must show its progress"
        found += part.problems
        if part.after is None:
            assert part.done == part.total, "the last part must end at the total"
        else:
            assert part.after not in named, "a check must advance"
            named.add(part.after)
    return found


def columns(batch: TelemetryBatch) -> dict[str, list[float]]:
    """A batch's columns, as a failed assertion can show them; without ``received``, which a store need not keep."""
    return {column: getattr(batch, column).tolist() for column in ("series", "time", "value", "quality", "seq")}


def kept(texts: Sequence[TextReading]) -> list[TextReading]:
    """Text readings without ``received``, which a store need not keep."""
    return [evolve(text, received=0) for text in texts]
