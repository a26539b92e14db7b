"""A command to a device and the states it goes through."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from attrs import field, frozen


class CommandState(StrEnum):
    """Where a command stands; ``delivered`` only after the device's acknowledgement."""

    QUEUED = "queued"
    SENT = "sent"
    DELIVERED = "delivered"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


FINISHED = frozenset(
    {
        CommandState.SUCCEEDED,
        CommandState.FAILED,
        CommandState.REJECTED,
        CommandState.TIMED_OUT,
        CommandState.EXPIRED,
        CommandState.CANCELLED,
    }
)

_OPEN_ENDS = frozenset(
    {CommandState.RUNNING, CommandState.SUCCEEDED, CommandState.FAILED, CommandState.REJECTED, CommandState.CANCELLED}
)

#: From → where it may go. A result may arrive before the transport's acknowledgement, so ``queued`` leads everywhere.
COMMAND_TRANSITIONS: Mapping[CommandState, frozenset[CommandState]] = MappingProxyType(
    {
        CommandState.QUEUED: _OPEN_ENDS
        | {CommandState.SENT, CommandState.DELIVERED, CommandState.EXPIRED, CommandState.TIMED_OUT},
        CommandState.SENT: _OPEN_ENDS | {CommandState.DELIVERED, CommandState.EXPIRED, CommandState.TIMED_OUT},
        CommandState.DELIVERED: _OPEN_ENDS | {CommandState.TIMED_OUT},
        CommandState.RUNNING: (_OPEN_ENDS - {CommandState.RUNNING}) | {CommandState.TIMED_OUT},
    }
    | {state: frozenset() for state in FINISHED}
)


@frozen(kw_only=True)
class Command:
    """One command to one device; all times are ms since the epoch, the server's clock.

    Attributes:
        sequence: rises per device, possibly with gaps.
        deliver_by: not sent after it.
        expires_at: the device must not start it after this (execute-by).
        result_by: without an end state by then it is ``timed_out``.
        attempt: how often it was passed to a transport.
        sent_at: when it was last passed on.
        precondition: a query that must select the device when the command is sent, or None.
        bulk: the operation that sent it, or None.
        late: a result that came after the end state, or None.
    """

    id: str
    device: str
    name: str
    args: Mapping[str, object] = field(factory=dict)
    sequence: int = 0
    lane: str = "default"
    respond: str = "result"
    state: CommandState = CommandState.QUEUED
    issued_at: int = 0
    deliver_by: int = 0
    expires_at: int = 0
    result_by: int = 0
    attempt: int = 0
    sent_at: int | None = None
    supersede_key: str | None = None
    precondition: str | None = None
    bulk: str | None = None
    supersedes: tuple[str, ...] = ()
    progress: float | None = None
    output: object = None
    code: str | None = None
    reason: str | None = None
    finished_at: int | None = None
    cancel_requested: bool = False
    result_hash: str | None = None
    late: Mapping[str, object] | None = None
    issued_by: str = ""
    version: int = 0
