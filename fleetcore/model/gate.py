"""What the health gate of a campaign has seen: the score of its test, and one observation for each judged device."""

from enum import StrEnum

from attrs import frozen
from msgspec import Struct


class Verdict(StrEnum):
    """What became of an observed device."""

    #: Its window has not ended.
    OPEN = "open"
    GOOD = "good"
    BAD = "bad"
    #: Nothing could be compared: see its reasons.
    UNCOMPARED = "uncompared"


class Matching(StrEnum):
    """How the devices were found with which an updated one is compared, the closest first."""

    SITE = "model and site"
    MODEL = "model"
    ANY = "any"
    #: Its own earlier days, at the same hours.
    HISTORY = "history"


class Rule(StrEnum):
    """Why a device is bad."""

    #: Its update failed, or it went back, or it did not come back.
    UPDATE = "update"
    #: A detector found something.
    ALERTED = "alert"
    #: It was not heard in the second half of its window.
    SILENT = "silent"
    #: A metric moved otherwise than in the other devices.
    METRIC = "metric"


class GateScore(Struct, frozen=True, kw_only=True):
    """The state of a gate's sequential test, since the last time that an operator accepted its evidence.

    Attributes:
        log_e: the logarithm of the e-value.
        beliefs: the logarithm of the weight of each of :data:`fleetcore.rollout.gate.ODDS`; empty at the start.
        number: of observations judged in the whole campaign.
        updated, updated_bad, controls, controls_bad: of the compared devices.
    """

    log_e: float = 0.0
    beliefs: tuple[float, ...] = ()
    number: int = 0
    updated: int = 0
    updated_bad: int = 0
    controls: int = 0
    controls_bad: int = 0


@frozen(kw_only=True)
class Control:
    """What an updated device was compared with: another device, or itself on an earlier day."""

    device: str
    rules: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@frozen(kw_only=True)
class Observation:
    """One device that a gate observes after its update; times in ms since the epoch.

    Attributes:
        id: of its execution.
        before: where the update began: the device is compared with what it was in the window that ends there.
        since: when its update ended; the window begins there.
        due: the window's end; None once it is judged.
        rules, reasons: why it is bad, or why it was not compared.
        number: its place in the order in which the campaign's devices were judged, from 1; 0 before.
        e_value: of the campaign after this device.
    """

    id: str
    campaign: str
    device: str
    wave: int
    before: int
    since: int
    due: int | None = None
    verdict: Verdict = Verdict.OPEN
    rules: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    matching: Matching | None = None
    controls: tuple[Control, ...] = ()
    number: int = 0
    e_value: float = 1.0
    version: int = 0
