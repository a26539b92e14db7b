"""Close codes (RFC 6455 §7.4; those from 4000 are ours): the reason of the end, for a device or a browser's script."""

from enum import IntEnum


class Close(IntEnum):
    """The reason why a connection ends."""

    PROTOCOL = 1002
    #: A text message in CBOR, or a binary one in JSON.
    UNSUPPORTED = 1003
    NOT_TEXT = 1007
    NOT_ALLOWED = 1008
    TOO_BIG = 1009
    #: No answer to a ping; common libraries use this code.
    SILENT = 1011
    RESTART = 1012
    OVERLOAD = 1013
    CREDENTIAL = 4401
    REVOKED = 4403
    REPLACED = 4409


def of_session(code: str) -> Close:
    """The reason of a connection whose session has ended."""
    return Close.RESTART if code == "closed" else Close.REVOKED
