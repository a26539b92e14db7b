"""A plugin's calls as a module of typed methods, as ``fleetcore plugin calls`` writes it."""

import sys
from collections.abc import Iterator
from types import ModuleType

from fleetcore.calls.table import Call, Table
from fleetcore.errors import NotFound, Refused
from fleetcore.frontends.typed_methods import Method, Words, import_lines, imports, methods_of


def module_of(table: Table, plugin: str) -> str:
    """The text of the module.

    Raises NotFound for a plugin without calls, Refused for one whose types cannot be imported.
    """
    found = _modules(table, plugin)
    title = "".join(word.capitalize() for word in plugin.replace("_", "-").split("-"))
    running, typing = imports(_methods(found, plugin))
    typing |= {"Ms": "fleetcore.calls.types", "AsyncFleet": "fleetcore.frontends.async_fleet"}
    typing |= {"BlockingFleet": "fleetcore.frontends.blocking_fleet"}
    lines = [
        f'"""The calls of the plugin {plugin}, typed. ``fleetcore plugin calls {plugin}`` writes this file."""',
        "",
        "from __future__ import annotations",
        "",
        "from datetime import datetime",
        "from typing import TYPE_CHECKING, Any",
        "",
        *import_lines(running),
        "",
        "if TYPE_CHECKING:",
        "    from collections.abc import AsyncIterator, Iterator, Sequence",
        *(f"    {line}" for line in import_lines(typing)),
        "",
        "    Time = Ms | int | str | datetime",
    ]
    for blocking in (False, True):
        lines += _class(found, plugin, title, blocking=blocking)
    return "\n".join(lines).rstrip() + "\n"


def _modules(table: Table, plugin: str) -> dict[ModuleType, list[Call]]:
    found: dict[ModuleType, list[Call]] = {}
    for call in table:
        if call.plugin == plugin:
            module = sys.modules.get(call.function.__module__)
            if module is None or "." not in module.__name__:
                raise Refused(
                    f"The types of {call.name} are not in a package, so they cannot be imported",
                    remedy="`fleetcore plugin new` makes a package",
                )
            found.setdefault(module, []).append(call)
    if not found:
        remedy = "`fleetcore plugin list` shows the plugins"
        raise NotFound(f"Plugin {plugin!r} has no calls, or is not installed", remedy=remedy)
    return found


def _methods(found: dict[ModuleType, list[Call]], plugin: str) -> dict[ModuleType, list[Method]]:
    words, prefix = Words(list(found)), plugin.replace("-", "_") + "_"
    return {
        module: methods_of(module, calls, words, fleet="self._fleet", prefix=prefix) for module, calls in found.items()
    }


def _class(found: dict[ModuleType, list[Call]], plugin: str, title: str, *, blocking: bool) -> Iterator[str]:
    kind = "BlockingFleet[Any]" if blocking else "AsyncFleet"
    yield from ["", "", f"class {'Blocking' if blocking else ''}{title}Calls:"]
    yield f'    """What {plugin} adds to a fleet{", blocking" if blocking else ""}."""'
    yield from ["", f"    def __init__(self, fleet: {kind}) -> None:", "        self._fleet = fleet", ""]
    for methods in _methods(found, plugin).values():
        for method in methods:
            yield from method.text(blocking=blocking)
