"""The device's side of a firmware update: what it believes, what it writes, what it starts, and what it says of it.

Two slots: the one that runs is never written to. A new image is loaded into the other one, verified there, and started
on trial with a boot counter; it becomes the active one by a single write, once it has proved healthy. So at any moment
one slot is whole, and a device that dies anywhere goes on or goes back.

Two numbers only rise, and only after that proof: ``highest_seq``, below which nothing is installed, and ``floor``,
below which nothing is started, not even what is there still. They become an image's ``seq`` and its ``min_seq``.

A device that came with a trust root verifies all of it: the trust root's successors, the manifest's signatures, the
server's assignment. One without believes digest and size of the offer.
"""

import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from attrs import evolve, field, frozen

from fleetcore.errors import NotFound, Refused, Unavailable
from fleetcore.interfaces.clock import Clock
from fleetcore.testing.flash import SLOTS, Flash
from fleetcore.wire.assignment import open_assignment
from fleetcore.wire.manifest import (
    Chunks,
    Manifest,
    check_model,
    check_order,
    check_requires,
    check_time,
    open_manifest,
)
from fleetcore.wire.records import from_plain, to_plain
from fleetcore.wire.strict_json import dumps, loads
from fleetcore.wire.trust import Trust, first_trust, follow_all

#: How often an image on trial is started before it is given up (SECURITY.md A7).
BOOTS = 3
#: How long it has to prove itself.
CONFIRM_S = 600.0
_MEMORY, _TRUST = "memory.json", "trust.json"
_REMEMBERED = 16

Fetch = Callable[[int], AsyncIterator[bytes]]
Health = Callable[[], Awaitable[str | None]]


class Say(Protocol):
    """Tells the server a state of an execution, and returns once it has it."""

    async def __call__(self, execution: str, campaign: str, state: str, **more: object) -> None:
        """Raises Unavailable where the server is away."""
        ...


@frozen(kw_only=True)
class Image:
    """What a slot holds, whole and verified."""

    version: str
    sha256: str
    size: int
    seq: int = 0
    min_seq: int = 0


@frozen(kw_only=True)
class Job:
    """An update under way; ``state`` is how it ended, until the server knows."""

    execution: str
    campaign: str
    nonce: str
    image: Image
    state: str | None = None
    code: str | None = None
    reason: str | None = None


@frozen(kw_only=True)
class Memory:
    """All that the device remembers, replaced as a whole.

    Attributes:
        trying: the slot on trial, with ``boots_left`` more starts.
        ended: updates that came to an end, the newest last, so that a repeated offer gets the same answer.
    """

    highest_seq: int = 0
    floor: int = 0
    active: str = "a"
    trying: str | None = None
    boots_left: int = 0
    slots: Mapping[str, Image | None] = field(factory=dict)
    job: Job | None = None
    ended: tuple[Job, ...] = ()


class Bricked(Exception):
    """No slot holds an image that may be started. This must never be raised."""


