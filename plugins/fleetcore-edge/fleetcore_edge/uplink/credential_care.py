"""The care for the gateway's credentials at the core: renewal in time, or when the core asks, and the core's CAs."""

import logging
from collections.abc import Mapping

from fleetcore.errors import FleetError
from fleetcore.interfaces.clock import Clock
from fleetcore.wire import messages
from fleetcore_edge.uplink.credentials import Credentials
from fleetcore_edge.uplink.link import Link

_log = logging.getLogger(__name__)

#: How often the age of the certificate is looked at.
_EVERY_S = 600.0


class CredentialCare:
    """Renews over the gateway's own connection, which is then opened anew."""

    def __init__(self, credentials: Credentials, link: Link, clock: Clock) -> None:
        self._credentials, self._link, self._clock = credentials, link, clock

    async def run(self) -> None:
        """Renews in time, until cancelled; owned by the supervisor."""
        while True:
            await self._link.connected()
            if self._credentials.is_due():
                await self._renew()
            await self._clock.sleep(_EVERY_S)

    async def obey(self, wanted: Mapping[str, object]) -> None:
        """Does what the core wants by ``desired.fleetcore``: it takes a bundle of CAs, and renews."""
        report = self._credentials.adopt(wanted)
        if report is not None:
            await self._link.send(messages.TWIN_REPORT, report)
        if self._credentials.asks(wanted):
            await self._renew()

    async def _renew(self) -> None:
        try:
            await self._credentials.renew(
                lambda csr: self._link.request(messages.CERTIFICATE_RENEW, {"csr": csr.decode()})
            )
        except (FleetError, OSError) as error:
            _log.warning("The gateway's certificate at the core cannot be renewed: %s", error)
        else:
            self._link.reconnect()
