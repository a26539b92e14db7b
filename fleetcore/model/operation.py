"""Long work on many things: how far it is, what failed, and that it can be stopped."""

from collections.abc import Mapping
from enum import StrEnum

from attrs import field, frozen


class OperationState(StrEnum):
    """``running`` until all was tried; ``succeeded`` where nothing failed, ``partly`` where something did.

    ``stopped``: too much failed, and the rest was not tried.
    """

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTLY = "partly"
    CANCELLED = "cancelled"
    STOPPED = "stopped"


@frozen(kw_only=True)
class Failure:
    """What could not be done: the item, counted from 1, who it is about, and why."""

    item: int
    about: str
    code: str
    reason: str


@frozen(kw_only=True)
class Operation:
    """One piece of long work; it goes on after a restart where it stood.

    Attributes:
        done, failed, total: items tried, those of them that failed, and all.
        rate_per_s: at most so many items a second; None as fast as it goes.
        failures: the first of those that failed.
        reasons: how many failed, by code.
        result: what became of the others, counted in the words of the kind.
        spec: what is done to each item; belongs to the kind.
        paused: why nothing more of it is begun until it is resumed; None where it goes on.
        waiting: what it waits for now, a hub that does not answer; empty where it works.
        undo: by which ``actor`` and for which ``reason`` it was cancelled, until what it has under way is taken back.
    """

    id: str
    kind: str
    state: OperationState = OperationState.RUNNING
    total: int = 0
    done: int = 0
    failed: int = 0
    rate_per_s: float | None = None
    failures: tuple[Failure, ...] = ()
    reasons: Mapping[str, int] = field(factory=dict)
    result: Mapping[str, int] = field(factory=dict)
    spec: Mapping[str, object] = field(factory=dict)
    paused: str | None = None
    waiting: str = ""
    undo: Mapping[str, str] | None = None
    created: int = 0
    updated: int = 0
    actor: str = ""
    reason: str = ""
    version: int = 0
