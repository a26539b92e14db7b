"""Rows of the audit log: who did what to which, when and why, each bound to the one before it by a hash."""

from attrs import frozen

#: What the first row follows.
GENESIS = "0" * 64


@frozen(kw_only=True)
class AuditRow:
    """One row.

    Attributes:
        seq: from 1, without gaps.
        time: ms since the epoch, when it was done.
        position: of the change in the feed; several rows may share it.
        device: the device that it is about, where ``object`` is a thing of the device; empty in rows of earlier
            releases.
        name: what the command was called, empty for anything else.
        changed: the names of what was changed, never the values.
        data_hash: SHA-256 (hex) of what was changed, as canonical JSON: it can be compared and not read back.
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
    """Where the chain stood: signed, and kept in a second place, so that a cut-off end is found too.

    Attributes:
        fleet: the id of the fleet whose chain it is; empty in checkpoints from before fleets had one.
    """

    seq: int
    hash: str
    time: int
    fleet: str = ""
