"""What this package offers; imports nothing heavy, since it is loaded at every start."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import frozen
from fleetcore import hookimpl, offer_detector

if TYPE_CHECKING:
    from fleetcore.interfaces import Detector, Provider

FLEETCORE_PLUGIN_API = 2


@frozen(kw_only=True)
class JumpsConfig:
    """``[detectors.jumps]``. Attributes: limit: the largest change between two readings that is normal."""

    limit: float = 10.0


@hookimpl
def fleetcore_detectors() -> "Iterable[Provider[Detector]]":
    """One detector kind, ``jumps``."""
    from fleetcore_jumps.detector import open_detector

    return [offer_detector("jumps", JumpsConfig, open_detector, summary="finds jumps between two readings")]
