"""Mirrors to cloud hubs: their state, what they would send, where the hub differs, and what it refuses."""

from collections.abc import Callable, Collection
from typing import Annotated, TypeVar, cast

from msgspec import Meta

from fleetcore.calls.caller import Caller
from fleetcore.calls.cursors import decode, encode, foreign, page_of
from fleetcore.calls.operations import operation_response
from fleetcore.calls.responses.mirrors import (
    MirrorChangeResponse,
    MirrorCheckResponse,
    MirrorDeadLetterResponse,
    MirrorDriftResponse,
    MirrorDriftsResponse,
    MirrorImportableResponse,
    MirrorImportableResponses,
    MirrorInboxResponse,
    MirrorLossResponse,
    MirrorPausedResponse,
    MirrorPolicyResponse,
    MirrorReadingsResponse,
    MirrorRefusedCommandResponse,
    MirrorRefusedReadingResponse,
    MirrorResponse,
)
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.responses.server import FindingResponse
from fleetcore.calls.table import call
from fleetcore.calls.types import Cursor, Limit, Ms, Names, Page, Reason, to_response
from fleetcore.errors import NotFound
from fleetcore.model.mirror import AMONG_RECORDED, FACETS, EntityKey, EntityState, Facet, Loss
from fleetcore.model.operator import Permission
from fleetcore.runtime.mirroring import Mirror

_T = TypeVar("_T")
_S = TypeVar("_S")

MirrorName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)", description="The mirror, as in `[clouds.NAME]`."),
    Names("list_mirrors", "name"),
]
Entity = Annotated[
    str,
    Meta(
        pattern=rf"^({'|'.join(sorted(FACETS))})/[^\n\x00]{{1,256}}$(?!\n)",
        description="The entity, as in the lists of a mirror: `twin/pump-1`.",
    ),
]
Removals = Annotated[int, Meta(ge=1, le=1_000_000, description="How many more the mirror may remove at the hub.")]
DefaultType = Annotated[
    str, Meta(min_length=1, max_length=128, description="The type of devices for which the hub has none.")
]
Scan = Annotated[int, Meta(ge=1, le=1000, description="How many entities to examine.")]


def _mirror(caller: Caller, name: str) -> Mirror:
    found = caller.fleet.mirrors.get(name)
    if found is None:
        there = ", ".join(sorted(caller.fleet.mirrors)) or "none is configured"
        raise NotFound(f"There is no mirror {name!r}", remedy=f"The mirrors of this fleet: {there}", mirror=name)
    return found


async def _to_response(caller: Caller, mirror: Mirror) -> MirrorResponse:
    position = await caller.fleet.storage.position()
    overview = await mirror.overview()
    readings = mirror.readings
    return MirrorResponse(
        name=mirror.name,
        state=overview.state,
        error=mirror.error or mirror.sender.error,
        waiting=overview.waiting,
        held=overview.held,
        invalid=overview.invalid,
        lost=overview.lost,
        paused=overview.paused,
        removals_wait=overview.removals_wait,
        lag_s=overview.lag_s,
        behind=mirror.tracker.status.behind(position),
        snapshot=mirror.tracker.snapshot,
        counts=dict(mirror.sender.counts),
        throttled=dict(mirror.pace.throttled),
        readings=None
        if readings is None
        else MirrorReadingsResponse(
            behind=readings.status.behind(position),
            taken=readings.counts["taken"],
            refused=readings.counts["refused"],
            expired=readings.counts["expired"],
            over_budget=readings.counts["over_budget"],
            within_deadband=readings.counts["within_deadband"],
        ),
        inbox=None
        if mirror.inbox is None
        else MirrorInboxResponse(
            **{name: mirror.inbox.counts[name] for name in ("commands", "refused", "changes", "invalid")},
            error=mirror.inbox.error,
        ),
    )


