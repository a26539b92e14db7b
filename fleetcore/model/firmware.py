"""A firmware campaign and one device's way through it (wire.md §10)."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from attrs import field as attribute
from attrs import frozen
from msgspec import Struct, field

from fleetcore.model.days import DAY_MS
from fleetcore.model.gate import GateScore
from fleetcore.model.rollout import AT_ONCE, Rollout


class CampaignState(StrEnum):
    """Where a campaign stands."""

    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"


class ExecutionState(StrEnum):
    """Where one device stands in a campaign."""

    WAITING = "waiting"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    INSTALLING = "installing"
    REBOOTING = "rebooting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    REVERTED = "reverted"
    TIMED_OUT = "timed_out"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


EXECUTION_ENDS = frozenset(
    {
        ExecutionState.SUCCEEDED,
        ExecutionState.FAILED,
        ExecutionState.REJECTED,
        ExecutionState.REVERTED,
        ExecutionState.TIMED_OUT,
        ExecutionState.CANCELLED,
        ExecutionState.SKIPPED,
    }
)
EXECUTION_FAILURES = EXECUTION_ENDS - {ExecutionState.SUCCEEDED, ExecutionState.CANCELLED, ExecutionState.SKIPPED}

#: States that a device reports, in order; a device may skip states, never go back.
PROGRESS_ORDER: Mapping[ExecutionState, int] = MappingProxyType(
    {
        ExecutionState.WAITING: 0,
        ExecutionState.OFFERED: 1,
        ExecutionState.DEFERRED: 2,
        ExecutionState.ACCEPTED: 3,
        ExecutionState.DOWNLOADING: 4,
        ExecutionState.DOWNLOADED: 5,
        ExecutionState.INSTALLING: 6,
        ExecutionState.REBOOTING: 7,
        ExecutionState.UNKNOWN: 8,
    }
    | dict.fromkeys(EXECUTION_ENDS, 9)
)


#: The component that a device's own firmware is.
MAIN = "main"


@frozen(kw_only=True)
class FirmwareImage:
    """What devices install: a version, and where its image is. Without a digest it is not pinned yet."""

    release: str
    component: str = MAIN
    url: str = ""
    sha256: str | None = None
    size: int | None = None
    manifest: Mapping[str, object] | None = None
    manifest_sha256: str | None = None
    seq: int | None = None
    trust: int | None = None


#: How long a withdrawal is repeated to a device that does not react to it: a week.
WITHDRAWN_MS = 7 * DAY_MS
#: The number of targets in a campaign's own record, which is read for every report of a device and so must stay small.
SHOWN_TARGETS = 1000


class Campaign(Struct, frozen=True, kw_only=True):
    """One version for many devices. A struct, since it is read for every report of a device.

    Attributes:
        targets: the devices, the first :data:`SHOWN_TARGETS` of ``total``; its executions name all of them.
        aborting: whether executions that an abort cancels may still be open; ``forced``: those under way too.
        manifest: the signed manifest (DSSE), where there is one; ``manifest_sha256`` is the digest of the signed
            content.
        seq: the manifest's; None without one.
        trust: the version of the trust root that verified it; None where there was none.
        allow_downgrade: whether devices that had a higher seq may get it.
        component: the part of the device that it is for.
        before: what its devices install first, in this order, unless they have it.
        held: it is made paused, so that it can be planned before it begins.
        code: why it waits in ``draft``, or why it paused by itself.
        rollout: how it is rolled out.
        rollback: what a rollback installs; None where it cannot be rolled back.
        rolls_back: the campaign whose devices this one brings back.
        wave: the current wave, from 1; 0 before the first one. ``wave_begun`` is when it began, and ``wave_done`` when
            enough of its devices had succeeded; ms since the epoch.
        accepted_wave: the wave that an operator lets go on although too few of its devices succeeded.
        accepted: how many devices were in each state at the last resume; limits on failures count the later ones.
        gate_score: the state of its health gate; None until a device is judged.
        where: the query that selects its devices; empty where they were named. ``continuous``: also later ones.
        adding: whether devices of the query may be missing yet.
        turn_digits: see :mod:`fleetcore.rollout.turns`; None for campaigns of earlier releases.
        starts_at: it begins then, ms since the epoch; None for at once.
        by: the operator who made it.
        config: of a function: what its configuration sets; None leaves that of each gateway as it is.
        approval: whether another person has to approve it; ``approved_by`` is who did.
    """

    id: str
    release: str
    url: str
    targets: tuple[str, ...]
    total: int
    state: CampaignState = CampaignState.DRAFT
    sha256: str | None = None
    size: int | None = None
    manifest: Mapping[str, object] | None = None
    manifest_sha256: str | None = None
    seq: int | None = None
    trust: int | None = None
    allow_downgrade: bool = False
    component: str = MAIN
    before: tuple[FirmwareImage, ...] = ()
    aborting: bool = False
    forced: bool = False
    held: bool = False
    code: str | None = None
    reason: str | None = None
    created: int = 0
    finished_at: int | None = None
    rollout: Rollout = AT_ONCE
    rollback: FirmwareImage | None = None
    rolls_back: str | None = None
    wave: int = 0
    wave_begun: int | None = None
    wave_done: int | None = None
    accepted_wave: int = 0
    accepted: Mapping[str, int] = field(default_factory=dict)
    gate_score: GateScore | None = None
    where: str = ""
    continuous: bool = False
    adding: bool = False
    turn_digits: int | None = None
    starts_at: int | None = None
    by: str = ""
    config: Mapping[str, object] | None = None
    approval: bool = False
    approved_by: str | None = None
    version: int = 0

    @property
    def begins(self) -> int:
        """When its time begins, ms since the epoch."""
        return max(self.created, self.starts_at or 0)


class Execution(Struct, frozen=True, kw_only=True, gc=False):
    """One device in one campaign. A struct, since a campaign may have a million, each changed a dozen times.

    Attributes:
        reported_version: the running version that the device reported at the end.
        step: which of the campaign's images it installs: an index into ``before``; its length is the campaign's own.
        installed: the images of ``before`` that it has installed: a bit for each, from the lowest on.
        nonce, not_after: of the last assignment sent to the device, ms since the epoch.
        assigned: the attempt that it belongs to.
        withdrawn: an offer was sent to the device and withdrawn, and the device has not reported since.
        until: until when the device defers it; while it waits, until when it waits before the next attempt.
        wave: the wave in which it has a place, from 1; 0 while it has none. ``placed`` is since when.
        turn_digits: see :mod:`fleetcore.rollout.turns`.
        missed: how often it lost its place because it did not fetch the offer in time.
        first_offered: when the first attempt was offered.
        previous_version: the version that ran before the first offer.
        failed_as: how the last attempt ended.
        soaking: the new version runs, and has to run for some time more.
        observed: since when the campaign's health gate observes it.
        held: it may not begin, or not install, until ``until``; ``code`` says why.
        consented: when its user agreed.
        site: where it is, once it got an offer of a campaign that limits the devices of a site.
        due: when something happens to it by itself; ms since the epoch, as all times.
    """

    id: str
    campaign: str
    device: str
    state: ExecutionState = ExecutionState.WAITING
    attempt: int = 1
    step: int = 0
    installed: int = 0
    progress: float | None = None
    bytes: int | None = None
    code: str | None = None
    reason: str | None = None
    until: int | None = None
    reported_version: str | None = None
    nonce: str | None = None
    not_after: int | None = None
    assigned: int = 0
    withdrawn: bool = False
    wave: int = 0
    placed: int | None = None
    missed: int = 0
    turn_digits: int = 0
    first_offered: int | None = None
    previous_version: str | None = None
    failed_as: ExecutionState | None = None
    soaking: bool = False
    observed: int | None = None
    held: bool = False
    consented: int | None = None
    site: str = ""
    due: int | None = None
    changed: int = 0
    version: int = 0


@frozen(kw_only=True)
class Release:
    """Released firmware: its manifest is verified, and its image is stored.

    Attributes:
        id: ``NAME:SEQ``.
        release: the version for people.
        manifest: the envelope, as devices get it; ``manifest_sha256`` is the digest of the signed content.
        requires: the releases of other components that have to be installed before, ``NAME:SEQ``, by component.
        sbom_sha256: of its software bill of materials, a document in ``sbom_format``; empty without one.
        trust: the version of the trust root that verified it.
        created, expires: of the manifest; ``added`` is when it came here, by whom. ms since the epoch.
    """

    id: str
    name: str
    release: str
    seq: int
    min_seq: int = 0
    component: str = MAIN
    requires_seq: int = 0
    requires: Mapping[str, str] = attribute(factory=dict)
    models: tuple[str, ...]
    sbom_format: str = ""
    sbom_sha256: str = ""
    size: int
    sha256: str
    manifest: Mapping[str, object]
    manifest_sha256: str
    trust: int
    created: int
    expires: int
    added: int = 0
    by: str = ""
    version: int = 0

    @property
    def image(self) -> FirmwareImage:
        """What devices install; its trust is checked where it is used."""
        return FirmwareImage(
            release=self.release, component=self.component, sha256=self.sha256, size=self.size,
            manifest=dict(self.manifest), manifest_sha256=self.manifest_sha256, seq=self.seq,
        )  # fmt: skip


@frozen(kw_only=True)
class Build:
    """The image that a version names; it never changes.

    Attributes:
        id: ``NAME@RELEASE``.
        name: of the product, as in the manifest; ``model=MODEL`` for firmware without a manifest.
        added: ms since the epoch.
    """

    id: str
    name: str
    release: str
    sha256: str
    added: int = 0
    version: int = 0


@frozen(kw_only=True)
class Delta:
    """What turns one image into another.

    Attributes:
        id: ``BASE:TARGET``, the digests of the two images.
        sha256, size: of the delta itself, an artifact.
        full_size, compressed_size: of the target, as it is and compressed as the delta is.
        added: when it was made, by whom; ms since the epoch.
    """

    id: str
    base: str
    target: str
    format: str = "bsdiff4"
    sha256: str
    size: int
    full_size: int
    compressed_size: int
    added: int = 0
    by: str = ""
    version: int = 0


@frozen(kw_only=True)
class TrustVersion:
    """One stored version of the trust root; ``id`` is its number with leading zeros, so that keys are in order."""

    id: str
    number: int
    envelope: Mapping[str, object]
    expires: int
    added: int
    by: str
    version: int = 0
