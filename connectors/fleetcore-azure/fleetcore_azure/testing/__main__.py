"""Starts the simulated hub, until interrupted: ``python -m fleetcore_azure.testing``."""

import argparse
import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path

from fleetcore.testing.throwaway_ca import ThrowawayCa
from fleetcore_azure.testing.front import CONTROL, serving
from fleetcore_azure.testing.hub import Hub

_HOW = """IoT Hub in memory, {delay_ms:g} ms a call
  endpoint  {front.endpoint}
  devices   {front.devices.endpoint}
  faults    curl -d '{{"throttled": 100}}' {front.side}{control}    ends with '{{"heal": true}}'
  [clouds.azure]
  kind = "azure"
  connection_string = "env:AZURE_IOT_HUB"
  endpoint = "{front.endpoint}"
  ca = "{front.ca.path}"
Its connection string: export AZURE_IOT_HUB='{string}'
"""


async def run(delay_s: float, port: int, folder: Path | None) -> None:
    """Serves until cancelled."""
    async with serving(Hub(), port, delay_s=delay_s, ca=ThrowawayCa(folder)) as front:
        sys.stdout.write(
            _HOW.format(front=front, control=CONTROL, delay_ms=delay_s * 1000, string=front.connection_string())
        )
        sys.stdout.flush()
        ended = asyncio.Event()
        with suppress(NotImplementedError):  # on systems without signals
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m fleetcore_azure.testing", description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=40.0, help="how long a call takes")
    parser.add_argument(
        "--port", type=int, default=0, help="the port of the hub; the next ones are for faults and devices"
    )
    parser.add_argument("--ca", type=Path, default=None, help="a folder for the root certificate")
    given = parser.parse_args()
    if given.ca is not None:
        given.ca.mkdir(parents=True, exist_ok=True)
    with suppress(KeyboardInterrupt):
        asyncio.run(run(given.delay_ms / 1000, given.port, given.ca))


if __name__ == "__main__":
    main()
