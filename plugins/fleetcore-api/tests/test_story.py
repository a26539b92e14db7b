"""One story told through every front end: equal answers and equal refusals, no member left out of the comparison."""

import asyncio
import json

import pytest
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager
from fleetcore.calls.table import core as table
from fleetcore.calls.types import to_builtins
from fleetcore.cli.exits import exit_code
from fleetcore.cli.root import run as run_command
from fleetcore.client import AsyncFleetClient, FleetClient
from fleetcore.errors import FleetError
from fleetcore.frontends.catalogue import core
from fleetcore.frontends.control import ControlClient, serve_control
from fleetcore.testing.clock import MovableClock

ACTOR = "operator:story"
WRONG_NAME = "b\n"

#: What is asked, in order: the call, and what is given. Each call of the table is in it.
STORY = [
    ("create_group", {"id": "site/north", "description": "all of it"}),
    ("create_group", {"id": "hall", "within": ["site/north"], "reason": "moved in"}),
    ("create_group", {"id": "pumps", "query": "type = 'pump'", "within": ["site/north"]}),
    ("create_group", {"id": "hall"}),
    ("create_group", {"id": WRONG_NAME}),
    ("create_group", {"id": "cold", "query": "tags hs 'x'"}),
    ("create_group", {"id": "cold", "within": ["nowhere"]}),
    ("create_group", {"id": "cold", "within": ["hall", WRONG_NAME], "description": "x" * 1025}),
    ("list_groups", {}),
    ("get_group", {"group": "site/north"}),
    ("get_group", {"group": "nothing"}),
    ("update_group", {"group": "hall", "description": "the hall"}),
    ("update_group", {"group": "hall", "description": "late", "if_version": 1}),
    ("update_group", {"group": "nothing", "description": "x"}),
    ("add_to_group", {"group": "hall", "devices": ["th-1", "pump-1"]}),
    ("add_to_group", {"group": "hall", "devices": ["th-1", "nobody"]}),
    ("add_to_group", {"group": "hall", "devices": ["th-1", WRONG_NAME]}),
    ("add_to_group", {"group": "pumps", "devices": ["th-1"]}),
    ("list_group_members", {"group": "site/north"}),
    ("list_device_groups", {"device_id": "pump-1"}),
    ("list_device_groups", {"device_id": "nobody"}),
    ("get_group_health", {"group": "site/north"}),
    ("remove_from_group", {"group": "hall", "device_id": "th-1"}),
    ("remove_from_group", {"group": "hall", "device_id": "th-1"}),
    ("remove_group", {"group": "site/north"}),
    ("remove_group", {"group": "hall", "reason": "closed"}),
    ("list_groups", {}),
]


class Library:
    """The typed methods of the manager."""

    def __init__(self, fleet):
        self._calls = fleet.manager

    async def ask(self, name, given):
        return to_builtins(await getattr(self._calls, name)(**given))

    async def close(self):
        """The fleet is closed by who opened it."""


class Client(Library):
    """Those of the remote client in asyncio."""

    def __init__(self, fleet):
        self._calls = AsyncFleetClient(fleet.url, fleet.token)

    async def close(self):
        await self._calls.close()


class BlockingClient:
    """Those of the blocking remote client."""

    def __init__(self, fleet):
        self._calls = FleetClient(fleet.url, fleet.token)

    async def ask(self, name, given):
        return to_builtins(await asyncio.to_thread(getattr(self._calls, name), **given))

    async def close(self):
        self._calls.close()


class Socket:
    """The control socket of the folder."""

    def __init__(self, fleet):
        self._client = ControlClient(fleet.folder)

    async def ask(self, name, given):
        return await self._client.run(name, given)

    async def close(self):
        """Each call has a connection of its own."""


class Shell:
    """The command line, with the words that stand for what is given."""

    def __init__(self, fleet, *place):
        self._place, self._capture = place, fleet.capture

    async def ask(self, name, given):
        self._capture.readouterr()
        code = await asyncio.to_thread(run_command, [*words(core()[name], given), *self._place, "-o", "json"])
        out, err = self._capture.readouterr()
        if code:
            raise Ended(code, err)
        answer = json.loads(out)
        return {"items": answer, "next": None} if core()[name].answer == "page" else answer

    async def close(self):
        """Each command is a process of its own, as it were."""


class Ended(Exception):
    """A command ended with this exit code, and said this."""


FRONT_ENDS = {
    "library": Library,
    "client": Client,
    "blocking client": BlockingClient,
    "socket": Socket,
    "shell, socket": lambda fleet: Shell(fleet, "--data", str(fleet.folder)),
    "shell, server": lambda fleet: Shell(fleet, "--server", fleet.url, "--token", fleet.token),
}


def words(call, given):
    """The command line of a call."""
    found = []
    for word in call.command.split():
        value = given.get(word.lower()) if word.isupper() else word
        found += value if isinstance(value, list) else [value]
    arguments = {word.lower() for word in call.command.split() if word.isupper()}
    for name, value in given.items():
        if name not in arguments:
            for text in value if isinstance(value, list) else [value]:
                found += [f"--{name.replace('_', '-')}", str(text)]
    return found


class Running:
    """A fleet of three devices on a folder, with its API and its control socket."""

    def __init__(self, folder, capture):
        self.folder, self.capture = folder, capture

    async def __aenter__(self):
        self.manager = IoTFleetManager(self.folder, clock=MovableClock(), actor=ACTOR)
        fleet = await self.manager.open()
        for device, kind in (("pump-1", "pump"), ("pump-2", "pump"), ("th-1", "thermometer")):
            await self.manager.register_device(device, kind)
        await fleet.operators.grant("story", "admin")
        self.token = (await fleet.operators.create_token("story")).token
        self._api = open_api(ApiConfig(listen="http://127.0.0.1:0"), fleet._context("api"), fleet)
        self._socket = serve_control(self.manager, self.folder)
        self.url = (await self._api.__aenter__()).url
        await self._socket.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self._socket.__aexit__(*error)
        await self._api.__aexit__(*error)
        await self.manager.close()


async def told(front_end, folder, capture):
    """What a front end answers to the story: answers as they are, refusals with all that they say."""
    found = []
    async with Running(folder, capture) as fleet:
        teller = FRONT_ENDS[front_end](fleet)
        for name, given in STORY:
            try:
                found.append(await teller.ask(name, given))
            except FleetError as error:
                found.append((exit_code(error), error.code, str(error), error.remedy, dict(error.ids)))
            except Ended as error:
                found.append(error)
        await teller.close()
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What the library answers."""
    return asyncio.run(told("library", tmp_path_factory.mktemp("library") / "fleet", None))


@pytest.mark.parametrize("front_end", list(FRONT_ENDS)[1:])
def test_every_front_end_answers_alike(front_end, expected, tmp_path, capfd):
    found = asyncio.run(told(front_end, tmp_path / "fleet", capfd))

    for (name, given), wanted, answer in zip(STORY, expected, found, strict=True):
        if isinstance(answer, Ended):
            code, said = answer.args
            assert (code, f"[{wanted[1]}]" in said) == (wanted[0], True), (name, given, said)
            assert all(part in said.replace("\\n", "\n") for part in (wanted[2], wanted[3])), (name, given, said)
        else:
            assert answer == wanted, (name, given)


def test_the_story_has_every_call(expected):
    assert {call.name for call in table()} - {name for name, _ in STORY} == set()
    refused = [answer for answer in expected if isinstance(answer, tuple)]
    assert 0 < len(refused) < len(STORY)
