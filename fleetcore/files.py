"""Creating a data folder, checking that its disk takes writes, replacing files atomically, and private copies."""

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fleetcore.errors import ConfigError

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600

#: The suffix of a file's next content, which lies beside the file until it is complete.
_NEXT = ".next"

#: Errors of a file system → the remedy.
_REMEDIES: Mapping[int, str] = MappingProxyType(
    {
        errno.ENOSPC: "Free disk space; no restart is needed",
        errno.EDQUOT: "Raise the user's disk quota, or free space; no restart is needed",
        errno.EROFS: "Mount the disk writable; if the system made it read-only, its log (dmesg) says why",
        errno.EACCES: "Give the folder to the user that runs fleetcore",
        errno.EPERM: "Give the folder to the user that runs fleetcore",
        errno.EIO: "Look at the disk and the system's log (dmesg); have a backup at hand",
        errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    }
)
_PROBE_BYTES = 4096


def remedy_of(error: OSError) -> str:
    """The remedy for a file system's error, or an empty text."""
    return _REMEDIES.get(error.errno or 0, "")


def trouble(folder: Path) -> OSError | None:
    """Why a folder takes no new file, found by writing one and removing it; None where it takes one.

    It detects a full disk, an exhausted quota, a read-only disk, and a folder of another user. Flags and free blocks do
    not show all of these: a file system that has met an error refuses writes and still claims to be writable.
    """
    try:
        with tempfile.TemporaryFile(prefix=".probe-", suffix=_NEXT, dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def make_private(folder: Path) -> None:
    """Makes a folder and its missing parents, for the owner only; an existing folder keeps its mode.

    Raises OSError.
    """
    # `parents=True` would create the parents with the umask's mode, up to 0777: then others could move the folder.
    for above in reversed(folder.absolute().parents):
        above.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def make_data_folder(folder: Path) -> None:
    """Makes a missing folder, for the owner only; an existing folder keeps its mode.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        make_private(folder)
    except OSError as error:
        raise ConfigError(
            f"The data folder {folder} cannot be made: {error.strerror}",
            remedy=remedy_of(error) or "Name a folder that this user may write to, under [fleet] data",
            path=str(folder),
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        refused = trouble(folder) or PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        raise ConfigError(
            f"The data folder {folder} cannot be written to: {refused.strerror}",
            remedy=remedy_of(refused),
            path=str(folder),
        )


def replace(path: Path, content: bytes, mode: int = PRIVATE_FILE) -> None:
    """Replaces a file atomically and durably; its content never has wider rights than ``mode``.

    Raises OSError; then the file is as before. A process that is killed may leave the next content beside it, under a
    hidden name that :func:`copy` passes over.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=_NEXT, dir=path.parent)  # created with 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def copy(source: Path, target: Path) -> None:
    """Copies a file, or a folder with its content, readable by the owner only; a missing source is skipped.

    Files of the source may be replaced by :func:`replace` meanwhile: each is copied as it was before or after.
    """
    if source.is_dir():
        shutil.copytree(source, target, ignore=_unfinished, copy_function=shutil.copyfile)
        for folder, _, files in os.walk(target):
            Path(folder).chmod(PRIVATE_FOLDER)
            for name in files:
                (Path(folder) / name).chmod(PRIVATE_FILE)
    elif source.is_file():
        shutil.copyfile(source, target)
        target.chmod(PRIVATE_FILE)


def _unfinished(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".") and name.endswith(_NEXT)]
