"""A refused message, stored for examination and retry."""

from attrs import field, frozen


@frozen(kw_only=True)
class DeadLetter:
    """A refused message.

    Attributes:
        operation: the name of its message type.
        payload: base64.
        whole: whether the whole payload is stored.
    """

    number: int
    device: str
    identity: str
    operation: str
    code: str
    reason: str
    time: int
    payload: str = field(default="")
    whole: bool = True
    content_type: str | None = None
    id: str | None = None
    target: str | None = None
    if_version: int | None = None
