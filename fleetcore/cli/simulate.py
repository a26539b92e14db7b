"""``fleetcore simulate``: simulated devices against the running server of a data folder."""

import asyncio
import time
from pathlib import Path

import click

from fleetcore.cli.connect import connect, data_option
from fleetcore.cli.numbers import Number
from fleetcore.cli.output import output_option, show


@click.command()
@click.option("--devices", type=click.IntRange(1, 10_000), default=10, show_default=True)
@click.option("--duration", type=Number(0), default=30.0, show_default=True, help="Seconds.")
@click.option(
    "--every",
    "every_s",
    type=Number(0.01),
    default=1.0,
    show_default=True,
    help="Seconds between readings of a device.",
)
@click.option("--prefix", default="sim", show_default=True, help="Devices are called PREFIX-0001 …")
@data_option
@output_option
def simulate(devices: int, duration: float, every_s: float, prefix: str, data: Path, output: str) -> int:
    """Register, enrol and connect simulated devices, let them send readings, and count what was acknowledged."""
    sent, acknowledged = asyncio.run(_simulate(devices, duration, every_s, prefix, data))
    if output == "table":
        click.echo(f"{devices} devices sent {sent} readings, {acknowledged} were acknowledged")
    else:
        show({"devices": devices, "sent": sent, "acknowledged": acknowledged}, output)
    return 0 if sent == acknowledged else 1


async def _simulate(devices: int, duration: float, every_s: float, prefix: str, data: Path) -> tuple[int, int]:
    from fleetcore.cli.progress import progress
    from fleetcore.cli.simulated_fleet import SimulatedFleet, ways_in
    from fleetcore.runtime.plugins import PluginHost
    from fleetcore.testing.simulator import Behaviour

    async with connect(data) as caller:
        status = await caller.call("status")
        ways = ways_in(status["protocols"], PluginHost().offers("protocols"))
        fleet = SimulatedFleet(caller, ways, data / "pki")
        names = [f"{prefix}-{number:04d}" for number in range(1, devices + 1)]
        try:
            with progress("enrolling", devices) as step:
                await fleet.add_all(names, "simulated", [Behaviour()] * devices, step)
            steps = max(1, int(duration / every_s))
            start_ms = int(time.time() * 1000) - 1000
            with progress("sending", steps) as step:
                for number in range(steps):
                    begun = time.monotonic()
                    await asyncio.gather(
                        *(device.send_second(0, start_ms + int(number * every_s * 1000)) for device in fleet.devices)
                    )
                    step()
                    await asyncio.sleep(max(0.0, every_s - (time.monotonic() - begun)))
        finally:
            await fleet.close()
    return sum(device.sent for device in fleet.devices), sum(device.acknowledged for device in fleet.devices)
