"""The tables of the core's calls and of a fleet's: the one module that knows every noun.

What a call is and how it runs is in :mod:`.table`, which the nouns import; so this module imports them, and none of
them imports it.
"""

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
    groups,
    health,
    imports,
    layers,
    mirrors,
    operations,
    operators,
    server,
    storage,
    telemetry,
    twins,
)
from fleetcore.calls.table import Table, call_of, calls_of
from fleetcore.runtime.plugins import PluginHost

#: The modules whose calls are the core's, in the order in which they are shown.
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
    campaigns,
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
    """The table of the core's calls."""
    return Table(call for noun in NOUNS for call in calls_of(noun))


def of_fleet(host: PluginHost) -> Table:
    """The table of a fleet: the core's calls and those of its plugins.

    A plugin of which a call cannot be added is named in the log and by ``plugin list``; it has no calls then.
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
