"""A device's two slots: which one is started, which is on trial, and the numbers that never fall.

The running slot is never written to. A new image is started on trial with a boot counter, and becomes the active one by
a single write once it has proved healthy. So at any moment one slot is intact, and a device that loses power anywhere
continues or goes back.

Two numbers only rise, and only after that proof: ``highest_seq``, below which nothing is installed, and ``floor``,
below which nothing is started, not even an existing image. They become an image's ``seq`` and its ``min_seq``.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from attrs import evolve, field, frozen

from fleetcore.interfaces.clock import Clock
from fleetcore.testing.flash import SLOTS, Flash
from fleetcore.wire.records import from_plain, to_plain
from fleetcore.wire.strict_json import dumps, loads

#: How often an image on trial is started before it is given up, and how long it has to prove healthy.
BOOTS = 3
CONFIRM_S = 600.0
_MEMORY = "memory.json"


@frozen(kw_only=True)
class Image:
    """A slot's content, complete and verified."""

    version: str
    sha256: str
    size: int
    seq: int = 0
    min_seq: int = 0


@frozen(kw_only=True)
class Job:
    """An update under way; ``state`` is its result, until the server knows it."""

    execution: str
    campaign: str
    nonce: str
    image: Image
    state: str | None = None
    code: str | None = None
    reason: str | None = None


@frozen(kw_only=True)
class Memory:
    """The device's whole saved state, replaced in one write.

    Attributes:
        trying: the slot on trial, with ``boots_left`` more starts.
        components: the images of the other components, by name; each is replaced as a whole.
        ended: finished updates, the newest last, so that a repeated offer gets the same answer.
        signed_ms: the latest time that the server signed, ms since the epoch.
    """

    highest_seq: int = 0
    floor: int = 0
    active: str = "a"
    trying: str | None = None
    boots_left: int = 0
    slots: Mapping[str, Image | None] = field(factory=dict)
    components: Mapping[str, Image] = field(factory=dict)
    job: Job | None = None
    ended: tuple[Job, ...] = ()
    signed_ms: int = 0


class Bricked(Exception):
    """No slot has an image that may be started. This must never be raised."""


class Slots:
    """The slots of one device. :meth:`boot` comes first, and again after each loss of power.

    Args:
        firmware, seq: the factory image, in slot a; ``image`` is its content, a line of text by default.

    Attributes:
        comes_up: whether an image starts at all; tests return false.
    """

    def __init__(
        self, flash: Flash, clock: Clock, device: str, firmware: str, seq: int, image: bytes | None = None
    ) -> None:
        self._flash, self._clock = flash, clock
        self._device, self._factory = device, (firmware, seq)
        self._factory_image = f"factory image {firmware}".encode() if image is None else image
        self.memory = Memory()
        self._running = "a"
        self._confirm_by: float | None = None
        self.comes_up: Callable[[Image], bool] = lambda _image: True

    @property
    def running(self) -> Image:
        """What runs."""
        image = self.memory.slots[self._running]
        assert image is not None
        return image

    @property
    def spare(self) -> str:
        """The slot that may be written to."""
        return _other(self.memory.active)

    def boot(self) -> Image:
        """Starts an image: the one on trial while its counter lasts, else the active one, else the other one."""
        self.memory = self._remembered()
        self._confirm_by = None
        while (trial := self.memory.trying) is not None:
            if not self.memory.boots_left:
                self.give_up("boot_failed", f"It did not come up {BOOTS} times")
                break
            # Counted before the jump, so that an image that hangs is counted too.
            self.remember(boots_left=self.memory.boots_left - 1)
            if not self._startable(trial):
                self.give_up("boot_failed", "It is damaged")
            elif self.comes_up(cast("Image", self.memory.slots[trial])):
                self._running, self._confirm_by = trial, self._clock.monotonic_s() + CONFIRM_S
                return self.running
        if not self._startable(self.memory.active):
            if not self._startable(self.spare):
                raise Bricked(self._device)
            self.remember(active=self.spare)
        self._running = self.memory.active
        return self.running

    def _startable(self, slot: str) -> bool:
        image = self.memory.slots.get(slot)
        return image is not None and image.seq >= self.memory.floor and self._flash.digest(slot) == image.sha256

    def holds(self, image: Image) -> bool:
        """Whether an image is in the spare slot, complete."""
        return self.memory.slots.get(self.spare) == image and self._flash.digest(self.spare) == image.sha256

    def _remembered(self) -> Memory:
        found = self._flash.load(_MEMORY)
        if found is not None:
            return from_plain("memory", cast("Mapping[str, object]", loads(found)), Memory)
        version, seq = self._factory
        self._flash.erase("a")
        self._flash.append("a", self._factory_image)
        self._flash.sync("a")
        image = Image(version=version, seq=seq, sha256=self._flash.digest("a"), size=self._flash.length("a"))
        self.memory = Memory(highest_seq=seq, slots=dict.fromkeys(SLOTS) | {"a": image})
        self.remember()
        return self.memory

    def remember(self, **changes: Any) -> None:
        """Changes the saved state, by one write."""
        memory = evolve(self.memory, **changes)
        self._flash.save(_MEMORY, dumps(to_plain(memory)))
        self.memory = memory

    def give_up(self, code: str, reason: str) -> None:
        """Ends the trial: the active slot stays, and neither number falls."""
        trial = cast("str", self.memory.trying)
        job = self.memory.job
        self.remember(
            trying=None,
            boots_left=0,
            slots={**self.memory.slots, trial: None},
            job=None if job is None else evolve(job, state="failed", code=code, reason=reason),
        )
        self._running = self.memory.active

    def confirm(self) -> None:
        """The image on trial is healthy: it becomes the active one, and the numbers rise, by one write.

        If it is too late it is given up instead. Without a trial nothing happens.
        """
        if self.memory.trying is None or self._running != self.memory.trying:
            return
        if self._confirm_by is not None and self._clock.monotonic_s() > self._confirm_by:
            self.give_up("health_failed", f"It did not prove healthy within {CONFIRM_S:g} s")
            return
        image, old = self.running, self.memory.active
        floor = max(self.memory.floor, image.min_seq)
        below = self.memory.slots.get(old)
        job = self.memory.job
        self.remember(
            active=self._running,
            trying=None,
            boots_left=0,
            highest_seq=max(self.memory.highest_seq, image.seq),
            floor=floor,
            slots={**self.memory.slots, old: below if below is not None and below.seq >= floor else None},
            job=None if job is None else evolve(job, state="succeeded"),
        )


def _other(slot: str) -> str:
    return "b" if slot == "a" else "a"
