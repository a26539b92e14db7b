"""``fleetcore demo``: a complete fleet on this machine, over real protocols, in a temporary folder.

Both the devices and the server count what happens. It exits with 0 only if the counts agree and every step had its
effect, and with 7 if readings of a replayed file are refused.
"""

import asyncio
import contextlib
import logging
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from fleetcore.cli.numbers import Number
from fleetcore.errors import Refused


@click.command()
@click.option("--devices", type=click.IntRange(4, 1000), default=12, show_default=True, help="How many.")
@click.option("--duration", type=Number(1), default=10, show_default=True, help="Seconds of telemetry.")
@click.option(
    "--replay",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A CSV of real readings: timestamp, then one column per metric.",
)
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Keep the fleet in this folder, new or empty."
)
@click.option("--keep", is_flag=True, help="Keep running afterwards, until interrupted.")
@click.option("--seed", type=int, default=1, show_default=True, help="The seed of the simulated signals and faults.")
def demo(devices: int, duration: float, replay: Path | None, data: Path | None, keep: bool, seed: int) -> int:
    """Create a fleet, run devices on it over every installed protocol, and show what happened.

    Exit 7 if readings of a replayed file are refused.
    """
    logging.basicConfig(level=logging.ERROR)
    with _folder(data, keep=keep) as folder:
        if replay is not None:
            from fleetcore.cli.replaying import replay_file

            code = asyncio.run(replay_file(folder, replay, keep=keep))
        else:
            from fleetcore.cli.demo_run import run_demo

            code = asyncio.run(run_demo(folder, devices, duration, seed, keep=keep))
        if not keep:
            click.echo(_next(data, replay))
        return code


def _next(data: Path | None, replay: Path | None) -> str:
    """Three commands to go on with."""
    if data is None:
        commands = {
            "fleetcore demo --data ./demo-data": "the same, and keep the fleet to look around",
            "fleetcore demo --replay FILE.csv": "your own recorded readings, through the same way",
            "fleetcore init ./fleet-data": "a fleet of your own; then: fleetcore serve --data ./fleet-data",
        }
    else:
        place = shlex.quote(str(data))
        if replay is None:
            readings = {
                f"telemetry plot demo-0002 temperature --data {place}": "a metric over time, with its anomalies"
            }
        else:
            from fleetcore.cli.replaying import device_of

            device = shlex.quote(device_of(replay))
            readings = {f"telemetry series {device} --data {place}": "its metrics; then: fleetcore telemetry plot"}
        commands = {
            f"fleetcore top --data {place}": "the devices, and what they have done",
            **{f"fleetcore {command}": what for command, what in readings.items()},
            f"fleetcore serve --data {place}": "let it run again",
        }
    width = max(map(len, commands)) + 2
    lines = [f"  {command:<{width}}{what}" for command, what in commands.items()]
    return "\n".join(["\nWhat next:", *lines, "The first ten minutes: docs/tutorials/first-ten-minutes.md"])


@contextlib.contextmanager
def _folder(data: Path | None, *, keep: bool) -> Iterator[Path]:
    """The folder of the fleet, removed at the end unless it was named or is to be kept; raises Refused."""
    if data is not None:
        if data.is_dir() and any(data.iterdir()):
            raise Refused(f"{data} is not empty", remedy="Name another folder, or remove it")
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield data
    elif keep:
        yield Path(tempfile.mkdtemp(prefix="fleetcore-demo-"))
    else:
        with tempfile.TemporaryDirectory(prefix="fleetcore-demo-", ignore_cleanup_errors=True) as name:
            yield Path(name)
