"""The identity of a device: its status, place and authentication. Written completely, under its own ETag.

The hub generates the keys; fleetcore neither stores nor logs them. They are read in one place, when a status or a place
changes: an identity is replaced completely, and without its keys it would get new ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fleetcore_azure.clients import Clients
from fleetcore_azure.held import Held
from fleetcore_azure.sdk import models


class Identities:
    """See the module. Methods raise HubFailed, of kind ``conflict`` if another writer was faster."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def change(
        self, there: Held, *, status: str, edge: bool = False, place: Mapping[str, object] | None = None
    ) -> None:
        """Enables or disables a device.

        Args:
            edge: makes it an IoT Edge device; it stays one.
            place: the members of its place; None leaves them unchanged.
        """
        identity = await self._clients.call("devices/read", lambda service: service.devices.get_identity(there.name))
        identity.status = status
        if edge and not there.edge:
            identity.capabilities = models.DeviceCapabilities(iot_edge=True)
            # The hub creates its scope; that of the edge above becomes one of its parents.
            identity.device_scope, identity.parent_scopes = None, [] if there.above is None else [there.above]
        for name, value in (place or {}).items():
            setattr(identity, name, value)
        await self._put(there.name, identity, identity.etag)

    async def set_thumbprints(self, there: Held, thumbprints: Sequence[str] | None) -> str:
        """Sets certificates for the device, at most two, or keys that the hub generates; returns its new ETag."""
        if thumbprints is None:
            authentication = models.AuthenticationMechanism(type="sas")
        else:
            first, second = (*thumbprints, None)[:2]
            authentication = models.AuthenticationMechanism(
                type="selfSigned",
                x509_thumbprint=models.X509Thumbprint(primary_thumbprint=first, secondary_thumbprint=second),
            )
        identity = models.Device(
            device_id=there.name,
            status=there.status,
            status_reason=there.status_reason,
            authentication=authentication,
            **there.rest,
        )
        return await self._put(there.name, identity, there.device_etag)

    async def _put(self, name: str, identity: Any, etag: str) -> str:
        bare = etag.strip('"')

        def work(service: Any) -> str:
            made = service.devices.create_or_update_identity(name, identity, if_match=f'"{bare}"')
            if made is None or not made.etag:
                raise ValueError("the answer is not an identity; it was truncated")
            return str(made.etag)

        return await self._clients.call("devices/write", work)
