"""The identity of a device: its status, its place, and what opens the hub for it. Written whole, under its own ETag.

Keys are the hub's: it makes them, and fleetcore neither keeps nor logs them. They are read in one place, where a status
or a place is changed: an identity is replaced whole, and one without its keys would be given others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fleetcore_azure.clients import Clients
from fleetcore_azure.held import Held
from fleetcore_azure.sdk import models


class Identities:
    """See the module. Methods raise HubFailed, of kind ``conflict`` where another writer was faster."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def change(
        self, there: Held, *, status: str, edge: bool = False, place: Mapping[str, object] | None = None
    ) -> None:
        """Enables or disables a device.

        Args:
            edge: makes it an IoT Edge device; it stays one.
            place: members that say what it is below; None leaves them.
        """
        identity = await self._clients.call("devices/read", lambda service: service.devices.get_identity(there.name))
        identity.status = status
        if edge and not there.edge:
            identity.capabilities = models.DeviceCapabilities(iot_edge=True)
            # Its scope is the hub's to make; that of an edge above is among its parents' from now on.
            identity.device_scope, identity.parent_scopes = None, [] if there.above is None else [there.above]
        for name, value in (place or {}).items():
            setattr(identity, name, value)
        await self._put(there.name, identity, identity.etag)

    async def set_thumbprints(self, there: Held, thumbprints: Sequence[str] | None) -> str:
        """Has certificates open the device, two at most, or keys that the hub makes; its ETag then."""
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
                raise ValueError("the answer is not an identity; it was cut off")
            return str(made.etag)

        return await self._clients.call("devices/write", work)
