"""Backup and restore of a data folder.

A backup holds the store as of one moment, keys, configuration with the one-file plugins beside it, and the audit log's
checkpoints.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from fleetcore import files
from fleetcore.errors import Conflict, Refused
from fleetcore.fleet.security.folder import fleet_name
from fleetcore.interfaces.storage import Storage
from fleetcore.model.parts import parts
from fleetcore.runtime import identity, manifest
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.lease import Lease

_CONFIGURATION = "fleet.toml"


async def backup(fleet: Fleet, target: Path) -> list[str]:
    """Writes everything a restore needs into ``target`` while the fleet runs; it contains the CA's keys: protect it.

    All stored data is read and compared with its checksums: a damaged copy would get a manifest that calls it intact.
    The faults are returned, a sentence each; the copy is made anyway.

    Raises Conflict if ``target`` is not empty or is inside the data folder, Refused if the fleet is in memory.
    """
    data = fleet.config.data
    if data is None:
        raise Refused("A fleet in memory cannot be backed up", remedy="Open it on a data folder")
    _check_apart(target, data, "the data folder")
    _check_empty(target)
    await asyncio.to_thread(_make, target)
    # Checkpoints from before the store was copied refer to rows that the copy has.
    checkpoints = fleet.audit.checkpoints
    lines = b""
    if checkpoints is not None and await asyncio.to_thread(checkpoints.is_file):
        lines = await asyncio.to_thread(checkpoints.read_bytes)
    await fleet.storage.backup(target)
    if checkpoints is not None and lines:
        await asyncio.to_thread(_write, target / checkpoints.name, lines)
    async with fleet.security.rotation.unchanged:
        await asyncio.to_thread(files.copy, data / "pki", target / "pki")
        # It may be elsewhere, and name the data folder.
        file = Path(fleet.config.file or data / _CONFIGURATION)
        await asyncio.to_thread(files.copy, file, target / _CONFIGURATION)
    await asyncio.to_thread(_copy_plugins, file.parent, fleet.config.fleet.plugins, target)
    problems = await _problems(fleet.storage)
    made = fleet.clock.now_ms()
    await asyncio.to_thread(manifest.write, target, fleet=fleet.id, name=fleet.config.fleet.name, made=made)
    return problems


async def _problems(storage: Storage) -> list[str]:
    return [problem async for part in parts(storage.verify, lambda part: part.after) for problem in part.problems]


def verify(source: Path, read: Callable[[int], None] = lambda _: None) -> manifest.Manifest | None:
    """Reads all of a backup and compares it with its manifest; None for one that has no manifest.

    Raises Refused if it is damaged, is not a backup, or has parts of another fleet than its manifest says.
    """
    if not (source / "pki").is_dir():
        raise Refused(f"{source} is not a backup of a fleet", remedy="Name a folder that `fleetcore backup` wrote")
    found = manifest.verify(source, read)
    if found is not None:
        for part, named in identity.named_in(source).items():
            if named != found.fleet:
                whose = "no fleet" if named is None else named[:8]
                raise Refused(
                    f"The backup {source} is of fleet {found.fleet[:8]}, and its {part} of {whose}",
                    code="hash_mismatch",
                    remedy="Take another backup",
                )
    return found


def restore(
    source: Path, data: Path, *, unverified: bool = False, read: Callable[[int], None] = lambda _: None
) -> None:
    """Makes a data folder from a backup, once all of it is verified.

    Nothing is created if something is wrong, and nothing is left behind if creating it fails.

    Args:
        unverified: accept a backup without a manifest, whose damage cannot be detected.
        read: called with the number of verified bytes of each piece.

    Raises Refused if ``source`` is damaged or is not a backup, Conflict if ``data`` is not empty or is inside
    ``source``, ConfigError if the backup's fleet.toml names another data folder and cannot be changed.
    """
    _check_apart(data, source, "the backup")
    _check_empty(data)
    if verify(source, read) is None and not unverified:
        raise manifest.missing(source, "If an earlier release wrote it, --unverified restores it unchecked")
    mine = not data.exists()
    try:
        _make(data)
        # No server may start on half a fleet.
        with Lease.take(data):
            for entry in sorted(source.iterdir()):
                if entry.name != manifest.NAME:
                    files.copy(entry, data / entry.name)
            toml = data / _CONFIGURATION
            if not toml.exists():
                identity.write_new_toml(toml, fleet_name(data / "pki") or "default")
            # The backup was made of another folder than the one that is restored.
            identity.write_toml_data(toml)
    except BaseException:
        remove(data, folder_too=mine)
        raise


def remove(data: Path, *, folder_too: bool) -> None:
    """Deletes a restored folder."""
    for entry in data.iterdir() if data.is_dir() else ():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if folder_too and data.is_dir():
        data.rmdir()


def _copy_plugins(folder: Path, plugins: Iterable[str], target: Path) -> None:
    """Copies the one-file plugins below the folder of fleet.toml: the restored fleet would not open without them.

    Plugins outside of it, named by ``..`` or an absolute path, do not belong to the fleet.
    """
    for plugin in plugins:
        path = (folder / plugin).resolve()
        if path.is_relative_to(folder.resolve()):
            copy = target / path.relative_to(folder.resolve())
            files.make_private(copy.parent)
            files.copy(path, copy)


def _check_apart(target: Path, source: Path, what: str) -> None:
    if target.resolve().is_relative_to(source.resolve()):
        raise Conflict(f"{target} is inside {what}", remedy="Name a folder elsewhere, preferably on another disk")


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is not empty", remedy="Name a new or empty folder")


def _make(folder: Path) -> None:
    files.make_private(folder)
    folder.chmod(files.PRIVATE_FOLDER)


def _write(target: Path, content: bytes) -> None:
    target.touch(mode=0o600)
    target.write_bytes(content)
