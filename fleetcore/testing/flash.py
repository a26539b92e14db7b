"""Storage of a device that survives a loss of power: two image slots and a few small files; and power cuts on purpose.

Small files are replaced completely or not at all. A slot is written from its start; unsynced data may be lost or torn.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

SLOTS = ("a", "b")


class Flash(ABC):
    """A device's storage."""

    @abstractmethod
    def load(self, name: str) -> bytes | None:
        """A small file, or None."""

    @abstractmethod
    def save(self, name: str, content: bytes) -> None:
        """Replaces a small file; after a loss of power the old or the new one is there, complete."""

    @abstractmethod
    def erase(self, slot: str) -> None:
        """Empties a slot."""

    @abstractmethod
    def append(self, slot: str, piece: bytes) -> None:
        """Appends to a slot."""

    @abstractmethod
    def cut(self, slot: str, length: int) -> None:
        """Truncates a slot to a length."""

    @abstractmethod
    def sync(self, slot: str) -> None:
        """Returns once appended data survives a loss of power."""

    @abstractmethod
    def length(self, slot: str) -> int:
        """Bytes in a slot."""

    def read(self, slot: str) -> bytes | None:
        """A slot's content; None if this storage does not keep it."""
        del slot
        return None

    @abstractmethod
    def digest(self, slot: str) -> str:
        """SHA-256 of a slot's content, read back."""


class MemoryFlash(Flash):
    """For devices that are never restarted. A slot only keeps digest and length: thousands fit in one process."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._slots = {slot: (hashlib.sha256(), 0) for slot in SLOTS}

    def load(self, name: str) -> bytes | None:
        return self._files.get(name)

    def save(self, name: str, content: bytes) -> None:
        self._files[name] = content

    def erase(self, slot: str) -> None:
        self._slots[slot] = (hashlib.sha256(), 0)

    def append(self, slot: str, piece: bytes) -> None:
        digest, length = self._slots[slot]
        digest.update(piece)
        self._slots[slot] = (digest, length + len(piece))

    def cut(self, slot: str, length: int) -> None:
        if length < self._slots[slot][1]:
            self.erase(slot)  # hashed data cannot be removed; it is downloaded again

    def sync(self, slot: str) -> None:
        del slot

    def length(self, slot: str) -> int:
        return self._slots[slot][1]

    def digest(self, slot: str) -> str:
        return self._slots[slot][0].hexdigest()


class FileFlash(Flash):
    """A folder: ``slot-a.img``, ``slot-b.img``, and the small files by their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def save(self, name: str, content: bytes) -> None:
        beside = self._folder / f"{name}.new"
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._folder / name)
        self._sync_folder()

    def _slot(self, slot: str) -> Path:
        return self._folder / f"slot-{slot}.img"

    def erase(self, slot: str) -> None:
        self._slot(slot).write_bytes(b"")

    def append(self, slot: str, piece: bytes) -> None:
        with self._slot(slot).open("ab") as file:
            file.write(piece)

    def cut(self, slot: str, length: int) -> None:
        if length < self.length(slot):
            os.truncate(self._slot(slot), length)

    def sync(self, slot: str) -> None:
        with self._slot(slot).open("rb") as file:
            os.fsync(file.fileno())
        self._sync_folder()

    def _sync_folder(self) -> None:
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def length(self, slot: str) -> int:
        try:
            return self._slot(slot).stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, slot: str) -> bytes | None:
        try:
            return self._slot(slot).read_bytes()
        except FileNotFoundError:
            return None

    def digest(self, slot: str) -> str:
        try:
            with self._slot(slot).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return hashlib.sha256().hexdigest()


class PowerLoss(Exception):
    """The device is dead until it is started again; no code catches this."""


class PowerCut:
    """Counts a device's effects on the world, and cuts its power at effect number ``at``, before or after it.

    The flash from :meth:`flash` writes half of the piece that it is cut at, and forgets unsynced data.
    """

    def __init__(self, at: int, *, after: bool = False) -> None:
        self._at, self._after = at, after
        self.steps: list[str] = []

    def step(self, name: str, work: Callable[[], None] = lambda: None, torn: Callable[[], None] = lambda: None) -> None:
        """One effect. Raises PowerLoss when its turn has come."""
        self.steps.append(name)
        if len(self.steps) - 1 != self._at:
            work()
            return
        if self._after:
            work()
        else:
            torn()
        raise PowerLoss(f"{'after' if self._after else 'at'} step {self._at}, {name}")

    def flash(self, inner: Flash) -> Flash:
        """A flash on this power supply."""
        return _OnSupply(inner, self)


class _OnSupply(Flash):
    def __init__(self, inner: Flash, supply: PowerCut) -> None:
        self._inner, self._supply = inner, supply

    def load(self, name: str) -> bytes | None:
        return self._inner.load(name)

    def save(self, name: str, content: bytes) -> None:
        self._supply.step(f"save {name}", lambda: self._inner.save(name, content))

    def erase(self, slot: str) -> None:
        self._supply.step(f"erase {slot}", lambda: self._inner.erase(slot))

    def append(self, slot: str, piece: bytes) -> None:
        # Half of it arrives, and that half is damaged.
        torn = bytes(len(piece) // 2)
        self._supply.step(
            f"append {slot}", lambda: self._inner.append(slot, piece), lambda: self._inner.append(slot, torn)
        )

    def cut(self, slot: str, length: int) -> None:
        self._supply.step(f"cut {slot}", lambda: self._inner.cut(slot, length))

    def sync(self, slot: str) -> None:
        lost = self._inner.length(slot) // 3
        self._supply.step(f"sync {slot}", lambda: self._inner.sync(slot), lambda: self._inner.cut(slot, lost))

    def length(self, slot: str) -> int:
        return self._inner.length(slot)

    def read(self, slot: str) -> bytes | None:
        return self._inner.read(slot)

    def digest(self, slot: str) -> str:
        return self._inner.digest(slot)
