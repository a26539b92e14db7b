"""Damage of the medium is seen: a flipped bit in anything that is stored is refused by reads and named by the check.

Bits are flipped in the rows themselves, by another connection, since a flip at a place of the file that holds nothing
shows nothing. What is read must be what was written, or refused.
"""

import contextlib
import random
import sqlite3
from collections.abc import Iterator

import numpy as np
import pytest

from fleetcore.errors import StorageError
from fleetcore.model.store import Commit, Event, MessageMark, Put, SeriesRequest
from fleetcore.model.telemetry import SeriesKind, TelemetryBatch, TextReading
from fleetcore.testing.storage_base import problems, readings, texts

MINUTES = 3 * 1440
START = 1_780_000_000_000


async def fill(open_at, folder):
    """A little of everything: sealed and unsealed readings, texts, marks, records, blobs, events, an artifact."""
    chance = random.Random(1)
    async with open_at(folder) as storage:
        wanted = [SeriesRequest("pump-1", f"m{n}", "Cel") for n in range(4)]
        numbers = [series.index for series in await storage.intern(wanted)]
        (text,) = await storage.intern([SeriesRequest("pump-1", "state", None, SeriesKind.TEXT)])
        for n, index in enumerate(numbers):
            values = np.round(np.cumsum([chance.gauss(0, 1) for _ in range(MINUTES)]), 2)
            times = START + 60_000 * np.arange(MINUTES)
            await storage.commit(Commit(readings=TelemetryBatch.of([index] * MINUTES, times, values + n)))
        await storage.maintain(START * 2)
        late = START + 60_000 * (MINUTES + np.arange(50))
        await storage.commit(Commit(readings=TelemetryBatch.of([numbers[0]] * 50, late, np.arange(50.0))))
        await storage.commit(
            Commit(
                texts=tuple(TextReading(text.index, START + n, START, f"open {n}") for n in range(50)),
                marks=tuple(
                    MessageMark(device="pump-1", id=f"m{n}", time=START, answer={"stored": n}) for n in range(50)
                ),
                puts=tuple(Put(kind="twin", key=f"d{n}", body={"desired": {"n": n}}, due=n) for n in range(50)),
                blobs={f"b{n}": bytes([n] * 40) for n in range(50)},
                events=tuple(Event(type="x.kit.happened", subject=f"d{n}", time=START) for n in range(5)),
            )
        )

        async def content():
            yield bytes(chance.randbytes(600_000))

        artifact = await storage.put_artifact(content(), sha256=None, limit_bytes=10**6)
    return [*numbers, text.index], artifact.sha256


async def look(storage, series, sha256):
    """Everything that a store shows, by what it is read by; what is refused is the error's code."""
    found = {}

    async def take(name, work):
        try:
            found[name] = await work
        except StorageError as error:
            found[name] = code_of(error)

    async def artifact():
        return b"".join([piece async for piece in storage.read_artifact(sha256)])

    async def known():
        return [(one.index, one.device, one.metric, one.unit) for one in await storage.series_of()]

    for index in series:
        await take(f"readings {index}", readings(storage, index))
        await take(f"texts {index}", texts(storage, index))
        await take(f"hours {index}", hours(storage, index))
    for n in range(50):
        await take(f"record {n}", storage.get("twin", f"d{n}"))
        await take(f"blob {n}", storage.blob(f"b{n}"))
    await take("page", storage.find("twin", limit=100))
    await take("due", storage.due("twin", 100))
    await take("marks", storage.marks("pump-1", [f"m{n}" for n in range(50)]))
    await take("feed", feed(storage))
    await take("series", known())
    await take("artifact", artifact())
    return found


def code_of(error):
    """Of a refusal; any other failure is a failure of the test."""
    if error.code != "data_damaged":
        raise error
    return error.code


async def hours(storage, index):
    found = await storage.aggregate(index, START, START + 60_000 * MINUTES, 3_600_000)
    return found.start.tolist(), found.mean.tolist()