class Updater:
    """One device's firmware. :meth:`boot` comes first, and again after each loss of power.

    Args:
        firmware, seq: what left the factory, in slot a.
        trust: the factory's ``trust.json``, an envelope; None believes offers by digest and size alone.
        server_key: the fleet's public key (raw Ed25519), by which assignments are known; None asks for none.
        capacity: bytes of a slot.

    Attributes:
        comes_up: whether an image starts at all; tests say no.
        spoilt: a code with which installing fails, for tests.
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
        trust: Mapping[str, object] | None = None,
        server_key: bytes | None = None,
        capacity: int = 1 << 30,
    ) -> None:
        self._flash, self._clock = flash, clock
        self._device, self._model = device, model
        self._factory = (firmware, seq)
        self._factory_trust = None if trust is None else first_trust(trust)
        self._server_key, self._capacity = server_key, capacity
        self.trust = self._factory_trust
        self.memory = Memory()
        self._running = "a"
        self._confirm_by: float | None = None
        self.comes_up: Callable[[Image], bool] = lambda _image: True
        self.spoilt: str | None = None

    # --- starting ------------------------------------------------------------------------------------------------

    @property
    def running(self) -> Image:
        """What runs."""
        image = self.memory.slots[self._running]
        assert image is not None
        return image

    def boot(self) -> Image:
        """Starts an image: the one on trial while its counter lasts, else the active one, else the other one."""
        self.memory = self._remembered()
        self._confirm_by = None
        while (trial := self.memory.trying) is not None:
            if not self.memory.boots_left:
                self._give_up("boot_failed", f"It did not come up {BOOTS} times")
                break
            # Counted before the jump, so that an image that hangs is counted too.
            self._remember(boots_left=self.memory.boots_left - 1)
            if not self._startable(trial):
                self._give_up("boot_failed", "It is damaged")
            elif self.comes_up(cast("Image", self.memory.slots[trial])):
                self._running, self._confirm_by = trial, self._clock.monotonic_s() + CONFIRM_S
                return self.running
        if not self._startable(self.memory.active):
            spare = _other(self.memory.active)
            if not self._startable(spare):
                raise Bricked(self._device)
            self._remember(active=spare)
        self._running = self.memory.active
        return self.running

    def _startable(self, slot: str) -> bool:
        image = self.memory.slots.get(slot)
        return image is not None and image.seq >= self.memory.floor and self._flash.digest(slot) == image.sha256

    def _remembered(self) -> Memory:
        kept = self._flash.load(_TRUST)
        if kept is not None and self._factory_trust is not None:
            own = first_trust(loads(kept))
            self.trust = max(own, self._factory_trust, key=lambda one: one.version)
        found = self._flash.load(_MEMORY)
        if found is not None:
            return from_plain("memory", cast("Mapping[str, object]", loads(found)), Memory)
        version, seq = self._factory
        self._flash.erase("a")
        self._flash.append("a", f"factory image {version}".encode())
        self._flash.sync("a")
        image = Image(version=version, seq=seq, sha256=self._flash.digest("a"), size=self._flash.length("a"))
        self.memory = Memory(highest_seq=seq, slots=dict.fromkeys(SLOTS) | {"a": image})
        self._remember()
        return self.memory

    def _remember(self, **changes: Any) -> None:
        memory = evolve(self.memory, **changes)
        self._flash.save(_MEMORY, dumps(to_plain(memory)))
        self.memory = memory

    def _give_up(self, code: str, reason: str) -> None:
        """Ends the trial: the active slot is what it was, and neither number falls."""
        trial = cast("str", self.memory.trying)
        job = self.memory.job
        self._remember(
            trying=None,
            boots_left=0,
            slots={**self.memory.slots, trial: None},
            job=None if job is None else evolve(job, state="failed", code=code, reason=reason),
        )
        self._running = self.memory.active

    def confirm(self) -> None:
        """The image on trial is healthy: it becomes the active one, and the numbers rise, by one write.

        Too late it is given up instead. Without a trial nothing is done.
        """
        if self.memory.trying is None or self._running != self.memory.trying:
            return
        if self._confirm_by is not None and self._clock.monotonic_s() > self._confirm_by:
            self._give_up("health_failed", f"It did not prove healthy within {CONFIRM_S:g} s")
            return
        image, old = self.running, self.memory.active
        floor = max(self.memory.floor, image.min_seq)
        below = self.memory.slots.get(old)
        job = self.memory.job
        self._remember(
            active=self._running,
            trying=None,
            boots_left=0,
            highest_seq=max(self.memory.highest_seq, image.seq),
            floor=floor,
            slots={**self.memory.slots, old: below if below is not None and below.seq >= floor else None},
            job=None if job is None else evolve(job, state="succeeded"),
        )

    async def settle(self, say: Say, health: Health) -> None:
        """After a start, once the server is reached: judges what is on trial, and says how an update ended."""
        if self.memory.trying is not None:
            code = await health()
            if code is None:
                self.confirm()
            else:
                self._give_up(code, "It does not prove healthy")
        job = self.memory.job
        if job is None or job.state is None:
            return
        await self._say_end(job, say)
        self._remember(job=None, ended=(*self.memory.ended, job)[-_REMEMBERED:])

    async def _say_end(self, job: Job, say: Say) -> None:
        more = {name: value for name, value in (("code", job.code), ("reason", job.reason)) if value is not None}
        await say(job.execution, job.campaign, cast("str", job.state), version=self.running.version, **more)

    # --- offers --------------------------------------------------------------------------------------------------

    async def take(self, offer: Mapping[str, object], fetch: Fetch, say: Say, health: Health) -> None:
        """Goes through an offer to its end, or to ``downloaded`` where it says to wait.

        ``fetch(start)`` streams the image from a byte on. An offer that is repeated goes on where it was, or is
        answered as before. Raises Unavailable where the server is away; the next offer goes on from there.
        """
        execution, campaign = _text(offer, "execution"), _text(offer, "campaign")
        # An image on trial would be overwritten while it runs.
        await self.settle(say, health)
        job = self.memory.job
        under_way = job is not None and job.execution == execution
        try:
            self._follow(offer.get("trust"))
            manifest, nonce = self._admit(offer, under_way=under_way)
        except Refused as error:
            if under_way and self.memory.trying is None:
                self._remember(job=None)
            await say(execution, campaign, "rejected", code=error.code, reason=error.message)
            return
        for ended in self.memory.ended:
            if (ended.execution, ended.nonce) == (execution, nonce):
                await self._say_end(ended, say)
                return
        image = _image(manifest)
        if (self.running.seq, self.running.sha256, self.running.version) == (image.seq, image.sha256, image.version):
            if self.memory.trying is None:
                await say(execution, campaign, "succeeded", version=image.version)
            return
        if job is None or not under_way or job.nonce != nonce or job.image != image:
            job = Job(execution=execution, campaign=campaign, nonce=nonce, image=image)
            await self._begin(job)
            await say(execution, campaign, "accepted")
        try:
            await self._load(job, manifest.chunks, fetch, say)
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
        self._remember(trying=_other(self.memory.active), boots_left=BOOTS)
        await say(execution, campaign, "rebooting")
        self.boot()
        await self.settle(say, health)

    async def withdraw(self, execution: str, say: Say) -> None:
        """An offer is taken back: what has not been started is dropped."""
        job = self.memory.job
        if job is not None and job.execution == execution and self.memory.trying is None and job.state is None:
            self._remember(job=None)
            await say(execution, job.campaign, "cancelled")

    def _follow(self, chain: object) -> None:
        """Follows the trust root version by version, and keeps how far it came."""
        if self.trust is None or not isinstance(chain, Sequence) or isinstance(chain, str | bytes):
            return
        for envelope in chain:
            new = follow_all(self.trust, (envelope,))
            if new.version > self.trust.version:
                self._flash.save(_TRUST, dumps(envelope))
                self.trust = new

    def _admit(self, offer: Mapping[str, object], *, under_way: bool) -> tuple[Manifest, str]:
        """The manifest to go by, and the assignment's nonce. Raises Refused with the code to report."""
        if self.trust is None:
            return self._unsigned(offer)
        now = self._clock.now_ms()
        if not isinstance(offer.get("manifest"), Mapping):
            raise Refused("The offer has no manifest", code="signature_invalid")
        manifest = self._genuine(offer["manifest"], self.trust, now)
        nonce = str(offer.get("attempt", 1))
        if self._server_key is not None:
            if not isinstance(offer.get("assignment"), Mapping):
                raise Refused("The offer has no assignment", code="signature_invalid")
            # What was begun in time may be ended later.
            assignment = open_assignment(
                offer["assignment"], self._server_key, device=self._device, now=0 if under_way else now
            )
            if (assignment.execution, assignment.campaign) != (offer["execution"], offer["campaign"]):
                raise Refused("The assignment is for another update", code="signature_invalid")
            if (assignment.manifest_sha256, assignment.seq) != (manifest.digest, manifest.seq):
                raise Refused("The assignment is for another manifest", code="signature_invalid")
            nonce = assignment.nonce
        check_order(manifest, max(self.memory.highest_seq, self.memory.floor))
        running = self.running
        if manifest.seq == running.seq and manifest.sha256 != running.sha256:
            raise Refused(f"Another image with seq {manifest.seq} runs", code="rollback_refused")
        check_requires(manifest, running.seq)
        if manifest.delta_from is not None:
            raise Refused("This device takes whole images", code="requires_unmet")
        if manifest.size > self._capacity:
            raise Refused(f"A slot holds {self._capacity} bytes", code="no_space")
        return manifest, nonce

    def _genuine(self, envelope: object, trust: Trust, now: int) -> Manifest:
        trust.check_time(now)
        model = self._model
        manifest = open_manifest(envelope, trust, ())
        check_model(manifest, model)
        open_manifest(envelope, trust, (cast("str", model),))
        check_time(manifest, now)
        return manifest

    def _unsigned(self, offer: Mapping[str, object]) -> tuple[Manifest, str]:
        size = offer.get("size")
        if type(size) is not int or size > self._capacity:
            raise Refused(f"A slot holds {self._capacity} bytes", code="no_space")
        manifest = Manifest(
            name="unsigned",
            version=_text(offer, "version"),
            seq=self.running.seq,
            models=(),
            size=size,
            sha256=_text(offer, "sha256"),
            created=0,
            expires=0,
        )
        return manifest, str(offer.get("attempt", 1))

    # --- loading -------------------------------------------------------------------------------------------------

    async def _begin(self, job: Job) -> None:
        """Remembers the job and empties the slot that does not run, in that order: it counts as empty from here on."""
        spare = _other(self.memory.active)
        old = self.memory.job
        self._remember(job=job, slots={**self.memory.slots, spare: None})
        if old is None or old.image.sha256 != job.image.sha256:
            self._flash.erase(spare)

    async def _load(self, job: Job, chunks: Chunks | None, fetch: Fetch, say: Say) -> None:
        """Brings the image into the spare slot and verifies it.

        Raises Refused: ``hash_mismatch``, ``size_mismatch``.
        """
        spare, image = _other(self.memory.active), job.image
        if self.memory.slots.get(spare) == image and self._flash.digest(spare) == image.sha256:
            return
        begun = self._flash.length(spare)
        if begun > image.size:
            self._flash.erase(spare)
        elif chunks is not None:
            # Only whole pieces were verified.
            self._flash.cut(spare, begun // chunks.size * chunks.size)
        start = self._flash.length(spare)
        await say(job.execution, job.campaign, "downloading", progress=0, bytes=start)
        try:
            await self._stream(spare, start, image.size, chunks, fetch)
            self._verify(spare, image)
        except Refused:
            # Of what a loss of power left some may be damaged; that is no fault of the image.
            self._flash.erase(spare)
            if not start:
                raise
            await self._stream(spare, 0, image.size, chunks, fetch)
            self._verify(spare, image)
        self._remember(slots={**self.memory.slots, spare: image})
        await say(job.execution, job.campaign, "downloaded")

    async def _stream(self, slot: str, start: int, size: int, chunks: Chunks | None, fetch: Fetch) -> None:
        at, waiting = start, bytearray()
        if start < size:
            async with contextlib.aclosing(_closable(fetch(start))) as pieces:
                async for piece in pieces:
                    # Endless data is cut here, before it is written anywhere.
                    if at + len(waiting) + len(piece) > size:
                        raise Refused(f"There is more than the {size} bytes of the manifest", code="size_mismatch")
                    waiting += piece
                    at = self._write(slot, at, waiting, size, chunks)
        if at + len(waiting) != size:
            raise Refused(f"It ends after {at + len(waiting)} of {size} bytes", code="size_mismatch")
        self._flash.sync(slot)

    def _write(self, slot: str, at: int, waiting: bytearray, size: int, chunks: Chunks | None) -> int:
        """Writes what can be verified already, and gives where the slot ends now."""
        if chunks is None:
            self._flash.append(slot, bytes(waiting))
            at += len(waiting)
            waiting.clear()
            return at
        while waiting and (len(waiting) >= chunks.size or at + len(waiting) == size):
            piece = bytes(waiting[: chunks.size])
            if hashlib.sha256(piece).hexdigest() != chunks.sha256[at // chunks.size]:
                raise Refused(f"The piece at byte {at} is not the one of the manifest", code="hash_mismatch")
            self._flash.append(slot, piece)
            del waiting[: chunks.size]
            at += len(piece)
        return at

    def _verify(self, slot: str, image: Image) -> None:
        if self._flash.digest(slot) != image.sha256:
            raise Refused("The image is not the one of the manifest", code="hash_mismatch")

    async def _end(self, job: Job, state: str, code: str, reason: str, say: Say) -> None:
        ended = evolve(job, state=state, code=code, reason=reason)
        self._remember(job=ended)
        await self._say_end(ended, say)
        self._remember(job=None, ended=(*self.memory.ended, ended)[-_REMEMBERED:])


def _other(slot: str) -> str:
    return "b" if slot == "a" else "a"


def _image(manifest: Manifest) -> Image:
    return Image(
        version=manifest.version,
        sha256=manifest.sha256,
        size=manifest.size,
        seq=manifest.seq,
        min_seq=manifest.min_seq,
    )


def _text(offer: Mapping[str, object], name: str) -> str:
    value = offer.get(name)
    if not isinstance(value, str):
        raise Refused(f"The offer has no {name}")
    return value


async def _closable(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in pieces:
            yield piece
    finally:
        # What it holds open must not wait for the garbage collector.
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
