"""The data folder: its lock, its permissions and the names of what is in it.

The lock is an exclusive ``flock`` on ``<folder>/lock``, so the kernel frees it however the owner ends.
"""

import fcntl
import os
from pathlib import Path

from fleetcore.errors import ConfigError, DataFolderInUse

#: Only the owner may look: the folder holds identities and token hashes.
_FOLDER_MODE, FILE_MODE = 0o700, 0o600

DATABASE = "fleet.db"
ARTIFACTS = "artifacts"


def prepare(folder: Path) -> None:
    """Makes the folder where it is missing; one that exists keeps its mode.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The data folder {folder} cannot be made: {error.strerror}",
            remedy="Name a folder that this user may write to, under [fleet] data",
            path=str(folder),
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"The data folder {folder} cannot be written to",
            remedy="Give the folder to the user that runs fleetcore, or open it read-only",
            path=str(folder),
        )


def opener(path: str, flags: int) -> int:
    """For ``open(…, opener=…)``: new files belong to the owner alone."""
    return os.open(path, flags, FILE_MODE)


class FolderLock:
    """Holds the folder for one writer until :meth:`release` or the end of the process.

    Raises:
        DataFolderInUse: another process has it; ``ids['pid']`` says which, if it told.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "lock"
        try:
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise ConfigError(f"{path} cannot be opened: {error.strerror}", path=str(path)) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise DataFolderInUse(
                f"The data folder {folder} belongs to the running process {owner or 'of another program'}",
                remedy="Speak to that server by --server or its socket, stop it, or open the folder read-only",
                pid=int(owner) if owner.isdigit() else None,
                path=str(folder),
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Gives the folder free; may be called twice. The file stays: removing it would race with the next owner."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
