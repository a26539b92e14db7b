"""The state of an open fleet as plain data: for ``doctor``, the command line and tests."""

import asyncio
from typing import Any

from attrs import asdict

from fleetcore.errors import FleetError, PluginError
from fleetcore.interfaces.boundary import in_a_line, plugin_code
from fleetcore.model.store import StoreSize
from fleetcore.runtime.app import Fleet, OpenProtocol
from fleetcore.wire.times import format_time

#: How long a protocol may take to examine its environment.
_EXAMINE_S = 10.0


async def status(fleet: Fleet) -> dict[str, Any]:
    """Protocols, consumers, tasks, plugins, the queue, the tally, and the findings of the last check of the store.

    Everything but ``not_ready``, which is tested, and the store's size comes from memory.
    """
    tally = fleet.path.tally
    return {
        "fleet": fleet.config.fleet.name,
        "data": str(fleet.config.data) if fleet.config.data else None,
        "protocols": {name: await _protocol(item) for name, item in fleet.protocols.items()},
        "sessions": len(fleet.device_sessions),
        "queue": {"waiting": fleet.ingest.waiting, "refused_full": fleet.ingest.refused_full},
        "messages": {"accepted": fleet.path.accepted, "rejected": dict(fleet.path.rejected)},
        "readings": {**asdict(tally), "sent": tally.sent, "reasons": fleet.path.reasons},
        "consumers": {consumer.name: asdict(consumer.status) for consumer in fleet.consumers},
        "admissions": {
            admission.name: {"kind": admission.kind, "state": admission.state, "error": admission.error}
            for admission in fleet.admissions
        },
        "counts": {component: dict(names) for component, names in fleet.counts.snapshot().items()},
        "tasks": {name: asdict(item) for name, item in fleet.supervisor.states.items() if item.failures},
        "plugins": [asdict(plugin) for plugin in fleet.host.plugins.values()],
        "storage": list(fleet.problems),
        "room": await _room(fleet),
        "retention": _retention(fleet),
        "left_behind": {name: format_time(goes) for name, goes in fleet.left_behind.found.items()},
        "mirrors": {name: asdict(await mirror.overview()) for name, mirror in fleet.mirrors.items()},
        "not_ready": await fleet.readiness.waiting_for(),
        "recounted": list(fleet.recounted),
    }


async def room(fleet: Fleet) -> StoreSize:
    """The size of the store's parts and its limit; no parts if the store does not report them or has failed."""
    try:
        return await fleet.storage.size()
    except FleetError:
        return StoreSize()


async def _room(fleet: Fleet) -> dict[str, Any]:
    size = await room(fleet)
    return {**asdict(size), "total_bytes": size.total_bytes} if size.parts else {}


def _retention(fleet: Fleet) -> dict[str, Any]:
    retention = fleet.retention
    return {
        "on": retention.periods.is_on,
        "last": format_time(retention.last_ms) if retention.last_ms else None,
        "readings": retention.dropped.readings,
        "texts": retention.dropped.texts,
        "size_bytes": retention.dropped.size_bytes,
    }


async def _protocol(open_protocol: OpenProtocol) -> dict[str, Any]:
    """An adapter's report; a failure to report becomes its problem."""
    said: dict[str, Any] = {"kind": open_protocol.kind, "endpoints": [], "connections": 0, "findings": []}
    try:
        with plugin_code(f"protocol {open_protocol.name!r}"):
            said["endpoints"] = list(open_protocol.adapter.endpoints)
            said["connections"] = open_protocol.adapter.connections
            async with asyncio.timeout(_EXAMINE_S):
                said["findings"] = [asdict(finding) for finding in await open_protocol.adapter.examine()]
            return {**said, "trouble": open_protocol.adapter.trouble}
    except Exception as error:
        why = error.message if isinstance(error, PluginError) else in_a_line(error)
        return {**said, "trouble": f"Its adapter does not report its state: {why}"}
