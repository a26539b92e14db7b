"""Which fleet a data folder holds: its id stands in fleet.toml, in the store and in ``pki/``, and all three agree.

Only a folder that holds nothing of a fleet becomes a new one. A part that is missing beside others was lost, or its
disk is not mounted: making it anew would lock every enrolled device out, or lose the fleet. So opening refuses, with
the name of the part.
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

#: Stands in a folder as long as its fleet is being made, with the id: a crash meanwhile is gone on from.
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
_REMEDY = "Restore it from a backup (`fleetcore restore`), or mount its disk; `fleetcore adopt --help` names other ways"


def new_id() -> str:
    """A fleet's id: 128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


@frozen(kw_only=True)
class Parts:
    """What of a fleet is there, and which id each part names; None where it names none.

    Attributes:
        has_store: None where only opening the store tells.
        toml_name: the fleet's name as fleet.toml states it.
        making: the id of a fleet whose making was cut off.
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
        """Whether a making of a fleet was not seen to its end, or a late one has left its marker behind."""
        return (self.data / _MAKING).exists()

    @property
    def empty(self) -> bool:
        """Nothing of a fleet is there, but perhaps a fleet.toml that names no fleet yet."""
        return not self.has_keys and not self.has_store and self.toml_id is None


@frozen(kw_only=True)
class Adoption:
    """What ``fleetcore adopt`` is told to make anew; everything else must be there.

    Attributes:
        new_ca: keys, where ``pki/`` is gone: every device has to enrol again.
        empty_store: a store, where it is gone: devices, readings and the audit log with it.
    """

    new_ca: bool = False
    empty_store: bool = False


def look_again(parts: Parts) -> Parts:
    """The same folder as it is now."""
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
    """Looks at the folder of a configuration without opening or making anything."""
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
        # Where fleet.toml names a fleet, it was whole: what is missing since was lost.
        making=_text(data / _MAKING) if named is None else None,
    )


def is_new(parts: Parts, *, create: bool | None, adoption: Adoption | None = None) -> bool:
    """Whether a new fleet is to be made: nothing of one is there.

    Args:
        create: True also where a fleet.toml names none; False never; None in a folder that holds nothing at all, or
            nothing but a fleet.toml whose data folder it is: there cannot be a disk that is not mounted.
        adoption: which missing parts are to be made anew.

    Raises ConfigError where only some parts of a fleet are there, or none and none may be made.
    """
    alone = not parts.has_toml or parts.toml.resolve().parent == parts.data
    if parts.making is not None or (parts.empty and (create or (create is None and alone))):
        return True
    if parts.empty:
        what = "a fleet.toml, and no fleet" if parts.has_toml else "no fleet"
        raise ConfigError(
            f"{parts.data} holds {what}",
            remedy=f"`fleetcore init {shlex.quote(str(parts.data))}` makes one. Was one there? {_REMEDY}",
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
            f"{parts.data} holds a fleet without {' and '.join(missing)}; nothing was made or changed",
            remedy=f"Restore it from a backup, or `fleetcore adopt --data {place}` writes another" if lost else _REMEDY,
            path=str(parts.data),
        )
    return False


def begin(parts: Parts) -> Parts:
    """Marks that a new fleet is being made; :func:`finish` ends it. The store says why a folder cannot be made."""
    if parts.making is not None:
        return parts
    fleet = new_id()
    with contextlib.suppress(OSError):
        files.make_private(parts.data)
        files.replace(parts.data / _MAKING, f"{fleet}\n".encode())
    return evolve(parts, making=fleet)


def finish(parts: Parts, fleet: str) -> None:
    """Writes the fleet's id into the parts that lack it; fleet.toml is made where there is none. It is whole then."""
    complete(look_again(parts), fleet)
    (parts.data / _MAKING).unlink(missing_ok=True)


