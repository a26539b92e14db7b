"""What runs inside an open fleet, as plain data: for ``doctor``, the command line and tests."""

from typing import Any

from attrs import asdict

from fleetcore.runtime.app import Fleet


async def status(fleet: Fleet) -> dict[str, Any]:
    """Protocols, consumers, tasks, plugins, the queue, the tally, and what the last check of the store found.

    It is answered from memory.
    """
    tally = fleet.path.tally
    return {
        "fleet": fleet.config.fleet.name,
        "data": str(fleet.config.data) if fleet.config.data else None,
        "protocols": {
            name: {
                "kind": one.kind,
                "endpoints": list(one.adapter.endpoints),
                "connections": one.adapter.connections,
                "findings": [asdict(finding) for finding in await one.adapter.examine()],
                "trouble": one.adapter.trouble,
            }
            for name, one in fleet.protocols.items()
        },
        "sessions": len(fleet.device_sessions),
        "queue": {"waiting": fleet.ingest.waiting, "refused_full": fleet.ingest.refused_full},
        "messages": {"accepted": fleet.path.accepted, "rejected": dict(fleet.path.rejected)},
        "readings": {**asdict(tally), "sent": tally.sent},
        "consumers": {one.name: asdict(one.status) for one in fleet.consumers},
        "tasks": {name: asdict(one) for name, one in fleet.supervisor.states.items() if one.failures},
        "plugins": [asdict(one) for one in fleet.host.plugins.values()],
        "storage": list(fleet.problems),
        "recounted": list(fleet.recounted),
    }
