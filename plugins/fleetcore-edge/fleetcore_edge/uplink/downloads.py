"""Downloads from the core: over HTTP where the gateway has an endpoint for it, else over its connection."""

from collections.abc import AsyncIterator, Callable

from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore_edge.uplink.clients import MakeClient
from fleetcore_edge.uplink.link import Link


class Downloads:
    """The artifacts that the core offers to the gateway and its leaves.

    Args:
        http: what makes HTTP clients, and the core's endpoint; None for none.
        secrets: the gateway's present credentials.
    """

    def __init__(self, link: Link, http: tuple[MakeClient, str] | None, secrets: Callable[[], DeviceSecrets]) -> None:
        self._link, self._http, self._secrets = link, http, secrets

    async def artifact(self, sha256: str, start: int = 0, subject: str | None = None) -> AsyncIterator[bytes]:
        """The bytes of an artifact from a byte on, of an offer to the gateway or to a leaf.

        Raises:
            Unavailable: the connection breaks.
            FleetError: what the core refuses, or a protocol that cannot download.
        """
        if self._http is None:
            async for piece in self._link.artifact(sha256, start, subject):
                yield piece
            return
        make, endpoint = self._http
        async with make(endpoint, self._secrets()) as client:
            async for piece in client.artifact(sha256, start, subject=subject):
                yield piece
