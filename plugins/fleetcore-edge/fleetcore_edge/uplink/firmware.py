"""Firmware for leaves: the gateway downloads an image once, then offers it to its leaves.

A leaf gets the core's offer when its image is here: so it downloads over the site's own network, also while the core is
out of reach, and fifty leaves of a model load the uplink once. An image goes when no open offer names it any more.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import cast

import msgspec

from fleetcore.errors import FleetError, is_temporary
from fleetcore.fleet.passed_offers import PassedOffers
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.passed_offer import PassedOffer
from fleetcore.model.store import Commit
from fleetcore.model.twin import Json
from fleetcore.pipeline.back_off import back_off_s
from fleetcore.wire import messages
from fleetcore_edge.uplink.leaves import ACTOR
from fleetcore_edge.uplink.link import Link

_log = logging.getLogger(__name__)

#: Downloads the artifact of a leaf's offer from a byte on.
Download = Callable[[str, int, str], AsyncIterator[bytes]]

#: Refusals of a report after which the core goes on offering.
_STILL_OFFERED = frozenset({"version_mismatch", "too_late"})
#: How often offers and images are looked after.
CARE_S = 600.0
#: How long before its end an assignment that its leaf has not used is asked for again.
_SOON_MS = 1_800_000
#: The blob with the digests of the artifacts that were downloaded for leaves.
_FETCHED = "uplink/images"


class LeafFirmware:
    """Takes offers for leaves from the core.

    Args:
        admit: makes room for bytes; raises Unavailable where there is none now, Refused where there never is.

    Attributes:
        counts: ``offers`` passed on, ``images`` downloaded and their ``bytes``.
    """

    def __init__(
        self,
        link: Link,
        storage: Storage,
        clock: Clock,
        passed: PassedOffers,
        download: Download,
        admit: Callable[[int], Awaitable[None]],
    ) -> None:
        self._link, self._storage, self._clock = link, storage, clock
        self._passed, self._download, self._admit = passed, download, admit
        #: Leaf → the newest body for it that was not passed on yet, in the order of work.
        self._waiting: dict[str, Json] = {}
        self._came = asyncio.Event()
        #: Held while an image is needed that no stored offer names yet.
        self._turn = asyncio.Lock()
        self.counts = {"offers": 0, "images": 0, "bytes": 0}

    async def heard(self, device: str, body: Json) -> None:
        """The core offers firmware to a leaf, or withdraws an offer, which waits for no download."""
        self._waiting.pop(device, None)
        if not PassedOffer(device=device, body=body).images:
            await self._passed.take(device, body, actor=ACTOR)
            return
        self._waiting[device] = body
        self._came.set()

    async def run(self) -> None:
        """Passes on what was heard; owned by the supervisor."""
        failures = 0
        while True:
            while not self._waiting:
                self._came.clear()
                await self._came.wait()
            device = next(iter(self._waiting))
            if await self._pass_on(device, self._waiting[device]):
                failures = 0
                continue
            # Others may succeed meanwhile.
            if device in self._waiting:
                self._waiting[device] = self._waiting.pop(device)
            await self._clock.sleep(back_off_s(failures))
            failures += 1

    async def _pass_on(self, device: str, body: Json) -> bool:
        """Whether it is dealt with; False where it should be tried again."""
        offer = PassedOffer(device=device, body=body)
        try:
            async with self._turn:
                for sha256, size in offer.images.items():
                    if await self._storage.artifact(sha256) is None:
                        await self._fetch(device, sha256, size)
                    if self._waiting.get(device) is not body:
                        return True  # the core says something else by now
                await self._passed.take(device, body, actor=ACTOR)
        except FleetError as error:
            _log.warning("Firmware %s for %s is not passed on: %s", offer.offer.get("version"), device, error)
            if is_temporary(error.code):
                return False
            if error.code != "artifact_unknown":  # the core has withdrawn the offer
                await self._refuse(offer, error)
        else:
            self.counts["offers"] += 1
        if self._waiting.get(device) is body:
            del self._waiting[device]
        return True

    async def _refuse(self, offer: PassedOffer, error: FleetError) -> None:
        said = {"execution": offer.execution, "state": "failed", "code": error.code, "reason": error.message}
        await self._link.send(messages.FIRMWARE_STATUS, said, subject=offer.device)

    async def _fetch(self, device: str, sha256: str, size: int) -> None:
        """Downloads an artifact; what an interrupted download has left is continued."""
        had = next(
            (part.received for part in await self._storage.parts() if (part.sha256, part.size_bytes) == (sha256, size)),
            0,
        )
        await self._admit(size - had)
        await self._storage.commit(_fetched(await self._fetched() | {sha256}))
        if had < size or not size:
            pieces = self._download(sha256, had, device)
            await self._storage.append_part(
                pieces, sha256=sha256, size_bytes=size, offset=had, now_ms=self._clock.now_ms()
            )
        await self._storage.finish_part(sha256, size)
        self.counts["images"] += 1
        self.counts["bytes"] += size - had

    async def told(self, device: str, status: object) -> None:
        """Brings a leaf's report to the core."""
        reply = await self._link.send(messages.FIRMWARE_STATUS, status, subject=device)
        if reply.error is not None:
            _log.warning("The core refuses a report of %s about its firmware: %s", device, reply.error.get("detail"))
            if reply.error.get("code") in _STILL_OFFERED:
                await self._passed.reopen(device, status)

    async def told_all(self) -> None:
        """Brings the last report of each leaf to the core, after a gap in the feed."""
        async for each in self._passed.records.iterate():
            if each.status:
                await self.told(each.device, each.status)

    async def care(self) -> None:
        """Asks for new assignments where leaves have not used theirs, and removes images that are not needed."""
        soon = self._clock.now_ms() + _SOON_MS
        async for each in self._passed.records.iterate():
            if not each.is_over and not each.status and each.not_after is not None and each.not_after < soon:
                reply = await self._link.request(messages.INBOX, subject=each.device)
                body = (reply.body or {}).get("firmware")
                if isinstance(body, Mapping):
                    await self.heard(each.device, cast("Json", body))
        async with self._turn:
            await self._remove_images()

    async def _remove_images(self) -> None:
        needed = {sha256 for body in self._waiting.values() for sha256 in PassedOffer(device="", body=body).images}
        async for each in self._passed.records.iterate():
            if not each.is_over:
                needed |= each.images.keys()
        fetched = await self._fetched()
        for sha256 in fetched - needed:
            await self._storage.drop_artifact(sha256)
        for part in await self._storage.parts():
            if part.sha256 in fetched - needed:
                await self._storage.drop_part(part.sha256, part.size_bytes)
        if fetched - needed:
            await self._storage.commit(_fetched(fetched & needed))

    async def _fetched(self) -> frozenset[str]:
        """The artifacts that were downloaded for leaves."""
        blob = await self._storage.blob(_FETCHED)
        return frozenset() if blob is None else frozenset(msgspec.json.decode(blob))


def _fetched(artifacts: Iterable[str]) -> Commit:
    return Commit(blobs={_FETCHED: msgspec.json.encode(sorted(artifacts))})
