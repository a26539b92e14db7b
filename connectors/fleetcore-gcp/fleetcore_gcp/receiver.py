"""Builds the fleet's states from the messages. For receivers in Python, and tests.

It does not need the SDK: only attributes and data of each message, in any order.
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
        mark: the fleet's, in the attribute ``fleetcore-fleet``; None for the first one that is seen.

    Attributes:
        states: the existing ones, by entity.
        versions: the newest of each entity, also of deleted ones: an older message does not create them again.
    """

    def __init__(self, mark: str | None = None) -> None:
        self._mark = mark
        self.states: dict[EntityKey, MirrorItem] = {}
        self.versions: dict[EntityKey, int] = {}

    def take(self, attributes: Mapping[str, str], data: bytes) -> bool:
        """Handles a message; returns whether it was a newer state of the fleet."""
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
