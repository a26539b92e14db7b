"""What ``fleetcore demo`` does: a server with every installed protocol, devices over each, and an honest account."""

import asyncio
import csv
import math
import random
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import Caller, connect
from fleetcore.cli.items import items_of
from fleetcore.cli.progress import progress
from fleetcore.cli.serve import running
from fleetcore.cli.simulated_fleet import SimulatedFleet, Way, ways_in
from fleetcore.cli.telemetry import sparkline
from fleetcore.errors import NotFound, Refused
from fleetcore.frontends.catalogue import PAGE, core
from fleetcore.interfaces.provider import Provider
from fleetcore.runtime.plugins import PluginHost
from fleetcore.testing.simulator import Behaviour, Signal

_STEP_S = 60  # simulated seconds between two readings of a device
_FAULT = 25.0  # added to the value; the noise is 0.15
_IN_FLIGHT = 64
_CELLS = "Times are ISO 8601 or ms since the epoch, values numbers"
_LONGEST_DATE = 8  # digits: ISO 8601 also writes 20260131
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._/-]+", re.ASCII)
_LONGEST_METRIC = 64
_FIRMWARE = b"fleetcore demo firmware 2.0.0\n" * 2048

_TOML = """\
[fleet]
name = "demo"
data = "."
hosts = ["127.0.0.1", "localhost"]

[limits]
rate_per_s = 100000.0
burst = 100000

[detectors.statistical]

{protocols}
"""


@asynccontextmanager
async def _server(data: Path) -> AsyncIterator[tuple[Caller, list[Way]]]:
    """A server on free loopback ports with every network protocol that is installed."""
    offers = PluginHost().offers("protocols")
    network = {name: one for name, one in offers.items() if one.demo is not None and name != "local"}
    chosen = network or {"local": offers["local"]}
    (data / "fleet.toml").write_text(_TOML.format(protocols="\n".join(map(_section, chosen.values()))))
    async with running(data, create=True) as endpoints, connect(data) as caller:
        names = ", ".join(f"{name} ({', '.join(urls)})" for name, urls in endpoints.items())
        click.echo(f"server   {names}")
        if set(chosen) == {"local"}:
            click.echo("         no network protocol is installed, so the devices run in process")
        status = await caller.run("get_status", {})
        yield caller, ways_in(status["protocols"], offers)


def _section(provider: Provider[Any]) -> str:
    import json

    lines = [
        f"[protocols.{provider.name}]",
        *(f"{key} = {json.dumps(value)}" for key, value in (provider.demo or {}).items()),
    ]
    return "\n".join(lines)


