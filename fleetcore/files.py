"""A data folder and whether its disk takes anything, files that are replaced whole, and private copies of a folder."""

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fleetcore.errors import ConfigError

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600

#: How the name ends under which a file's next content lies beside it until it is complete.
_NEXT = ".next"

#: What a file system refuses with → what to do.
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
    """What to do about an error of the file system, or an empty text."""
    return _REMEDIES.get(error.errno or 0, "")


def trouble(folder: Path) -> OSError | None:
    """Why a folder takes no new file, found by writing one and removing it; None where it takes one.

    It tells a full disk, a used-up quota, a disk that is or became read-only, and a folder of another user. A look at
    flags and free blocks does not: a file system that has met an error refuses writes and still says it is writable.
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
    """Makes a folder, and those above it that are missing, for the owner alone; one that exists keeps its mode.

    Raises OSError.
    """
    # `parents=True` would make those above with what the umask leaves, up to 0777: then others could move the folder.
    for above in reversed(folder.absolute().parents):
        above.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def make_data_folder(folder: Path) -> None:
    """Makes a folder for the owner alone where it is missing; one that exists keeps its mode.

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
    """Replaces a file atomically and durably; at no moment has its content wider rights than ``mode``.

    Raises OSError; then the file is as before. A process that is killed may leave the next content beside it, under a
    hidden name that :func:`copy` passes over.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=_NEXT, dir=path.parent)  # 0600 by its promise
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
    """Copies a file, or a folder with all it holds, for the owner's eyes alone; what is not there is not copied.

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
