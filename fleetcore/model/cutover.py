"""Cut-over: a device moves from one side, this fleet or a cloud hub, to another."""

from collections.abc import Mapping
from enum import StrEnum
from typing import cast

from attrs import frozen

from fleetcore.model.twin import OURS, Json


class CutoverState(StrEnum):
    """``offered`` until the device is ``confirmed`` on the new side, or stays; every other state is final."""

    OFFERED = "offered"
    CONFIRMED = "confirmed"
    FELL_BACK = "fell_back"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


#: The member of the fleet's part of a twin that is about a cut-over.
CUTOVER = "cutover"
#: The end states of devices that did not arrive.
STAYED = (CutoverState.FELL_BACK, CutoverState.TIMED_OUT)


@frozen(kw_only=True)
class Cutover:
    """The last cut-over of a device; times are ms since the epoch.

    Attributes:
        id: the device.
        epoch: counts the cut-overs of the device; offers and reports of older ones are ignored.
        operation: the operation that it is part of.
        source, target: the mirrors whose hubs it leaves and goes to; None for this fleet.
        until: when the offer expires.
        ended: when it ended; None as long as it is offered.
        key: SHA-256 (hex) of the public key that an arriving device has announced, and may enrol with.
        former: the key that could enrol before, and can again where the device stays.
        reason: why the device stayed.
    """

    id: str
    epoch: int
    operation: str
    source: str | None
    target: str | None
    state: CutoverState
    offered: int
    until: int
    ended: int | None = None
    key: str | None = None
    former: str | None = None
    reason: str = ""
    version: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it is still offered."""
        return self.state is CutoverState.OFFERED


def cutover_of(section: object) -> Json:
    """A cut-over's entry in a twin section; empty where there is none."""
    ours = section.get(OURS) if isinstance(section, Mapping) else None
    entry = ours.get(CUTOVER) if isinstance(ours, Mapping) else None
    return entry if isinstance(entry, Mapping) else {}


def word_of(section: object, epoch: int) -> Json:
    """The entry for the cut-over of one epoch in a twin section; empty where there is none, or one of another epoch."""
    entry = cutover_of(section)
    of_epoch = entry.get("epoch")
    return (
        entry if type(of_epoch) is int and of_epoch == epoch else {}
    )  # true and 1.0 are equal to 1, and are not epochs


def without_cutover(section: Json) -> Json:
    """A twin section without its cut-over entry."""
    if not cutover_of(section):
        return section
    ours = {name: value for name, value in cast("Json", section[OURS]).items() if name != CUTOVER}
    rest = {name: value for name, value in section.items() if name != OURS}
    return {**rest, OURS: ours} if ours else rest
