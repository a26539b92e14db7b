"""What an operator can ask of a fleet: one typed function a call, one module a noun.

Every front end is derived from these functions: library, clients, control socket, HTTP API, command line, reference.
"""

from types import ModuleType


def nouns() -> tuple[ModuleType, ...]:
    """The modules whose calls are the core's, in the order in which they are shown."""
    from fleetcore.calls import (
        audit,
        certificates,
        commands,
        devices,
        edge,
        enrollment,
        groups,
        health,
        layers,
        operators,
        server,
        twins,
    )

    return (devices, groups, edge, twins, layers, commands, health, enrollment, certificates, operators, audit, server)
