"""What a receiver makes of the messages of states: the fleet, as it was last told. For receivers in Python, and tests.

It needs nothing of the SDK: attributes and data of each message, in whatever order they come.
"""

import json
from collections.abc import Mapping

from fleetcore.interfaces.cloud import MirrorItem
from fleetcore.model.mirror import BODIES, EntityKey
from fleetcore.wire.records import from_plain
from fleetcore_gcp.publishing import FLEET
from fleetcore_gcp.states import ENTITY, FACET, VERSION


class Receiver:
    """Takes messages of one fleet and keeps the newest state of each entity.

    Args:
        mark: of the fleet, as the attribute ``fleetcore-fleet`` has it; None for the first one that is seen.

    Attributes:
        states: what there is, by entity.
        versions: the newest of each entity, also of those that are gone: an older message makes none of them anew.
    """

    def __init__(self, mark: str | None = None) -> None:
        self._mark = mark
        self.states: dict[EntityKey, MirrorItem] = {}
        self.versions: dict[EntityKey, int] = {}

    def take(self, attributes: Mapping[str, str], data: bytes) -> bool:
        """Takes a message; whether it was a state of the fleet that is newer than what is known."""
        facet = attributes.get(FACET, "")
        if facet not in BODIES or attributes.get(FLEET) != (self._mark or attributes.get(FLEET)):
            return False
        self._mark = attributes[FLEET]
        key, version = EntityKey(facet, attributes[ENTITY]), int(attributes[VERSION])  # type: ignore[arg-type]  # a key of BODIES
        if version <= self.versions.get(key, 0):
            return False
        self.versions[key] = version
        state = json.loads(data)["state"]
        if state is None:
            self.states.pop(key, None)
        else:
            body = from_plain(key.facet, state, BODIES[key.facet])
            self.states[key] = MirrorItem(key=key, body=body, remote_version=str(version))
        return True