async def agreed(parts: Parts, storage: Storage, *, new: bool, adoption: Adoption | None = None) -> str:
    """The fleet's id once its store is open; a folder that was written before fleets had one gets it.

    Raises ConfigError where the parts are of different fleets, one names none, or the store is empty.
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
            f"The store of {parts.data} is empty, and the rest of the fleet is there; nothing was made or changed",
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
        # Written by hand or by a tool, for this fleet: it states the fleet's name, and the other two agree.
        write_toml_id(parts.toml, store_id or "")
        _log.warning("%s did not have the fleet's id; it was written below [fleet]", parts.toml)
        lacking = []
    if store_id is not None and lacking and adoption is None:
        unnamed = " and ".join(lacking)
        raise ConfigError(
            f"{unnamed} of {parts.data} {'names' if len(lacking) == 1 else 'name'} no fleet,"
            f" and the store is of {store_id[:8]}",
            remedy=f"Was it replaced? `fleetcore adopt --data {shlex.quote(str(parts.data))}` writes the id into it",
            path=str(parts.data),
        )
    if store_id is None and parts.has_keys and not await _are_of(parts.data / "pki", storage):
        raise ConfigError(
            f"pki/ of {parts.data} is of another fleet: its CAs issued nothing of what is in the store",
            remedy="Put the parts of one fleet together, from one backup",
            path=str(parts.data),
        )
    fleet = ids.pop() if ids else new_id()
    if lacking:
        complete(parts, fleet)
        # The store comes last: until it names the fleet, the next opening completes the rest.
        await storage.commit(Commit(blobs={BLOB: fleet.encode()}))
    return fleet


async def _are_of(keys: Path, storage: Storage) -> bool:
    """Whether a CA among the keys is one whose revocation lists the store has counted, or it has counted none."""
    counted = {record.key for record in (await storage.find(CRL)).items}
    return not counted or not counted.isdisjoint(issuers(keys))


def complete(parts: Parts, fleet: str) -> None:
    """Writes the id into the parts that name none."""
    if parts.has_keys and parts.keys_id is None:
        files.replace(parts.data / "pki" / KEYS_FILE, f"{fleet}\n".encode())
    if not parts.has_toml:
        write_new_toml(parts.toml, parts.name)
    write_toml_id(parts.toml, fleet)


def write_new_toml(toml: Path, name: str) -> None:
    """A fleet.toml that says no more than a fleet needs; its id is yet to be written."""
    files.replace(toml, _NEW.format(name=name).encode())


def write_toml_id(toml: Path, fleet: str) -> None:
    """Writes ``id`` into the ``[fleet]`` table and leaves all else as it is; does nothing where it is there.

    Raises ConfigError where the file cannot be written, with the line that is to be added by hand.
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
    """Has a fleet.toml name the folder that it stands in as the data folder, and leaves all else as it is.

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
    """Changes a key of ``[fleet]`` and nothing else, in the file that a link leads to."""
    wanted = f'{key} = "{value}"'
    remedy = f"Write this line below [fleet]: {wanted}"
    text = toml.read_text(encoding="utf-8")
    changed = change(text)
    # TOML has more ways to write a table than one: what would come out is read before it is written.
    before = _read(text)
    if _read(changed) != {**before, "fleet": {**before.get("fleet", {}), key: value}}:
        raise ConfigError(f"{problem}: its [fleet] is written in an unusual way", file=str(toml), remedy=remedy)
    try:
        files.replace(toml.resolve(), changed.encode(), toml.stat().st_mode & 0o777)
    except OSError as error:
        raise ConfigError(f"{problem}: {error.strerror}", file=str(toml), remedy=remedy) from error


def _read(text: str) -> dict[str, Any]:
    """Empty for what is no TOML."""
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
    """Which fleet the files of a folder name, by part, beside the store."""
    return {"fleet.toml": _stated(folder / "fleet.toml", "id"), "pki/": _keys_id(folder / "pki")}


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None
