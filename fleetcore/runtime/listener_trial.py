"""Checks a listener as an unknown device would: it connects and expects a refusal.

The refusal shows that the port is open, the handshake works, the server's certificate belongs to the fleet and contains
the host, and the fleet answered. The attempt is counted and audited as a refused certificate.
"""

import asyncio
from collections.abc import Callable

from fleetcore.errors import FleetError, NotAuthenticated, NotAuthorised
from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets, Finding
from fleetcore.interfaces.provider import TlsProvider
from fleetcore.runtime.app import Fleet
from fleetcore.wire import messages
from fleetcore.wire.endpoints import reachable

#: The device side of a protocol, as its plugin offers it.
Client = Callable[[str, DeviceSecrets], DeviceClient]
#: A device of no fleet: the certificate is checked before any device id.
GUEST = "fleetcore-doctor"
#: From the first packet to the answer.
TRIAL_S = 5.0
#: A listener on all addresses is tried on the loopback address.
_HERE = "127.0.0.1"
_REFUSED = frozenset({401, 403})


async def try_listeners(fleet: Fleet) -> list[Finding]:
    """The results for all listeners of an open fleet, at once; empty in a fleet without certificates."""
    if fleet.tls is None:
        return []
    tls = fleet.tls
    return await asyncio.gather(
        *(
            try_listener(protocol.provider.client, endpoint, tls)
            for protocol in fleet.protocols.values()
            if protocol.listens and protocol.provider.client is not None
            for endpoint in protocol.endpoints()
        )
    )


async def try_listener(client: Client, endpoint: str, tls: TlsProvider) -> Finding:
    """Connects to a listener and reports the result; takes at most :data:`TRIAL_S`. Does not raise."""
    what = f"listener {endpoint}"
    try:
        chain, key = await asyncio.to_thread(tls.takeover_certificate, GUEST)
        secrets = DeviceSecrets(device=GUEST, certificate=chain, key=key, ca=tls.ca_bundle())
        async with asyncio.timeout(TRIAL_S), client(reachable(endpoint, _HERE), secrets) as visitor:
            reply = await visitor.request(messages.TWIN_GET)
        if reply.error is not None and reply.status in _REFUSED:
            return _gets_through(what)
    except (NotAuthenticated, NotAuthorised):
        return _gets_through(what)
    except TimeoutError:
        why = f"no answer within {TRIAL_S:g} s"
    except FleetError as error:
        why = error.message
    except Exception as error:
        why = f"its client failed: {error!r}"
    else:
        return Finding(
            state="problem",
            what=what,
            detail="it accepts a device that is not in this fleet",
            remedy="Stop the server and report it; the audit log shows the connection",
        )
    return Finding(
        state="problem",
        what=what,
        detail=f"a device cannot reach it: {why}",
        remedy="Check for a firewall or another program on the port, then the server's log",
    )


def _gets_through(what: str) -> Finding:
    return Finding(state="ok", what=what, detail="a device can reach it, and an unknown device is refused")
