"""A plugin's calls on every front end: of a running server, and of a folder without one."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager
from fleetcore.calls.fleet_table import of_fleet
from fleetcore.calls.types import to_builtins
from fleetcore.cli.root import run as run_command
from fleetcore.client import AsyncFleetClient, FleetClient
from fleetcore.errors import NotFound, Refused
from fleetcore.frontends.control import serve_control
from fleetcore.frontends.control_client import ControlClient
from fleetcore.frontends.plugin_methods import module_of
from fleetcore.runtime.plugins import PluginHost
from fleetcore.testing.clock import MovableClock

ROOT = Path(__file__).parents[3]
PLUGIN = '''\
import re
from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta

from fleetcore import hookimpl
from fleetcore.calls.caller import Caller
from fleetcore.calls.table import ANYWHERE, BY_CALL, call, on
from fleetcore.calls.types import DeviceId, Ms, Page, Response
from fleetcore.model.operator import Permission

Millimetres = Annotated[float, Meta(ge=0, le=500, description="How much fell.")]


class RainResponse(Response, frozen=True):
    """How much rain fell on a device."""

    device: str
    mm: float
    time: Ms


_FALLEN = {}


@call("POST /x/weather/devices/{device_id}/rain", Permission.DEVICES_WRITE, scope=on("device_id"),
      cli="weather rain DEVICE_ID MM", status=201)
async def weather_rain(caller: Caller, device_id: DeviceId, mm: Millimetres) -> RainResponse:
    """Writes down how much rain fell on a device."""
    found = _FALLEN[device_id] = RainResponse(device_id, mm, Ms(caller.fleet.clock.now_ms()))
    return found


@call("GET /x/weather/devices/{device_id}/rain", Permission.DEVICES_READ, scope=on("device_id"),
      cli="weather show DEVICE_ID")
async def weather_get(caller: Caller, device_id: DeviceId) -> RainResponse:
    """Shows how much rain fell on a device."""
    return _FALLEN.get(device_id) or RainResponse(device_id, 0.0, Ms(caller.fleet.clock.now_ms()))


@call("GET /x/weather/drops", Permission.DEVICES_READ, scope=ANYWHERE, cli="weather drops")
async def weather_drops(caller: Caller) -> AsyncIterator[RainResponse]:
    """Follows the drops."""
    for number in range(3):
        yield RainResponse(f"drop-{number}", 1.0, Ms(caller.fleet.clock.now_ms()))


@hookimpl
def fleetcore_calls():
    return [weather_rain, weather_get, weather_drops]
'''


@pytest.fixture
def folder(tmp_path):
    """A data folder whose fleet.toml names the plugin."""
    data = tmp_path / "data"
    assert run_command(["init", str(data), "--name", "lab"]) == 0
    (data / "weather.py").write_text(PLUGIN)
    toml = data / "fleet.toml"
    toml.write_text(toml.read_text().replace("[fleet]", '[fleet]\nplugins = ["./weather.py"]', 1))
    assert run_command(["device", "register", "mast-1", "--data", str(data)]) == 0
    return data


def shell(capfd, *words):
    """A command's exit code, and what it printed as JSON."""
    capfd.readouterr()
    code = run_command([*map(str, words), "-o", "json"])
    out, err = capfd.readouterr()
    return code, json.loads(out) if out.startswith(("{", "[", "null")) else out or err


def test_on_a_folder_without_a_server(folder, capfd):
    code, made = shell(capfd, "weather", "rain", "mast-1", "2.5", "--data", folder)

    assert (code, made["device"], made["mm"]) == (0, "mast-1", 2.5)
    assert shell(capfd, "weather", "rain", "mast-1", "501", "--data", folder)[0] == 5
    assert shell(capfd, "weather", "show", "nobody", "--data", folder)[0] == 3
    assert shell(capfd, "wether", "show", "mast-1", "--data", folder)[0] == 2


async def test_on_a_running_server(folder, capfd):
    async with IoTFleetManager(folder, clock=MovableClock()) as manager:
        fleet = await manager.open()
        await fleet.operators.grant("ana", "admin")
        token = (await fleet.operators.create_token("ana")).token
        api = open_api(ApiConfig(listen="http://127.0.0.1:0"), fleet._context("api"), fleet)
        async with api as server, serve_control(manager, folder), AsyncFleetClient(server.url, token) as client:
            made = to_builtins(await manager.call("weather_rain", device_id="mast-1", mm=2.5))
            there = ["--server", server.url, "--plain-http", "--token", token]
            found = [
                await client.call("weather_get", device_id="mast-1"),
                await ControlClient(folder).run("weather_get", {"device_id": "mast-1"}),
                (await asyncio.to_thread(shell, capfd, "weather", "show", "mast-1", "--data", folder))[1],
                (await asyncio.to_thread(shell, capfd, "weather", "show", "mast-1", *there))[1],
                await asyncio.to_thread(_blocking, server.url, token),
            ]
            refused = []
            for ask in (manager.call, client.call):
                with pytest.raises(Refused) as error:
                    await ask("weather_rain", device_id="mast-1", mm=501.0)
                refused.append((error.value.code, error.value.ids["pointer"], str(error.value)))
            drops = [drop["device"] async for drop in client.stream("weather_drops")]
            assert drops == [drop["device"] async for drop in ControlClient(folder).stream("weather_drops", {})]
            assert drops == [drop.device async for drop in manager.stream("weather_drops")]
            with pytest.raises(Refused) as unknown:
                await client.call("weather_snow")
            catalogue = {call["name"] for call in json.loads(await client.catalogue())}
            document = (await client._answer("GET", "/openapi.json")).json()

    assert found == [made] * 5
    assert refused[0] == refused[1]
    assert refused[0][1] == "/mm"
    assert drops == ["drop-0", "drop-1", "drop-2"]
    assert unknown.value.code == "operation_unknown"
    assert {"weather_rain", "weather_get", "weather_drops", "get_device"} <= catalogue
    assert document["paths"]["/api/v1/x/weather/devices/{device_id}/rain"].keys() == {"get", "post"}


