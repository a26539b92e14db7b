"""Which fleet a data folder holds: its id is in fleet.toml, in the store and in ``pki/``, and all three agree.

A new fleet is only created in a folder without any part of one. If some parts are missing, they were lost, or a disk is
not mounted: creating them again would lock every enrolled device out, or lose the fleet. So opening refuses, and names
the part.
"""

import contextlib
import logging
import re
import secrets
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from fleetcore import files
from fleetcore.errors import ConfigError
from fleetcore.fleet.security.folder import fleet_name, has_keys, issuers
from fleetcore.fleet.security.manager import CRL
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit
from fleetcore.runtime.config import Config

_log = logging.getLogger(__name__)

#: In a folder while its fleet is created, with the id: after a crash the creation continues.
_MAKING = ".new-fleet"
#: The store's blob with the fleet's id.
BLOB = "fleet/identity"
#: The file of ``pki/`` with the fleet's id.
KEYS_FILE = "fleet.id"
_DATA = re.compile(r"^[ \t]*data[ \t]*=.*$", re.MULTILINE)
_HEADER = re.compile(r"^[ \t]*\[[ \t]*fleet[ \t]*\][ \t]*(#.*)?$", re.MULTILINE)
_NEW = """\
# The fleet's configuration. Every key is in docs/reference/configuration.md; an unknown one is refused with a hint.

[fleet]
name = "{name}"
data = "."

[detectors.statistical]
"""
_REMEDY = "Restore it from a backup (`fleetcore restore`), or mount its disk; `fleetcore adopt --help` shows other ways"


def new_id() -> str:
    """A fleet's id: 128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


@frozen(kw_only=True)
class Parts:
    """The parts of a fleet that exist, and the id in each; None for no id.

    Attributes:
        has_store: None if only opening the store can tell.
        toml_name: the fleet's name in fleet.toml.
        making: the id of a fleet whose creation was interrupted.
    """

    name: str
    data: Path
    toml: Path
    has_toml: bool
    has_keys: bool
    has_store: bool | None
    toml_id: str | None = None
    toml_name: str | None = None
    keys_id: str | None = None

    making: str | None = None

    @property
    def has_marker(self) -> bool:
        """Whether a creation was interrupted, or left its marker behind at its end."""
        return (self.data / _MAKING).exists()

    @property
    def empty(self) -> bool:
        """No part of a fleet exists, except perhaps a fleet.toml without an id."""
        return not self.has_keys and not self.has_store and self.toml_id is None


@frozen(kw_only=True)
class Adoption:
    """The parts that ``fleetcore adopt`` creates; all others must exist.

    Attributes:
        new_ca: new keys, if ``pki/`` is lost: every device has to enrol again.
        empty_store: a new store, if it is lost, and with it devices, readings and the audit log.
    """

    new_ca: bool = False
    empty_store: bool = False


def look_again(parts: Parts) -> Parts:
    """Looks at the same folder again."""
    keys = parts.data / "pki"
    return evolve(
        parts,
        has_toml=parts.toml.is_file(),
        has_keys=has_keys(keys),
        toml_id=_stated(parts.toml, "id"),
        toml_name=_stated(parts.toml, "name"),
        keys_id=_keys_id(keys),
    )


def look(config: Config) -> Parts:
    """Looks at the folder of a configuration without opening or creating anything."""
    data = config.data
    assert data is not None, "a fleet in memory has no folder"
    toml = Path(config.file) if config.file else data / "fleet.toml"
    keys = data / "pki"
    named = config.fleet.id if config.file else _stated(toml, "id")
    sqlite = config.storage.kind == "sqlite" and "path" not in config.storage.table
    return Parts(
        name=config.fleet.name,
        data=data,
        toml=toml,
        has_toml=toml.is_file(),
        has_keys=has_keys(keys),
        has_store=(data / "fleet.db").is_file() if sqlite else None,
        toml_id=named,
        toml_name=_stated(toml, "name"),
        keys_id=_keys_id(keys),
        # If fleet.toml names a fleet, it was complete: a missing part was lost since.
        making=_text(data / _MAKING) if named is None else None,
    )


def is_new(parts: Parts, *, create: bool | None, adoption: Adoption | None = None) -> bool:
    """Whether to create a new fleet: no part of one exists.

    Args:
        create: True: also if fleet.toml has no id; False: never; None: only in an empty folder, or one with only a
            fleet.toml whose data folder it is, where no mount can be missing.
        adoption: which missing parts to create.

    Raises ConfigError if only some parts of a fleet exist, or none and none may be created.
    """
    alone = not parts.has_toml or parts.toml.resolve().parent == parts.data
    if parts.making is not None or (parts.empty and (create or (create is None and alone))):
        return True
    if parts.empty:
        what = "a fleet.toml without a fleet" if parts.has_toml else "no fleet"
        raise ConfigError(
            f"{parts.data} holds {what}",
            remedy=f"`fleetcore init {shlex.quote(str(parts.data))}` creates one. If there was one: {_REMEDY}",
            path=str(parts.data),
        )
    may = adoption or Adoption()
    missing = [
        name
        for name, there in (
            ("fleet.toml", parts.has_toml or adoption is not None),
            ("pki/", parts.has_keys or may.new_ca),
            ("the store", parts.has_store is not False or may.empty_store),
        )
        if not there
    ]
    if missing:
        lost, place = missing == ["fleet.toml"], shlex.quote(str(parts.data))
        raise ConfigError(
            f"{parts.data} holds a fleet without {' and '.join(missing)}; nothing was created or changed",
            remedy=f"Restore it from a backup, or `fleetcore adopt --data {place}` writes another" if lost else _REMEDY,
            path=str(parts.data),
        )
    return False


def begin(parts: Parts) -> Parts:
    """Marks that a new fleet is being created until :func:`finish`. The store reports an unusable folder."""
    if parts.making is not None:
        return parts
    fleet = new_id()
    with contextlib.suppress(OSError):
        files.make_private(parts.data)
        files.replace(parts.data / _MAKING, f"{fleet}\n".encode())
    return evolve(parts, making=fleet)


def finish(parts: Parts, fleet: str) -> None:
    """Writes the fleet's id into the parts without it; creates a missing fleet.toml. The fleet is complete then."""
    complete(look_again(parts), fleet)
    (parts.data / _MAKING).unlink(missing_ok=True)


