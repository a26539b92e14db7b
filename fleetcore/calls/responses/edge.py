"""Answers about gateways and their leaves."""

from fleetcore.calls.types import Json, Response


class GatewayResponse(Response, frozen=True):
    """A gateway; ``may_register`` lets it announce leaves that are not registered."""

    device: str
    capabilities: Json
    may_register: bool
