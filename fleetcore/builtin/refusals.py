"""How a parser's error becomes the outcome that the sender is told."""

from fleetcore.model.message import Rejected
from fleetcore.wire.strict_json import StrictJsonError


def unreadable(error: StrictJsonError) -> Rejected:
    """The refusal of a payload that cannot be read, with the limit where one was exceeded."""
    limit = error.limit
    return Rejected(
        code=error.code,
        reason=error.reason,
        pointer=error.pointer,
        limit=limit,
        unit=None if limit is None else "levels",
        scope=None if limit is None else "message",
    )
