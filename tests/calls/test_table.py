"""The table of calls: what it refuses, what it asks for, and what every call in it has."""

import subprocess
import sys
from typing import Annotated, get_args

import pytest
from msgspec import Meta

from fleetcore import IoTFleetManager
from fleetcore.calls.caller import Caller
from fleetcore.calls.fleet_table import core
from fleetcore.calls.table import BY_CALL, EVERYWHERE, Table, call, calls_of, invoke, on, run
from fleetcore.calls.types import OPTIONS, DeviceId, Response
from fleetcore.errors import ConfigError, Conflict, FleetError, NotAuthorised, NotFound, PluginError, Refused
from fleetcore.fleet.rights import Rights
from fleetcore.model.operator import Permission, Role, RoleGrant


class Made(Response, frozen=True):
    """Something."""

    id: str


def declared(route="GET /x/{name}", *, function=None, **options):
    """A table's row of a function of the tests."""

    async def thing(caller: Caller, name: DeviceId) -> Made:
        """Shows a thing."""
        caller.everywhere(name, Permission.DEVICES_READ)
        return Made(id=name)

    options = {"cli": "x show NAME", "scope": BY_CALL, **options}
    function = call(route, Permission.DEVICES_READ, **options)(function or thing)
    module = type(sys)("module")
    function.__module__ = "module"
    module.function = function
    return next(calls_of(module))


async def bare(caller, name):
    return None


async def silent(caller: Caller, name: DeviceId) -> Made:
    """Asks for nothing."""
    return Made(id=name)


INCOMPLETE = [
    (lambda: declared(function=bare), "docstring"),
    (lambda: declared(cli=None), "a command, or a reason"),
    (lambda: declared(confirm="Erases {device}."), "it confirms device, which it does not take"),
    (lambda: declared(confirm="Erases it.", confirm_when={"state": "gone"}), "it confirms state"),
    (lambda: declared("GET /x/{other}"), "the path names other"),
    (lambda: declared(scope=on("device_id")), "scope names 'device_id'"),
    (lambda: declared(match_required=True), "if_version"),
]


@pytest.mark.parametrize(("row", "problem"), INCOMPLETE, ids=[problem for _, problem in INCOMPLETE])
def test_an_incomplete_call_is_refused(row, problem):
    with pytest.raises(PluginError, match=problem):
        Table([row()])


async def other(caller: Caller, name: DeviceId) -> Made:
    """Shows another thing."""
    return Made(id=name)


@pytest.mark.parametrize(
    ("route", "command", "problem"),
    [("GET /x/{name}", "y show NAME", "is that of thing"), ("GET /y/{name}", "x show NAME", "is that of thing")],
)
def test_a_second_call_for_a_route_or_a_command_is_refused(route, command, problem):
    with pytest.raises(PluginError, match=problem):
        Table([declared(), declared(route, cli=command, function=other)])


async def test_a_call_that_asks_for_no_rights_answers_nothing():
    async with IoTFleetManager() as manager:
        fleet = await manager.open()
        grant = RoleGrant(id="g", principal="p", role=Role.VIEWER)
        caller = Caller(fleet, Rights("p", (grant,), (), fleet.search))

        with pytest.raises(FleetError, match="without a check of rights"):
            await invoke(declared(function=silent), caller, {"name": "a"})


SCOPES = {"group:lab": {"d-1"}, "type = 'pump'": {"d-2"}}


@pytest.mark.parametrize("role", [None, *Role])
@pytest.mark.parametrize("scope", ["", *SCOPES])
async def test_every_call_asks_for_the_permission_that_it_declares(role, scope):
    """Without the permission nothing is answered; with it on other devices, what is asked about is not there."""
    async with IoTFleetManager() as manager:
        fleet = await manager.open()
        grants = [] if role is None else [RoleGrant(id="g", principal="p", role=role, scope=scope)]
        for row in core():
            caller = Caller(fleet, Rights("p", grants, (), fleet.search))
            given = {name: "none-such" for name in row.required if row.parameters[name].reader.text_kind == "text"}
            given |= {name: ["none-such"] for name in given if row.parameters[name].reader.repeated}
            permission = row.declared.permission
            allowed = caller.rights.holds(permission)
            if row.declared.scope is EVERYWHERE:
                allowed = caller.rights.everywhere(permission)
            refusal = None
            try:
                await run(row, caller, given)
            except (Conflict, ConfigError, NotFound, Refused) as error:
                refusal = error
            if not isinstance(refusal, NotAuthorised):
                assert allowed, row.name
            elif allowed:  # it needs the permission for the whole fleet, or another one beside it
                assert scope or refusal.ids["permission"] != permission, row.name


def test_what_a_parameter_names_is_an_item_of_a_list():
    table = core()
    named = [one.names for each in table for one in each.parameters.values() if one.names is not None]

    assert {names.call for names in named} >= {"list_devices", "list_groups", "list_operations", "list_certificates"}
    for names in named:
        (item,) = get_args(table[names.call].answer)
        assert names.member in item.__struct_fields__


def test_what_a_parameter_is_for_is_said():
    wordless = [
        f"{row.name}: {parameter.name}" for row in core() for parameter in row.parameters.values() if not parameter.help
    ]
    assert wordless == []


def test_a_parameter_is_described_by_its_own_type_before_the_type_that_this_narrows():
    async def turn(caller: Caller, name: Annotated[DeviceId, Meta(description="The valve.")]) -> Made:
        """Turns a valve."""
        return Made(id=name)

    assert declared(function=turn).parameters["name"].help == "The valve."
    assert declared().parameters["name"].help == "The device's id."


def loaded(code):
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_the_clients_load_nothing_of_the_fleet():
    modules = loaded("import fleetcore.frontends.requests, fleetcore.frontends.generated.calls_async")

    assert not [name for name in modules if name.startswith(("fleetcore.fleet", "fleetcore.runtime", "numpy"))]


def test_help_of_a_noun_of_calls_loads_neither_calls_nor_numpy():
    code = "from fleetcore.cli.root import run\ntry: run(['group', 'create', '--help'])\nexcept SystemExit: pass"
    modules = loaded(f"{code}\nprint()")

    heavy = ("fleetcore.calls", "fleetcore.fleet", "numpy", "cattrs", "httpx", "cryptography")
    assert [name for name in modules if name.startswith(heavy)] == []


def test_options_of_the_command_line_are_none_of_a_calls():
    from fleetcore.cli.derived import _TAKEN

    assert OPTIONS <= _TAKEN
    for one in core():
        arguments = {
            word.lower() for command in (one.declared.cli, *one.declared.also) for word in (command or "").split()
        }
        words = {made.word or name for name, made in one.parameters.items() if name not in arguments}
        assert not words & OPTIONS, one.name


def test_commands_that_are_made_by_hand_are_no_plugins_noun():
    from fleetcore.calls.table import VERBS
    from fleetcore.cli.root import NOUNS

    assert {*NOUNS} - {command.split()[0] for one in core() if (command := one.declared.cli)} == VERBS
