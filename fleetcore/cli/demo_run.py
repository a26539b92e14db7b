"""The demo: a server with every installed protocol, devices over each, and an account of the results."""

import asyncio
import contextlib
import json
import random
import shlex
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from fleetcore import files
from fleetcore.cli.connect import Caller, connect
from fleetcore.cli.demo_mirrors import sections, show_mirrors, trials_of
from fleetcore.cli.items import items_of
from fleetcore.cli.progress import progress
from fleetcore.cli.refused import exit_code
from fleetcore.cli.serve import running
from fleetcore.cli.simulated_fleet import PUSHES_TO_LEAVES, SimulatedFleet, Way, ways_in
from fleetcore.cli.stored import stored_values
from fleetcore.cli.telemetry import sparkline
from fleetcore.errors import FleetError, NotFound
from fleetcore.frontends.catalogue import PAGE, core
from fleetcore.interfaces.provider import Provider
from fleetcore.interfaces.scene import Stage
from fleetcore.interfaces.trial import Trial
from fleetcore.interfaces.waits import end_tasks
from fleetcore.runtime.plugins import PluginHost
from fleetcore.testing.simulator import Behaviour, Signal

_MISREADS = 8.0  # how much too warm the bad firmware reads
_GATED = 12  # from so many devices on a health gate can tell a difference in half of them
_STEP_S = 60  # simulated seconds between two readings of a device
_FAULT = 25.0  # added to the value; the noise is 0.15
#: The firmware that a rollback installs, one that some devices cannot run, and the mended one.
_VERSIONS = ("1.0.0", "2.0.0", "2.0.1")

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

{mirrors}
"""


@asynccontextmanager
async def server(data: Path, trials: Mapping[str, Trial] = {}) -> AsyncIterator[tuple[Caller, list[Way]]]:
    """A server on free loopback ports with every network protocol that is installed, and mirrors to the trials."""
    offers = PluginHost().offers("protocols")
    network = {name: item for name, item in offers.items() if item.demo is not None and name != "local"}
    chosen = network or {"local": offers["local"]}
    protocols = "\n".join(map(_section, chosen.values()))
    file = data / "fleet.toml"
    files.replace(file, _TOML.format(protocols=protocols, mirrors=sections(trials)).encode())
    try:
        async with running(data, create=True) as endpoints, connect(data) as caller:
            names = ", ".join(f"{name} ({', '.join(urls)})" for name, urls in endpoints.items())
            click.echo(f"server   {names}")
            if set(chosen) == {"local"}:
                click.echo("         no network protocol is installed, so the devices run in this process")
            status = await caller.run("get_status", {})
            yield caller, ways_in(status["protocols"], offers)
    finally:
        # A folder that is kept can be served again: the hubs of its mirrors are gone.
        files.replace(file, file.read_text().replace(sections(trials), "").encode())
    if trials:
        async with connect(data) as caller:
            for item in await items_of(caller, core()["list_left_behind"], {}):
                await caller.run("drop_left_behind", {"name": item["name"]})


def _section(provider: Provider[Any]) -> str:
    lines = [
        f"[protocols.{provider.name}]",
        *(f"{key} = {json.dumps(value)}" for key, value in (provider.demo or {}).items()),
    ]
    return "\n".join(lines)


class Account:
    """The account of the demo: every line that does not hold makes it fail.

    Attributes:
        refused: refused readings; with any, the demo was done in part.
    """

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.refused = 0

    def expect(self, holds: bool, text: str) -> None:
        """Prints a line with its mark: a tick means that the expected effect happened."""
        click.echo(f"{'✓' if holds else '✗'} {text}")
        if not holds:
            self.failed.append(text)

    def check(self, holds: bool, text: str) -> None:
        """Prints a bookkeeping line: with a cross if the counts differ, and no tick if they agree."""
        if holds:
            click.echo(f"  {text}")
        else:
            self.expect(False, text)

    def taken(self, tally: Mapping[str, int]) -> None:
        """Prints the outcome of readings, with a tick if none was refused."""
        self.refused += tally["refused"]
        click.echo(
            f"{'✗' if tally['refused'] else '✓'} {tally['stored']} of {tally['sent']} readings stored, "
            f"{tally['duplicates']} were duplicates, {tally['conflicts']} conflicts, {tally['refused']} refused"
        )

    def close(self) -> int:
        """The exit code."""
        if self.failed:
            click.echo(f"{len(self.failed)} of these did not happen as expected", err=True)
            return 1
        return exit_code(self.refused)


def _behaviours(count: int, steps: int, seed: int) -> list[Behaviour]:
    # Seeded, so that a demo can be repeated; no secret depends on it.
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
            Behaviour(
                signals=(temperature, humidity),
                bad_firmware=_VERSIONS[1],
                firmware_fails="health_failed" if number in failing else None,
            )
        )
    return found


async def run_demo(data: Path, devices: int, duration: float, seed: int, *, keep: bool) -> int:
    """The demo without a file; returns the exit code."""
    account = Account()
    steps = max(240, int(duration * 24))
    behaviours = _behaviours(devices, steps, seed)
    async with trials_of(PluginHost().offers("clouds")) as trials, server(data, trials) as (caller, ways):
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
            await _leaves(account, caller, fleet, ways)
            await _scenes(account, caller, ways, data)
            await show_mirrors(account, caller, trials, [device.device for device in fleet.devices])
            await _health(caller)
            if keep:
                place = shlex.quote(str(data))
                click.echo(f"\nrunning on {data}; try: fleetcore device list --data {place}   (Ctrl-C ends it)")
                await until_interrupted()
        finally:
            await fleet.close()
    return account.close()


async def until_interrupted() -> None:
    """Runs until Ctrl-C."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def _enrolled(account: Account, caller: Caller, fleet: SimulatedFleet, ways: Sequence[Way]) -> None:
    listed = (await caller.run("list_devices", {"tag": "simulated", "limit": PAGE}))["items"]
    shares = {way.name: sum(way.name in item["tags"] for item in listed) for way in ways}
    online = sum(item["connectivity"] == "online" for item in listed)
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
    hit = {item["device"] for item in found if item["metric"] == "temperature"}
    injected = {device.device for device in fleet.devices if device.behaviour.signals[0].faults}
    others = len(hit - injected)
    account.expect(
        injected <= hit and others <= len(fleet.devices) // 6,
        f"{len(injected)} devices with an injected fault, {len(injected & hit)} detected, {others} detected without "
        "one",
    )
    for item in found[:3]:
        click.echo(f"    {item['time']} {item['device']} {item['metric']}: {item['explanation']}")
    worst = min(injected)
    click.echo(f"    {worst} {sparkline(await stored_values(caller, worst, 'temperature'), 60)}")


