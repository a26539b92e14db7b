"""Importing readings: rows per second of ``telemetry import``, its peak memory, and other importers of the same file.

Against ``sqlite-utils insert`` of the same CSV, and against a bare parse of it (csv, float, fromisoformat) into numpy
columns with one commit of the store.
"""

import asyncio
import csv
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, program, timed_program
from fleetcore import IoTFleetManager
from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.storage import open_sqlite
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing import context

_DEVICES = 100
_START_S = 1_750_000_000


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    count = 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        file = _write(folder / "readings.csv", count)
        with IoTFleetManager.sync(folder / "fleet") as manager:
            for number in range(_DEVICES):
                manager.register_device(f"d-{number}", "sensor")
        words = [sys.executable, "-m", "fleetcore", "telemetry", "import", str(file), "--data", str(folder / "fleet")]
        ours, peak = timed_program(words)
        again, _ = timed_program(words)
        bare = _bare(folder / "bare", file)
        rows = [
            Row(name=f"import of {count:,} readings", value=count / ours, unit="rows/s"),
            Row(name="the same file again", value=count / again, unit="rows/s"),
            Row(name="peak memory of the import", value=peak, unit="MiB"),
            Row(
                name=f"import of {count:,} readings", value=count / ours, unit="rows/s",
                against=f"bare parse and commit ({count / bare:.4g} rows/s)", ratio=bare / ours,
            ),
        ]  # fmt: skip
        tool = program("sqlite-utils", "the import is not compared with it")
        if tool is None:
            return rows
        theirs, their_peak = timed_program([tool, "insert", str(folder / "other.db"), "readings", str(file), "--csv"])
        return [
            *rows,
            Row(
                name=f"import of {count:,} readings", value=count / ours, unit="rows/s",
                against=f"sqlite-utils insert ({count / theirs:.4g} rows/s, {their_peak:.4g} MiB)", ratio=theirs / ours,
            ),
        ]  # fmt: skip


def _write(file: Path, count: int) -> Path:
    with file.open("w", encoding="utf-8") as opened:
        opened.write("device,metric,time,value,unit\n")
        for at in range(count):
            when = datetime.fromtimestamp(_START_S + at // _DEVICES, UTC).isoformat()
            opened.write(f"d-{at % _DEVICES},temperature,{when},{20 + at % 97 / 10},celsius\n")
    return file


def _bare(folder: Path, file: Path) -> float:
    async def work() -> float:
        async with open_sqlite(SqliteConfig(), context(data=folder)) as storage:
            begun = time.perf_counter()
            names: dict[str, int] = {}
            at, when, value = [], [], []
            with file.open(encoding="utf-8", newline="") as opened:
                lines = csv.reader(opened)
                next(lines)
                for device, _, written, reading, _ in lines:
                    at.append(names.setdefault(device, len(names)))
                    when.append(datetime.fromisoformat(written).timestamp())
                    value.append(float(reading))
            made = await storage.intern([SeriesRequest(name, "temperature", "celsius") for name in names])
            index = np.array([series.index for series in made])
            times = (np.array(when) * 1000).astype(np.int64)
            await storage.commit(Commit(readings=TelemetryBatch.of(index[np.array(at)], times, np.array(value))))
            return time.perf_counter() - begun

    return asyncio.run(work())
