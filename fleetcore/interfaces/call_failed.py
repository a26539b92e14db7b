"""What a call of a hub's SDK can end with, told once: one exception with a kind that backends act on.

A connector maps its service's errors to kinds, in a class of its own that names the hub; what a kind means for one item
and for the engine is the same at every hub, and stands here.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import MirrorResult

Kind = Literal["throttled", "credentials", "unavailable", "invalid", "conflict", "exists", "missing", "in_use"]


class CallFailed(Exception):
    """A call that has not ended well.

    Attributes:
        hub: what the service is called in sentences.
        right: what its rights are called.
        action: the class of call, which is also the right that it needs.
        kind: what it means.
        said: the service's words.
        retry_after_s: where the service says so, else 0.
        lost: whether there was no answer at all, so that the hub may be down.
        paced: whether calls of its class come too fast.
    """

    hub: ClassVar[str] = "The hub"
    right: ClassVar[str] = "right"

    def __init__(
        self, action: str, kind: Kind, said: str, *, retry_after_s: float = 0.0, lost: bool = False, paced: bool = False
    ) -> None:
        super().__init__(f"{action}: {said}")
        self.action, self.kind, self.said = action, kind, said
        self.retry_after_s, self.lost, self.paced = retry_after_s, lost, paced


def rejected(failed: CallFailed) -> CredentialsRejected:
    """For the engine: the mirror pauses."""
    return CredentialsRejected(
        f"{failed.hub} refused {failed.action}: {failed.said}",
        remedy=f"Allow the {failed.right} {failed.action} to these credentials, or renew them; a wrong clock looks the "
        "same",
    )


def unavailable(failed: CallFailed) -> Unavailable:
    """For the engine: tried again with back-off."""
    return Unavailable(
        f"{failed.hub} did not do {failed.action}: {failed.said}", retry_after_s=failed.retry_after_s or 1.0
    )


def for_all(failed: CallFailed) -> CredentialsRejected | Unavailable:
    """For the engine, where a failure concerns all that was asked."""
    return rejected(failed) if failed.kind == "credentials" else unavailable(failed)


def as_result(failed: CallFailed) -> MirrorResult:
    """What it means for one item. Raises :class:`CredentialsRejected`, which concerns them all."""
    match failed.kind:
        case "credentials":
            raise rejected(failed) from failed
        case "throttled":
            return MirrorResult(state="throttled", reason=str(failed), retry_after_s=failed.retry_after_s)
        case "conflict":
            return MirrorResult(state="conflict", reason=str(failed))
        case "invalid":
            return MirrorResult(state="invalid", reason=str(failed))
        case "unavailable" | "exists" | "missing" | "in_use":
            # What was there a moment ago is gone, or the other way round: another writer is at work.
            return MirrorResult(state="failed", reason=str(failed), retry_after_s=failed.retry_after_s)


def as_results(done: Sequence[MirrorResult | BaseException]) -> list[MirrorResult]:
    """What the items of one batch have become, failed calls among them.

    Raises :class:`Unavailable` where no item had an answer, and what is no failed call as it is.
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
