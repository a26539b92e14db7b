"""The example connector passes the contract against an endpoint over HTTP, and mirrors a fleet."""

import asyncio
import importlib.util
import itertools
import json
import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from fleetcore import IoTFleetManager
from fleetcore.model.mirror import EntityKey
from fleetcore.runtime.config import load as load_config
from fleetcore.testing.cloud_contract import CloudContract
from fleetcore.testing.patience import PATIENCE_S

FILE = Path(__file__).parents[2] / "examples" / "one_file_cloud.py"


def load():
    spec = importlib.util.spec_from_file_location("one_file_cloud", FILE)
    module = sys.modules["one_file_cloud"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


documents = load()


class Endpoint:
    """Keeps JSON documents by path, as the example describes it; and does what the contract's control asks."""

    def __init__(self):
        self.held, self.readings, self.numbers = {}, [], itertools.count(1)
        self.status, self.losing, self.capacity = 200, 0, 1 << 60

    async def answer(self, request):
        if self.status != 200:
            return web.Response(status=self.status, headers={"Retry-After": "2"})
        answer = await self._do(request)
        if self.losing:
            self.losing -= 1
            request.transport.abort()
        return answer

    async def _do(self, request):
        path, there = request.path, self.held.get(request.path)
        if path == "/readings":
            rows = (await request.json())[: self.capacity]
            self.readings += rows
            return web.json_response({"taken": len(rows)})
        if request.method == "GET" and path.count("/") == 1:
            owner, names = request.query["owner"], []
            for each, (_, document) in self.held.items():
                if each.startswith(f"{path}/") and json.loads(document)["owner"] == owner:
                    names.append(each.removeprefix(f"{path}/"))
            return web.json_response(names)
        if request.method == "GET":
            return web.Response(status=404) if there is None else self._document(there)
        wanted, none = request.headers.get("If-Match"), request.headers.get("If-None-Match")
        if there is None and request.method == "DELETE":
            return web.Response(status=404)
        if (none == "*" and there is not None) or (wanted is not None and (there is None or there[0] != wanted)):
            return web.Response(status=412)
        if request.method == "DELETE":
            del self.held[path]
            return web.Response(status=204)
        self.held[path] = (f'"{next(self.numbers)}"', await request.text())
        return self._document(self.held[path])

    @staticmethod
    def _document(held):
        return web.Response(text=held[1], content_type="application/json", headers={"ETag": held[0]})

    # -- the contract's control -------------------------------------------------------------------------------------

    @staticmethod
    def _path(key):
        return f"/{key.facet}/{key.id}"

    async def has(self, key):
        return self._path(key) in self.held

    async def edit(self, key, patch):
        document = json.loads(self.held[self._path(key)][1])
        document["state"] |= patch
        self.held[self._path(key)] = (f'"{next(self.numbers)}"', json.dumps(document))

    async def make_foreign(self, key):
        self.held[self._path(key)] = (f'"{next(self.numbers)}"', json.dumps({"owner": "another", "state": {}}))

    async def telemetry(self, device):
        return [(metric, time, value) for of, metric, time, value in self.readings if of == device]

    async def throttle(self):
        self.status = 429

    async def go_down(self):
        self.status = 503

    async def lose_answers(self, calls):
        self.losing = calls

    async def reject_credentials(self):
        self.status = 401

    async def heal(self):
        self.status, self.losing = 200, 0


@asynccontextmanager
async def serving(endpoint):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", endpoint.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def endpoint():
    return Endpoint()


@pytest.fixture
async def url(endpoint):
    async with serving(endpoint) as found:
        yield found


class TestDocuments(CloudContract):
    @pytest.fixture
    async def backend(self, url):
        async with httpx.AsyncClient(base_url=url) as http:
            yield documents.Documents(http, "fleet")

    @pytest.fixture
    def hub(self, endpoint):
        return endpoint


async def test_readings_that_do_not_fit_come_again(endpoint, url, tmp_path):
    endpoint.capacity = 2
    shutil.copy(FILE, tmp_path)
    file = tmp_path / "fleet.toml"
    file.write_text(
        f'[fleet]\ndata = "data"\nplugins = ["./{FILE.name}"]\n[clouds.documents]\nurl = "{url}"\nmetrics = ["*"]\n'
    )
    async with IoTFleetManager(config=load_config(file), create=True) as manager:
        await (await manager.open()).serve()
        await manager.register_device("dev-1", "sensor")
        for value in range(5):
            await manager.collect_telemetry("dev-1", "heat", float(value))
        async with asyncio.timeout(PATIENCE_S):
            while len(endpoint.readings) < 5 or not await endpoint.has(EntityKey("registry", "dev-1")):
                await asyncio.sleep(0.01)

    assert [row[3] for row in endpoint.readings] == [0, 1, 2, 3, 4]
