"""A device's handling of a firmware offer: what it verifies, writes, starts and reports.

:mod:`fleetcore.testing.verifier` verifies offers, :mod:`fleetcore.testing.slots` starts images; this module downloads
an image into the spare slot, verifies it meanwhile, and reports to the server.
"""

import contextlib
import hashlib
import io
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, cast

from attrs import evolve, frozen

from fleetcore.errors import NotFound, Refused, Unavailable
from fleetcore.interfaces.clock import Clock
from fleetcore.model.firmware import MAIN
from fleetcore.testing import bsdiff
from fleetcore.testing.flash import Flash
from fleetcore.testing.slots import BOOTS, Image, Job, Memory, Slots
from fleetcore.testing.verifier import Admitted, Verifier, text_of
from fleetcore.wire.manifest import Chunks
from fleetcore.wire.trust import FirmwareRoot

_REMEMBERED = 16
_NO_IMAGES: Mapping[str, Image] = MappingProxyType({})

Fetch = Callable[[int], AsyncIterator[bytes]]
FetchDelta = Callable[[str], AsyncIterator[bytes]]
Health = Callable[[], Awaitable[str | None]]


class Say(Protocol):
    """Reports a state of an execution to the server, and returns once it has it."""

    async def __call__(self, execution: str, campaign: str, state: str, **more: object) -> None:
        """Raises Unavailable if the server cannot be reached."""
        ...


