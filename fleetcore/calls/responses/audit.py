"""Answers about the audit log."""

from fleetcore.calls.types import Ms, Response


class AuditRowResponse(Response, frozen=True):
    """A row of the audit log, linked to the row before by its hash."""

    seq: int
    time: Ms | None
    actor: str
    action: str
    object: str
    reason: str
    position: int
    device: str
    name: str
    changed: list[str]
    data_hash: str
    prev: str
    hash: str


class VerdictResponse(Response, frozen=True):
    """Whether the audit log is unaltered; ``bad_seq`` is the first altered row, and ``why`` the reason."""

    ok: bool
    rows: int
    checkpoints: int
    bad_seq: int | None
    why: str