class Account:
    """What was set out and what happened; every line that does not hold makes the demo fail."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def expect(self, holds: bool, text: str) -> None:
        """Prints a line with its mark."""
        click.echo(f"{'✓' if holds else '✗'} {text}")
        if not holds:
            self.failed.append(text)

    def close(self) -> int:
        """The exit code."""
        if self.failed:
            click.echo(f"{len(self.failed)} of these did not happen as it should", err=True)
        return int(bool(self.failed))


def _behaviours(count: int, steps: int, seed: int) -> list[Behaviour]:
    # Seeded, so that a demo can be repeated; nothing secret comes from it.
    chance = random.Random(seed)  # noqa: S311
    troubled = set(chance.sample(range(count), max(1, count // 4)))
    failing = set(chance.sample(range(count), max(1, count // 6)))
    found = []
    for number in range(count):
        faults = {}
        if number in troubled:
            faults[chance.randrange(steps * 2 // 3, steps - 1) * _STEP_S] = _FAULT * chance.choice((-1, 1))
        temperature = Signal(metric="temperature", unit="Cel", mean=20 + number % 5, swing=2, noise=0.15, faults=faults)
        humidity = Signal(metric="humidity", unit="%RH", mean=55, swing=4, noise=0.4)
        found.append(
            Behaviour(signals=(temperature, humidity), firmware_fails="health_failed" if number in failing else None)
        )
    return found


async def run_demo(data: Path, devices: int, duration: float, seed: int, *, keep: bool) -> int:
    """The demo without a file; returns the exit code."""
    account = Account()
    steps = max(240, int(duration * 24))
    behaviours = _behaviours(devices, steps, seed)
    async with _server(data) as (caller, ways):
        fleet = SimulatedFleet(caller, ways, data / "pki")
        names = [f"demo-{number:04d}" for number in range(1, devices + 1)]
        try:
            with progress("enrolling", devices) as step:
                await fleet.add_all(names, "climate-sensor", behaviours, step)
            await _enrolled(account, caller, fleet, ways)
            await _telemetry(account, caller, fleet, steps, duration)
            await _anomalies(account, caller, fleet)
            await _firmware(account, caller, fleet)
            await _commands(account, caller, fleet)
            await _health(caller)
            if keep:
                click.echo(f"\nstaying up on {data}; try: fleetcore device list --data {data}   (Ctrl-C ends it)")
                await _until_interrupted()
        finally:
            await fleet.close()
    return account.close()


async def _until_interrupted() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def _enrolled(account: Account, caller: Caller, fleet: SimulatedFleet, ways: Sequence[Way]) -> None:
    listed = (await caller.run("list_devices", {"tag": "simulated", "limit": PAGE}))["items"]
    shares = {way.name: sum(way.name in one["tags"] for one in listed) for way in ways}
    online = sum(one["connectivity"] == "online" for one in listed)
    spread = ", ".join(f"{count} over {name}" for name, count in shares.items())
    account.expect(
        online == len(fleet.devices) == len(listed), f"{online} devices enrolled with certificates and online: {spread}"
    )


async def _telemetry(account: Account, caller: Caller, fleet: SimulatedFleet, steps: int, duration: float) -> None:
    start_ms = int(time.time() * 1000) - steps * _STEP_S * 1000
    begun = time.monotonic()
    with progress("telemetry", steps) as step:
        for number in range(steps):
            await asyncio.gather(*(device.send_second(number * _STEP_S, start_ms) for device in fleet.devices))
            step()
            await asyncio.sleep(max(0.0, begun + duration * (number + 1) / steps - time.monotonic()))
    sent = sum(device.sent for device in fleet.devices)
    acknowledged = sum(device.acknowledged for device in fleet.devices)
    tally = (await caller.run("get_status", {}))["readings"]
    account.expect(
        sent == acknowledged == tally["stored"],
        f"{sent} readings sent, {acknowledged} acknowledged after their commit, {tally['stored']} stored, "
        f"{sent / (time.monotonic() - begun):.0f} a second",
    )


async def _anomalies(account: Account, caller: Caller, fleet: SimulatedFleet) -> None:
    await caller.run("wait_idle", {})
    found = await items_of(caller, core()["list_anomalies"], {})
    hit = {one["device"] for one in found if one["metric"] == "temperature"}
    injected = {device.device for device in fleet.devices if device.behaviour.signals[0].faults}
    others = len(hit - injected)
    account.expect(
        injected <= hit and others <= len(fleet.devices) // 6,
        f"{len(injected)} devices with an injected fault, {len(injected & hit)} found, {others} found without one",
    )
    for one in found[:3]:
        click.echo(f"    {one['time']} {one['device']} {one['metric']}: {one['explanation']}")
    worst = min(injected)
    click.echo(f"    {worst} {sparkline([value for _, value in await _points(caller, worst, 'temperature')], 60)}")


async def _points(caller: Caller, device: str, metric: str) -> list[Any]:
    asked = {"device": device, "metric": metric, "points": 10_000}
    try:
        series = await items_of(caller, core()["list_readings"], asked)
    except NotFound:  # every reading of it was refused, or its cells are empty
        return []
    return [point for part in series for point in part["points"]]


async def _campaign(caller: Caller, name: str, devices: Sequence[str], artifact: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        "id": name, "release": "2.0.0", "devices": list(devices), "url": "https://updates.example.com/v2.0.0",
        "sha256": artifact["sha256"], "size": artifact["size_bytes"],
    }  # fmt: skip
    await caller.run("create_campaign", given)
    for _ in range(300):
        campaign: dict[str, Any] = await caller.run("get_campaign", {"campaign": name})
        if campaign["state"] not in ("draft", "running"):
            break
        await asyncio.sleep(0.1)
    return campaign


async def _firmware(account: Account, caller: Caller, fleet: SimulatedFleet) -> None:
    artifact = await caller.run("upload_artifact", {"content": _FIRMWARE})
    names = [device.device for device in fleet.devices]
    fails = {device.device for device in fleet.devices if device.behaviour.firmware_fails}
    good = [name for name in names if name not in fails]
    canary, rest = good[:2], [name for name in names if name not in good[:2]]
    first = await _campaign(caller, "demo-canary", canary, artifact)
    account.expect(first["state"] == "succeeded", f"firmware 2.0.0 on {len(canary)} canary devices: {first['reason']}")
    second = await _campaign(caller, "demo-rest", rest, artifact)
    executions = (await caller.run("list_executions", {"campaign": "demo-rest", "limit": 1000}))["items"]
    failed = {one["device"] for one in executions if one["state"] == "failed"}
    running = sum(device.firmware == "2.0.0" for device in fleet.devices)
    account.expect(
        second["state"] == "succeeded" and failed == fails and running == len(good),
        f"firmware 2.0.0 on the other {len(rest)}: {second['reason']}; {len(failed)} failed as they were made to",
    )


async def _commands(account: Account, caller: Caller, fleet: SimulatedFleet) -> None:
    given = {"name": "blink", "args": {"times": 3}, "wait_s": 20.0, "idempotency_key": "demo"}
    results = await asyncio.gather(
        *(caller.run("send_command", {"device_id": device.device, **given}) for device in fleet.devices)
    )
    done = sum(one["state"] == "succeeded" for one in results)
    ran = sum(len(device.ran) for device in fleet.devices)
    account.expect(
        done == ran == len(fleet.devices), f"{len(results)} commands sent, {done} succeeded, each run once ({ran} runs)"
    )


async def _health(caller: Caller) -> None:
    health = await caller.run("get_fleet_health", {})
    parts = ", ".join(f"{name} {part:.0%}" for name, part in health["parts"].items())
    click.echo(f"  fleet health {health['score']}%: {parts}")


# --- replay ---------------------------------------------------------------------------------------------------------


def read_csv(file: Path) -> tuple[list[str], list[tuple[int, dict[str, float]]]]:
    """Metrics and rows (ms, values) of a CSV: timestamp, then one column per metric.

    Empty and non-finite cells are left out; what a metric may not be called by becomes an underscore. Raises Refused
    with the line of what cannot be read, and where nothing is left to send.
    """
    try:
        return _read_rows(file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{file} is no CSV: {error}", remedy="Write UTF-8 text: timestamp,metric[,metric…]") from error


def _read_rows(file: Path) -> tuple[list[str], list[tuple[int, dict[str, float]]]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        if len(header) < 2:
            raise Refused(f"{file}:1: there is no metric column", remedy="Write: timestamp,metric[,metric…]")
        metrics = [
            _UNNAMEABLE.sub("_", name.strip())[:_LONGEST_METRIC] or f"column_{at}"
            for at, name in enumerate(header[1:], 2)
        ]
        twice = next((name for name in metrics if metrics.count(name) > 1), None)
        if twice is not None:
            raise Refused(f"{file}:1: two columns are both called {twice}", remedy="Give each metric a name of its own")
        rows = []
        for number, cells in enumerate(reader, 2):
            if not cells:
                continue
            if len(cells) > len(header):
                raise Refused(
                    f"{file}:{number}: {len(cells)} cells under {len(header)} headings",
                    remedy="Give every column a heading; quote a cell that holds a comma",
                )
            try:
                when = _time_ms(cells[0].strip())
                values = {
                    metric: value
                    for metric, text in zip(metrics, cells[1:], strict=False)
                    if text.strip() and math.isfinite(value := float(text))
                }
            except ValueError as error:
                raise Refused(f"{file}:{number}: {error}", remedy=_CELLS) from error
            if values:
                rows.append((when, values))
    if not rows:
        raise Refused(f"{file} holds no reading", remedy=_CELLS)
    return metrics, rows


def _time_ms(text: str) -> int:
    """A time as recorders write it: ms since the epoch, or ISO 8601, in UTC where no offset is given."""
    if text.isdecimal() and len(text) > _LONGEST_DATE:
        return int(text)
    when = datetime.fromisoformat(text)
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


async def replay_file(data: Path, file: Path, *, keep: bool) -> int:
    """Sends a file's readings through a real protocol, end to end; returns the exit code."""
    account = Account()
    metrics, rows = read_csv(file)
    name = "replay-" + "".join(c if c.isalnum() or c in "._-" else "-" for c in file.stem)[:50]
    async with _server(data) as (caller, ways):
        fleet = SimulatedFleet(caller, ways, data / "pki")
        try:
            device = await fleet.add(name, "replay", Behaviour(signals=()), way=ways[-1])
            begun = time.monotonic()
            slots = asyncio.Semaphore(_IN_FLIGHT)

            async def one(at: int, values: dict[str, float]) -> None:
                async with slots:
                    await device.send({"time": at, "values": values}, len(values))
                    step()

            with progress("replaying", len(rows)) as step:
                async with asyncio.TaskGroup() as group:
                    for at, values in rows:
                        group.create_task(one(at, values))
            seconds = time.monotonic() - begun
            await caller.run("wait_idle", {})
            await _replayed(account, caller, device.device, metrics, device.sent, device.acknowledged)
            click.echo(f"  {device.sent} readings over {ways[-1].name} in {seconds:.1f} s")
            if keep:
                click.echo(f"\nstaying up on {data}   (Ctrl-C ends it)")
                await _until_interrupted()
        finally:
            await fleet.close()
    return account.close()


