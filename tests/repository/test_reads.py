"""No route of the API reads a whole kind of records to answer a part of it; what may is named here with its reason."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The routes that are written by hand, and the calls.
PLACES = (ROOT / "plugins" / "fleetcore-api" / "fleetcore_api", ROOT / "fleetcore" / "calls")

#: Calls that read all records of a kind, or all that a selection has. ``page`` and ``get`` are the ways to some.
WHOLE = frozenset({"find", "iterate", "list", "rows", "ids", "count", "members", "devices", "inventory", "fleet"})

#: (file, function, call) that may, and why.
ALLOWED = {
    ("caller.py", "record", "find"): "Registry.find looks up one id",
    ("request_middleware.py", "_once", "find"): "the kept answers of one key",
    ("campaigns.py", "_covers", "devices"): "for scoped rights: stops at the first device out of sight",
    ("caller.py", "rows", "find"): "EventTypes.find is a table in memory",
    ("devices.py", "list_device_history", "rows"): "Access.rows leaves out of a page what is not to be seen",
    ("health.py", "diagnose_device", "rows"): "as in list_device_history",
    ("events.py", "is_visible", "find"): "EventTypes.find is a table in memory",
    ("groups.py", "_group", "count"): "kept in memory",
    ("health.py", "get_group_health", "members"): "a group's health is that of all its devices",
    ("cutovers.py", "_chosen", "ids"): "a cut-over is of all the devices that its query selects",
    ("devices.py", "count_devices", "count"): "how many devices a query selects is asked for explicitly",
    ("health.py", "get_fleet_health", "fleet"): "the fleet's health is that of all its devices",
    ("dead_letters.py", "list_dead_letters", "list"): "at most 1,000 are kept",
    ("certificates.py", "list_device_certificates", "inventory"): "of one device, by its index entry",
}


def found():
    """Every use of such a name in the API and the calls, with the function around it."""
    for place, path in [(root, file) for root in PLACES for file in sorted(root.rglob("*.py"))]:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in WHOLE:
                    yield path.relative_to(place).as_posix(), function.name, call.func.attr


def test_no_route_reads_a_whole_kind_but_where_a_reason_is_given():
    assert set(found()) - ALLOWED.keys() == set()


def test_every_reason_is_still_needed():
    assert ALLOWED.keys() - set(found()) == set()