async def _ended(caller: Caller, name: str) -> dict[str, Any]:
    """A campaign once it does not run any more."""
    for _ in range(600):
        campaign: dict[str, Any] = await caller.run("get_campaign", {"campaign": name})
        if campaign["state"] not in ("draft", "running"):
            break
        await asyncio.sleep(0.1)
    return campaign


async def _beats(fleet: SimulatedFleet) -> None:
    """Devices send their temperature; those with the bad firmware read too much."""
    number = 0
    while True:
        for device in fleet.devices:
            offset = _MISREADS if device.firmware == _VERSIONS[1] else 0.0
            value = device.behaviour.signals[0].mean + offset + (number % 3) / 10
            with contextlib.suppress(FleetError):  # it restarts
                await device.send({"time": int(time.time() * 1000), "values": {"temperature": value}}, 1)
        number += 1
        await asyncio.sleep(_beat_s(fleet))


def _beat_s(fleet: SimulatedFleet) -> float:
    """The seconds between two readings of a device while firmware is updated."""
    return max(0.25, len(fleet.devices) / 250)


async def _firmware(account: Account, caller: Caller, fleet: SimulatedFleet) -> None:
    """A release that some devices cannot run stops by itself and is rolled back; the mended one reaches all."""
    beating = asyncio.create_task(_beats(fleet))
    images = {version: await caller.run("upload_artifact", {"content": _firmware_of(version)}) for version in _VERSIONS}
    names = [device.device for device in fleet.devices]
    before, bad, mended = _VERSIONS

    async def start(campaign: str, version: str, **more: object) -> dict[str, Any]:
        given = {
            "id": campaign, "release": version, "devices": names, "sha256": images[version]["sha256"],
            "waves": ["50%"], "rollback_version": before,
            "rollback_sha256": images[before]["sha256"], **more,
        }  # fmt: skip
        await caller.run("create_campaign", given)
        return await _ended(caller, campaign)

    enough = len(names) >= _GATED
    stops: dict[str, object] = {"max_failed": 0.0} if not enough else {
        "gate_window_s": 12 * _beat_s(fleet), "gate_metrics": ["temperature"], "gate_alpha": 0.1, "min_succeeded": 0.5,
    }  # fmt: skip
    first = await start("demo-spring", bad, **stops)
    account.expect(
        first["state"] == "paused" and first["code"] == ("health_gate" if enough else "too_many_failures"),
        f"firmware {bad} on {len(names)} devices stopped by itself in wave {first['wave']}: {first['reason']}",
    )
    if enough:
        evidence = await caller.run("get_campaign_evidence", {"campaign": "demo-spring"})
        for item in evidence["worst"][:3]:
            click.echo(f"    {item['device']}: {'; '.join(item['reasons'])}")
    report = await caller.run("report_campaign", {"campaign": "demo-spring"})
    for cause in report["failures"]:
        of_model = f" on model {cause['model']}" if cause["model"] else ""
        click.echo(f"    {cause['devices']} {cause['state']} [{cause['code']}]{of_model}")
    await caller.run("roll_back_campaign", {"campaign": "demo-spring", "reason": "some devices do not come up"})
    back: Mapping[str, int] = {}
    with contextlib.suppress(NotFound):  # no device had begun to install it
        back = (await _ended(caller, "demo-spring-rollback"))["counts"]
    running = sum(device.firmware == bad for device in fleet.devices)
    account.expect(running == 0, f"rolled back: {back.get('succeeded', 0)} run {before} again, {running} run {bad}")
    second = await start("demo-summer", mended)
    running = sum(device.firmware == mended for device in fleet.devices)
    account.expect(
        second["state"] == "succeeded" and running == len(names),
        f"firmware {mended} in two waves: {second['reason']}",
    )
    await end_tasks(beating)


