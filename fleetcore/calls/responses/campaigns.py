"""Answers of calls about firmware campaigns."""

from fleetcore.calls.types import Json, Ms, Response
from fleetcore.model.firmware import CampaignState, ExecutionState
from fleetcore.model.rollout import OnFailure


class RolloutResponse(Response, frozen=True):
    """How a campaign is rolled out, in the words of the call that makes it."""

    waves: list[str]
    min_succeeded: float
    wave_soak_s: float
    max_failed: float | None
    min_executed: int
    on_failure: OnFailure
    gate_window_s: float | None
    gate_metrics: list[str]
    gate_action: OnFailure
    gate_alpha: float
    rate_per_minute: int | None
    rate_factor: float
    retries: int
    retry_after_s: float
    soak_s: float
    step_timeout_s: float
    priority: int
    windows: list[str]
    time_zone: str
    start_spread_s: float
    requirement: str
    min_battery: float
    site_limit: int
    consent: bool
    download_early: bool
    max_deferral_s: float | None
    emergency: str


class CampaignStepResponse(Response, frozen=True):
    """An image that devices of a campaign install before its own, unless they have it or a later one."""

    release: str
    component: str
    seq: int | None
    sha256: str | None
    size: int | None


class CampaignResponse(Response, frozen=True):
    """A campaign; ``code`` says why it waits in draft.

    ``targets`` lists the first 1,000 of ``total`` devices; its executions list all, and ``counts`` is the number in
    each state. ``wave`` is the current wave, 0 before the first one or without waves. ``wave_left_s`` says in how many
    seconds all its devices have ended at the rate so far. ``rollback_version`` is what a rollback installs, and
    ``rolls_back`` the campaign whose devices this one brings back. ``config`` is what a function's deployment sets of
    its configuration.
    """

    id: str
    release: str
    url: str
    targets: list[str]
    total: int
    where: str
    continuous: bool
    counts: dict[str, int]
    state: CampaignState
    sha256: str | None
    size: int | None
    manifest_sha256: str | None
    seq: int | None
    trust: int | None
    allow_downgrade: bool
    component: str
    before: list[CampaignStepResponse]
    rollout: RolloutResponse
    wave: int
    wave_begun: Ms | None
    wave_left_s: float | None
    rollback_version: str | None
    rollback_sha256: str | None
    rolls_back: str | None
    code: str | None
    reason: str | None
    created: Ms | None
    starts_at: Ms | None
    by: str
    config: Json | None
    approval: bool
    approved_by: str | None
    finished_at: Ms | None
    version: int


class ExecutionResponse(Response, frozen=True):
    """The state of one device in a campaign; ``step`` counts the images that it installed or had, from 0."""

    id: str
    campaign: str
    device: str
    state: ExecutionState
    attempt: int
    step: int
    wave: int
    progress: float | None
    code: str | None
    reason: str | None
    until: Ms | None
    reported_version: str | None
    changed: Ms | None


class FreezeResponse(Response, frozen=True):
    """A time in which no device that ``where`` selects begins to install; without an end, until it is removed."""

    id: str
    begin: Ms
    end: Ms | None
    where: str
    reason: str
    by: str


class DecisionResponse(Response, frozen=True):
    """What became of a device's part of a campaign: its new state, or `placed` in a wave; why, and by whom."""

    time: Ms
    state: str
    reason: str
    by: str


class WhyExecutionResponse(ExecutionResponse, frozen=True):
    """The state of one device in a campaign, what it waits for, and how it came there."""

    waits_for: str
    decisions: list[DecisionResponse]


class PlanPointResponse(Response, frozen=True):
    """A moment of a simulated course: seconds from now, and how many have succeeded, and ended otherwise, by then."""

    at_s: float
    succeeded: int
    others: int


