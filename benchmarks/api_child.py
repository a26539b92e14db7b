"""A server of the operators' API in a separate process, for :mod:`benchmarks.bench_api`; also of earlier packages.

It reads a task as a line of JSON, prints its address, and serves until its input ends.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager


async def serve(task: dict[str, Any]) -> None:
    """Makes a fleet on disk and serves it."""
    with tempfile.TemporaryDirectory() as folder:
        async with IoTFleetManager(Path(folder) / "data") as manager:
            fleet = await manager.open()
            for number in range(task["devices"]):
                attributes = {"floor": number % 7, "room": f"r-{number % 40}"}
                await fleet.devices.register(f"d-{number}", "sensor", tags=("lab",), attributes=attributes)
            await fleet.operators.grant("bench", "admin")
            token = (await fleet.operators.create_token("bench")).token
            parser = {"parser": task["parser"]} if task.get("parser") else {}
            config = ApiConfig(listen="http://127.0.0.1:0", requests_per_minute=1 << 30, **parser)
            async with open_api(config, fleet._context("bench"), fleet) as server:
                print(json.dumps({"url": server.url, "token": token, "process": os.getpid()}), flush=True)
                await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.stdin.readline())))
