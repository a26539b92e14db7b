"""Gateways."""

from fleetcore.calls.types import Json, Response


class GatewayResponse(Response, frozen=True):
    """A device that speaks for others; ``may_register`` lets it announce leaves that are not registered."""

    device: str
    capabilities: Json
    may_register: bool
