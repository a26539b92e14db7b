"""What runs inside an open fleet, as plain data: for ``doctor``, the command line and tests."""

from typing import Any

from attrs import asdict

from fleetcore.runtime.app import Fleet
from fleetcore.runtime.recount import recount


async def status(fleet: Fleet, *, check: bool = False) -> dict[str, Any]:
    """Protocols, consumers, tasks, plugins, the queue, the tally, and what is known to be wrong with the stored data.

    Answered from memory. With ``check`` the whole store is read and checked first, which takes as long as it is large;
    ``recounted`` then names the counters that were wrong and were set right.
    """
    recounted: list[str] = []
    if check:
        fleet.problems = tuple(await fleet.storage.check())
        recounted = await recount(fleet.storage, fleet.counted)
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
        "sessions": fleet.plane.sessions,
        "queue": {"waiting": fleet.ingest.waiting, "refused_full": fleet.ingest.refused_full},
        "messages": {"accepted": fleet.path.accepted, "rejected": dict(fleet.path.rejected)},
        "readings": {**asdict(tally), "sent": tally.sent},
        "consumers": {one.name: asdict(one.status) for one in fleet.consumers},
        "tasks": {name: asdict(one) for name, one in fleet.supervisor.states.items() if one.failures},
        "plugins": [asdict(one) for one in fleet.host.plugins.values()],
        "storage": list(fleet.problems),
        "recounted": recounted,
    }
