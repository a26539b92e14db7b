"""How well devices are."""

from typing import Any

from fleetcore.calls.types import Response


class HealthResponse(Response, frozen=True):
    """A score from 0 to 100, None for a fleet without devices; its parts, and the counts behind them.

    ``health["health_score"]`` is the score as a script prints it: 0.0 where there are no devices.
    """

    score: float | None
    parts: dict[str, float]
    counts: dict[str, int]

    def __getitem__(self, name: str) -> Any:
        return self.score or 0.0 if name == "health_score" else super().__getitem__(name)
