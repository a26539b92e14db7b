"""The lease on a data folder: one process at a time has the folder open, with any store.

The core takes the lease before it opens the store and gives it back after the store is closed. It covers all of the
folder: the store, the keys, the audit log's checkpoints and the control socket. The lease is two exclusive ``flock``
locks, so the kernel releases them however the owner ends:

- on the file ``lock``, which names the owner's process id. It also keeps out a release that does not know the second
  lock;
- on the folder itself. Deleting the file ``lock`` only releases its name: another process can make and lock a new file
  of that name, but the folder stays the same.
"""

import contextlib
import errno
import fcntl
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen

from fleetcore import files
from fleetcore.errors import ConfigError, DataFolderInUse

_FILE = "lock"
#: A process that only checks for the holder locks the folder for an instant. So the lock is tried this often, at this
#: interval, before the folder counts as taken.
_TRIES, _PAUSE_S = 5, 0.02
#: The errors of flock for a held lock.
_TAKEN = frozenset({errno.EWOULDBLOCK, errno.EACCES})

#: A folder by device and inode, independent of the path.
_Folder = tuple[int, int]
#: The folders held here, each with the process that took it: a fork inherits this table but not the lease.
_held: dict[_Folder, int] = {}


@frozen(kw_only=True)
class Holder:
    """The process that has a folder open.

    Attributes:
        pid: None if the file ``lock`` does not say: it was deleted, or the owner has not written it yet.
        here: whether it is this process.
    """

    pid: int | None
    here: bool


class Lease:
    """A held folder; created by :meth:`take`. Dropping a lease without releasing it releases the folder."""

    def __init__(self, folder: Path, identity: _Folder, file: int, place: int) -> None:
        self.folder, self._identity, self._place = folder, identity, place
        self._descriptors = [file, place]
        _held[identity] = os.getpid()
        self._end = weakref.finalize(self, _free, identity, os.getpid(), self._descriptors)
        # At the end of the process the kernel releases it, after every thread of the store.
        self._end.atexit = False

    @classmethod
    def take(cls, folder: Path) -> "Lease":
        """Takes the lease; creates a missing folder. It blocks for at most a tenth of a second.

        Raises:
            DataFolderInUse: another process has the folder open, or this one has; ``ids['pid']`` is the process, if
                known.
            ConfigError: the folder cannot be created or written to.
        """
        files.make_data_folder(folder)
        for tries_left in reversed(range(_TRIES)):
            taken = _try(folder)
            if isinstance(taken, Lease):
                return taken
            if taken is not None and (taken.here or not tries_left):
                raise _in_use(folder, taken)
            time.sleep(_PAUSE_S)
        raise _in_use(folder, Holder(pid=None, here=False))

    def covers(self, folder: Path) -> bool:
        """Whether a path leads to the held folder."""
        try:
            return _identity(folder.stat()) == self._identity
        except OSError:
            return False

    def mend(self) -> None:
        """Creates the file ``lock`` again if it was deleted or replaced, so that it keeps older releases out.

        Raises:
            DataFolderInUse: an older release has locked a new file meanwhile, and writes to the folder.
            ConfigError: the file cannot be created.
        """
        if not self._end.alive or _is_named(self._place, self._descriptors[0]):
            return
        file = _open(self.folder, self._place)
        if not _lock(file):
            pid = _pid(file)
            os.close(file)
            raise _in_use(self.folder, Holder(pid=pid, here=False))
        _write_pid(file)
        os.close(self._descriptors[0])
        self._descriptors[0] = file

    def release(self) -> None:
        """Releases the folder; idempotent. The file stays: removing it would race with the next owner."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder(folder: Path) -> Holder | None:
    """The process that has a folder open, or None. Creates nothing and takes no lock.

    Raises ConfigError if the folder cannot be examined.
    """
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(folder, error) from error
    with _closing(place):
        try:
            file = os.open(_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        except FileNotFoundError:
            return None if _lock_folder(place, fcntl.LOCK_SH) else _holder(place, None)
        except OSError as error:
            raise _unusable(folder / _FILE, error) from error
        with _closing(file):
            free = _lock(file, fcntl.LOCK_SH) and _lock_folder(place, fcntl.LOCK_SH)
            return None if free else _holder(place, _pid(file))


def _try(folder: Path) -> Lease | Holder | None:
    """The lease, or its holder; None if the file was deleted or replaced meanwhile."""
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(folder, error) from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, place)
        file = _open(folder, place)
        stack.callback(os.close, file)
        if not _lock(file):
            return _holder(place, _pid(file))
        if not _is_named(place, file):
            return None
        if not _lock_folder(place):
            # The owner's file was deleted; the one locked here is new and empty.
            return _holder(place, None)
        _write_pid(file)
        stack.pop_all()
        return Lease(folder, _identity(os.fstat(place)), file, place)


def _open(folder: Path, place: int) -> int:
    try:
        return os.open(_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, files.PRIVATE_FILE, dir_fd=place)
    except OSError as error:
        raise _unusable(folder / _FILE, error) from error


def _lock(descriptor: int, mode: int = fcntl.LOCK_EX) -> bool:
    """Locks a file if it is free; raises ConfigError if the file system has no locks."""
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise ConfigError(
            f"The data folder cannot be locked: {error.strerror}", remedy="Put it on a file system that has flock"
        ) from error
    return True


def _lock_folder(descriptor: int, mode: int = fcntl.LOCK_EX) -> bool:
    """Locks a folder if it is free. Some file systems cannot (NFS): there only the file protects it."""
    try:
        return _lock(descriptor, mode)
    except ConfigError:
        return True


def _is_named(place: int, file: int) -> bool:
    """Whether an open file is still the one at its path."""
    try:
        return _identity(os.stat(_FILE, dir_fd=place, follow_symlinks=True)) == _identity(os.fstat(file))
    except FileNotFoundError:
        return False


def _identity(found: os.stat_result) -> _Folder:
    return found.st_dev, found.st_ino


def _pid(file: int) -> int | None:
    text = os.pread(file, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else None


def _write_pid(file: int) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)


def _holder(place: int, pid: int | None) -> Holder:
    here = _held.get(_identity(os.fstat(place))) == os.getpid()
    return Holder(pid=os.getpid() if here else pid, here=here)


def _free(identity: _Folder, pid: int, descriptors: list[int]) -> None:
    owner = os.getpid() == pid
    if owner:
        _held.pop(identity, None)
    # The folder last: a process that gets the file meanwhile is refused and tries again.
    for descriptor in descriptors:
        if owner:
            # A fork shares the locks, and closing only here would leave them to it.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def _unusable(path: Path, error: OSError) -> ConfigError:
    remedy = files.remedy_of(error)
    return ConfigError(f"{path} cannot be opened: {error.strerror}", remedy=remedy, path=str(path))


def _in_use(folder: Path, by: Holder) -> DataFolderInUse:
    if by.here:
        return DataFolderInUse(
            f"This process ({by.pid}) already has the data folder {folder} open",
            remedy="Use the manager that has it open, or await its close() first",
            pid=by.pid,
            path=str(folder),
        )
    owner = f"the running process {by.pid}" if by.pid is not None else "another running process"
    return DataFolderInUse(
        f"The data folder {folder} belongs to {owner}",
        remedy="Use that server with --server or its socket, or stop it",
        pid=by.pid,
        path=str(folder),
    )
