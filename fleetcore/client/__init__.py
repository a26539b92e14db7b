"""The operators' API from Python, with the calls of :class:`IoTFleetManager`: blocking or in asyncio.

Needs ``fleetcore[client]``.
"""

from fleetcore.client.aio import AsyncFleetClient
from fleetcore.client.blocking import FleetClient

__all__ = ["AsyncFleetClient", "FleetClient"]
