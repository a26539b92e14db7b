"""Answers about the health of devices and the fleet."""

from typing import Any

from fleetcore.calls.responses.anomalies import AnomalyResponse
from fleetcore.calls.responses.campaigns import ExecutionResponse
from fleetcore.calls.responses.commands import CommandResponse
from fleetcore.calls.responses.devices import ChangeResponse
from fleetcore.calls.responses.groups import MembershipResponse
from fleetcore.calls.types import Json, Ms, Response
from fleetcore.model.device import Connectivity, Lifecycle


class HealthResponse(Response, frozen=True):
    """A score from 0 to 100, None for a fleet without devices; its parts, and the counts behind them.

    ``health["health_score"]`` is the score for a script to print: 0.0 where there are no devices.
    """

    score: float | None
    parts: dict[str, float]
    counts: dict[str, int]

    def __getitem__(self, name: str) -> Any:
        return self.score or 0.0 if name == "health_score" else super().__getitem__(name)


class PresenceResponse(Response, frozen=True):
    """The observed state of a device."""

    connectivity: Connectivity
    last_seen: Ms | None
    asleep_until: Ms | None


class DiagnosisResponse(Response, frozen=True):
    """Everything that affects a device; ``findings`` lists problems, the most urgent first.

    ``unconverged`` are desired leaves that it does not report, by pointer, since when; ``refused`` are those that it
    refused, with its reasons.
    """

    device: str
    findings: list[str]
    health: HealthResponse
    lifecycle: Lifecycle
    presence: PresenceResponse
    groups: list[MembershipResponse]
    unconverged: dict[str, Ms]
    refused: Json
    waiting: list[CommandResponse]
    updating: list[ExecutionResponse]
    anomalies: list[AnomalyResponse]
    changes: list[ChangeResponse]
