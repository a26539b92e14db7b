"""The tables of the core's calls and of a fleet's: the only module that knows every noun.

The definition of a call and how it runs are in :mod:`.table`, which the nouns import; this module imports the nouns,
and none of them imports it.
"""

from functools import cache

from fleetcore.calls import (
    anomalies,
    audit,
    campaigns,
    cas,
    certificates,
    commands,
    cutovers,
    dead_letters,
    devices,
    edge,
    enrollment,
    events,
    firmware,
    freezes,
    groups,
    health,
    imports,
    layers,
    mirrors,
    operations,
    operators,
    overview,
    server,
    storage,
    telemetry,
    twins,
)
from fleetcore.calls.table import Table, call_of, calls_of
from fleetcore.runtime.plugins import PluginHost

#: The modules of the core's calls, in the order of the reference.
NOUNS = (
    devices,
    imports,
    groups,
    edge,
    twins,
    layers,
    commands,
    telemetry,
    anomalies,
    dead_letters,
    health,
    overview,
    campaigns,
    freezes,
    firmware,
    operations,
    events,
    enrollment,
    certificates,
    cas,
    operators,
    audit,
    server,
    storage,
    mirrors,
    cutovers,
)


def core() -> Table:
    """A table of the core's calls."""
    return _core().copy()


@cache
def _core() -> Table:
    return Table(call for noun in NOUNS for call in calls_of(noun))


def of_fleet(host: PluginHost) -> Table:
    """The table of a fleet: the core's calls and those of its plugins.

    If a plugin's call cannot be added, the log and ``plugin list`` name the plugin, and none of its calls is added.
    """
    table = core()
    for plugin, functions in host.calls().items():
        try:
            calls = [call_of(function, plugin) for function in functions]
            table.extend(calls)
            host.note(plugin, [f"calls.{call.name}" for call in calls])
        except Exception as error:  # noqa: BLE001  # a plugin's code must not end the fleet
            host.failed(plugin, "fleetcore_calls", error)
    return table
