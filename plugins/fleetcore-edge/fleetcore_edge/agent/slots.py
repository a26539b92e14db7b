"""The agent's releases on disk: which one runs, and which one is on trial.

A release is a folder of Python packages that stand before the installed ones. The installed agent starts it, and is
never replaced: where a release does not start, or does not reach the core, the one before runs again.
"""

import shutil
from pathlib import Path

import msgspec

from fleetcore import files
from fleetcore.errors import ConfigError

#: The folder of the agent's releases, in the data folder.
FOLDER = "agent"
#: How often a release on trial is started before the one before runs again.
STARTS = 3
_MEMORY = "state.json"


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A release; ``sha256`` is its bundle's digest, and its folder's name."""

    version: str
    sha256: str
    seq: int


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A release on trial: the execution that installs it, and how often it was started."""

    release: Release
    execution: str
    attempt: int
    starts: int = 0


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an update ended; ``told`` once the core knows."""

    execution: str
    attempt: int
    state: str
    version: str | None = None
    code: str | None = None
    reason: str | None = None
    told: bool = False


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What survives a restart.

    Attributes:
        running: the release that has proved itself; None for the installed agent.
        highest_seq: of the releases that have proved themselves; an older one is refused.
        restart: whether the agent has ended in order to start as another release.
    """

    running: Release | None = None
    trial: Trial | None = None
    ended: Ended | None = None
    highest_seq: int = 0
    restart: bool = False


class Slots:
    """The releases in a folder. Each change is one atomic write, synced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = self._load()

    def _load(self) -> Memory:
        file = self.folder / _MEMORY
        try:
            return msgspec.json.decode(file.read_bytes(), type=Memory) if file.exists() else Memory()
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"{file} cannot be read: {error}",
                remedy=f"Remove {file}: then the installed agent runs, and the core may update it again",
            ) from error

    def _keep(self, **changes: object) -> None:
        self.memory = msgspec.structs.replace(self.memory, **changes)
        files.make_private(self.folder)
        files.replace(self.folder / _MEMORY, msgspec.json.encode(self.memory))

    def site(self, release: Release) -> Path:
        """The folder of a release's packages."""
        return self.folder / release.sha256

    def begin(self) -> Path | None:
        """What to start now; None for the installed agent. It counts the starts of a release on trial."""
        trial = self.memory.trial
        if trial is not None and trial.starts >= STARTS:
            self.give_up("boot_failed", f"It did not reach the core in {STARTS} starts")
        elif trial is not None:
            if self.site(trial.release).is_dir():
                self._keep(trial=msgspec.structs.replace(trial, starts=trial.starts + 1), restart=False)
                return self.site(trial.release)
            self.give_up("internal", "Its folder is gone")
        if self.memory.restart:
            self._keep(restart=False)
        running = self.memory.running
        return self.site(running) if running is not None and self.site(running).is_dir() else None

    def try_out(self, trial: Trial) -> None:
        """The next start is of this release; its folder is complete."""
        self._keep(trial=trial, restart=True)

    def confirm(self) -> None:
        """The release on trial has proved itself."""
        trial = self.memory.trial
        assert trial is not None
        new = trial.release
        self._keep(
            running=new,
            trial=None,
            ended=Ended(execution=trial.execution, attempt=trial.attempt, state="succeeded", version=new.version),
            highest_seq=max(self.memory.highest_seq, new.seq),
        )
        self._clean()

    def give_up(self, code: str, reason: str) -> None:
        """The release on trial has failed: the one before runs from the next start on."""
        trial = self.memory.trial
        assert trial is not None
        ended = Ended(execution=trial.execution, attempt=trial.attempt, state="failed", code=code, reason=reason)
        self._keep(trial=None, ended=ended, restart=True)
        self._clean()

    def end(self, ended: Ended) -> None:
        """An update has ended before its trial, or the core knows how it ended."""
        self._keep(ended=ended)
        if self.memory.trial is None:
            self._clean()

    def _clean(self) -> None:
        kept = {each.sha256 for each in (self.memory.running,) if each is not None}
        for place in self.folder.iterdir():
            if place.is_dir() and place.name not in kept:
                shutil.rmtree(place, ignore_errors=True)
            elif place.suffix in (".zip", ".part"):
                place.unlink(missing_ok=True)
