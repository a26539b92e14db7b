"""Cut-over: a device leaves the side that it talks to, this fleet or a cloud hub, for another one."""

from collections.abc import Mapping
from enum import StrEnum
from typing import cast

from attrs import frozen

from fleetcore.model.twin import Json


class CutoverState(StrEnum):
    """``offered`` until the device is ``confirmed`` on the new side, or stays: each other state is an end of that."""

    OFFERED = "offered"
    CONFIRMED = "confirmed"
    FELL_BACK = "fell_back"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


_OURS, _CUTOVER = "fleetcore", "cutover"
#: Ends of devices that did not arrive.
STAYED = (CutoverState.FELL_BACK, CutoverState.TIMED_OUT)


@frozen(kw_only=True)
class Cutover:
    """The last cut-over of a device; times are ms since the epoch.

    Attributes:
        id: the device.
        epoch: counts the cut-overs of the device; an offer or a word of an older one counts no more.
        operation: the operation that it is part of.
        source, target: the mirror whose hub it leaves, and that it goes to; None for this fleet.
        until: when it is given up.
        ended: when it ended; None as long as it is offered.
        key: SHA-256 (hex) of the public key that a device that comes here has told, and may enrol with.
        former: the key that could enrol before, which can again where the device stays.
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
        """Whether it has not ended."""
        return self.state is CutoverState.OFFERED


def cutover_of(section: object) -> Json:
    """What a section of a twin says of a cut-over; empty where it says nothing."""
    ours = section.get(_OURS) if isinstance(section, Mapping) else None
    said = ours.get(_CUTOVER) if isinstance(ours, Mapping) else None
    return said if isinstance(said, Mapping) else {}


def word_of(section: object, epoch: int) -> Json:
    """What a section of a twin says of the cut-over of one epoch; empty where it says nothing, or speaks of another."""
    said = cutover_of(section)
    told = said.get("epoch")
    return said if type(told) is int and told == epoch else {}  # true and 1.0 are equal to 1, and are no epochs


def without_cutover(section: Json) -> Json:
    """A section of a twin without what it says of a cut-over."""
    if not cutover_of(section):
        return section
    ours = {name: value for name, value in cast("Json", section[_OURS]).items() if name != _CUTOVER}
    rest = {name: value for name, value in section.items() if name != _OURS}
    return {**rest, _OURS: ours} if ours else rest
