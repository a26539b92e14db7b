"""A server that is killed after each commit about a cut-over: ``python dying_server.py FOLDER``; it prints ``up``."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from fleetcore import IoTFleetManager

#: What a cut-over writes: itself, the device, its twin, its certificate, and the operation.
KINDS = {"cutover", "device", "twin", "certificate", "operation"}


async def serve(folder):
    async with IoTFleetManager(folder) as manager:
        fleet = await manager.open()
        commit = fleet.storage.commit

        async def last(change):
            done = await commit(change)
            reports = all(event.type == "twin.reported" for event in change.events) if change.events else False
            if KINDS & {put.kind for put in change.puts} and not reports:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        fleet.storage.commit = last
        await fleet.serve()
        print("up", flush=True)
        await asyncio.Event().wait()


asyncio.run(serve(Path(sys.argv[1])))
