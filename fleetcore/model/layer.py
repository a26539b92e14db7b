"""Layers of desired state: the fleet's, then groups', policies', and last the device's; later ones override."""

from collections.abc import Mapping
from enum import StrEnum

from attrs import field, frozen

from fleetcore.model.twin import Section


class LayerKind(StrEnum):
    """The kind of a layer, the weakest first; a device's own layer overrides all of these."""

    FLEET = "fleet"
    GROUP = "group"
    POLICY = "policy"


#: The name of a device's own layer in a provenance.
OWN = "device"


@frozen(kw_only=True)
class Layer:
    """Desired state for many devices.

    Attributes:
        group: the group whose devices it is for; None means all. A fleet layer has none, a group layer has one.
        priority: among layers of one kind the greater overrides; among groups first the inner one.
        by: who set each leaf, by JSON pointer.
    """

    id: str
    kind: LayerKind
    group: str | None = None
    priority: int = 0
    section: Section = Section()
    by: Mapping[str, str] = field(factory=dict)
    version: int = 0


@frozen(kw_only=True)
class Origin:
    """Which layer set a leaf of a device's desired state, who and when (ms since the epoch)."""

    value: object
    layer: str
    by: str
    time: int
