"""Long ids by their beginning, and their completion in a shell."""

import asyncio
import json

import pytest
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from fleetcore import IoTFleetManager
from fleetcore.cli.ids import LEAST_TYPED, whole_ids, with_whole_ids
from fleetcore.cli.root import root
from fleetcore.errors import NotAuthorised, NotFound, Refused
from fleetcore.frontends.catalogue import core

IDS = ("aaaa1111bbbb2222", "aaaa1111cccc3333", "beef0000beef0000", "beef")


class Fleet:
    """A list of operations; what is asked of it by id is noted."""

    def __init__(self, ids=IDS, *, listed=True):
        self.ids, self.listed, self.asked, self.lists = ids, listed, [], 0

    async def run(self, name, given):
        if name == "list_operations":
            self.lists += 1
            if not self.listed:
                raise NotAuthorised("This needs a right")
            return {"items": [{"id": one} for one in self.ids], "next": None}
        self.asked.append(given["operation"])
        if given["operation"] not in self.ids:
            raise NotFound(f"Operation {given['operation']!r} does not exist")
        return given["operation"]


def show(fleet, typed):
    call = core()["get_operation"]
    return asyncio.run(
        with_whole_ids(fleet, call, {"operation": typed}, lambda given: fleet.run("get_operation", given))
    )


def test_the_beginning_of_one_id_stands_for_it():
    fleet = Fleet()

    assert show(fleet, "aaaa1111b") == "aaaa1111bbbb2222"
    assert fleet.asked == ["aaaa1111b", "aaaa1111bbbb2222"]


def test_an_id_that_there_is_wins_and_lists_nothing():
    fleet = Fleet()

    assert show(fleet, "beef") == "beef"
    assert fleet.lists == 0


def test_of_two_ids_that_begin_so_both_are_named():
    with pytest.raises(Refused, match="2 ids begin with 'aaaa1111': aaaa1111bbbb2222, aaaa1111cccc3333") as refused:
        show(Fleet(), "aaaa1111")

    assert (refused.value.code, refused.value.ids["pointer"]) == ("name_invalid", "/operation")


@pytest.mark.parametrize("typed", ["dddd", "aaa"[: LEAST_TYPED - 1]])
def test_no_id_that_begins_so_is_the_error_that_it_was(typed):
    with pytest.raises(NotFound, match=f"Operation '{typed}' does not exist"):
        show(Fleet(), typed)


def test_where_the_list_is_not_to_be_seen_the_error_stays():
    with pytest.raises(NotFound):
        show(Fleet(listed=False), "aaaa1111b")


def test_a_beginning_is_not_looked_for_in_a_list_that_is_too_long(monkeypatch):
    monkeypatch.setattr("fleetcore.cli.ids._MAX_ITEMS", 2)

    with pytest.raises(NotFound):
        show(Fleet(), "aaaa1111b")


def test_a_certificate_is_named_by_the_beginning_of_its_serial():
    class Certificates:
        async def run(self, _name, _given):
            return {"items": [{"id": "ca:0123456789"}, {"id": "ca:9876543210"}], "next": None}

    call, fleet = core()["get_certificate"], Certificates()

    def whole(typed):
        return asyncio.run(whole_ids(fleet, call, {"certificate": typed}))["certificate"]

    assert [whole("0123"), whole("ca:98"), whole("0123456789")] == ["ca:0123456789", "ca:9876543210", "0123456789"]


def test_names_that_people_chose_are_never_short(run, filled):
    assert run("device", "show", "th-", "--data", filled).code == 3


def test_short_ids_on_a_folder(fleet):
    made = [json.loads(fleet("token", "create", "alice", "-o", "json").out)["id"] for _ in range(2)]

    shown = fleet("token", "show", made[0][:10], "-o", "json")
    revoked = fleet("token", "revoke", made[0][:10])

    assert json.loads(shown.out)["id"] == made[0]
    assert revoked.code == 0
    assert [one["revoked"] for one in json.loads(fleet("token", "list", "-o", "json").out) if one["id"] in made].count(
        True
    ) == 1
    missing = fleet("token", "show", "zzzzzzzz")
    assert (missing.code, "zzzzzzzz" in missing.err) == (3, True)


# --- completion -------------------------------------------------------------------------------------------------------


def completed(*words, incomplete="", shell=BashComplete):
    found = shell(root, {}, "fleetcore", "_FLEETCORE_COMPLETE").get_completions([*map(str, words)], incomplete)
    return [item.value for item in found]


@pytest.fixture
def named(filled):
    """The folder with two devices, with something of each kind that has a name."""

    async def fill():
        async with IoTFleetManager(filled) as manager:
            await manager.create_group("roof", query="tags has 'roof'")
            token = await manager.create_token("alice")
            return token.id

    return filled, asyncio.run(fill())


@pytest.mark.parametrize("shell", [BashComplete, ZshComplete, FishComplete])
def test_the_shell_completes_commands_options_choices_and_names(named, shell):
    data, token = named

    assert "device" in completed(incomplete="dev", shell=shell)
    assert completed("device", incomplete="sh", shell=shell) == ["show"]
    assert "--reason" in completed("device", "set", incomplete="--r", shell=shell)
    assert completed("device", "move", "th-1", incomplete="ret", shell=shell) == ["retired"]
    assert completed("device", "show", "--data", data, incomplete="th", shell=shell) == ["th-1", "th-2"]
    assert completed("group", "show", "--data", data, shell=shell) == ["roof"]
    assert completed("group", "add", "--data", data, "roof", incomplete="th-2", shell=shell) == ["th-2"]
    assert completed("telemetry", "latest", "--data", data, incomplete="th-1", shell=shell) == ["th-1"]
    assert token in completed("token", "show", "--data", data, incomplete=token[:3], shell=shell)


def test_the_place_is_that_of_the_environment(named, monkeypatch):
    monkeypatch.setenv("FLEETCORE_DATA", str(named[0]))

    assert completed("device", "show") == ["th-1", "th-2"]


@pytest.mark.parametrize(
    "place",
    [
        ["--data", "/nowhere"],
        ["--server", "http://127.0.0.1:1", "--plain-http", "--token", "x"],
        ["--server", "https://127.0.0.1:1"],
        ["--server", "http://127.0.0.1:1", "--plain-http", "--token", "env:NOBODY_SET_IT"],
    ],
)
def test_a_fleet_that_cannot_be_read_completes_nothing_in_silence(place, capfd):
    assert completed("device", "show", *place) == []
    assert capfd.readouterr() == ("", "")


def test_a_device_that_is_made_is_not_completed(filled):
    assert completed("device", "register", "--data", filled) == []


def test_bash_gets_its_script(process):
    import os

    done = process(env={**os.environ, "_FLEETCORE_COMPLETE": "bash_source"})

    assert "complete -o nosort -F" in done.stdout