async def _replayed(
    account: Account, caller: Caller, device: str, metrics: Sequence[str], sent: int, acknowledged: int
) -> None:
    tally = (await caller.run("get_status", {}))["readings"]
    account.expect(
        sent == tally["sent"] == tally["stored"] + tally["duplicates"] + tally["conflicts"] + tally["refused"],
        "sent = stored + duplicates + conflicts + refused: "
        f"{sent} = {tally['stored']} + {tally['duplicates']} + {tally['conflicts']} + {tally['refused']}",
    )
    # MQTT acknowledges a message as a whole where some of its readings are refused, so then it may be more.
    kept = sent - tally["refused"]
    account.expect(
        kept <= acknowledged <= (sent if tally["refused"] else kept),
        f"{acknowledged} in messages acknowledged after their commit",
    )
    read = 0
    for metric in metrics:
        points = await _points(caller, device, metric)
        read += len(points)
        click.echo(f"  {metric:<24} {sparkline([value for _, value in points])}")
    account.expect(read == tally["stored"], f"{read} readings read back from the store")
    found = await items_of(caller, core()["list_anomalies"], {"device": device})
    click.echo(f"  {len(found)} anomalies found")
    for one in found[:10]:
        click.echo(f"    {one['time']} {one['metric']}: {one['explanation']}")
