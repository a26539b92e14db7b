"""What an operator can ask of a fleet: one typed function a call, one module a noun.

Every front end is derived from these functions: library, clients, control socket, HTTP API, command line, reference.
"""

from types import ModuleType


def nouns() -> tuple[ModuleType, ...]:
    """The modules whose calls are the core's, in the order in which they are shown."""
    from fleetcore.calls import (
        anomalies,
        audit,
        campaigns,
        cas,
        certificates,
        commands,
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
        operations,
        operators,
        server,
        telemetry,
        twins,
    )

    return (
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
    )
