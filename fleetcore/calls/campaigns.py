"""Firmware campaigns: one version for many devices, each device tracked to its end."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered, missing
from fleetcore.calls.cursors import decode, encode
from fleetcore.calls.responses.campaigns import CampaignResponse, ExecutionResponse
from fleetcore.calls.table import BY_CALL, call
from fleetcore.calls.types import Cursor, DeviceId, Json, Label, Limit, Names, Page, Reason, Version, Word, to_response
from fleetcore.errors import Refused
from fleetcore.model.firmware import Campaign
from fleetcore.model.operator import Permission

CampaignName = Annotated[Label, Meta(description="The campaign's name.")]
CampaignId = Annotated[
    str, Meta(min_length=1, max_length=128, description="The campaign's name."), Names("list_campaigns")
]
FirmwareVersion = Annotated[Version, Meta(description="The version that the devices get.")]
CampaignDevices = Annotated[
    Sequence[DeviceId], Meta(min_length=1, max_length=10_000, description="The devices, by id."), Word("device")
]
ImageUrl = Annotated[
    str, Meta(max_length=2048, description="Where devices download the image; may be empty if the fleet stores it.")
]
ImageDigest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="The image's SHA-256, in hex.")]
ImageSize = Annotated[int, Meta(ge=0, le=2**53, description="The image's size in bytes.")]
Manifest = Annotated[Json, Meta(description="The signed manifest, which names digest and size.")]
ReleaseId = Annotated[Label, Meta(description="Use the manifest of this release, `NAME:SEQ`."), Names("list_releases")]
AllowDowngrade = Annotated[bool, Meta(description="Accept a lower seq than before.")]


async def _covers(
    caller: Caller, campaign: Campaign, permission: Permission, known: dict[str, bool] | None = None
) -> bool:
    """Whether the caller has the permission on every device of a campaign; ``known`` caches the results."""
    if caller.has_everywhere(permission):
        return True
    if not caller.rights.holds(permission):
        return False
    known = {} if known is None else known
    seen = 0
    async for device in caller.fleet.campaigns.devices(campaign):
        if device not in known:
            known[device] = await caller.rights.allows(permission, device)
        if not known[device]:
            return False
        seen += 1
    return seen == campaign.total  # a device that was erased since is outside every scope


async def _found(caller: Caller, name: str, permission: Permission) -> Campaign:
    """The campaign, which exists for callers that may see the campaigns of all its devices."""
    found = await caller.fleet.campaigns.records.get(name)
    if found is None or not await _covers(caller, found, Permission.CAMPAIGNS_READ):
        raise missing("campaign", name)
    if not await _covers(caller, found, permission):
        raise caller.denied(name, permission)
    return found


async def _campaign(caller: Caller, campaign: Campaign) -> CampaignResponse:
    counts = await caller.fleet.campaigns.counts(campaign.id)
    return to_response(CampaignResponse, campaign, counts=dict(counts.states))


@call(
    "POST /campaigns", Permission.CAMPAIGNS_WRITE, scope=BY_CALL, cli="campaign start ID RELEASE DEVICES",
    status=201,
)  # fmt: skip
async def create_campaign(
    caller: Caller,
    id: CampaignName,
    release: FirmwareVersion,
    devices: CampaignDevices,
    url: ImageUrl = "",
    *,
    sha256: ImageDigest | None = None,
    size: ImageSize | None = None,
    manifest: Manifest | None = None,
    from_release: ReleaseId | None = None,
    allow_downgrade: AllowDowngrade = False,
    reason: Reason = "",
) -> CampaignResponse:
    """Starts a campaign: one firmware version for some devices, which get their offers in the background.

    A manifest, or that of a release, names digest and size, and is checked for every device first. Without a digest the
    server fetches the URL once and pins the digest; until then the campaign stays a draft. Once there is a firmware
    root, a manifest is required.

    Raises:
        Conflict: a campaign of that name exists, a device is retired, or the manifest does not fit some device.
        NotFound: there is no such device, or no such release.
        Refused: the image is missing: neither a URL, nor a digest, nor a manifest.
    """
    for device in devices:
        await caller.device(device)
    if from_release is not None:
        if manifest is not None:
            raise Refused("Give a manifest or a release, not both", pointer="/from_release")
        manifest = dict((await caller.fleet.releases.get(from_release)).manifest)
    made = await caller.fleet.campaigns.create(
        id, release, devices, url, sha256=sha256, size=size, manifest=manifest,
        allow_downgrade=allow_downgrade, actor=caller.actor, reason=reason,
    )  # fmt: skip
    return await _campaign(caller, made)


@call(
    "GET /campaigns", Permission.CAMPAIGNS_READ, scope=BY_CALL, cli="campaign list",
    columns=("id", "release", "state", "total", "counts", "created", "code"),
)  # fmt: skip
async def list_campaigns(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[CampaignResponse]:
    """Lists the campaigns whose devices the caller may all see, by name; a page may be short."""
    found = await caller.fleet.campaigns.records.page(after=decode(cursor), limit=limit)
    everything, known = caller.has_everywhere(), dict[str, bool]()
    covered = [item for item in found.items if everything or await _covers(caller, item, caller.permission, known)]
    return Page([await _campaign(caller, item) for item in covered], encode(found.after))


@call("GET /campaigns/{campaign}", Permission.CAMPAIGNS_READ, scope=BY_CALL, cli="campaign show CAMPAIGN")
async def get_campaign(caller: Caller, campaign: CampaignId) -> CampaignResponse:
    """Shows a campaign, and how many of its devices are in each state.

    Raises:
        NotFound: there is no such campaign.
    """
    return await _campaign(caller, await _found(caller, campaign, Permission.CAMPAIGNS_READ))


@call(
    "GET /campaigns/{campaign}/executions", Permission.CAMPAIGNS_READ, scope=BY_CALL,
    cli="campaign executions CAMPAIGN", columns=("device", "state", "progress", "attempt", "changed", "code", "reason"),
)  # fmt: skip
async def list_executions(
    caller: Caller, campaign: CampaignId, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[ExecutionResponse]:
    """Lists the state of each device in a campaign, by device.

    Raises:
        NotFound: there is no such campaign.
    """
    ref = ("campaign", (await _found(caller, campaign, Permission.CAMPAIGNS_READ)).id)
    found = await caller.fleet.campaigns.executions.page(ref=ref, after=decode(cursor), limit=limit)
    return answered(found, lambda execution: to_response(ExecutionResponse, execution))


@call(
    "POST /campaigns/{campaign}/abort", Permission.CAMPAIGNS_WRITE, scope=BY_CALL, cli="campaign abort CAMPAIGN",
    confirm="Aborts the campaign {campaign} for good: devices that have not started are not updated.",
)  # fmt: skip
async def abort_campaign(caller: Caller, campaign: CampaignId, *, reason: Reason = "") -> CampaignResponse:
    """Cancels the updates that have not started; devices that have started continue and are still tracked.

    Raises:
        NotFound: there is no such campaign.
    """
    found = await _found(caller, campaign, Permission.CAMPAIGNS_WRITE)
    ended = await caller.fleet.campaigns.abort(found.id, actor=caller.actor, reason=reason)
    return await _campaign(caller, ended)
