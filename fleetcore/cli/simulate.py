"""``fleetcore simulate``: runs simulated devices against the running server of a data folder."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleetcore.cli.connect import connect, data_option
from fleetcore.cli.numbers import Number
from fleetcore.cli.output import output_option, show

if TYPE_CHECKING:
    from fleetcore.testing.simulator import Behaviour


@click.command()
@click.option("--devices", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many.")
@click.option("--duration", type=Number(0), default=30, show_default=True, help="Seconds.")
@click.option(
    "--every",
    "every_s",
    type=Number(0.01),
    default=1,
    show_default=True,
    help="Seconds between readings of a device.",
)
@click.option("--prefix", default="sim", show_default=True, help="Device ids are PREFIX-0001 …")
@click.option(
    "--leaves",
    type=click.IntRange(0, 1_000),
    default=0,
    show_default=True,
    help="Leaves behind each device, which becomes a gateway.",
)
@click.option("--model", help="Their hardware model.")
@click.option(
    "--trust",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The trust.json of their factory: they accept only signed firmware.",
)
@data_option
@output_option
def simulate(
    devices: int,
    duration: float,
    every_s: float,
    prefix: str,
    leaves: int,
    model: str | None,
    trust: Path | None,
    data: Path,
    output: str,
) -> int:
    """Register, enrol and connect simulated devices, send readings, and count the acknowledged ones."""
    from fleetcore.testing.simulator import Behaviour

    behaviour = Behaviour(model=model)
    if trust is not None:
        from fleetcore.cli import envelopes
        from fleetcore.cli.signing_keys import open_public
        from fleetcore.wire.trust import raw_key

        server = raw_key(open_public(data / "pki" / "command.pub"))
        behaviour = Behaviour(model=model, seq=1, trust=envelopes.read(trust), command_key=server)
    sent, acknowledged, updated = asyncio.run(
        _simulate(devices, duration, every_s, prefix, behaviour, data, leaves=leaves)
    )
    if output == "table":
        behind = f" and {devices * leaves} leaves" if leaves else ""
        click.echo(f"{devices} devices{behind} sent {sent} readings, {acknowledged} were acknowledged")
        if updated:
            click.echo(f"{updated} of them have new firmware")
    else:
        show({"devices": devices, "sent": sent, "acknowledged": acknowledged, "updated": updated}, output)
    return 0 if sent == acknowledged else 1


async def _simulate(
    devices: int, duration: float, every_s: float, prefix: str, behaviour: "Behaviour", data: Path, *, leaves: int = 0
) -> tuple[int, int, int]:
    from fleetcore.cli.progress import progress
    from fleetcore.cli.simulated_fleet import SimulatedFleet, ways_in
    from fleetcore.runtime.plugins import PluginHost

    async with connect(data) as caller:
        status = await caller.run("get_status", {})
        ways = ways_in(status["protocols"], PluginHost().offers("protocols"))
        fleet = SimulatedFleet(caller, ways, data / "pki", gateways=leaves > 0)
        names = [f"{prefix}-{number:04d}" for number in range(1, devices + 1)]
        try:
            with progress("enrolling", devices) as step:
                await fleet.add_all(names, "simulated", [behaviour] * devices, step)
            for at, name in enumerate(names if leaves else ()):
                await fleet.add_leaves(at, [f"{name}-leaf-{number}" for number in range(1, leaves + 1)])
            senders = [*fleet.devices, *fleet.leaves]
            steps = max(1, int(duration / every_s))
            start_ms = int(time.time() * 1000) - 1000
            with progress("sending", steps) as step:
                for number in range(steps):
                    begun = time.monotonic()
                    await asyncio.gather(
                        *(device.send_second(0, start_ms + int(number * every_s * 1000)) for device in senders)
                    )
                    step()
                    await asyncio.sleep(max(0.0, every_s - (time.monotonic() - begun)))
        finally:
            await fleet.close()
    sent = sum(device.sent for device in senders)
    acknowledged = sum(device.acknowledged for device in senders)
    return sent, acknowledged, sum(bool(device.updates) for device in fleet.devices)