class Updater:
    """One device's firmware. :meth:`boot` comes first, and again after each loss of power.

    Args:
        firmware, seq: the factory image, in slot a; ``image`` is its content, a line of text by default.
        trust: the factory's ``trust.json``, an envelope; None accepts offers by digest and size alone.
        server_key: the fleet's public key (raw Ed25519), which verifies assignments; None requires none.
        capacity: bytes of a slot.
        components: the factory images of other components, such as a modem.

    Attributes:
        spoilt: a code with which installing fails, for tests.
        deltas_used: how many images were made from a delta.
    """

    def __init__(
        self,
        flash: Flash,
        clock: Clock,
        *,
        device: str,
        model: str | None = None,
        firmware: str = "1.0.0",
        seq: int = 0,
        image: bytes | None = None,
        trust: Mapping[str, object] | None = None,
        server_key: bytes | None = None,
        capacity: int = 1 << 30,
        components: Mapping[str, Image] = _NO_IMAGES,
    ) -> None:
        self._flash, self._components = flash, components
        self.slots = Slots(flash, clock, device, firmware, seq, image)
        self._verifier = Verifier(
            flash, clock, device=device, model=model, trust=trust, server_key=server_key, capacity=capacity
        )
        self.spoilt: str | None = None
        self.deltas_used = 0

    @property
    def memory(self) -> Memory:
        """The device's saved state."""
        return self.slots.memory

    @property
    def running(self) -> Image:
        """What runs."""
        return self.slots.running

    @property
    def trust(self) -> FirmwareRoot | None:
        """The trust root of the device; None if it does not verify."""
        return self._verifier.trust

    def boot(self) -> Image:
        """Starts the device, and returns the running image."""
        self._verifier.load()
        image = self.slots.boot()
        if self._components.keys() - self.memory.components.keys():
            self.slots.remember(components={**self._components, **self.memory.components})
        return image

    async def reconcile(self, say: Say, health: Health) -> None:
        """After a start, once the server is reached: decides about an image on trial, and reports an update's end."""
        if self.memory.trying is not None:
            code = await health()
            if code is None:
                self.slots.confirm()
            else:
                self.slots.give_up(code, "It does not prove healthy")
        job = self.memory.job
        if job is None or job.state is None:
            return
        await self._say_end(job, say)
        self.slots.remember(job=None, ended=(*self.memory.ended, job)[-_REMEMBERED:])

    async def _say_end(self, job: Job, say: Say) -> None:
        more = {name: value for name, value in (("code", job.code), ("reason", job.reason)) if value is not None}
        await say(job.execution, job.campaign, cast("str", job.state), version=self.running.version, **more)

    # --- offers --------------------------------------------------------------------------------------------------

    async def take(
        self,
        offer: Mapping[str, object],
        fetch: Fetch,
        say: Say,
        health: Health,
        *,
        fetch_delta: FetchDelta | None = None,
    ) -> None:
        """Handles an offer to its end, or to ``downloaded`` if it says to wait.

        ``fetch(start)`` streams the image from a byte on, ``fetch_delta(sha256)`` a delta of the offer. A repeated
        offer continues where it was, or is answered as before. Raises Unavailable if the server cannot be reached; the
        next offer continues from there.
        """
        execution, campaign = text_of(offer, "execution"), text_of(offer, "campaign")
        # An image on trial would be overwritten while it runs.
        await self.reconcile(say, health)
        job = self.memory.job
        under_way = job is not None and job.execution == execution
        try:
            self._verifier.follow(offer.get("trust"))
            wanted = self._verifier.admit(offer, self.running, self.memory, under_way=under_way)
        except Refused as error:
            if under_way and self.memory.trying is None:
                self.slots.remember(job=None)
            await say(execution, campaign, "rejected", code=error.code, reason=error.message)
            return
        if wanted.signed_ms > self.memory.signed_ms:
            self.slots.remember(signed_ms=wanted.signed_ms)
        for ended in self.memory.ended:
            if (ended.execution, ended.nonce) == (execution, wanted.nonce):
                await self._say_end(ended, say)
                return
        image = wanted.image
        if wanted.component != MAIN:
            await self._replace(offer, wanted, fetch, say)
            return
        if (self.running.seq, self.running.sha256, self.running.version) == (image.seq, image.sha256, image.version):
            if self.memory.trying is None:
                await say(execution, campaign, "succeeded", version=image.version)
            return
        if job is None or not under_way or job.nonce != wanted.nonce or job.image != image:
            job = Job(execution=execution, campaign=campaign, nonce=wanted.nonce, image=image)
            await self._begin(job)
            await say(execution, campaign, "accepted")
        try:
            if fetch_delta is None or not await self._load_by_delta(job, offer.get("deltas"), fetch_delta, say):
                await self._load(job, wanted.chunks, fetch, say)
            if offer.get("install") == "wait":
                return
            await say(execution, campaign, "installing")
            if self.spoilt is not None:
                raise Unavailable("It cannot be installed", code=self.spoilt)
        except (Refused, NotFound) as error:
            code = error.code if isinstance(error, Refused) else "download_failed"
            await self._end(job, "rejected" if isinstance(error, Refused) else "failed", code, error.message, say)
            return
        except Unavailable as error:
            code = error.code if error.code == self.spoilt else "download_failed"
            await self._end(job, "failed", code, error.message, say)
            return
        self.slots.remember(trying=self.slots.spare, boots_left=BOOTS)
        await say(execution, campaign, "rebooting")
        self.boot()
        await self.reconcile(say, health)

    async def _replace(self, offer: Mapping[str, object], wanted: Admitted, fetch: Fetch, say: Say) -> None:
        """Installs the image of a component without slots: one write replaces it, once it is verified.

        A loss of power before that leaves the old image, and the repeated offer begins anew.
        """
        execution, campaign = text_of(offer, "execution"), text_of(offer, "campaign")
        image = wanted.image
        if self.memory.components[wanted.component] != image:
            await say(execution, campaign, "accepted")
            await say(execution, campaign, "downloading")
            try:
                content = await _whole(fetch(0), image.sha256, image.size)
            except (Refused, NotFound, Unavailable) as error:
                state, code = ("rejected", error.code) if isinstance(error, Refused) else ("failed", "download_failed")
                await say(execution, campaign, state, code=code, reason=error.message)
                return
            await say(execution, campaign, "downloaded")
            if offer.get("install") == "wait":
                return
            await say(execution, campaign, "installing")
            if self.spoilt is not None:
                await say(execution, campaign, "failed", code=self.spoilt, reason="It cannot be installed")
                return
            self._flash.save(f"component-{wanted.component}", content)
            self.slots.remember(components={**self.memory.components, wanted.component: image})
        await say(execution, campaign, "succeeded", version=image.version)

    async def withdraw(self, execution: str, say: Say) -> None:
        """An offer is withdrawn: an update that has not been started is dropped."""
        job = self.memory.job
        if job is not None and job.execution == execution and self.memory.trying is None and job.state is None:
            self.slots.remember(job=None)
            await say(execution, job.campaign, "cancelled")

    async def _begin(self, job: Job) -> None:
        """Saves the job and empties the spare slot, in that order: it counts as empty from here on."""
        spare = self.slots.spare
        old = self.memory.job
        self.slots.remember(job=job, slots={**self.memory.slots, spare: None})
        if old is None or old.image.sha256 != job.image.sha256:
            self._flash.erase(spare)

    async def _load_by_delta(self, job: Job, deltas: object, fetch_delta: FetchDelta, say: Say) -> bool:
        """Makes the image from the running one, where a delta of the offer fits; whether it did.

        The digest of the running slot is read back. A delta that is damaged or lies is dropped with what it made.
        """
        spare, image = self.slots.spare, job.image
        if self.memory.slots.get(spare) == image or self._flash.length(spare):
            return False  # the whole image is being downloaded already
        running = self.memory.active
        base = self._flash.digest(running)
        delta = next((each for each in _deltas(deltas) if each.base == base and each.size < image.size), None)
        old = None if delta is None else self._flash.read(running)
        if delta is None or old is None:
            return False
        await say(job.execution, job.campaign, "downloading", progress=0, bytes=0)
        try:
            patch = await _whole(fetch_delta(delta.sha256), delta.sha256, delta.size)
            for piece in bsdiff.apply(old, patch, image.size):
                self._flash.append(spare, piece)
            self._flash.sync(spare)
            self._verify(spare, image)
        except (Refused, NotFound):
            self._flash.erase(spare)
            return False
        self.deltas_used += 1
        self.slots.remember(slots={**self.memory.slots, spare: image})
        await say(job.execution, job.campaign, "downloaded")
        return True

    async def _load(self, job: Job, chunks: Chunks | None, fetch: Fetch, say: Say) -> None:
        """Downloads the image into the spare slot and verifies it.

        Raises Refused: ``hash_mismatch``, ``size_mismatch``.
        """
        spare, image = self.slots.spare, job.image
        if self.memory.slots.get(spare) == image and self._flash.digest(spare) == image.sha256:
            return
        begun = self._flash.length(spare)
        if begun > image.size:
            self._flash.erase(spare)
        elif chunks is not None:
            # Only complete pieces were verified.
            self._flash.cut(spare, begun // chunks.size * chunks.size)
        start = self._flash.length(spare)
        await say(job.execution, job.campaign, "downloading", progress=0, bytes=start)
        try:
            await self._stream(spare, start, image.size, chunks, fetch)
            self._verify(spare, image)
        except Refused:
            # Data left by a loss of power may be damaged; that is not a fault of the image.
            self._flash.erase(spare)
            if not start:
                raise
            await self._stream(spare, 0, image.size, chunks, fetch)
            self._verify(spare, image)
        self.slots.remember(slots={**self.memory.slots, spare: image})
        await say(job.execution, job.campaign, "downloaded")

    async def _stream(self, slot: str, start: int, size: int, chunks: Chunks | None, fetch: Fetch) -> None:
        at, waiting = start, bytearray()
        if start < size:
            async with contextlib.aclosing(_closable(fetch(start))) as pieces:
                async for piece in pieces:
                    # Endless data is refused here, before it is written anywhere.
                    if at + len(waiting) + len(piece) > size:
                        raise Refused(f"There is more than the {size} bytes of the manifest", code="size_mismatch")
                    waiting += piece
                    at = self._write(slot, at, waiting, size, chunks)
        if at + len(waiting) != size:
            raise Refused(f"It ends after {at + len(waiting)} of {size} bytes", code="size_mismatch")
        self._flash.sync(slot)

    def _write(self, slot: str, at: int, waiting: bytearray, size: int, chunks: Chunks | None) -> int:
        """Writes what can be verified already, and returns the new end of the slot."""
        if chunks is None:
            self._flash.append(slot, bytes(waiting))
            at += len(waiting)
            waiting.clear()
            return at
        while waiting and (len(waiting) >= chunks.size or at + len(waiting) == size):
            piece = bytes(waiting[: chunks.size])
            if hashlib.sha256(piece).hexdigest() != chunks.sha256[at // chunks.size]:
                raise Refused(f"The piece at byte {at} does not match the manifest", code="hash_mismatch")
            self._flash.append(slot, piece)
            del waiting[: chunks.size]
            at += len(piece)
        return at

    def _verify(self, slot: str, image: Image) -> None:
        if self._flash.digest(slot) != image.sha256:
            raise Refused("The image does not match the manifest", code="hash_mismatch")

    async def _end(self, job: Job, state: str, code: str, reason: str, say: Say) -> None:
        ended = evolve(job, state=state, code=code, reason=reason)
        self.slots.remember(job=ended)
        await self._say_end(ended, say)
        self.slots.remember(job=None, ended=(*self.memory.ended, ended)[-_REMEMBERED:])


@frozen
class _OfferedDelta:
    base: str
    sha256: str
    size: int


def _deltas(offered: object) -> list[_OfferedDelta]:
    """The readable ones of an offer, in its order."""
    given = offered if isinstance(offered, Sequence) and not isinstance(offered, str) else ()
    return [
        _OfferedDelta(str(each.get("from")), str(each.get("sha256")), each["size"])
        for each in given
        if isinstance(each, Mapping) and each.get("format") == bsdiff.FORMAT and type(each.get("size")) is int
    ]


async def _whole(pieces: AsyncIterator[bytes], sha256: str, size: int) -> bytes:
    """A small download, verified. Raises Refused."""
    got = io.BytesIO()
    async with contextlib.aclosing(_closable(pieces)) as closable:
        async for piece in closable:
            if got.tell() + len(piece) > size:
                raise Refused(f"There is more than the {size} bytes of the offer", code="size_mismatch")
            got.write(piece)
    content = got.getvalue()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Refused("The bytes are not those that were offered", code="hash_mismatch")
    return content


async def _closable(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in pieces:
            yield piece
    finally:
        # Its open resources must not wait for the garbage collector.
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
