"""The boot loader of a device with two slots: it counts the starts of an image on trial, and goes back.

``python boot_loader.py FOLDER`` is power on. The folder is the device's flash: ``slot-a.img`` and ``slot-b.img`` are
programs, of which one is started in place of this one, as ``slot-a.img FOLDER a``; ``record-0`` and ``record-1`` are
what the device remembers of its updates. The factory writes ``factory.json`` and ``slot-a.img``. A reset is an end of
the process: what supplies the power starts it again (``Restart=always`` of systemd).

``updating_device.py`` is what the slots hold. ``docs/how-to/update-with-two-slots.md`` explains both.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]

BOOTS = 3  # starts of an image on trial before it is given up
WATCHDOG_S = 600.0  # how long an image on trial has to prove itself; then the watchdog resets the device


def step(name: str) -> None:
    """A moment at which a device may lose its power. The tests cut it at each."""
    if os.environ.get("POWER_CUT") == name:
        os.kill(os.getpid(), signal.SIGKILL)


def sha256_of(file: Path) -> str:
    """The digest of a file, read piece by piece; of none where there is no file."""
    if not file.exists():
        return ""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class Record:
    """What a device remembers of its updates, replaced whole by one write.

    It has two copies, each with its digest, which are written in turn: a copy that a loss of power has torn does not
    match its digest, and the other one, from just before, counts. So the slot to start, the numbers that never fall and
    the end of an update change together or not at all.

    ``active`` is the slot to start, ``trying`` the one on trial with ``boots_left``. ``slots`` has what is in them,
    complete and verified. Nothing below ``highest_seq`` is installed, nothing below ``floor`` is started. ``job`` is
    the update under way, ``ended`` are the last ones.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copies = [(folder / name) for name in ("record-0", "record-1")]
        found = [record for copy in copies if copy.exists() and (record := self._read(copy)) is not None]
        # The first write of all is to record-1. Where that is torn, nothing has happened since the factory.
        if not found and copies[0].exists():
            raise SystemExit("bricked: both copies of the record are damaged")
        self.now: Json = max(found, key=lambda record: int(record["writes"])) if found else self._factory()

    def _read(self, copy: Path) -> Json | None:
        digest, _, content = copy.read_bytes().partition(b"\n")
        return json.loads(content) if hashlib.sha256(content).hexdigest().encode() == digest else None

    def _factory(self) -> Json:
        made = json.loads((self.folder / "factory.json").read_bytes())["firmware"]
        image = self.slot("a")
        slot = {"version": made["version"], "seq": made["seq"], "min_seq": 0, "sha256": sha256_of(image)}
        return {
            "writes": 0, "active": "a", "trying": None, "boots_left": 0, "slots": {"a": slot, "b": None},
            "highest_seq": made["seq"], "floor": 0, "job": None, "ended": [],
        }  # fmt: skip

    def slot(self, name: str) -> Path:
        """The file of a slot."""
        return self.folder / f"slot-{name}.img"

    def spare(self) -> str:
        """The slot that may be written to."""
        return "b" if self.now["active"] == "a" else "a"

    def save(self, moment: str, **changes: object) -> None:
        """Changes what outlives a loss of power; ``moment`` names the write."""
        changed = {**self.now, **changes, "writes": self.now["writes"] + 1}
        content = json.dumps(changed).encode()
        written = hashlib.sha256(content).hexdigest().encode() + b"\n" + content
        with (self.folder / f"record-{changed['writes'] % 2}").open("wb", buffering=0) as copy:
            copy.write(written[: len(written) // 2])
            step(f"{moment}: half written")
            copy.write(written[len(written) // 2 :])
            os.fsync(copy.fileno())
        self.now = changed
        step(moment)

    def is_startable(self, name: str) -> bool:
        """Whether a slot has an image, intact and not below the floor."""
        image = self.now["slots"][name]
        return image is not None and image["seq"] >= self.now["floor"] and image["sha256"] == sha256_of(self.slot(name))

    def give_up(self, code: str, reason: str) -> None:
        """Ends the trial: the active slot stays, and no number falls. The server learns it from the old image."""
        job, slots = self.now["job"], {**self.now["slots"], self.now["trying"]: None}
        ended = job and {**job, "state": "failed", "code": code, "reason": reason}
        self.save("given up", trying=None, boots_left=0, slots=slots, job=ended)

    def confirm(self) -> None:
        """The image on trial has proved itself: it is the active one, and the numbers rise, all by one write."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        image, job = self.now["slots"][self.now["trying"]], self.now["job"]
        self.save(
            "confirmed", active=self.now["trying"], trying=None, boots_left=0,
            highest_seq=max(self.now["highest_seq"], image["seq"]), floor=max(self.now["floor"], image["min_seq"]),
            job=job and {**job, "state": "succeeded"},
        )  # fmt: skip


def choose(record: Record) -> str:
    """The slot to start: the one on trial while its counter lasts, else the active one, else the other one."""
    trying = record.now["trying"]
    if trying is not None:
        if not record.now["boots_left"]:
            record.give_up("boot_failed", f"it did not come up {BOOTS} times")
        elif not record.is_startable(trying):
            record.give_up("boot_failed", "it is damaged")
        else:
            # Counted before the start, so that an image that hangs is counted too.
            record.save("start counted", boots_left=record.now["boots_left"] - 1)
            return str(trying)
    if not record.is_startable(record.now["active"]):
        if not record.is_startable(record.spare()):
            raise SystemExit("bricked: no slot has an image that may be started")
        record.save("other slot", active=record.spare())
    return str(record.now["active"])


def boot(folder: Path, *words: str) -> None:
    """Starts an image in place of this process; ``words`` are passed on to it."""
    record = Record(folder)
    slot = choose(record)
    if record.now["trying"] == slot:
        # The timer outlives the start of the image, as a watchdog of the board does.
        made = json.loads((folder / "factory.json").read_bytes())
        signal.setitimer(signal.ITIMER_REAL, float(made.get("watchdog_s", WATCHDOG_S)))
    image = record.now["slots"][slot]
    print("boot", slot, image["version"], flush=True)
    os.environ["BOOT_LOADER"] = __file__  # where a reset goes on
    os.execv(sys.executable, [sys.executable, str(record.slot(slot)), str(folder), slot, *words])  # noqa: S606


def reset(folder: Path) -> None:
    """Starts the device anew: what is in RAM is lost."""
    os.execv(sys.executable, [sys.executable, os.environ["BOOT_LOADER"], str(folder)])  # noqa: S606


if __name__ == "__main__":
    os.umask(0o077)
    boot(Path(sys.argv[1]), *sys.argv[2:])
