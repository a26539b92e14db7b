"""``fleetcore demo --replay``: sends recorded rows as a device, many rows a message, and reports the outcome.

A tick means that readings are stored, never that refusals were counted correctly. An interrupt stops the sending.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import Caller
from fleetcore.cli.demo_run import Account, server, until_interrupted
from fleetcore.cli.items import pages_of
from fleetcore.cli.progress import progress
from fleetcore.cli.recording import Recording, Row
from fleetcore.cli.refused import by_reason
from fleetcore.cli.simulated_fleet import SimulatedFleet
from fleetcore.cli.stored import stored_values
from fleetcore.cli.telemetry import sparkline
from fleetcore.frontends.catalogue import core
from fleetcore.testing.simulator import Behaviour, SimulatedDevice

#: Values of one message: with the longest metric names some 90 kB of the 256 KiB that a message may have.
_BATCH_VALUES = 1000
#: Messages waiting for their acknowledgement at once.
_IN_FLIGHT = 8
_HINTS = {
    "time_unit": "times must be ISO 8601 or ms since 1970, 1973 to 2096; `fleetcore telemetry import` also accepts s",
    "time_in_future": "times without an offset are UTC: write the offset",
}
_ANOMALIES_SHOWN = 10


async def replay_file(data: Path, file: Path, *, keep: bool) -> int:
    """Sends a file's readings through a real protocol, end to end; returns the exit code."""
    account = Account()
    recording = _recording(data, file)
    name = device_of(file)
    async with server(data) as (caller, ways):
        fleet = SimulatedFleet(caller, ways, data / "pki")
        try:
            device = await fleet.add(name, "replay", Behaviour(signals=()), way=ways[-1])
            begun = time.monotonic()
            with progress("replaying", recording.count) as step:
                await send_rows(device, recording.rows(), step)
            seconds = time.monotonic() - begun
            await caller.run("wait_idle", {})
            await _replayed(account, caller, device, recording.metrics)
            click.echo(f"  {device.sent} readings over {ways[-1].name} in {seconds:.1f} s")
            if keep:
                click.echo(f"\nrunning on {data}   (Ctrl-C ends it)")
                await until_interrupted()
        finally:
            await fleet.close()
    return account.close()


def device_of(file: Path) -> str:
    """The device that a file is replayed as."""
    return "replay-" + "".join(c if c.isalnum() or c in "._-" else "-" for c in file.stem)[:50]


def _recording(data: Path, file: Path) -> Recording:
    """The recording in a file. A pipe can be read only once, so its bytes are saved in the demo's folder."""
    if file.is_file():
        return Recording.read(file)
    kept = data / "recording.csv"
    with file.open("rb") as source, kept.open("wb") as target:
        shutil.copyfileobj(source, target)
    return Recording.read(kept, file)


async def send_rows(device: SimulatedDevice, rows: Iterable[Row], step: Callable[[int], None]) -> None:
    """Sends rows of (ms, values) in order; calls ``step`` with the number of rows in each message."""
    batches = batched(rows)

    async def send() -> None:
        for batch in batches:
            body = [{"time": time, "values": values} for time, values in batch]
            await device.send(body, sum(len(values) for _, values in batch))
            step(len(batch))

    async with asyncio.TaskGroup() as group:
        for _ in range(_IN_FLIGHT):
            group.create_task(send())


def batched(rows: Iterable[Row]) -> Iterator[Sequence[Row]]:
    """Rows in batches of at most this many values; a larger row is a batch by itself."""
    batch: list[Row] = []
    count = 0
    for row in rows:
        if batch and count + len(row[1]) > _BATCH_VALUES:
            yield batch
            batch, count = [], 0
        batch.append(row)
        count += len(row[1])
    if batch:
        yield batch


async def _replayed(account: Account, caller: Caller, device: SimulatedDevice, metrics: Sequence[str]) -> None:
    tally: Mapping[str, Any] = (await caller.run("get_status", {}))["readings"]
    account.taken(tally)
    for line in by_reason(tally["reasons"], _HINTS):
        click.echo(f"  {line}")
    account.check(
        device.sent == tally["sent"] == sum(tally[name] for name in ("stored", "duplicates", "conflicts", "refused")),
        "sent = stored + duplicates + conflicts + refused: "
        f"{device.sent} = {tally['stored']} + {tally['duplicates']} + {tally['conflicts']} + {tally['refused']}",
    )
    # MQTT acknowledges a message as a whole even if some readings are refused, so then it may be more.
    kept = device.sent - tally["refused"]
    account.check(
        kept <= device.acknowledged <= (device.sent if tally["refused"] else kept),
        f"{device.acknowledged} in messages acknowledged after their commit",
    )
    read = 0
    for metric in metrics:
        values = await stored_values(caller, device.device, metric)
        read += len(values)
        click.echo(f"  {metric:<24} {sparkline(values)}")
    (account.expect if read else account.check)(read == tally["stored"], f"{read} readings read back from the store")
    await _anomalies(caller, device.device)


async def _anomalies(caller: Caller, device: str) -> None:
    count = 0
    first: list[Any] = []
    async for page in pages_of(caller, core()["list_anomalies"], {"device": device}):
        count += len(page)
        first += page[: _ANOMALIES_SHOWN - len(first)]
    click.echo(f"  {count} anomalies found")
    for anomaly in first:
        click.echo(f"    {anomaly['time']} {anomaly['metric']}: {anomaly['explanation']}")
