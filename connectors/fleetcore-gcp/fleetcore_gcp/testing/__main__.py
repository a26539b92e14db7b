"""Starts the simulated Pub/Sub, until interrupted: ``python -m fleetcore_gcp.testing``.

On the next port is a side door: ``/_faults`` sets faults, ``/received`` shows the states of a receiver that got all
messages, ``/readings`` the rows of readings.
"""

import argparse
import asyncio
import json
import signal
import sys
from contextlib import suppress

from fleetcore.testing.http1 import Answer, Request, Server
from fleetcore.wire.records import to_plain
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.testing.control import Control
from fleetcore_gcp.testing.server import Front, serving

_HOW = """Pub/Sub in memory, {delay:g} ms a call
  emulator  {front.endpoint}
  faults    curl -d '{{"throttled": 100}}' {side}/_faults    ends with '{{"heal": true}}'
  received  curl {side}/received    and /readings
  [clouds.gcp]
  kind = "gcp"
  project = "{project}"
  emulator = "{front.endpoint}"
  create = true
"""


async def _at_the_side(front: Front, control: Control, request: Request) -> Answer:
    if request.path == "/received":
        found = await control.received()
        said: object = {str(key): to_plain(item.body) for key, item in sorted(found.items()) if item.body is not None}
    elif request.path == "/readings":
        said = control.rows()
    elif request.path == "/_faults":
        for name, value in (json.loads(request.body) if request.body else {}).items():
            if name == "heal":
                front.faults.heal()
            else:
                setattr(front.faults, name, value)
        said = {"calls": front.calls}
    else:
        return Answer(status=404)
    return Answer(body=json.dumps(said).encode() + b"\n")


async def run(delay_ms: float, port: int, project: str) -> None:
    """Serves until cancelled."""
    async with serving(port, delay_s=delay_ms / 1000) as front:
        control = Control(front, GcpConfig(project=project, emulator=front.endpoint))

        async def answer(request: Request) -> Answer:
            return await _at_the_side(front, control, request)

        async with Server(answer, port + 1 if port else 0) as side:
            sys.stdout.write(_HOW.format(front=front, side=side.endpoint, project=project, delay=delay_ms))
            sys.stdout.flush()
            ended = asyncio.Event()
            with suppress(NotImplementedError):  # on systems without signals
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
            await ended.wait()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m fleetcore_gcp.testing", description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=40.0, help="how long a call takes")
    parser.add_argument("--port", type=int, default=0, help="the port of Pub/Sub; the next one is the side door")
    parser.add_argument("--project", default="trial-project", help="the project of the topics")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(run(given.delay_ms, given.port, given.project))


if __name__ == "__main__":
    main()
