"""Firmware campaigns: made, followed, aborted."""

from litestar import Response, get, post
from litestar.params import FromPath, JSONBody

from fleetcore.errors import Refused
from fleetcore.model.firmware import Campaign
from fleetcore.model.operator import Permission
from fleetcore_api.access import Access, missing
from fleetcore_api.models import shown
from fleetcore_api.models_firmware import CampaignIn, CampaignOut, ExecutionOut
from fleetcore_api.models_state import ReasonIn
from fleetcore_api.pages import Cursor, Limit, Page, cut
from fleetcore_api.parameters import Caller, named
from fleetcore_api.preconditions import etag


async def _all(access: Access, campaign: Campaign, permission: Permission) -> bool:
    return access.rights.everywhere(permission) or all(
        [await access.rights.allows(permission, device) for device in campaign.targets]
    )


async def _found(access: Access, name: str, permission: Permission = Permission.CAMPAIGNS_READ) -> Campaign:
    """A campaign is there for who may see the campaigns of all its devices."""
    found = await access.fleet.campaigns.get(name)
    if not await _all(access, found, Permission.CAMPAIGNS_READ):
        raise missing("campaign", name)
    if not await _all(access, found, permission):
        raise access.denied(permission, name)
    return found


def _answer(campaign: Campaign, status: int = 200) -> Response[CampaignOut]:
    return Response(shown(CampaignOut, campaign), status_code=status, headers={"ETag": etag(campaign.version)})


@get("/campaigns", permission=Permission.CAMPAIGNS_READ)
async def list_campaigns(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[CampaignOut]:
    """Campaigns by name."""
    everything = await access.fleet.campaigns.list()
    found = [one for one in everything if await _all(access, one, Permission.CAMPAIGNS_READ)]
    return cut(found, cursor, limit, lambda one: one.id, lambda one: shown(CampaignOut, one))


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
    return _answer(made, 201)


@get("/campaigns/{campaign:str}", permission=Permission.CAMPAIGNS_READ)
async def get_campaign(access: Caller, campaign: FromPath[str]) -> Response[CampaignOut]:
    """One campaign."""
    return _answer(await _found(access, named(campaign)))


@get("/campaigns/{campaign:str}/executions", permission=Permission.CAMPAIGNS_READ)
async def list_executions(
    access: Caller, campaign: FromPath[str], limit: Limit = 100, cursor: Cursor = None
) -> Page[ExecutionOut]:
    """Each device's way through a campaign, by device."""
    found = await access.fleet.campaigns.executions((await _found(access, named(campaign))).id)
    return cut(found, cursor, limit, lambda one: one.device, lambda one: shown(ExecutionOut, one))


@post("/campaigns/{campaign:str}/abort", permission=Permission.CAMPAIGNS_WRITE, status_code=200)
async def abort_campaign(access: Caller, campaign: FromPath[str], data: JSONBody[ReasonIn]) -> Response[CampaignOut]:
    """Cancels what has not begun; devices that are under way go on and are still followed."""
    found = await _found(access, named(campaign), Permission.CAMPAIGNS_WRITE)
    return _answer(await access.fleet.campaigns.abort(found.id, actor=access.actor, reason=data.reason))


HANDLERS = [list_campaigns, create_campaign, get_campaign, list_executions, abort_campaign]