async def agreed(parts: Parts, storage: Storage, *, new: bool, adoption: Adoption | None = None) -> str:
    """The fleet's id once its store is open; a folder older than ids gets one.

    Raises ConfigError if the parts are of different fleets, one has no id, or the store is empty.
    """
    kept = await storage.blob(BLOB)
    store_id = None if kept is None else kept.decode()
    used = store_id is not None or await storage.position() > 0 or await storage.cursor("audit") is not None
    if new:
        fleet = parts.making or new_id()
        if used and store_id != fleet:
            raise ConfigError(f"The store of {parts.data} belongs to a fleet; its keys are missing", remedy=_REMEDY)
        await storage.commit(Commit(blobs={BLOB: fleet.encode()}))
        return fleet
    may = adoption or Adoption()
    if not used and not may.empty_store:
        raise ConfigError(
            f"The store of {parts.data} is empty, but the rest of the fleet is there; nothing was created or changed",
            remedy=_REMEDY,
            path=str(parts.data),
        )
    named = {"fleet.toml": parts.toml_id, "pki/": parts.keys_id, "the store": store_id}
    ids = {value for value in named.values() if value is not None}
    if len(ids) > 1:
        which = ", ".join(f"{name} is of {value[:8]}" for name, value in named.items() if value is not None)
        raise ConfigError(
            f"The parts of {parts.data} belong to different fleets: {which}",
            remedy="Put the parts of one fleet together, from one backup",
            path=str(parts.data),
        )
    lacking = [name for name, value in named.items() if value is None]
    if lacking == ["fleet.toml"] and parts.toml_name is not None and parts.toml_name == fleet_name(parts.data / "pki"):
        # Written by hand or by a tool for this fleet: the name matches, and the other two agree.
        write_toml_id(parts.toml, store_id or "")
        _log.warning("%s did not have the fleet's id; it was written below [fleet]", parts.toml)
        lacking = []
    if store_id is not None and lacking and adoption is None:
        unnamed = " and ".join(lacking)
        raise ConfigError(
            f"{unnamed} of {parts.data} {'has' if len(lacking) == 1 else 'have'} no fleet id, and the store is of "
            f"{store_id[:8]}",
            remedy=f"If it was replaced, `fleetcore adopt --data {shlex.quote(str(parts.data))}` writes the id into it",
            path=str(parts.data),
        )
    if store_id is None and parts.has_keys and not await _are_of(parts.data / "pki", storage):
        raise ConfigError(
            f"pki/ of {parts.data} is of another fleet: its CAs issued no certificate in the store",
            remedy="Put the parts of one fleet together, from one backup",
            path=str(parts.data),
        )
    fleet = ids.pop() if ids else new_id()
    if lacking:
        complete(parts, fleet)
        # The store is last: until it has the id, the next opening completes the rest.
        await storage.commit(Commit(blobs={BLOB: fleet.encode()}))
    return fleet


