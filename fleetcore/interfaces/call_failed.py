"""How a call to a hub's SDK can fail: one exception, with a kind that backends act on.

A connector maps its service's errors to kinds, in a subclass that names the hub. What a kind means for one item and for
the engine is the same for every hub and is defined here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import MirrorResult
from fleetcore.interfaces.protocol import Finding

Kind = Literal["throttled", "credentials", "clock", "unavailable", "invalid", "conflict", "exists", "missing", "in_use"]

_CLOCK = "clock"
SET_CLOCK = "Set the clock of this machine, and have it follow a time server"


class CallFailed(Exception):
    """A call that failed.

    Attributes:
        hub: the service's name in sentences.
        action: the class of call, which is also the right that it needs.
        kind: the meaning of the failure.
        said: the service's message.
        retry_after_s: the service's retry time, else 0.
        lost: whether there was no answer at all, so that the hub may be down.
        paced: whether calls of its class come too fast.
    """

    hub: ClassVar[str] = "The hub"

    def __init__(
        self, action: str, kind: Kind, said: str, *, retry_after_s: float = 0.0, lost: bool = False, paced: bool = False
    ) -> None:
        super().__init__(f"{action}: {said}")
        self.action, self.kind, self.said = action, kind, said
        self.retry_after_s, self.lost, self.paced = retry_after_s, lost, paced

    @property
    def needs(self) -> str:
        """The right that the call needs, in a sentence."""
        return f"the right {self.action}"


def wrong_clock(ahead_s: float | None, whose: str) -> str:
    """How this machine's clock differs from that of ``whose``, in words."""
    if ahead_s is None:
        return f"the clock of this machine differs from {whose}"
    return f"the clock of this machine is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} {whose}"


def clock_finding(failed: CallFailed) -> Finding:
    """The finding of ``mirror check`` where a call failed because of a wrong clock."""
    return Finding(state="problem", what=_CLOCK, detail=failed.said, remedy=SET_CLOCK)


def clock_first(found: Sequence[Finding]) -> Sequence[Finding]:
    """Only the wrong clock, where it is among the findings: with it, no other finding is reliable."""
    return [each for each in found if each.what == _CLOCK][:1] or found


def _rejected(failed: CallFailed) -> CredentialsRejected:
    return CredentialsRejected(
        f"{failed.hub} refused {failed.action}: {failed.said}",
        remedy=f"Allow {failed.needs} to these credentials, or renew them",
    )


def unavailable(failed: CallFailed) -> Unavailable:
    """The error for the engine, which retries with back-off."""
    return Unavailable(
        f"{failed.hub} did not do {failed.action}: {failed.said}",
        retry_after_s=failed.retry_after_s or 1.0,
        remedy=SET_CLOCK if failed.kind == "clock" else "",
    )


def for_all(failed: CallFailed) -> CredentialsRejected | Unavailable:
    """The error for the engine where a failure concerns every call: rejected credentials pause the mirror."""
    return _rejected(failed) if failed.kind == "credentials" else unavailable(failed)


@contextmanager
def raised_for_all() -> Iterator[None]:
    """Raises :func:`for_all` in place of a :class:`CallFailed` of the block."""
    try:
        yield
    except CallFailed as failed:
        raise for_all(failed) from failed


def is_for_all(failed: CallFailed) -> bool:
    """Whether a failure concerns every call."""
    return failed.kind in {"credentials", "clock"}


def as_result(failed: CallFailed) -> MirrorResult:
    """The result for one item. Raises :func:`for_all` where the failure concerns all of them."""
    match failed.kind:
        case "credentials" | "clock":
            raise for_all(failed) from failed
        case "throttled":
            return MirrorResult(state="throttled", reason=str(failed), retry_after_s=failed.retry_after_s)
        case "conflict":
            return MirrorResult(state="conflict", reason=str(failed))
        case "invalid":
            return MirrorResult(state="invalid", reason=str(failed))
        case "unavailable" | "exists" | "missing" | "in_use":
            # An entity appeared or vanished between two calls: another writer is at work.
            return MirrorResult(state="failed", reason=str(failed), retry_after_s=failed.retry_after_s)


def as_results(done: Sequence[MirrorResult | BaseException]) -> list[MirrorResult]:
    """The results of the items of one batch, failed calls among them.

    Raises :class:`Unavailable` where no item got an answer. An exception that is not a failed call is raised unchanged.
    """
    found: list[MirrorResult] = []
    lost: list[CallFailed] = []
    for result in done:
        if isinstance(result, CallFailed):
            lost += [result] if result.lost else []
            found.append(as_result(result))
        elif isinstance(result, BaseException):
            raise result
        else:
            found.append(result)
    if lost and len(lost) == len(done):
        raise unavailable(lost[0]) from lost[0]
    return found
