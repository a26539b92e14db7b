"""Firmware campaigns: made, followed, aborted."""

from litestar import Response, get, post
from litestar.params import FromPath, JSONBody

from fleetcore.calls.cursors import decode, encode
from fleetcore.errors import Refused
from fleetcore.model.firmware import Campaign
from fleetcore.model.operator import Permission
from fleetcore_api.access import Access, missing
from fleetcore_api.models import shown
from fleetcore_api.models_firmware import CampaignIn, CampaignOut, ExecutionOut
from fleetcore_api.models_state import ReasonIn
from fleetcore_api.pages import Cursor, Limit, Page, answered
from fleetcore_api.parameters import Caller, named
from fleetcore_api.preconditions import etag


async def _all(
    access: Access, campaign: Campaign, permission: Permission, known: dict[str, bool] | None = None
) -> bool:
    """Whether the caller has the permission on every device of a campaign; ``known`` remembers what was asked."""
    if access.rights.everywhere(permission):
        return True
    if not access.rights.holds(permission):
        return False
    known = {} if known is None else known
    seen = 0
    async for device in access.fleet.campaigns.devices(campaign):
        if device not in known:
            known[device] = await access.rights.allows(permission, device)
        if not known[device]:
            return False
        seen += 1
    return seen == campaign.total  # a device that was erased since is in no scope


async def _found(access: Access, name: str, permission: Permission = Permission.CAMPAIGNS_READ) -> Campaign:
    """A campaign is there for who may see the campaigns of all its devices."""
    found = await access.fleet.campaigns.get(name)
    if not await _all(access, found, Permission.CAMPAIGNS_READ):
        raise missing("campaign", name)
    if not await _all(access, found, permission):
        raise access.denied(permission, name)
    return found


async def _show(access: Access, campaign: Campaign) -> CampaignOut:
    return shown(CampaignOut, campaign, counts=dict(await access.fleet.campaigns.counts(campaign.id)))


async def _answer(access: Access, campaign: Campaign, status: int = 200) -> Response[CampaignOut]:
    body = await _show(access, campaign)
    return Response(body, status_code=status, headers={"ETag": etag(campaign.version)})


@get("/campaigns", permission=Permission.CAMPAIGNS_READ)
async def list_campaigns(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[CampaignOut]:
    """Campaigns by name."""
    found = await access.fleet.campaigns.records.page(after=decode(cursor), limit=limit)
    known: dict[str, bool] = {}
    mine = [one for one in found.items if await _all(access, one, Permission.CAMPAIGNS_READ, known)]
    return Page(items=[await _show(access, one) for one in mine], next=encode(found.after))


@post("/campaigns", permission=Permission.CAMPAIGNS_WRITE)
async def create_campaign(access: Caller, data: JSONBody[CampaignIn]) -> Response[CampaignOut]:
    """Starts a campaign; without digest and size it stays in draft until the artifact is pinned."""
    for device in data.devices:
        await access.device(device, Permission.CAMPAIGNS_WRITE)
    manifest = data.manifest
    if data.from_release is not None:
        if manifest is not None:
            raise Refused("A campaign is made of a manifest or of a release, not of both")
        manifest = dict((await access.fleet.releases.get(data.from_release)).manifest)
    made = await access.fleet.campaigns.create(
        data.id,
        data.release,
        data.devices,
        data.url,
        sha256=data.sha256,
        size=data.size,
        manifest=manifest,
        allow_downgrade=data.allow_downgrade,
        actor=access.actor,
        reason=data.reason,
    )
    return await _answer(access, made, 201)


@get("/campaigns/{campaign:str}", permission=Permission.CAMPAIGNS_READ)
async def get_campaign(access: Caller, campaign: FromPath[str]) -> Response[CampaignOut]:
    """One campaign."""
    return await _answer(access, await _found(access, named(campaign)))


@get("/campaigns/{campaign:str}/executions", permission=Permission.CAMPAIGNS_READ)
async def list_executions(
    access: Caller, campaign: FromPath[str], limit: Limit = 100, cursor: Cursor = None
) -> Page[ExecutionOut]:
    """Each device's way through a campaign, by device."""
    ref = ("campaign", (await _found(access, named(campaign))).id)
    found = await access.fleet.campaigns.executions.page(ref=ref, after=decode(cursor), limit=limit)
    return answered(found, lambda execution: shown(ExecutionOut, execution))


@post("/campaigns/{campaign:str}/abort", permission=Permission.CAMPAIGNS_WRITE, status_code=200)
async def abort_campaign(access: Caller, campaign: FromPath[str], data: JSONBody[ReasonIn]) -> Response[CampaignOut]:
    """Cancels what has not begun; devices that are under way go on and are still followed."""
    found = await _found(access, named(campaign), Permission.CAMPAIGNS_WRITE)
    ended = await access.fleet.campaigns.abort(found.id, actor=access.actor, reason=data.reason)
    return await _answer(access, ended)


HANDLERS = [list_campaigns, create_campaign, get_campaign, list_executions, abort_campaign]
