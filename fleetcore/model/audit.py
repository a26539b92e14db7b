"""Rows of the audit log: who did what to which object, when and why. A hash links each row to the one before."""

from attrs import frozen

#: The ``prev`` of the first row.
GENESIS = "0" * 64


@frozen(kw_only=True)
class AuditRow:
    """One row.

    Attributes:
        seq: from 1, without gaps.
        time: ms since the epoch, when it was done.
        position: the change's position in the feed; several rows may share it.
        device: the device to which ``object`` belongs, if any; empty in rows of earlier releases.
        name: the command's name, empty for anything else.
        changed: the names of the changed members, never the values.
        data_hash: SHA-256 (hex) of the changed data, as canonical JSON: it can be compared and not read back.
        prev, hash: SHA-256 (hex) of the row before, and of ``prev`` with all members above.
    """

    seq: int
    time: int
    actor: str
    action: str
    object: str
    reason: str = ""
    position: int = 0
    device: str = ""
    name: str = ""
    changed: tuple[str, ...] = ()
    data_hash: str = ""
    prev: str = GENESIS
    hash: str = ""
    version: int = 0


@frozen(kw_only=True)
class Checkpoint:
    """The head of the chain, signed and stored in a second place, so that a truncated log is detected.

    Attributes:
        fleet: the id of the fleet whose chain it is; empty in checkpoints from before fleets had one.
    """

    seq: int
    hash: str
    time: int
    fleet: str = ""
