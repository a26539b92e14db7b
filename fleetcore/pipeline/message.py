"""A message with readings, as the steps of the data path pass it on."""

from fleetcore.model.message import Outcome, PointRefusal
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.session import DeviceState


class Message:
    """A message with readings on its way through a batch: what it is about, and what was refused of it.

    Attributes:
        state, owner: the device that it is about, and the device's id.
        count: its readings in the columns.
        refused: those that were refused, or None.
        others: the leaves that single readings are about, by id.
        answer: the outcome, as soon as it is known.
        repeated: the answer is that of an earlier message with the same id.
    """

    __slots__ = ("answer", "count", "delivery", "id", "others", "owner", "refused", "repeated", "state")

    def __init__(self, delivery: Delivery, state: DeviceState) -> None:
        self.delivery, self.state = delivery, state
        self.owner = state.device.id
        self.id: str | None = delivery[1].id
        self.count = 0
        self.refused: list[PointRefusal] | None = None
        self.answer: Outcome | None = None
        self.repeated = False
        self.others: dict[str, DeviceState] = {}

    def about(self, subject: str | None) -> DeviceState | None:
        """The device that a reading is about; None where the sender may not speak for it."""
        return self.state if subject is None or subject == self.owner else self.others.get(subject)

    def refuse(self, index: int, metric: str, code: str) -> None:
        """Notes a reading that is not taken."""
        if self.refused is None:
            self.refused = []
        self.refused.append(PointRefusal(index, metric, code))