class CampaignPlanResponse(Response, frozen=True):
    """How a campaign goes on, simulated.

    ``duration_s`` and all below it are of the middle one of ``courses``; a tenth of them are shorter than
    ``duration_p10_s``, and a tenth longer than ``duration_p90_s``. ``states`` says how many courses ended in each.
    ``waves`` are seconds from now at which a wave begins. ``refused`` counts the devices that never get an offer, by
    code, and ``refused_devices`` names the first of them. ``not_rolled_back`` counts the others that a rollback would
    not bring back, by code: ``no_rollback`` where the campaign names no version for it. ``held`` counts the devices
    that may not install now, by code, and ``held_devices`` names the first of them: windows and freezes end in the
    simulation as they will, and the others are taken to be able to install in time.
    """

    courses: int
    duration_s: float
    duration_p10_s: float
    duration_p90_s: float
    state: CampaignState
    reason: str
    states: dict[str, int]
    counts: dict[str, int]
    waves: list[float]
    offers: int
    bytes: int
    refused: dict[str, int]
    refused_devices: dict[str, str]
    not_rolled_back: dict[str, int]
    held: dict[str, int]
    held_devices: dict[str, str]
    points: list[PlanPointResponse]


class WaveEvidenceResponse(Response, frozen=True):
    """What a health gate saw of a wave's updated devices, and of the ``controls`` that they were compared with.

    ``observing`` devices are not judged yet, and ``uncompared`` ones could be compared with nothing. ``matching``
    counts the judged devices by how close their controls are: of the same ``model and site``, ``model``, ``any`` device
    that is still to be updated, or their own ``history``.
    """

    wave: int
    observing: int
    uncompared: int
    updated: int
    updated_bad: int
    controls: int
    controls_bad: int
    matching: dict[str, int]


class RuleEvidenceResponse(Response, frozen=True):
    """How many devices a rule made bad: ``update``, ``alert``, ``silent`` or ``metric``."""

    rule: str
    updated: int
    controls: int


class BadDeviceResponse(Response, frozen=True):
    """A bad device, why it is bad, and how many of the ``controls`` of its comparison were bad too."""

    device: str
    wave: int
    updated_at: Ms
    reasons: list[str]
    matching: str
    controls: int
    controls_bad: int


class EvidencePointResponse(Response, frozen=True):
    """The e-value after a number of judged devices, and how many of them were bad."""

    judged: int
    e_value: float
    bad: int


class CampaignEvidenceResponse(Response, frozen=True):
    """What a campaign's health gate has seen.

    The campaign stops where ``e_value`` reaches ``limit``, which is 1 / alpha. ``e_value`` and ``summary`` are of the
    devices since an operator last accepted the evidence; ``waves`` and all below are of the whole campaign. ``worst``
    lists the last 20 bad devices.
    """

    campaign: str
    state: CampaignState
    code: str | None
    summary: str
    e_value: float
    limit: float
    waves: list[WaveEvidenceResponse]
    rules: list[RuleEvidenceResponse]
    worst: list[BadDeviceResponse]
    points: list[EvidencePointResponse]


class CampaignPointResponse(Response, frozen=True):
    """How many devices had succeeded, failed, and ended otherwise, by a time."""

    time: Ms
    succeeded: int
    failed: int
    others: int


class CampaignFailuresResponse(Response, frozen=True):
    """The number of devices of a model that failed alike."""

    state: str
    code: str
    model: str
    devices: int


class SlowDeviceResponse(Response, frozen=True):
    """A device that took long from its first offer to its success."""

    device: str
    took_s: float
    attempts: int


class CampaignWaveResponse(Response, frozen=True):
    """A wave, 0 for the devices without a place; ``eta`` is when its devices have ended at the present rate."""

    wave: int
    devices: int
    succeeded: int
    failed: int
    left: int
    begun: Ms | None
    eta: Ms | None


class CampaignActionResponse(Response, frozen=True):
    """What an operator did with a campaign, or what it did by itself."""

    time: Ms
    action: str
    by: str
    reason: str


class CampaignReportResponse(Response, frozen=True):
    """What became of a campaign's devices, and who did what; ``per_minute`` is the rate of the last 10 minutes."""

    campaign: CampaignResponse
    per_minute: float
    median_s: float | None
    waves: list[CampaignWaveResponse]
    failures: list[CampaignFailuresResponse]
    slowest: list[SlowDeviceResponse]
    actions: list[CampaignActionResponse]
    points: list[CampaignPointResponse]
