"""Firmware campaigns: one version for many devices, each device tracked to its end."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from attrs import evolve
from msgspec import Meta

from fleetcore.calls.caller import Caller, answered, missing
from fleetcore.calls.cursors import decode, encode
from fleetcore.calls.evidence import evidence_response
from fleetcore.calls.responses.campaigns import (
    CampaignActionResponse,
    CampaignEvidenceResponse,
    CampaignFailuresResponse,
    CampaignPlanResponse,
    CampaignPointResponse,
    CampaignReportResponse,
    CampaignResponse,
    CampaignWaveResponse,
    DecisionResponse,
    ExecutionResponse,
    PlanPointResponse,
    RolloutResponse,
    SlowDeviceResponse,
    WhyExecutionResponse,
)
from fleetcore.calls.table import BY_CALL, call, on
from fleetcore.calls.types import (
    Cursor,
    DeviceId,
    Json,
    Label,
    Limit,
    Ms,
    Names,
    Page,
    Reason,
    Version,
    Waves,
    Word,
    to_response,
)
from fleetcore.errors import Refused
from fleetcore.model.eligibility import Eligibility
from fleetcore.model.firmware import Campaign, FirmwareImage
from fleetcore.model.operator import Permission
from fleetcore.model.rollout import FailureLimit, HealthGate, OnFailure, Rate, Retries, Rollout, TimeLimits
from fleetcore.rollout.report import wave_left_ms
from fleetcore.rollout.simulation import Behaviour

CampaignName = Annotated[Label, Meta(description="The campaign's name.")]
CampaignId = Annotated[
    str, Meta(min_length=1, max_length=128, description="The campaign's name."), Names("list_campaigns")
]
FirmwareVersion = Annotated[Version, Meta(description="The version that the devices get.")]
CampaignDevices = Annotated[
    Sequence[DeviceId], Meta(max_length=10_000, description="The devices, by id."), Word("device")
]
CampaignWhere = Annotated[str, Meta(max_length=4096, description="A query for the devices, instead of their ids.")]
Continuous = Annotated[
    bool, Meta(description="Devices that the query selects later join; those that wait and leave it are cancelled.")
]
ImageUrl = Annotated[
    str, Meta(max_length=2048, description="Where devices download the image; may be empty if the fleet stores it.")
]
ImageDigest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="The image's SHA-256, in hex.")]
ImageSize = Annotated[int, Meta(ge=0, le=2**53, description="The image's size in bytes.")]
Manifest = Annotated[Json, Meta(description="The signed manifest, which names digest and size.")]
ReleaseId = Annotated[Label, Meta(description="Use the manifest of this release, `NAME:SEQ`."), Names("list_releases")]
AllowDowngrade = Annotated[bool, Meta(description="Accept a lower seq than before.")]
MinSucceeded = Annotated[
    float, Meta(ge=0, le=1, description="The share of a wave that must have succeeded before the next one.")
]
MaxFailedOf = Annotated[
    float, Meta(ge=0, le=1, description="The share of failures beyond which the campaign acts by itself.")
]
MinExecuted = Annotated[int, Meta(ge=1, le=10**7, description="The fewest ended updates that the share is taken of.")]
WhatOnFailure = Annotated[OnFailure, Meta(description="What it then does.")]
GateWindow = Annotated[
    Annotated[float, Meta(ge=1, le=604_800)],
    Meta(description="Turn the health gate on: seconds after its update in which a device is compared with others."),
]
GateMetrics = Annotated[
    Sequence[Label],
    Meta(max_length=20, description="A metric that is compared, beside alerts and silence."),
    Word("gate-metric"),
]
GateAlpha = Annotated[
    float,
    Meta(ge=0.0001, le=0.2, description="The largest probability that the gate ever stops without a difference."),
]
GateAction = Annotated[OnFailure, Meta(description="What the gate does where updated devices do worse.")]
PerMinute = Annotated[int, Meta(ge=1, le=10**6, description="The most offers in any 60 seconds.")]
RateFactor = Annotated[
    float, Meta(ge=1, le=10, description="The rate is multiplied by it after every 100 devices that succeeded.")
]
RetryTimes = Annotated[int, Meta(ge=0, le=100, description="How often a failed update is offered again.")]
RetryAfter = Annotated[
    float, Meta(ge=0, le=604_800, description="Seconds before the first retry; each further one waits twice as long.")
]
Seconds = Annotated[float, Meta(ge=0, le=31_622_400)]
WaveSoak = Annotated[Seconds, Meta(description="Seconds between the success of a wave and the next one.")]
DeviceSoak = Annotated[
    Seconds, Meta(description="Seconds that a device has to run the new version before it counts as succeeded.")
]
StepTimeout = Annotated[
    Annotated[float, Meta(gt=0, le=31_622_400)],
    Meta(description="Seconds without a report that end an attempt."),
]
CampaignPriority = Annotated[
    int, Meta(ge=-1000, le=1000, description="Of two campaigns on a device the higher one comes first, then the older.")
]
RollbackTo = Annotated[
    Label,
    Meta(description="The release that a rollback installs, `NAME:SEQ`, signed under a higher seq."),
    Names("list_releases"),
]
RollbackVersion = Annotated[Version, Meta(description="Without signatures: the version that a rollback installs.")]
RollbackDigest = Annotated[ImageDigest, Meta(description="The SHA-256 of its stored image, in hex.")]
StartsAt = Annotated[Ms, Meta(description="When it begins; by default at once.")]
NeedsApproval = Annotated[bool, Meta(description="Another person has to approve it before it begins.")]
OnlyFailed = Annotated[bool, Meta(description="Only the devices that were not updated.")]
NewCampaign = Annotated[Label, Meta(description="The new campaign's name.")]
Hold = Annotated[bool, Meta(description="Make it paused: plan it first, and resume it to begin.")]
FetchSeconds = Annotated[
    Seconds, Meta(description="Assume: seconds from a device's turn to its request for the offer, in the mean.")
]
InstallSeconds = Annotated[
    Seconds, Meta(description="Assume: seconds for download, installation and restart, in the mean.")
]
FailingShare = Annotated[float, Meta(ge=0, le=1, description="Assume: the share of attempts that fail.")]
Windows = Annotated[
    Sequence[Annotated[str, Meta(min_length=1, max_length=128)]],
    Meta(max_length=20, description="A time in which devices may install: cron fields and a duration, `0 2 * * * 4h`."),
    Word("window"),
]
TimeZone = Annotated[
    str, Meta(max_length=64, description="The time zone of the windows, Europe/Berlin; by default each device's own.")
]
StartSpread = Annotated[
    Seconds, Meta(description="The most seconds that a device begins later, so that they do not begin together.")
]
Requirement = Annotated[
    str, Meta(max_length=4096, description="A query that has to select a device when it gets the offer and installs.")
]
MinBattery = Annotated[
    float,
    Meta(ge=0, le=100, description="Percent of charge that a device with a battery needs, unless it charges."),
]
SiteLimit = Annotated[
    int, Meta(ge=0, le=1000, description="How many devices of a site (attribute `site`) this campaign updates at once.")
]
NeedsConsent = Annotated[bool, Meta(description="Devices install once their user has agreed: `campaign consent`.")]
DownloadEarly = Annotated[bool, Meta(description="Devices download at once, and install when they may.")]
MaxDeferral = Annotated[
    Seconds, Meta(description="Seconds after its first offer up to which a device's user may put the update off.")
]
Emergency = Annotated[
    str, Meta(max_length=1024, description="Why windows, freezes, spread and consent do not count this time.")
]
Force = Annotated[bool, Meta(description="Cancel the updates under way too.")]


#: The most decisions about a device that are shown.
_DECISIONS = 200


async def _covers(
    caller: Caller, campaign: Campaign, permission: Permission, known: dict[str, bool] | None = None
) -> bool:
    """Whether the caller has the permission on every device of a campaign; ``known`` caches the results."""
    if caller.has_everywhere(permission):
        return True
    if not caller.rights.holds(permission):
        return False
    if campaign.continuous and permission is not Permission.CAMPAIGNS_READ:
        return False  # any device may join it
    known = {} if known is None else known
    seen = 0
    async for device in caller.fleet.campaigns.devices(campaign):
        if device not in known:
            known[device] = await caller.rights.allows(permission, device)
        if not known[device]:
            return False
        seen += 1
    # A device that was erased since is outside every scope, and so is a campaign without devices.
    return 0 < seen == campaign.total


async def _found(caller: Caller, name: str, permission: Permission) -> Campaign:
    """The campaign, which exists for callers that may see the campaigns of all its devices."""
    found = await caller.fleet.campaigns.records.get(name)
    if found is None or not await _covers(caller, found, Permission.CAMPAIGNS_READ):
        raise missing("campaign", name)
    if not await _covers(caller, found, permission):
        raise caller.denied(name, permission)
    return found


async def _rollback(
    caller: Caller, release: str | None, version: str | None, sha256: str | None
) -> FirmwareImage | None:
    if (version is None) is not (sha256 is None):
        raise Refused("A rollback without a release needs a version and a digest", pointer="/rollback_version")
    if release is None:
        return None if version is None else FirmwareImage(release=version, sha256=sha256)
    if version is not None:
        raise Refused("Give a release to roll back to, or a version and a digest, not both", pointer="/rollback_to")
    return (await caller.fleet.releases.get(release)).image


def _gate(window_s: float | None, metrics: Sequence[str], action: OnFailure, alpha: float) -> HealthGate | None:
    if window_s is None:
        if metrics:
            raise Refused("Metrics are compared in a window", remedy="Give gate_window_s too", pointer="/gate_metrics")
        return None
    return HealthGate(metrics=tuple(metrics), window_ms=ms_of(window_s), action=action, alpha=alpha)


def _seconds(ms: int) -> float:
    return ms / 1000


def ms_of(seconds: float) -> int:
    """Seconds in whole ms."""
    return round(seconds * 1000)


def _rollout(rollout: Rollout) -> RolloutResponse:
    limit, gate, wanted = next(iter(rollout.failures), None), rollout.gate, rollout.eligibility
    return RolloutResponse(
        waves=list(rollout.waves), min_succeeded=rollout.min_succeeded, wave_soak_s=rollout.wave_soak_ms / 1000,
        max_failed=None if limit is None else limit.share, min_executed=1 if limit is None else limit.min_executed,
        on_failure=OnFailure.PAUSE if limit is None else limit.action,
        gate_window_s=None if gate is None else gate.window_ms / 1000,
        gate_metrics=[] if gate is None else list(gate.metrics),
        gate_action=(gate or HealthGate()).action, gate_alpha=(gate or HealthGate()).alpha,
        rate_per_minute=None if rollout.rate is None else rollout.rate.per_minute,
        rate_factor=1.0 if rollout.rate is None else rollout.rate.factor,
        retries=rollout.retries.times, retry_after_s=rollout.retries.wait_ms / 1000, soak_s=rollout.soak_ms / 1000,
        step_timeout_s=rollout.limits.step_ms / 1000, priority=rollout.priority, windows=list(wanted.windows),
        time_zone=wanted.zone, start_spread_s=wanted.spread_ms / 1000, requirement=wanted.requirement,
        min_battery=wanted.min_battery, site_limit=wanted.site_limit, consent=wanted.consent,
        download_early=wanted.download_early,
        max_deferral_s=None if wanted.max_deferral_ms is None else wanted.max_deferral_ms / 1000,
        emergency=wanted.emergency,
    )  # fmt: skip


async def campaign_response(caller: Caller, campaign: Campaign) -> CampaignResponse:
    """A campaign with the number of its devices in each state."""
    counts = await caller.fleet.campaigns.counts(campaign.id)
    left_ms = wave_left_ms(campaign, counts, caller.fleet.clock.now_ms())
    return to_response(
        CampaignResponse,
        campaign,
        wave_left_s=None if left_ms is None else _seconds(left_ms),
        counts=dict(counts.states),
        rollout=_rollout(campaign.rollout),
        rollback_version=None if campaign.rollback is None else campaign.rollback.release,
        rollback_sha256=None if campaign.rollback is None else campaign.rollback.sha256,
    )


@call(
    "POST /campaigns", Permission.CAMPAIGNS_WRITE, scope=BY_CALL, cli="campaign start ID RELEASE DEVICES",
    status=201,
)  # fmt: skip
async def create_campaign(
    caller: Caller,
    id: CampaignName,
    release: FirmwareVersion,
    devices: CampaignDevices = (),
    url: ImageUrl = "",
    *,
    where: CampaignWhere = "",
    continuous: Continuous = False,
    sha256: ImageDigest | None = None,
    size: ImageSize | None = None,
    manifest: Manifest | None = None,
    from_release: ReleaseId | None = None,
    allow_downgrade: AllowDowngrade = False,
    waves: Waves = (),
    min_succeeded: MinSucceeded = 0.95,
    wave_soak_s: WaveSoak = 0.0,
    max_failed: MaxFailedOf | None = None,
    min_executed: MinExecuted = 1,
    on_failure: WhatOnFailure = OnFailure.PAUSE,
    gate_window_s: GateWindow | None = None,
    gate_metrics: GateMetrics = (),
    gate_action: GateAction = OnFailure.PAUSE,
    gate_alpha: GateAlpha = 0.04,
    rate_per_minute: PerMinute | None = None,
    rate_factor: RateFactor = 1.0,
    retries: RetryTimes = 0,
    retry_after_s: RetryAfter = 300.0,
    soak_s: DeviceSoak = 0.0,
    step_timeout_s: StepTimeout = 86_400.0,
    priority: CampaignPriority = 0,
    rollback_to: RollbackTo | None = None,
    rollback_version: RollbackVersion | None = None,
    rollback_sha256: RollbackDigest | None = None,
    windows: Windows = (),
    time_zone: TimeZone = "",
    start_spread_s: StartSpread = 0.0,
    requirement: Requirement = "",
    min_battery: MinBattery = 0.0,
    site_limit: SiteLimit = 0,
    consent: NeedsConsent = False,
    download_early: DownloadEarly = False,
    max_deferral_s: MaxDeferral | None = None,
    emergency: Emergency = "",
    hold: Hold = False,
    starts_at: StartsAt | None = None,
    approval: NeedsApproval = False,
    reason: Reason = "",
) -> CampaignResponse:
    """Starts a campaign: one firmware version for some devices, which get their offers in the background.

    Without waves and rate all devices may fetch their offer at once. With waves a wave begins once enough devices of
    the one before have succeeded; where too few can, the campaign pauses.

    A health gate compares each updated device with devices that are still to be updated, of the same model and site,
    over the same time. It stops the campaign where updated ones are bad more often: they raise alerts, fall silent, or
    a metric moves. `campaign evidence` shows what it saw.

    Named devices are checked first. A query needs the permission for the whole fleet; its devices are checked at the
    offer, and `plan_campaign` shows those that would be refused.

    A device that may not install yet, by window, freeze, requirement, battery, site or consent, waits and does not
    fail; ``campaign why`` shows the reason.

    A manifest, or that of a release, names digest and size, and is checked for every device first. Without a digest the
    server fetches the URL once and pins the digest; until then the campaign stays a draft. Once there is a firmware
    root, a manifest is required.

    Raises:
        Conflict: a campaign of that name exists, a device is retired, or the manifest does not fit some device.
        NotFound: there is no such device, or no such release.
        Refused: neither or both of devices and a query; the image is missing: neither a URL, nor a digest, nor a
            manifest; or a window, the time zone or the requirement cannot be read.
    """
    for device in devices:
        await caller.device(device)
    if where and not caller.has_everywhere():
        raise caller.denied(id, Permission.CAMPAIGNS_WRITE, everywhere=True)
    if from_release is not None:
        if manifest is not None:
            raise Refused("Give a manifest or a release, not both", pointer="/from_release")
        manifest = dict((await caller.fleet.releases.get(from_release)).manifest)
    rollout = Rollout(
        waves=tuple(waves), min_succeeded=min_succeeded, wave_soak_ms=ms_of(wave_soak_s), soak_ms=ms_of(soak_s),
        failures=() if max_failed is None else (
            FailureLimit(share=max_failed, min_executed=min_executed, action=on_failure),
        ),
        gate=_gate(gate_window_s, gate_metrics, gate_action, gate_alpha),
        rate=None if rate_per_minute is None else Rate(per_minute=rate_per_minute, factor=rate_factor),
        retries=Retries(times=retries, wait_ms=ms_of(retry_after_s)),
        limits=evolve(TimeLimits(), step_ms=ms_of(step_timeout_s)),
        priority=priority,
        eligibility=Eligibility(
            windows=tuple(windows), zone=time_zone, spread_ms=ms_of(start_spread_s), requirement=requirement,
            min_battery=min_battery, site_limit=site_limit, consent=consent, download_early=download_early,
            max_deferral_ms=None if max_deferral_s is None else ms_of(max_deferral_s), emergency=emergency.strip(),
        ),
    )  # fmt: skip
    made = await caller.fleet.campaigns.create(
        id, release, devices, url, where=where, continuous=continuous, sha256=sha256, size=size, manifest=manifest,
        allow_downgrade=allow_downgrade, rollout=rollout, hold=hold, approval=approval,
        starts_at=None if starts_at is None else int(starts_at), actor=caller.actor, reason=reason,
        rollback=await _rollback(caller, rollback_to, rollback_version, rollback_sha256),
    )  # fmt: skip
    return await campaign_response(caller, made)


@call(
    "GET /campaigns", Permission.CAMPAIGNS_READ, scope=BY_CALL, cli="campaign list",
    columns=("id", "release", "state", "total", "counts", "created", "code"),
)  # fmt: skip
async def list_campaigns(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[CampaignResponse]:
    """Lists the campaigns whose devices the caller may all see, by name; a page may be short."""
    found = await caller.fleet.campaigns.records.page(after=decode(cursor), limit=limit)
    everything, known = caller.has_everywhere(), dict[str, bool]()
    covered = [item for item in found.items if everything or await _covers(caller, item, caller.permission, known)]
    return Page([await campaign_response(caller, item) for item in covered], encode(found.after))


@call("GET /campaigns/{campaign}", Permission.CAMPAIGNS_READ, scope=BY_CALL, cli="campaign show CAMPAIGN")
async def get_campaign(caller: Caller, campaign: CampaignId) -> CampaignResponse:
    """Shows a campaign, and how many of its devices are in each state.

    Raises:
        NotFound: there is no such campaign.
    """
    return await campaign_response(caller, await _found(caller, campaign, Permission.CAMPAIGNS_READ))


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


@call("GET /campaigns/{campaign}/plan", Permission.CAMPAIGNS_READ, scope=BY_CALL, cli="campaign plan CAMPAIGN")
async def plan_campaign(
    caller: Caller,
    campaign: CampaignId,
    *,
    fetch_s: FetchSeconds = 60.0,
    install_s: InstallSeconds = 300.0,
    fails: FailingShare = 0.0,
) -> CampaignPlanResponse:
    """Shows how a campaign goes on from its present state: its own rules on its own devices, under a virtual clock.

    Several courses are simulated, up to 20, one for a million devices, which takes some minutes. A health gate stops
    none of them, but each wave waits for its window. It also shows which devices could not be rolled back.

    Raises:
        NotFound: there is no such campaign.
        Conflict: it has ended, or its image is not pinned yet.
    """
    found = await _found(caller, campaign, Permission.CAMPAIGNS_READ)
    behaviour = Behaviour(fetch_s=fetch_s, install_s=install_s, fails=fails)
    plan = await caller.fleet.plans.plan(found.id, behaviour)
    middle = plan.courses[len(plan.courses) // 2]
    return CampaignPlanResponse(
        courses=len(plan.courses),
        duration_s=_seconds(middle.duration_ms),
        duration_p10_s=_seconds(plan.duration_ms(0.1)),
        duration_p90_s=_seconds(plan.duration_ms(0.9)),
        state=middle.state,
        reason=middle.reason,
        states=dict(Counter(course.state for course in plan.courses)),
        counts={state.value: count for state, count in middle.counts.items()},
        waves=[_seconds(begun) for begun in middle.waves],
        offers=middle.offers,
        bytes=middle.bytes,
        refused=dict(plan.refused),
        refused_devices=dict(plan.named),
        not_rolled_back=dict(plan.stuck),
        held=dict(plan.held),
        held_devices=dict(plan.held_devices),
        points=[PlanPointResponse(_seconds(at), done, other) for at, done, other in middle.points],
    )


@call("GET /campaigns/{campaign}/evidence", Permission.CAMPAIGNS_READ, scope=BY_CALL, cli="campaign evidence CAMPAIGN")
async def get_campaign_evidence(caller: Caller, campaign: CampaignId) -> CampaignEvidenceResponse:
    """Shows what a campaign's health gate has seen: how many updated devices are bad, and how many comparable ones.

    Raises:
        NotFound: there is no such campaign, or it has no gate.
    """
    return await evidence_response(caller.fleet, await _found(caller, campaign, Permission.CAMPAIGNS_READ))


@call("GET /campaigns/{campaign}/report", Permission.CAMPAIGNS_READ, scope=BY_CALL, cli="campaign report CAMPAIGN")
async def report_campaign(caller: Caller, campaign: CampaignId) -> CampaignReportResponse:
    """Shows what became of a campaign: its waves, failures by cause, slowest devices, and who did what.

    All its executions are read: a campaign with a million devices takes some minutes.

    Raises:
        NotFound: there is no such campaign.
    """
    found = await _found(caller, campaign, Permission.CAMPAIGNS_READ)
    made = await caller.fleet.campaigns.report(found)
    rows = await caller.fleet.audit.page(object=found.id, action="campaign.", limit=_DECISIONS)
    return CampaignReportResponse(
        campaign=await campaign_response(caller, found),
        per_minute=round(made.per_minute, 3),
        median_s=None if made.median_ms is None else _seconds(made.median_ms),
        waves=[
            CampaignWaveResponse(
                each.number, each.devices, each.succeeded, each.failed, each.left,
                None if each.begun is None else Ms(each.begun), None if each.eta is None else Ms(each.eta),
            )
            for each in made.waves
        ],
        failures=[CampaignFailuresResponse(*cause, devices) for cause, devices in made.failures],
        slowest=[SlowDeviceResponse(each.device, _seconds(each.took_ms), each.attempts) for each in made.slowest],
        actions=[
            CampaignActionResponse(Ms(row.time), row.action.removeprefix("campaign."), row.actor, row.reason)
            for row in rows.items
        ],
        points=[CampaignPointResponse(Ms(at), *counts) for at, *counts in made.points],
    )  # fmt: skip


@call(
    "GET /campaigns/{campaign}/executions/{device_id}", Permission.CAMPAIGNS_READ, scope=BY_CALL,
    cli="campaign why CAMPAIGN DEVICE_ID",
)  # fmt: skip
async def why_execution(caller: Caller, campaign: CampaignId, device_id: DeviceId) -> WhyExecutionResponse:
    """Shows a device's part of a campaign: what it waits for now, and what was decided about it, the oldest first.

    Raises:
        NotFound: there is no such campaign, or the device is not in it.
    """
    found = await _found(caller, campaign, Permission.CAMPAIGNS_READ)
    execution = await caller.fleet.campaigns.execution(found.id, device_id)
    if execution is None:
        raise missing("execution", f"{campaign}:{device_id}", "execution_unknown")
    rows = await caller.fleet.audit.page(object=execution.id, limit=_DECISIONS)
    decisions = [
        DecisionResponse(Ms(row.time), row.action.removeprefix("execution."), row.reason, row.actor)
        for row in rows.items
    ]
    waits_for = await caller.fleet.updates.waits_for(found, execution)
    return to_response(WhyExecutionResponse, execution, waits_for=waits_for, decisions=decisions)


@call("POST /campaigns/{campaign}/approve", Permission.CAMPAIGNS_WRITE, scope=BY_CALL, cli="campaign approve CAMPAIGN")
async def approve_campaign(caller: Caller, campaign: CampaignId, *, reason: Reason = "") -> CampaignResponse:
    """Approves a campaign that another person made: it begins, at its time.

    Raises:
        NotFound: there is no such campaign.
        Conflict: it waits for no approval.
        NotAuthorised: the same person made it.
    """
    found = await _found(caller, campaign, Permission.CAMPAIGNS_WRITE)
    return await campaign_response(
        caller, await caller.fleet.campaigns.approve(found.id, actor=caller.actor, reason=reason)
    )


@call(
    "POST /campaigns/{campaign}/clone", Permission.CAMPAIGNS_WRITE, scope=BY_CALL, cli="campaign clone CAMPAIGN ID",
    status=201, location="/campaigns/{id}",
)  # fmt: skip
async def clone_campaign(
    caller: Caller,
    campaign: CampaignId,
    id: NewCampaign,
    *,
    failed: OnlyFailed = False,
    hold: Hold = False,
    reason: Reason = "",
) -> CampaignResponse:
    """Starts a campaign with the image, the devices and the rollout of another one, for all of its devices or the rest.

    A campaign by query asks its query again, unless it is for the devices that were not updated; that needs the
    permission for the whole fleet. It begins at once; approval is needed as for the first one.

    Raises:
        NotFound: there is no such campaign.
        Conflict: a campaign of the new name exists, the other one is a draft, or a device is retired.
        Refused: no device is left.
    """
    found = await _found(caller, campaign, Permission.CAMPAIGNS_WRITE)
    if found.where and not failed and not caller.has_everywhere():
        raise caller.denied(id, Permission.CAMPAIGNS_WRITE, everywhere=True)
    made = await caller.fleet.campaigns.clone(found, id, failed=failed, hold=hold, actor=caller.actor, reason=reason)
    return await campaign_response(caller, made)


@call(
    "POST /campaigns/{campaign}/executions/{device_id}/consent", Permission.CAMPAIGNS_WRITE, scope=on("device_id"),
    cli="campaign consent CAMPAIGN DEVICE_ID",
)  # fmt: skip
async def consent_to_update(
    caller: Caller, campaign: CampaignId, device_id: DeviceId, *, reason: Reason = ""
) -> ExecutionResponse:
    """Says that a device's user agrees to the update; again, nothing changes.

    Raises:
        NotFound: there is no such campaign, or the device is not in it.
        Conflict: the device's update has ended.
    """
    updates = caller.fleet.updates
    execution = await caller.fleet.campaigns.execution(campaign, device_id)
    if execution is None:
        raise missing("execution", f"{campaign}:{device_id}", "execution_unknown")
    found = await updates.campaigns.need(campaign)
    agreed = await updates.consent(found, execution, actor=caller.actor, reason=reason)
    return to_response(ExecutionResponse, agreed)


@call(
    "POST /campaigns/{campaign}/abort", Permission.CAMPAIGNS_WRITE, scope=BY_CALL, cli="campaign abort CAMPAIGN",
    confirm="Aborts the campaign {campaign} for good: devices that have not started are not updated.",
)  # fmt: skip
async def abort_campaign(
    caller: Caller, campaign: CampaignId, *, force: Force = False, reason: Reason = ""
) -> CampaignResponse:
    """Cancels the updates that have not started; devices that have started continue and are still tracked.

    With ``force`` they are cancelled too: their devices are told, and may have installed the version all the same.

    Raises:
        NotFound: there is no such campaign.
    """
    found = await _found(caller, campaign, Permission.CAMPAIGNS_WRITE)
    ended = await caller.fleet.campaigns.abort(found.id, force=force, actor=caller.actor, reason=reason)
    return await campaign_response(caller, ended)


@call("POST /campaigns/{campaign}/pause", Permission.CAMPAIGNS_WRITE, scope=BY_CALL, cli="campaign pause CAMPAIGN")
async def pause_campaign(caller: Caller, campaign: CampaignId, *, reason: Reason = "") -> CampaignResponse:
    """Makes no new offers until the campaign is resumed; devices that have begun go on.

    Raises:
        NotFound: there is no such campaign.
        Conflict: it does not run.
    """
    found = await _found(caller, campaign, Permission.CAMPAIGNS_WRITE)
    return await campaign_response(
        caller, await caller.fleet.campaigns.pause(found.id, actor=caller.actor, reason=reason)
    )


@call("POST /campaigns/{campaign}/resume", Permission.CAMPAIGNS_WRITE, scope=BY_CALL, cli="campaign resume CAMPAIGN")
async def resume_campaign(caller: Caller, campaign: CampaignId, *, reason: Reason = "") -> CampaignResponse:
    """Goes on with a paused campaign: its failures so far are accepted, and its limit counts the later ones.

    Raises:
        NotFound: there is no such campaign.
        Conflict: it is not paused.
    """
    found = await _found(caller, campaign, Permission.CAMPAIGNS_WRITE)
    return await campaign_response(
        caller, await caller.fleet.campaigns.resume(found.id, actor=caller.actor, reason=reason)
    )


@call(
    "POST /campaigns/{campaign}/rollback", Permission.CAMPAIGNS_WRITE, scope=BY_CALL, cli="campaign rollback CAMPAIGN",
    confirm="Rolls the campaign {campaign} back: every device that has the new version gets the one before.",
)  # fmt: skip
async def roll_back_campaign(caller: Caller, campaign: CampaignId, *, reason: Reason = "") -> CampaignResponse:
    """Brings the devices back to the version that the campaign names for it, with a campaign `NAME-rollback`.

    Devices that have not begun to install are cancelled; all that have, or may have, the new version get an offer.

    Raises:
        NotFound: there is no such campaign.
        Conflict: it names no version to roll back to.
    """
    found = await _found(caller, campaign, Permission.CAMPAIGNS_WRITE)
    return await campaign_response(
        caller, await caller.fleet.campaigns.roll_back(found.id, actor=caller.actor, reason=reason)
    )
