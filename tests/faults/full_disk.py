"""Run in a mount namespace of its own: a fleet with the API on a small disk that is full, free again, and read-only.

Prints what came of it as JSON. It cannot be done in the test's process: the disk is a real one, mounted here.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager
from fleetcore.calls.fleet_table import core
from fleetcore.frontends.control import serve_control
from fleetcore.testing.patience import PATIENCE_S

#: Reads that name nothing and do not stream.
READS = [
    call.path
    for call in core()
    if call.path and call.method == "GET" and "{" not in call.path and not (call.is_stream or call.required)
]


async def _command(*words):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fleetcore", *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def _doctor(data):
    code, out = await _command("doctor", "--data", str(data), "-o", "json")
    return code, [one for one in json.loads(out) if one["state"] == "problem"]


def _mount(*words):
    subprocess.run(["mount", *words], check=True)


async def main(folder):
    disk = folder / "disk"
    disk.mkdir()
    _mount("-t", "tmpfs", "-o", "size=90m,mode=0700", "tmpfs", str(disk))
    data, filler = disk / "fleet", disk / "filler"
    said = {"init": await _command("init", str(data), "--listen", "127.0.0.1")}
    async with IoTFleetManager(data) as manager, serve_control(manager, data):
        fleet = await manager.open()
        await fleet.operators.grant("ana", "admin")
        token = (await fleet.operators.create_token("ana")).token
        config, context = ApiConfig(listen="http://127.0.0.1:0"), fleet._context("api")
        async with (
            open_api(config, context, fleet) as server,
            httpx.AsyncClient(
                base_url=server.url + "/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S
            ) as api,
        ):
            numbers = iter(range(10_000))

            async def write():
                words = {"words": os.urandom(6000).hex()}
                made = {"id": f"d{next(numbers)}", "type": "x", "attributes": words}
                return await api.post("/devices", json=made, headers={"Idempotency-Key": made["id"]})

            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
            # What was written ahead for the log still has room.
            while (answer := await write()).status_code == 201:
                pass
            said["write"] = answer.status_code, answer.json()
            said["reads"] = {path: (await api.get(path)).status_code for path in READS}
            said["full"] = await _doctor(data)
            filler.unlink()
            said["after"] = (await write()).status_code
            while True:  # a result of the probe holds for a second, a consumer that failed rests for some
                said["freed"] = await _doctor(data)
                if not said["freed"][1]:
                    break
    _mount("-o", "remount,ro", str(disk))
    said["read-only"] = await _doctor(data)
    print(json.dumps(said))


asyncio.run(main(Path(sys.argv[1])))
