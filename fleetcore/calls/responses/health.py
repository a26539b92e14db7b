"""How well devices are."""

from fleetcore.calls.types import Response


class HealthResponse(Response, frozen=True):
    """A score from 0 to 100, None for a fleet without devices; its parts, and the counts behind them."""

    score: float | None
    parts: dict[str, float]
    counts: dict[str, int]
