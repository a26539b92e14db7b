"""Backup and restore of a data folder: the store as of one moment, keys, configuration, the audit log's checkpoints."""

import asyncio
import os
import shutil
from pathlib import Path

from fleetcore.errors import Conflict, Refused
from fleetcore.runtime.app import Fleet

_BESIDE = ("pki", "fleet.toml")


async def backup(fleet: Fleet, target: Path) -> None:
    """Writes everything a restore needs into ``target`` while the fleet goes on; it holds the CA's keys: guard it.

    Raises Conflict where ``target`` is not empty or lies in the data folder, Refused where the fleet is in memory.
    """
    data = fleet.config.data
    if data is None:
        raise Refused("A fleet in memory cannot be backed up", remedy="Open it on a data folder")
    _check_apart(target, data)
    _check_empty(target)
    await asyncio.to_thread(_make, target)
    # Checkpoints from before the copy of the store name rows that are in it.
    checkpoints = fleet.audit.checkpoints
    lines = b""
    if checkpoints is not None and await asyncio.to_thread(checkpoints.is_file):
        lines = await asyncio.to_thread(checkpoints.read_bytes)
    await fleet.storage.backup(target)
    if checkpoints is not None and lines:
        await asyncio.to_thread(_write, target / checkpoints.name, lines)
    async with fleet.security.rotation.unchanged:
        for name in _BESIDE:
            await asyncio.to_thread(_copy, data / name, target / name)


def restore(source: Path, data: Path) -> None:
    """Makes a data folder from a backup; raises Refused where ``data`` holds something or ``source`` is no backup."""
    if not (source / "pki").is_dir():
        raise Refused(f"{source} is no backup of a fleet", remedy="Name a folder that `fleetcore backup` wrote")
    _check_empty(data)
    _make(data)
    for entry in sorted(source.iterdir()):
        _copy(entry, data / entry.name)


def _check_apart(target: Path, data: Path) -> None:
    if target.resolve().is_relative_to(data.resolve()):
        raise Conflict(f"{target} lies in the data folder", remedy="Name a folder elsewhere, best on another disk")


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is not empty", remedy="Name a new or empty folder")


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _write(target: Path, content: bytes) -> None:
    target.touch(mode=0o600)
    target.write_bytes(content)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
        for folder, _, files in os.walk(target):
            Path(folder).chmod(0o700)
            for name in files:
                (Path(folder) / name).chmod(0o600)
    elif source.is_file():
        shutil.copyfile(source, target)
        target.chmod(0o600)
