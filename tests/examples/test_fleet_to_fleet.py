"""The example that mirrors from fleet to fleet passes the contract, and three fleets in a ring come to rest."""

import asyncio
import importlib.util
import io
import json
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager
from fleetcore.calls.types import Ms
from fleetcore.errors import NotAuthenticated, NotFound, Unavailable
from fleetcore.fleet.mirrors import VIA
from fleetcore.runtime.config import load as load_config
from fleetcore.testing.cloud_contract import START_MS, CloudContract
from fleetcore.testing.patience import PATIENCE_S

FILE = Path(__file__).parents[2] / "examples" / "fleet_to_fleet.py"


def load():
    spec = importlib.util.spec_from_file_location("fleet_to_fleet", FILE)
    module = sys.modules["fleet_to_fleet"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load()


class Faulty:
    """A fleet as the connector calls it, with the faults of the contract; and the contract's control of it."""

    def __init__(self, manager):
        self.manager, self.error, self.losing = manager, None, 0

    def __getattr__(self, name):
        call = getattr(self.manager, name)

        async def asked(*given, **more):
            if self.error is not None:
                raise self.error
            answer = await call(*given, **more)
            if self.losing and name not in {"get_device", "get_twin"}:
                self.losing -= 1
                raise Unavailable("The answer was lost", code="not_ready")
            return answer

        return asked

    async def has(self, key):
        try:
            await self.manager.get_device(key.id)
        except NotFound:
            return False
        return True

    async def edit(self, key, patch):
        old = (await self.manager.get_twin(key.id)).desired
        for name, value in patch.items():
            assert name == "desired"
            await self.manager.set_desired(key.id, {**dict.fromkeys(old), **value})

    async def make_foreign(self, key):
        await self.manager.register_device(key.id, "theirs")

    async def telemetry(self, device):
        found = []
        for each in await self.manager.list_series(device=device):
            (series,) = await self.manager.list_readings(
                each.metric, device=device, start=Ms(START_MS), end=Ms(START_MS + 1000)
            )
            found += [(each.metric, int(time), value) for time, value in series.points]
        return sorted(found, key=lambda reading: reading[1])

    async def throttle(self):
        self.error = Unavailable("Busy", code="overloaded", retry_after_s=2.0)

    async def go_down(self):
        self.error = Unavailable("Away", code="not_ready")

    async def lose_answers(self, calls):
        self.losing = calls

    async def reject_credentials(self):
        self.error = NotAuthenticated("The token has ended")

    async def heal(self):
        self.error, self.losing = None, 0


class TestOtherFleet(CloudContract):
    @pytest.fixture
    async def other(self):
        async with IoTFleetManager() as manager:
            await manager.open()
            yield Faulty(manager)

    @pytest.fixture
    def backend(self, other):
        return example.OtherFleet(other, "this-fleet", "there")

    @pytest.fixture
    def hub(self, other):
        return other


async def test_readings_of_a_device_that_is_not_there_are_refused_by_name():
    async with IoTFleetManager() as manager:
        await manager.open()
        content = {"series": [["nobody", "heat", None]], "at": [0], "time": [1_767_225_600_000], "value": [1.0]}
        answer = await manager.import_readings(io.BytesIO(json.dumps(content).encode()))
    assert [each.item for each in answer.failures] == [1], "the example counts from it"


@asynccontextmanager
async def fleet_with_api(folder, mirrors):
    """A fleet with an API, and a mirror to each of the given (URL, token)."""
    folder.mkdir(exist_ok=True)
    text = f'[fleet]\ndata = "data"\nplugins = ["{FILE}"]\n'
    for number, (url, token) in enumerate(mirrors):
        (folder / f"token-{number}").touch(0o600)
        (folder / f"token-{number}").write_text(token)
        text += (
            f'[clouds.to{number}]\nkind = "fleet"\nurl = "{url}"\ntoken = "file:{folder}/token-{number}"\n'
            'metrics = ["*"]\nwrite_every_s = 0\n'
        )
    (folder / "fleet.toml").write_text(text)
    async with IoTFleetManager(config=load_config(folder / "fleet.toml"), create=True) as manager:
        fleet = await manager.open()
        await fleet.operators.grant("root", "admin")
        token = (await fleet.operators.create_token("root")).token
        async with open_api(
            ApiConfig(listen="http://127.0.0.1:0", requests_per_minute=10**6), fleet._context("api"), fleet
        ) as api:
            await fleet.serve()
            yield manager, (api.url, token)


async def test_a_fleet_is_mirrored_over_the_api_of_another_which_goes_on_to_a_third(tmp_path):
    async with AsyncExitStack() as stack:
        third, at_third = await stack.enter_async_context(fleet_with_api(tmp_path / "third", []))
        second, at_second = await stack.enter_async_context(fleet_with_api(tmp_path / "second", [at_third]))
        first, _ = await stack.enter_async_context(fleet_with_api(tmp_path / "first", [at_second]))
        await first.register_device("pump-1", "pump", {"site": "north"})
        await first.set_desired("pump-1", {"interval": 60})
        await first.collect_telemetry("pump-1", "heat", 21.5)

        async with asyncio.timeout(PATIENCE_S):
            while not await _has(third, "pump-1"):
                await asyncio.sleep(0.02)
            while (await third.get_twin("pump-1")).desired != {"interval": 60}:
                await asyncio.sleep(0.02)
            while not len(await third.list_device_latest_readings("pump-1")):
                await asyncio.sleep(0.02)
        device = await third.get_device("pump-1")

        assert device.attributes[VIA] == [(await each.open()).id for each in (first, second)]
        assert device.attributes["site"] == "north"


async def _has(manager, device):
    try:
        await manager.get_device(device)
    except NotFound:
        return False
    return True
