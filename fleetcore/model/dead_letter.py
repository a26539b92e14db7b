"""A refused message that is kept, so that somebody may look at it and try it again."""

import base64

from attrs import field, frozen

from fleetcore.model.message import Inbound, Operation


@frozen(kw_only=True)
class DeadLetter:
    """A refused message; ``payload`` is base64, ``whole`` says whether all of it is there."""

    number: int
    device: str
    identity: str
    operation: Operation
    code: str
    reason: str
    time: int
    payload: str = field(default="")
    whole: bool = True
    content_type: str | None = None
    id: str | None = None
    target: str | None = None
    if_version: int | None = None

    def inbound(self) -> Inbound:
        """The message as it came."""
        return Inbound(
            operation=self.operation,
            subject=self.device,
            payload=base64.b64decode(self.payload),
            content_type=self.content_type,
            id=self.id,
            target=self.target,
            if_version=self.if_version,
        )