async def _are_of(keys: Path, storage: Storage) -> bool:
    """Whether the store knows a CA among the keys by its revocation list, or has no revocation lists."""
    counted = {record.key for record in (await storage.find(CRL)).items}
    return not counted or not counted.isdisjoint(issuers(keys))


def complete(parts: Parts, fleet: str) -> None:
    """Writes the id into the parts without one."""
    if parts.has_keys and parts.keys_id is None:
        files.replace(parts.data / "pki" / KEYS_FILE, f"{fleet}\n".encode())
    if not parts.has_toml:
        write_new_toml(parts.toml, parts.name)
    write_toml_id(parts.toml, fleet)


def write_new_toml(toml: Path, name: str) -> None:
    """Creates a minimal fleet.toml; its id is written later."""
    files.replace(toml, _NEW.format(name=name).encode())


def write_toml_id(toml: Path, fleet: str) -> None:
    """Writes ``id`` into the ``[fleet]`` table and leaves the rest unchanged; does nothing if it is there.

    Raises ConfigError if the file cannot be written, with the line to add by hand.
    """
    if _stated(toml, "id") == fleet:
        return
    line = f'# Store, keys and backups carry the same id.\nid = "{fleet}"\n'

    def insert(text: str) -> str:
        header = _HEADER.search(text)
        at = len(text) if header is None else min(header.end() + 1, len(text))
        before = text[:at] if header is None or text[:at].endswith("\n") else f"{text[:at]}\n"
        return before + line + text[at:] if header is not None else f"{before}\n[fleet]\n{line}"

    _edit(toml, insert, "id", fleet, "The fleet's id cannot be written")


def write_toml_data(toml: Path) -> None:
    """Sets the data folder in a fleet.toml to the folder that contains it, and leaves the rest unchanged.

    Raises ConfigError as :func:`write_toml_id`.
    """
    data = _stated(toml, "data")
    if data is None or (toml.parent / data).resolve() == toml.parent.resolve():
        return

    def replace(text: str) -> str:
        header = _HEADER.search(text)
        at = 0 if header is None else header.end()
        return text[:at] + _DATA.sub('data = "."', text[at:], count=1)

    _edit(toml, replace, "data", ".", f"It names {data} as the data folder, and cannot be changed")


def _edit(toml: Path, change: Callable[[str], str], key: str, value: str, problem: str) -> None:
    """Changes one key of ``[fleet]``; follows a link to the file."""
    wanted = f'{key} = "{value}"'
    remedy = f"Write this line below [fleet]: {wanted}"
    text = toml.read_text(encoding="utf-8")
    changed = change(text)
    # TOML has several ways to write a table: the result is parsed before it is written.
    before = _read(text)
    if _read(changed) != {**before, "fleet": {**before.get("fleet", {}), key: value}}:
        raise ConfigError(f"{problem}: its [fleet] is written in an unusual way", file=str(toml), remedy=remedy)
    try:
        files.replace(toml.resolve(), changed.encode(), toml.stat().st_mode & 0o777)
    except OSError as error:
        raise ConfigError(f"{problem}: {error.strerror}", file=str(toml), remedy=remedy) from error


def _read(text: str) -> dict[str, Any]:
    """Empty for invalid TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _stated(toml: Path, key: str) -> str | None:
    try:
        found = tomllib.loads(toml.read_text(encoding="utf-8")).get("fleet", {})
    except (OSError, ValueError):
        return None
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, str) else None


def _keys_id(keys: Path) -> str | None:
    return _text(keys / KEYS_FILE)


def named_in(folder: Path) -> dict[str, str | None]:
    """The fleet ids in the files of a folder, by part, except the store."""
    return {"fleet.toml": _stated(folder / "fleet.toml", "id"), "pki/": _keys_id(folder / "pki")}


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None
