"""Long operations on many items: their progress, their failures, and how they are stopped."""

from collections.abc import Mapping
from enum import StrEnum

from attrs import field, frozen


class OperationState(StrEnum):
    """``running`` until all items were tried; ``succeeded`` where none failed, ``partly`` where some did.

    ``stopped``: too many failed, and the rest was not tried.
    """

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTLY = "partly"
    CANCELLED = "cancelled"
    STOPPED = "stopped"


@frozen(kw_only=True)
class Failure:
    """An item that failed: its number, counted from 1, what it is about, and why."""

    item: int
    about: str
    code: str
    reason: str


@frozen(kw_only=True)
class Operation:
    """One long operation; after a restart it continues where it stopped.

    Attributes:
        done, failed, total: items tried, those of them that failed, and all.
        rate_per_s: the most items a second; None for no limit.
        failures: the first of those that failed.
        reasons: how many failed, by code.
        result: counts of the others, by name, which belong to the kind.
        spec: what is done to each item; belongs to the kind.
        paused: why no more items are started until it is resumed; None where it runs.
        waiting: what it waits for now, such as a hub that does not answer; empty where it works.
        undo: the ``actor`` and ``reason`` of its cancellation, until its unfinished work is undone.
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
