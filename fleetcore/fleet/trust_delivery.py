"""Delivers a new bundle of CAs to the devices and collects their confirmations: a fleet layer of desired state.

Every device gets ``desired.fleetcore.trust``: the bundle, its version and its digest. A device that trusts it reports
``fleetcore.trust`` with the digest. Devices that do not know the key are not harmed; they count as not confirmed, and
may fetch the bundle by ``/ca`` or EST.
"""

from collections.abc import AsyncIterator, Mapping

from fleetcore.fleet.twins import Twins
from fleetcore.model.twin import OURS

#: The layer's name; only this module writes it.
LAYER = "fleetcore-trust"


class TrustDelivery:
    """Sends the bundle in twins, and counts the devices that have it."""

    def __init__(self, twins: Twins) -> None:
        self._twins = twins

    async def deliver(self, version: int, sha256: str, ca: str) -> None:
        """Sends the bundle to every device; repeating it changes nothing."""
        wanted = {OURS: {"trust": {"version": version, "sha256": sha256, "ca": ca}}}
        there = {layer.id: layer for layer in self._twins.layers.list()}.get(LAYER)
        if there is None or there.section.document != wanted:
            await self._twins.layers.desire(LAYER, wanted, ours=True, actor="ca", reason=f"bundle {version}")

    async def confirmed(self, sha256: str) -> AsyncIterator[str]:
        """The devices that have confirmed this bundle."""
        async for twin in self._twins.iterate():
            reported = twin.reported.document.get(OURS)
            trust = reported.get("trust") if isinstance(reported, Mapping) else None
            if isinstance(trust, Mapping) and trust.get("sha256") == sha256:
                yield twin.device
