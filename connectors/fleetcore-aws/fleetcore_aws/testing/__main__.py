"""Starts both simulated services, until interrupted: ``python -m fleetcore_aws.testing``."""

import argparse
import asyncio
import signal
import sys
from contextlib import AsyncExitStack, suppress

from fleetcore_aws.testing.front import CONTROL, Front, HubBack, serving
from fleetcore_aws.testing.hub import Hub
from fleetcore_aws.testing.moto_back import moto, strict_moto

_HOW = """{name}
  endpoint  {front.endpoint}
  faults    curl -d '{{"throttled": 100}}' {front.side}{control}    ends with '{{"heal": true}}'
  [clouds.aws]
  kind = "aws"
  region = "us-east-1"
  endpoint = "{front.endpoint}"
"""


async def run(delay_s: float, port: int, *, with_moto: bool) -> None:
    """Serves until cancelled."""
    async with AsyncExitStack() as stack:
        started: dict[str, Front] = {}
        name = f"AWS in memory, {delay_s * 1000:g} ms a call"
        started[name] = await stack.enter_async_context(serving(HubBack(Hub()), port, delay_s=delay_s))
        if with_moto:
            endpoint = await stack.enter_async_context(moto())
            started["moto behind the strict proxy"] = await stack.enter_async_context(strict_moto(endpoint))
        for title, front in started.items():
            sys.stdout.write(_HOW.format(name=title, front=front, control=CONTROL))
        sys.stdout.write("Any credentials work: export AWS_ACCESS_KEY_ID=testing AWS_SECRET_ACCESS_KEY=testing\n")
        sys.stdout.flush()
        ended = asyncio.Event()
        with suppress(NotImplementedError):  # on systems without signals; a terminated parent must end moto too
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m fleetcore_aws.testing", description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=40.0, help="how long AWS in memory takes for a call")
    parser.add_argument("--port", type=int, default=0, help="the port of AWS in memory; the next one sets its faults")
    parser.add_argument("--without-moto", action="store_true", help="start only AWS in memory")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(run(given.delay_ms / 1000, given.port, with_moto=not given.without_moto))


if __name__ == "__main__":
    main()
