"""What an operator can ask of a fleet: one typed function a call, one module a noun.

Every front end is derived from these functions: library, clients, control socket, HTTP API, command line, reference.
"""

from types import ModuleType


def nouns() -> tuple[ModuleType, ...]:
    """The modules whose calls are the core's, in the order in which they are shown."""
    from fleetcore.calls import (
        audit,
        campaigns,
        certificates,
        devices,
        edge,
        enrollment,
        firmware,
        groups,
        health,
        operators,
        server,
    )

    return (devices, groups, edge, health, campaigns, firmware, enrollment, certificates, operators, audit, server)
