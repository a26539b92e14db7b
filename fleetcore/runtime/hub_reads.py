"""What a cut-over reads from the hubs of mirrors: the reports of devices there, and which of them the hub has."""

from collections.abc import Collection, Mapping, Sequence

from fleetcore.errors import Unavailable
from fleetcore.model.mirror import EntityKey, Facet, TwinBody
from fleetcore.model.twin import Json
from fleetcore.runtime.mirroring import Mirror


async def reported_at(mirrors: Mapping[str, Mirror], mirror: str, devices: Sequence[str]) -> Mapping[str, Json]:
    """The reported sections of devices at the hub of a mirror; raises Unavailable if it does not answer."""
    if mirror not in mirrors:
        raise Unavailable(f"There is no mirror {mirror!r} any more")
    hub = await mirrors[mirror].hub()
    there = await hub.read([EntityKey("twin", device) for device in devices])
    return {item.key.id: item.body.reported for item in there if item is not None and isinstance(item.body, TwinBody)}


async def held_at(
    mirrors: Mapping[str, Mirror], mirror: str, facet: Facet, devices: Collection[str]
) -> Collection[str]:
    """The devices, of some, for which the hub of a mirror has an entity of a facet."""
    if mirror not in mirrors:
        return ()
    states = await mirrors[mirror].sender.states.get_many([EntityKey(facet, device) for device in devices])
    return [key.id for key, kept in states.items() if kept.digest]