def _firmware_of(version: str) -> bytes:
    return f"fleetcore demo firmware {version}\n".encode() * 2048


async def _commands(account: Account, caller: Caller, fleet: SimulatedFleet) -> None:
    given = {"name": "blink", "args": {"times": 3}, "wait_s": 20.0, "idempotency_key": "demo"}
    results = await asyncio.gather(
        *(caller.run("send_command", {"device_id": device.device, **given}) for device in fleet.devices)
    )
    done = sum(result["state"] == "succeeded" for result in results)
    ran = sum(len(device.ran) for device in fleet.devices)
    account.expect(
        done == ran == len(fleet.devices), f"{len(results)} commands sent, {done} succeeded, each run once ({ran} runs)"
    )


async def _leaves(account: Account, caller: Caller, fleet: SimulatedFleet, ways: Sequence[Way]) -> None:
    """Makes one device of each protocol that pushes to leaves a gateway, and registers one leaf behind it."""
    able = [number for number, way in enumerate(ways) if way.kind in PUSHES_TO_LEAVES]
    for number in able:
        await fleet.add_leaves(number, [f"demo-leaf-{ways[number].name}"])
    if not able:
        return
    done = 0
    for leaf in fleet.leaves:
        await leaf.send({"flow": 3.5}, 1)
        command = await caller.run("send_command", {"device_id": leaf.device, "name": "open", "wait_s": 20.0})
        done += command["state"] == "succeeded" and len(leaf.ran) == 1
    sent, names = sum(leaf.acknowledged for leaf in fleet.leaves), ", ".join(ways[number].name for number in able)
    account.expect(
        sent == done == len(able),
        f"{len(able)} leaves behind gateways over {names}: {sent} readings stored, {done} commands run",
    )


async def _scenes(account: Account, caller: Caller, ways: Sequence[Way], data: Path) -> None:
    """What the plugins of services show, each in a folder of its own."""
    for name, provider in PluginHost().offers("services").items():
        if provider.scene is None:
            continue
        folder = data / f"demo-{name}"
        folder.mkdir(mode=0o700)
        stage = Stage(
            folder=folder, ca=(data / "pki" / "ca.pem").read_bytes(),
            endpoints={way.kind: way.endpoint for way in ways},
            clients={way.kind: way.client for way in ways}, run=caller.run, expect=account.expect,
        )  # fmt: skip
        await provider.scene(stage)


async def _health(caller: Caller) -> None:
    health = await caller.run("get_fleet_health", {})
    parts = ", ".join(f"{name} {part:.0%}" for name, part in health["parts"].items())
    click.echo(f"  fleet health {health['score']}%: {parts}")
