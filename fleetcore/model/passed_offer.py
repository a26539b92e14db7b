"""A firmware offer that another fleet made, and this one passes to its device."""

from collections.abc import Mapping

from attrs import field, frozen

from fleetcore.model.firmware import WITHDRAWN_MS
from fleetcore.model.twin import Json

#: A device's answers after which it does nothing more about an offer.
_ENDS = frozenset({"succeeded", "failed", "rejected", "cancelled", "reverted"})


@frozen(kw_only=True)
class PassedOffer:
    """The newest offer to a device.

    Attributes:
        body: as the device gets it (wire.md §10): an offer, or its withdrawal.
        status: the device's last report about it, as it came; empty before the first.
        changed: when it came, ms since the epoch.
        not_after: when the offer's assignment expires, ms since the epoch; None for one without.
        version: of the record.
    """

    device: str
    body: Json
    status: Json = field(factory=dict)
    changed: int = 0
    not_after: int | None = None
    version: int = 0

    @property
    def offer(self) -> Mapping[str, object]:
        """The offer; empty for a withdrawal."""
        found = self.body.get("offer")
        return found if isinstance(found, Mapping) else {}

    @property
    def execution(self) -> str:
        """The execution that is offered, or withdrawn."""
        return str(self.offer.get("execution") or self.body.get("cancel") or "")

    @property
    def attempt(self) -> tuple[str, object]:
        """The execution, and which attempt of it."""
        return self.execution, self.offer.get("attempt")

    @property
    def is_over(self) -> bool:
        """Whether the device has nothing more to do about it."""
        return self.status.get("state") in _ENDS or (not self.offer and bool(self.status))

    def is_open(self, now: int) -> bool:
        """Whether the device is to get it: it is not over, and its assignment holds, or the device has begun."""
        if not self.offer and now >= self.changed + WITHDRAWN_MS:
            return False
        return not self.is_over and (bool(self.status) or self.not_after is None or now < self.not_after)

    @property
    def images(self) -> Mapping[str, int]:
        """What the device downloads from its own server: digest and size of the image, and of deltas to it."""
        offer = self.offer
        if "path" not in offer:
            return {}
        deltas = offer.get("deltas")
        each = [offer, *(deltas if isinstance(deltas, list | tuple) else ())]
        return {str(image["sha256"]): int(image["size"]) for image in each}