async def feed(storage):
    return [
        (entry.position, None if entry.readings is None else entry.readings.value.tolist(), entry.texts, entry.events)
        for entry in await storage.feed(0)
    ]


#: Table, its key, and the columns that are damaged in turn.
COLUMNS = [
    ("chunk_bodies", "id", ["body"]),
    ("chunks", "id", ["t_min", "t_max", "n", "v_last", "q_last", "seq_last", "series"]),
    ("log", "position", ["readings", "extras"]),
    ("records", "rowid", ["body", "version"]),
    ("blobs", "rowid", ["body"]),
    ("texts", "time", ["value", "quality", "seq"]),
    ("marks", "id", ["answer"]),
    ("series", "id", ["metric", "unit"]),
]


@contextlib.contextmanager
def flipped(database, table, key, column, chance) -> Iterator[str]:
    """One bit of one value is another inside it; yields what was changed."""
    db = sqlite3.connect(database, isolation_level=None)
    try:
        row, value = chance.choice(
            db.execute(f"SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL").fetchall()
        )
        changed = flip(value, chance)
        where = f"UPDATE {table} SET {column} = {{}} WHERE {key} = ?"
        set_to = where.format("CAST(? AS TEXT)" if isinstance(value, str) else "?")
        try:
            db.execute(set_to, (changed, row))
        except sqlite3.IntegrityError:  # it became another row's key
            yield ""
            return
        yield f"{table}.{column} of {row}"
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (value, row))
    finally:
        db.close()


def flip(value, chance):
    if isinstance(value, int):
        return value ^ 1 << chance.randrange(40)
    if isinstance(value, float):
        raw = bytearray(np.float64(value).tobytes())
        raw[chance.randrange(7)] ^= 1 << chance.randrange(8)
        return float(np.frombuffer(bytes(raw))[0])
    raw = bytearray(value.encode() if isinstance(value, str) else value)
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return bytes(raw)


async def flips(open_at, folder, rounds, seed):
    """Flips bits in each column in turn; gives how many reads were refused, of how many flips."""
    series, sha256 = await fill(open_at, folder)
    async with open_at(folder) as storage:
        whole = await look(storage, series, sha256)
        assert "data_damaged" not in whole.values()
    chance = random.Random(seed)
    refused = 0
    for _ in range(rounds):
        for table, key, columns in COLUMNS:
            with flipped(folder / "fleet.db", table, key, chance.choice(columns), chance) as what:
                if what:
                    refused += await refusals(open_at, folder, series, sha256, whole, what)
    return refused


async def refusals(open_at, folder, series, sha256, whole, what):
    """How many reads are refused with a damaged row; none may show anything but what was written."""
    try:
        async with open_at(folder) as storage:
            found = await look(storage, series, sha256)
            named = await problems(storage)
    except StorageError as error:
        code_of(error)
        return 1
    wrong = [name for name in whole if found[name] not in (whole[name], "data_damaged")]
    if what.startswith("marks"):
        # A damaged mark is a message that is not known: its readings count as duplicates.
        wrong = [name for name in wrong if name != "marks"]
        assert all(whole["marks"][index] == mark for index, mark in found["marks"].items())
    if what.startswith("series"):
        # What a damaged series is called is not sure, so its readings are refused.
        wrong = [name for name in wrong if name not in ("series", "feed")]
    assert wrong == [], what
    rebuilt = what.startswith("chunks")
    assert bool(named) != rebuilt, f"{what}: {named}"
    return list(found.values()).count("data_damaged")


async def test_a_flipped_bit_is_never_served_and_always_named(open_at, tmp_path):
    assert await flips(open_at, tmp_path / "data", rounds=12, seed=7) > 50


@pytest.mark.soak
async def test_ten_thousand_flipped_bits(open_at, tmp_path):
    assert await flips(open_at, tmp_path / "data", rounds=1250, seed=11) > 5000
