"""How a firmware campaign is rolled out: its waves, rate, time-outs, retries and limits on failures."""

from collections.abc import Collection, Mapping
from enum import StrEnum

from attrs import field, frozen

from fleetcore.model.days import DAY_MS, HOUR_MS
from fleetcore.model.eligibility import ANY_TIME, Eligibility


class OnFailure(StrEnum):
    """What a campaign does once too many devices have failed."""

    PAUSE = "pause"
    ABORT = "abort"
    ROLL_BACK = "roll_back"


@frozen(kw_only=True)
class FailureLimit:
    """Beyond this share of failures a campaign acts.

    Attributes:
        share: of the devices whose update ended or whose return is overdue, 0 to 1; more than this is too many.
        min_executed: the fewest of them, so that the first failure alone does not decide.
        kinds: the states that count as failures: ``failed``, ``rejected``, ``reverted``, ``timed_out``, ``unknown``.
    """

    share: float
    min_executed: int = 1
    kinds: tuple[str, ...] = ("failed", "rejected", "reverted", "timed_out", "unknown")
    action: OnFailure = OnFailure.PAUSE


@frozen(kw_only=True)
class Rate:
    """How many devices get an offer in any 60 seconds.

    Attributes:
        per_minute: the rate at the start.
        factor: the rate is multiplied by it each time ``every`` more devices have succeeded.
        max_per_minute: it never rises beyond.
    """

    per_minute: int
    factor: float = 1.0
    every: int = 100
    max_per_minute: int = 1_000_000


@frozen(kw_only=True)
class Retries:
    """How often a failed update is offered again.

    Attributes:
        times: attempts after the first one.
        by_code: the same for some codes of failures.
        wait_ms: before the second attempt; each further one waits ``factor`` times longer.
    """

    times: int = 0
    by_code: Mapping[str, int] = field(factory=dict)
    wait_ms: int = 5 * 60_000
    factor: float = 2.0

    def allowed(self, code: str | None) -> int:
        """How many retries a failure with this code has."""
        return self.times if code is None else self.by_code.get(code, self.times)

    def wait_before(self, attempt: int) -> int:
        """The wait before an attempt (2 is the first retry) in ms, a week at most."""
        return round(min(self.wait_ms * self.factor ** (attempt - 2), 7 * DAY_MS))


@frozen(kw_only=True)
class TimeLimits:
    """Time-outs of a device's update, in ms.

    Attributes:
        place_ms: a device whose turn has come and that does not fetch its offer loses its place in the wave.
        step_ms: without any report.
        return_ms: after ``rebooting``; then its state is unknown.
        total_ms: from the first offer to its end, all attempts together.
        campaign_ms: from the campaign's start; devices that never fetched an offer then end.
    """

    place_ms: int = DAY_MS
    step_ms: int = DAY_MS
    return_ms: int = HOUR_MS
    total_ms: int = 30 * DAY_MS
    campaign_ms: int = 90 * DAY_MS


@frozen(kw_only=True)
class HealthGate:
    """Compares updated devices with comparable ones that are not updated yet, and stops the campaign if they do worse.

    Attributes:
        metrics: compared beside alerts and silence.
        window_ms: how long a device is observed after its update.
        alpha: the largest probability with which the gate ever stops a campaign whose devices do no worse, 0 to 1.
        max_judged: about how many devices of a wave are observed, by chance.
        controls: the most devices with which each is compared.
    """

    metrics: tuple[str, ...] = ()
    window_ms: int = 15 * 60_000
    alpha: float = 0.04
    action: OnFailure = OnFailure.PAUSE
    max_judged: int = 500
    controls: int = 16


@frozen(kw_only=True)
class Rollout:
    """How a campaign is rolled out. The default offers to all devices at once.

    Attributes:
        waves: sizes, or shares as ``10%``; the rest is a last wave.
        min_succeeded: the share of a wave's devices that must have succeeded before the next wave, 0 to 1.
        wave_soak_ms: between that moment and the next wave.
        soak_ms: how long a device has to run the new version before it counts as succeeded.
        priority: of two campaigns on one device the higher one comes first; then the older one.
        eligibility: when a device may install.
    """

    waves: tuple[str, ...] = ()
    min_succeeded: float = 0.95
    wave_soak_ms: int = 0
    soak_ms: int = 0
    failures: tuple[FailureLimit, ...] = ()
    gate: HealthGate | None = None
    rate: Rate | None = None
    retries: Retries = Retries()
    limits: TimeLimits = TimeLimits()
    priority: int = 0
    eligibility: Eligibility = ANY_TIME

    @property
    def actions(self) -> Collection[OnFailure]:
        """What the campaign may do by itself."""
        return {limit.action for limit in self.failures} | ({self.gate.action} if self.gate is not None else set())


#: To all devices at once, as far as they can be reached.
AT_ONCE = Rollout()
