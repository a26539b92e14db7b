"""A plot of 10 M readings: ``telemetry plot`` of one series in a folder, in the terminal and into a file.

Against programs that read all readings into numpy and draw the same columns: through the library, and from a bare
``.npy`` file in the page cache, which is the machine's own limit. Each is a process of its own, started in turn.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, timed_program
from fleetcore import IoTFleetManager
from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.storage import open_sqlite
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import Float64, Int64, TelemetryBatch
from fleetcore.testing import context

_START_MS = 1_750_000_000_000
_COMMIT = 100_000
_COLUMNS = 240
_TIMES = 3
#: Reduces ``time`` and ``value`` to columns and prints how many there are.
_REDUCE = f"""
column = (time - time[0]) * {_COLUMNS} // (time[-1] - time[0] + 1)
starts = np.flatnonzero(np.diff(column, prepend=-1))
low, high = np.minimum.reduceat(value, starts), np.maximum.reduceat(value, starts)
print(len(low), len(high))
"""
_LIBRARY = f"""
import sys
from fleetcore import IoTFleetManager
import numpy as np
with IoTFleetManager.sync(sys.argv[1]) as manager:
    found = manager.query_telemetry("d-0", "temperature")
time, value = found.time, found.value
{_REDUCE}"""
_BARE = f"""
import sys
import numpy as np
time, value = np.load(sys.argv[1] + "/time.npy"), np.load(sys.argv[1] + "/value.npy")
{_REDUCE}"""


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    count = 1_000_000 if quick else 10_000_000
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        fleet = folder / "fleet"
        with IoTFleetManager.sync(fleet) as manager:
            manager.register_device("d-0", "sensor")
        time, value = _readings(count)
        asyncio.run(_fill(fleet, time, value))
        np.save(folder / "time.npy", time)
        np.save(folder / "value.npy", value)
        del time, value
        plot = [sys.executable, "-m", "fleetcore", "telemetry", "plot", "d-0", "temperature", "--data", str(fleet)]
        seconds, mib = _in_turn({
            "terminal": [*plot, "--width", str(_COLUMNS // 2)],
            "file": [*plot, "--save", str(folder / "plot.png")],
            "library": [sys.executable, "-c", _LIBRARY, str(fleet)],
            "bare": [sys.executable, "-c", _BARE, str(folder)],
            "nothing": [sys.executable, "-m", "fleetcore", "telemetry", "series", "--data", str(fleet)],
        })  # fmt: skip
    library = f"all points read through the library ({seconds['library']:.3g} s, {mib['library']:.3g} MiB)"
    bare = f"the points in a .npy file and numpy ({seconds['bare']:.3g} s, {mib['bare']:.3g} MiB)"
    return [
        Row(name="a command that reads one row", value=seconds["nothing"], unit="s"),
        Row(name="its memory", value=mib["nothing"], unit="MiB"),
        Row(name=f"plot of {count:,} readings into a .png", value=seconds["file"], unit="s"),
        Row(name="memory of the plot into a .png", value=mib["file"], unit="MiB"),
        *(
            row
            for name, against in (("library", library), ("bare", bare))
            for row in (
                Row(
                    name=f"plot of {count:,} readings", value=seconds["terminal"], unit="s",
                    against=against, ratio=seconds[name] / seconds["terminal"],
                ),
                Row(
                    name="memory of the plot", value=mib["terminal"], unit="MiB",
                    against=against, ratio=mib[name] / mib["terminal"],
                ),
            )
        ),
    ]  # fmt: skip


def _in_turn(programs: Mapping[str, list[str]]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds and MiB of each, the medians of some runs in turn."""
    found = {name: [timed_program(words)] for name, words in programs.items()}
    for _ in range(_TIMES - 1):
        for name, words in programs.items():
            found[name].append(timed_program(words))
    return (
        {name: statistics.median(seconds for seconds, _ in each) for name, each in found.items()},
        {name: statistics.median(mib for _, mib in each) for name, each in found.items()},
    )


def _readings(count: int) -> tuple[Int64, Float64]:
    """One series that reports every second: a slow wave of two decimals."""
    seconds = np.arange(count, dtype=np.int64)
    value = np.round(20 + 5 * np.sin(seconds / 70_000) + np.random.default_rng(4).normal(0, 0.2, count), 2)
    return _START_MS + seconds * 1000, value


async def _fill(fleet: Path, time: Int64, value: Float64) -> None:
    async with open_sqlite(SqliteConfig(), context(data=fleet)) as storage:
        (series,) = await storage.intern([SeriesRequest("d-0", "temperature", "celsius")])
        for at in range(0, len(time), _COMMIT):
            part = slice(at, at + _COMMIT)
            index = np.full(len(time[part]), series.index, np.int64)
            await storage.commit(Commit(readings=TelemetryBatch.of(index, time[part], value[part])))
