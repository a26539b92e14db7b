"""The operators' API from Python, with the calls of :class:`IoTFleetManager`: blocking or in asyncio.

Needs ``fleetcore[client]``.
"""

from fleetcore.client.remote import AsyncFleetClient, FleetClient

__all__ = ["AsyncFleetClient", "FleetClient"]
