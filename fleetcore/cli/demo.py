"""``fleetcore demo``: a complete fleet on this machine, over real protocols, in a temporary folder.

Both the devices and the server count what happens. It exits with 0 only if the counts agree and every step had its
effect, and with 7 if readings of a replayed file are refused.
"""

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from fleetcore.cli.numbers import Number


@click.command()
@click.option("--devices", type=click.IntRange(4, 1000), default=12, show_default=True)
@click.option("--duration", type=Number(1), default=10.0, show_default=True, help="Seconds of telemetry.")
@click.option(
    "--replay",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A CSV of real readings: timestamp, then one column per metric.",
)
@click.option("--keep", is_flag=True, help="Keep running afterwards, until interrupted.")
@click.option("--seed", type=int, default=1, show_default=True, help="The seed of the simulated signals and faults.")
def demo(devices: int, duration: float, replay: Path | None, keep: bool, seed: int) -> int:
    """Create a fleet, run devices on it over every installed protocol, and show what happened.

    Exit 7 if readings of a replayed file are refused.
    """
    logging.basicConfig(level=logging.ERROR)
    with _folder(keep) as data:
        if replay is not None:
            from fleetcore.cli.replaying import replay_file

            return asyncio.run(replay_file(data, replay, keep=keep))
        from fleetcore.cli.demo_run import run_demo

        return asyncio.run(run_demo(data, devices, duration, seed, keep=keep))


@contextlib.contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    if keep:
        yield Path(tempfile.mkdtemp(prefix="fleetcore-demo-"))
        return
    with tempfile.TemporaryDirectory(prefix="fleetcore-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)
