"""A data folder, files that are replaced whole, and private copies of a folder whose files are replaced meanwhile."""

import os
import shutil
import tempfile
from pathlib import Path

from fleetcore.errors import ConfigError

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600

#: How the name ends under which a file's next content lies beside it until it is complete.
_NEXT = ".next"


def make_data_folder(folder: Path) -> None:
    """Makes a folder for the owner alone where it is missing; one that exists keeps its mode.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The data folder {folder} cannot be made: {error.strerror}",
            remedy="Name a folder that this user may write to, under [fleet] data",
            path=str(folder),
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"The data folder {folder} cannot be written to",
            remedy="Give the folder to the user that runs fleetcore",
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