@call(
    "GET /mirrors", Permission.SERVER_READ, cli="mirror list",
    columns=("name", "state", "waiting", "held", "invalid", "lost", "behind", "error"),
)  # fmt: skip
async def list_mirrors(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[MirrorResponse]:
    """Lists the mirrors and their states."""
    mirrors = caller.fleet.mirrors
    page = page_of(sorted(mirrors), cursor, limit, lambda name: name, lambda name: name)
    return Page([await _to_response(caller, mirrors[name]) for name in page.items], page.next)


@call("GET /mirrors/{name}", Permission.SERVER_READ, cli="mirror show NAME")
async def get_mirror(caller: Caller, name: MirrorName) -> MirrorResponse:
    """Shows the state of a mirror."""
    return await _to_response(caller, _mirror(caller, name))


@call("POST /mirrors/{name}/pause", Permission.SERVER_WRITE, cli="mirror pause NAME")
async def pause_mirror(
    caller: Caller, name: MirrorName, *, entity: Entity | None = None, reason: Reason = ""
) -> MirrorResponse:
    """Pauses a mirror: it sends no state until it is resumed, also across restarts; changes wait meanwhile.

    With ``entity``, only that entity is paused and stays as the hub has it.
    """
    mirror = _mirror(caller, name)
    if entity is None:
        await mirror.pause(actor=caller.actor, reason=reason)
    else:
        await mirror.pause_entity(_key(entity), actor=caller.actor, reason=reason)
    return await _to_response(caller, mirror)


@call("POST /mirrors/{name}/resume", Permission.SERVER_WRITE, cli="mirror resume NAME")
async def resume_mirror(
    caller: Caller, name: MirrorName, *, entity: Entity | None = None, reason: Reason = ""
) -> MirrorResponse:
    """Resumes a mirror at once, also after failures and rejected credentials; or one paused entity.

    Raises:
        NotFound: the entity is not paused.
    """
    mirror = _mirror(caller, name)
    if entity is None:
        await mirror.resume(actor=caller.actor, reason=reason)
    else:
        await mirror.resume_entity(_key(entity), actor=caller.actor, reason=reason)
    return await _to_response(caller, mirror)


@call("POST /mirrors/{name}/resync", Permission.SERVER_WRITE, cli="mirror resync NAME")
async def resync_mirror(
    caller: Caller, name: MirrorName, *, entity: Entity | None = None, reason: Reason = ""
) -> MirrorResponse:
    """Makes a mirror check every entity again, including those it could not send; unchanged ones are not sent again.

    A hub that cannot be read gets everything again.

    With ``entity`` only that one is checked, such as a dead letter.

    Raises:
        NotFound: neither side has the entity.
    """
    mirror = _mirror(caller, name)
    if entity is None:
        await mirror.resync(actor=caller.actor, reason=reason)
    else:
        await mirror.look_at(_key(entity), actor=caller.actor, reason=reason)
    return await _to_response(caller, mirror)


@call(
    "POST /mirrors/{name}/apply", Permission.SERVER_WRITE, cli="mirror apply NAME", status=202,
    confirm="Reads the whole hub of {name}, and overwrites the differences there.",
)  # fmt: skip
async def apply_mirror(caller: Caller, name: MirrorName, *, reason: Reason = "") -> OperationResponse:
    """Reads the hub and repairs the differences; ``list_mirror_drift`` shows them first.

    It runs in the background. The mirror itself sends what was found: ``waiting`` is how much is left.
    """
    _mirror(caller, name)
    operation = await caller.fleet.repair.start(name, actor=caller.actor, reason=reason)
    return await operation_response(caller, operation)


@call("GET /mirrors/{name}/import", Permission.SERVER_READ, cli="mirror import-plan NAME")
async def list_mirror_import(
    caller: Caller, name: MirrorName, *, after: Cursor | None = None, type: DefaultType = "device"
) -> MirrorImportableResponses:
    """Shows what an import would do with devices and groups that others have made at the hub; changes nothing.

    Call it again with the answer's ``next`` as ``after``, until that is null. It does not read twins.

    Raises:
        Refused: this hub does not support imports, or the mirror does not mirror devices.
        Unavailable: the hub is not open, or does not answer.
    """
    _mirror(caller, name)
    found, following = await caller.fleet.cloud_imports.plan(name, decode(after), type=type)
    items = [
        MirrorImportableResponse(
            name=each.found.name,
            entity=None if each.found.key is None else str(each.found.key),
            action=each.action,
            reason=each.reason,
        )
        for each in found
    ]
    return MirrorImportableResponses(found=items, next=encode(following))


@call(
    "POST /mirrors/{name}/import", Permission.SERVER_WRITE, cli="mirror import NAME", status=202,
    confirm="Registers the devices and makes the groups that others have at the hub of {name}, and marks them there "
            "as this fleet's.",
)  # fmt: skip
async def import_mirror(
    caller: Caller, name: MirrorName, *, type: DefaultType = "device", reason: Reason = ""
) -> OperationResponse:
    """Imports what others have made at a hub: devices, their twins, groups and their members.

    ``list_mirror_import`` shows it first. It runs in the background, also across restarts. What the fleet already has
    is left unchanged, and listed among the failures.

    Raises:
        Refused: this hub does not support imports, or the mirror does not mirror devices.
        Unavailable: the hub is not open.
    """
    _mirror(caller, name)
    operation = await caller.fleet.cloud_imports.start(name, type=type, actor=caller.actor, reason=reason)
    return await operation_response(caller, operation)


@call(
    "POST /mirrors/{name}/removals", Permission.SERVER_WRITE, cli="mirror allow-removals NAME COUNT",
    confirm="Removes {count} more entities from the hub of {name} today, if that many wait.",
)  # fmt: skip
async def allow_mirror_removals(
    caller: Caller, name: MirrorName, count: Removals, *, reason: Reason = ""
) -> MirrorResponse:
    """Raises today's limit ``removals_per_day`` of a mirror by some entities."""
    mirror = _mirror(caller, name)
    await mirror.allow_removals(count, actor=caller.actor, reason=reason)
    return await _to_response(caller, mirror)


@call("GET /mirrors/{name}/check", Permission.SERVER_READ, cli="mirror check NAME")
async def check_mirror(caller: Caller, name: MirrorName) -> MirrorCheckResponse:
    """Checks the credentials, permissions and quotas that a mirror needs at its hub; changes nothing there.

    Raises:
        Unavailable: the hub is not open, or does not answer.
    """
    found = await (await _mirror(caller, name).hub()).check()
    return MirrorCheckResponse(findings=[to_response(FindingResponse, finding) for finding in found])


@call("GET /mirrors/{name}/policy", Permission.SERVER_READ, cli="mirror policy NAME")
async def get_mirror_policy(caller: Caller, name: MirrorName) -> MirrorPolicyResponse:
    """Shows the least rights that a mirror's credentials need at its hub, as it is configured.

    Raises:
        Unavailable: the backend is not open.
    """
    return MirrorPolicyResponse(policy=dict((await _mirror(caller, name).hub()).policy()))


@call(
    "GET /mirrors/{name}/plan", Permission.SERVER_READ, cli="mirror plan NAME", columns=("entity", "action", "reason"),
)  # fmt: skip
async def plan_mirror(
    caller: Caller, name: MirrorName, *, limit: Scan = 100, cursor: Cursor | None = None
) -> Page[MirrorChangeResponse]:
    """Shows what a mirror would send of the next entities, and what the hub could not hold of them; sends nothing.

    ``limit`` is how many are examined; a page has those that would be sent.

    Raises:
        Unavailable: the hub is not open.
    """
    mirror = _mirror(caller, name)
    changes, after = await mirror.comparing.plan(await mirror.hub(), _after(cursor), limit)
    items = [
        MirrorChangeResponse(
            entity=str(each.key), action=each.action, reason=each.reason, lost=[_loss(loss) for loss in each.lost]
        )
        for each in changes
    ]
    return Page(items, encode(after))


@call("GET /mirrors/{name}/drift", Permission.SERVER_READ, cli="mirror drift NAME")
async def list_mirror_drift(
    caller: Caller, name: MirrorName, *, after: Cursor | None = None, limit: Scan = 100
) -> MirrorDriftsResponse:
    """Reads a part of the hub and shows where it differs from the fleet, including changes that wait to be sent.

    For a hub that cannot be read, the fleet is compared with what the hub accepted, and ``against`` says so.

    ``limit`` is how many entities are compared. Call it again with the answer's ``next`` as ``after``, until that is
    null; the last part has entities that only the hub has, with this fleet's mark.

    Raises:
        Unavailable: the hub is not open, or does not answer.
        CredentialsRejected: the hub rejects the credentials.
    """
    mirror = _mirror(caller, name)
    part = await mirror.comparing.drift(await mirror.hub(), _after(after), limit)
    return MirrorDriftsResponse(
        differences=[MirrorDriftResponse(entity=str(each.key), state=each.state) for each in part.differences],
        compared=part.compared,
        against=part.against,
        next=encode(part.after),
    )


@call(
    "GET /mirrors/{name}/dead-letters", Permission.SERVER_READ, cli="mirror dead-letters NAME",
    columns=("entity", "reason", "lost_count"),
)  # fmt: skip
async def list_mirror_dead_letters(
    caller: Caller, name: MirrorName, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[MirrorDeadLetterResponse]:
    """Lists the entities that the hub refuses, with the reason."""
    return await _not_whole(caller, name, "invalid", cursor, limit)


@call(
    "GET /mirrors/{name}/losses", Permission.SERVER_READ, cli="mirror losses NAME", columns=("entity", "lost_count"),
)  # fmt: skip
async def list_mirror_losses(
    caller: Caller, name: MirrorName, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[MirrorDeadLetterResponse]:
    """Lists the entities that the hub holds in part, with what it cannot hold."""
    return await _not_whole(caller, name, "lost", cursor, limit)


@call("GET /mirrors/{name}/paused", Permission.SERVER_READ, cli="mirror paused NAME", columns=("entity", "reason"))
async def list_mirror_paused(
    caller: Caller, name: MirrorName, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[MirrorPausedResponse]:
    """Lists the entities that are paused and stay as the hub has them."""
    found, after = await _mirror(caller, name).sender.states.page("paused", decode(cursor), limit)
    return Page(
        [MirrorPausedResponse(entity=str(key), reason=record.paused or "") for key, record in found], encode(after)
    )


@call(
    "GET /mirrors/{name}/refused-commands", Permission.SERVER_READ, cli="mirror refused-commands NAME",
    columns=("id", "device", "command", "reason"),
)  # fmt: skip
async def list_mirror_refused_commands(
    caller: Caller, name: MirrorName, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[MirrorRefusedCommandResponse]:
    """Lists the newest commands of the hub that the fleet refused since the server started, 100 at most."""
    inbox = _mirror(caller, name).inbox
    refused = () if inbox is None else inbox.refused
    return _newest(refused, cursor, limit, lambda each: _command(*each))


@call(
    "GET /mirrors/{name}/refused-readings", Permission.SERVER_READ, cli="mirror refused-readings NAME",
    columns=("time", "device", "metric", "reason"),
)  # fmt: skip
async def list_mirror_refused_readings(
    caller: Caller, name: MirrorName, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[MirrorRefusedReadingResponse]:
    """Lists the newest readings that the hub refused since the server started, 100 at most."""
    readings = _mirror(caller, name).readings
    refused = () if readings is None else readings.refused

    def shown(each: tuple[str, str, int, str]) -> MirrorRefusedReadingResponse:
        device, metric, time, reason = each
        return MirrorRefusedReadingResponse(device=device, metric=metric, time=Ms(time), reason=reason)

    return _newest(refused, cursor, limit, shown)


def _command(id: str, device: str, command: str, reason: str) -> MirrorRefusedCommandResponse:
    return MirrorRefusedCommandResponse(id=id, device=device, command=command, reason=reason)


def _newest(refused: Collection[_T], cursor: str | None, limit: int, to_response: Callable[[_T], _S]) -> Page[_S]:
    """A page of refused items, the newest first."""
    numbered = list(enumerate(reversed(list(refused))))
    return page_of(numbered, cursor, limit, lambda each: f"{each[0]:04d}", lambda each: to_response(each[1]))


def _key(entity: str) -> EntityKey:
    facet, _, name = entity.partition("/")
    return EntityKey(cast("Facet", facet), name)  # the pattern has it


def _after(cursor: str | None) -> str | None:
    after = decode(cursor)
    if after is not None and not (after.partition(":")[0].isdecimal() or after.startswith(AMONG_RECORDED)):
        raise foreign()
    return after


def _loss(loss: Loss) -> MirrorLossResponse:
    return MirrorLossResponse(path=loss.path, reason=loss.reason)


async def _not_whole(
    caller: Caller, name: str, only: str, cursor: str | None, limit: int
) -> Page[MirrorDeadLetterResponse]:
    found, after = await _mirror(caller, name).sender.states.page(only, decode(cursor), limit)
    return Page([_dead(str(key), record) for key, record in found], encode(after))


def _dead(entity: str, record: EntityState) -> MirrorDeadLetterResponse:
    return MirrorDeadLetterResponse(
        entity=entity,
        reason=record.invalid or "",
        lost=[_loss(loss) for loss in record.lost],
        lost_count=record.lost_count,
    )
