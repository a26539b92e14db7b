"""Mirrors: their state, what they would send or cannot send, and where the hub differs."""

from fleetcore.calls.responses.server import FindingResponse
from fleetcore.calls.types import Ms, Response


class MirrorReadingsResponse(Response, frozen=True):
    """A mirror's readings since the server started, and ``behind``: commits that it has not processed."""

    behind: int
    taken: int
    refused: int
    expired: int
    over_budget: int
    within_deadband: int


class MirrorInboxResponse(Response, frozen=True):
    """Messages from a hub since the server started.

    ``commands`` were accepted, ``refused`` ones were not; ``changes`` are notices of changes, ``invalid`` those that
    could not be read. ``error`` is the last failure to receive.
    """

    commands: int
    refused: int
    changes: int
    invalid: int
    error: str


class MirrorResponse(Response, frozen=True):
    """A mirror.

    ``state`` is ``opening``, ``running``, ``paused``, ``failing`` or ``credentials``. ``waiting`` entities are to be
    sent, the first of them since ``lag_s``; ``held`` are in the hub, ``invalid`` cannot be sent as they are, ``lost``
    are held in part, ``paused`` are not synchronised. ``removals_wait`` wait for the next day's budget of removals.
    ``snapshot`` is how many entities the running snapshot has examined. ``counts`` and ``throttled`` are since the
    server started.
    """

    name: str
    state: str
    error: str
    waiting: int
    held: int
    invalid: int
    lost: int
    paused: int
    removals_wait: int
    lag_s: float
    behind: int
    snapshot: int | None
    counts: dict[str, int]
    throttled: dict[str, int]
    readings: MirrorReadingsResponse | None
    inbox: MirrorInboxResponse | None


class MirrorLossResponse(Response, frozen=True):
    """A part of an entity that the hub cannot hold: its place, a JSON pointer, and why."""

    path: str
    reason: str


class MirrorChangeResponse(Response, frozen=True):
    """What a mirror would do with an entity: ``create``, ``change``, ``remove`` or ``refuse`` (``reason`` says why)."""

    entity: str
    action: str
    reason: str
    lost: list[MirrorLossResponse]


class MirrorImportableResponse(Response, frozen=True):
    """An entity that others have made at the hub, by the hub's ``name`` for it.

    ``entity`` is what it would be in the fleet. ``action`` is ``create``, ``resume`` (its import was begun) or
    ``skip``, and then ``reason`` says why.
    """

    name: str
    entity: str | None
    action: str
    reason: str


class MirrorImportableResponses(Response, frozen=True):
    """A part of the importable entities, and where the next part begins; null at the end."""

    found: list[MirrorImportableResponse]
    next: str | None


class MirrorDriftResponse(Response, frozen=True):
    """An entity that differs at the hub.

    ``state`` is ``missing``, ``differs``, or ``extra``: only the hub has it, with this fleet's mark.
    """

    entity: str
    state: str


class MirrorDriftsResponse(Response, frozen=True):
    """The entities of a part that differ at the hub, and how many were compared.

    ``against`` is ``hub``, or ``sent`` where the hub cannot be read: then the fleet was compared with what the hub
    accepted. ``next`` names the next part, and is null after the last one.
    """

    differences: list[MirrorDriftResponse]
    compared: int
    against: str
    next: str | None


class MirrorDeadLetterResponse(Response, frozen=True):
    """An entity that the hub does not hold whole: ``reason`` where it refuses it, else ``lost`` of ``lost_count``."""

    entity: str
    reason: str
    lost: list[MirrorLossResponse]
    lost_count: int


class MirrorPausedResponse(Response, frozen=True):
    """An entity that is not synchronised, and why."""

    entity: str
    reason: str


class MirrorRefusedCommandResponse(Response, frozen=True):
    """A command that was given at the hub, by the hub's id for it, and why the fleet refused it."""

    id: str
    device: str
    command: str
    reason: str


class MirrorCheckResponse(Response, frozen=True):
    """The findings of a check of credentials, permissions and quotas; empty where the backend checks none."""

    findings: list[FindingResponse]


class MirrorPolicyResponse(Response, frozen=True):
    """The least rights that the mirror needs at its hub, by the form of the text; empty if the backend gives none."""

    policy: dict[str, str]


class MirrorRefusedReadingResponse(Response, frozen=True):
    """A reading that the hub refused."""

    device: str
    metric: str
    time: Ms
    reason: str