def _blocking(url, token):
    with FleetClient(url, token) as client:
        return client.call("weather_get", device_id="mast-1")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("async def weather_get(", "async def rain_get(", "its name does not begin with weather_"),
        ('"GET /x/weather/devices/{device_id}/rain"', '"GET /rain/{device_id}"', "its path does not begin with"),
        ('cli="weather show DEVICE_ID"', 'cli="device show DEVICE_ID"', "its command is not `weather VERB`"),
        ('cli="weather show DEVICE_ID"', 'cli="weather rain DEVICE_ID"', "the command `weather rain` is that of"),
        ('    """Shows how much rain fell on a device."""\n', "", "it has no docstring"),
        ("caller: Caller, device_id: DeviceId) -> RainResponse", "caller: Caller) -> RainResponse", "it does not take"),
        ("async def weather_get(", "def weather_get(", "it is not async"),
        ("caller: Caller, device_id: DeviceId) -> RainResponse", "device_id: DeviceId) -> RainResponse", "`caller`"),
        ("mm: Millimetres)", "mm: Millimetres, **more: int)", "it takes parameters without names"),
        ("mm: Millimetres)", "mm)", "mm has no type"),
        ("mm: Millimetres) -> RainResponse", "mm: Millimetres)", "return has no type"),
        ("mm: Millimetres)", "mm: Millimetres, token: str)", "--token is the command line's own"),
        ("-> AsyncIterator[RainResponse]:", "-> RainResponse:", "it must yield items and return AsyncIterator"),
        (
            "async def weather_drops(caller: Caller)",
            "async def weather_drops(caller: Caller, limit: int = 1)",
            "--limit is",
        ),
        ('"GET /x/weather/drops"', '"POST /x/weather/drops"', "it streams, and is not a GET"),
        ('"GET /x/weather/drops"', '"BREW /x/weather/drops"', "it streams, and is not a GET"),
        ('"GET /x/weather/drops"', '"GET /x/weather/{drops:path}"', "is not a method and path"),
        (
            'scope=on("device_id"),\n      cli="weather rain',
            'scope=ANYWHERE,\n      cli="weather rain NOPE',
            "its command names nope",
        ),
        (
            'scope=on("device_id"),\n      cli="weather rain',
            'scope=BY_CALL,\n      cli="weather rain',
            "it is not a GET",
        ),
        ("    mm: float\n", "    mm: re.Pattern\n", "its answer is not plain data: type <class 're.Pattern'>"),
        ("mm: Millimetres)", "mm: complex)", "the parameter 'mm' is not plain data: type <class 'complex'>"),
        ("return [weather_rain, weather_get, weather_drops]", "return [print]", "is not declared by"),
        ("return [weather_rain, weather_get, weather_drops]", "raise ValueError('no')", "ValueError: no"),
    ],
)
def test_a_plugin_whose_calls_are_not_its_own_is_named_and_has_none(tmp_path, old, new, said):
    text = PLUGIN.replace(old, new).replace("weather_get, ", "rain_get, " if "rain_get" in new else "weather_get, ")
    assert text != PLUGIN
    (tmp_path / "weather.py").write_text(text)
    host = PluginHost([tmp_path / "weather.py"], discover=False)

    table = of_fleet(host)

    assert not [call for call in table if call.plugin]
    assert table["get_device"].path == "/devices/{device_id}"
    assert said in host.plugins["weather"].error


def test_the_typed_methods_of_a_package_are_written_and_work(tmp_path, monkeypatch):
    package = tmp_path / "fleetcore_weather"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    host = PluginHost(discover=False)
    host._load("weather", "test", "", lambda: importlib.import_module("fleetcore_weather.plugin"))
    table = of_fleet(host)

    (package / "typed_calls.py").write_text(module_of(table, "weather"))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", str(tmp_path / "cache"),
         "--follow-imports", "silent", "-m", "fleetcore_weather.typed_calls"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "MYPYPATH": str(ROOT)},
    )  # fmt: skip
    typed = importlib.import_module("fleetcore_weather.typed_calls")

    async def ask():
        async with IoTFleetManager() as manager:
            (await manager.open()).host = host
            manager._table = table
            await manager.register_device("mast-1", "mast")
            calls = typed.WeatherCalls(manager)
            await calls.rain("mast-1", 2.5)
            return (await calls.get("mast-1")).mm, [drop.device async for drop in calls.drops()]

    assert asyncio.run(ask()) == (2.5, ["drop-0", "drop-1", "drop-2"])
    # The package's own environment has no checker of types; the workspace's has.
    assert checked.returncode == 0 or find_spec("mypy") is None, checked.stdout
    with pytest.raises(NotFound):
        module_of(table, "snow")


def test_the_list_of_plugins_shows_calls_and_of_which_plugin_they_are_no_good(tmp_path, capfd):
    (tmp_path / "weather.py").write_text(PLUGIN)
    (tmp_path / "snow.py").write_text(PLUGIN)

    code, rows = shell(capfd, "plugin", "list", "--file", tmp_path / "weather.py", "--file", tmp_path / "snow.py")
    found = {row["name"]: row for row in rows}

    assert code == 7
    assert "calls.weather_rain" in found["weather"]["offers"]
    assert "its name does not begin with snow_" in found["snow"]["error"]
