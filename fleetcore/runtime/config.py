"""fleet.toml: read, checked and structured. Errors name the file, the line and the nearest known key.

Environment variables override single keys: ``FLEETCORE_FLEET__NAME=lab`` sets ``[fleet] name``; two underscores
separate the levels, and a value that is valid TOML is read as TOML, any other as text.
"""

import codecs
import difflib
import math
import os
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast, get_origin

import attrs
import cattrs
from attrs import field, frozen, validators

from fleetcore.errors import ConfigError, Refused
from fleetcore.interfaces.provider import OPEN_TIMEOUT_S, Limits
from fleetcore.listening.limits import ListenerLimits
from fleetcore.model.days import DAY_MS
from fleetcore.model.names import check_fleet
from fleetcore.model.retention import Periods, is_pattern

T = TypeVar("T")
Table = dict[str, object]

_PREFIX = "FLEETCORE_"
#: The shortest period of retention, in days.
_MINUTE_DAYS = 1 / 1440
#: Environment variables that control tools and are not keys of fleet.toml.
_NOT_KEYS = frozenset({"FLEETCORE_REQUIRE", "FLEETCORE_TOKEN", "FLEETCORE_SERVER"})
#: Sections with named instances of what plugins offer.
INSTANCES = ("protocols", "detectors", "notifiers", "clouds", "services", "admission")
_SECTIONS = (
    "fleet", "storage", "retention", "limits", "listeners", "ca", "firmware", "protocols", "detectors", "notifiers",
    "clouds", "services", "admission",
)  # fmt: skip


@frozen(kw_only=True)
class FleetSection:
    """``[fleet]``.

    Attributes:
        name: the fleet's name, part of every certificate: 1-32 of a-z 0-9 -.
        id: 32 hex digits that `fleetcore init` writes; the store and ``pki/`` have the same.
        data: the data folder; relative to fleet.toml. Without it everything is in memory.
        plugins: one-file plugins, relative to fleet.toml.
        disable: plugins, by name, that are not loaded; `fleetcore plugin list` shows the names.
        open_timeout_s: how long a plugin may take to import, to answer a hook, and to open each of its components.
        hosts: names and addresses by which devices reach this server; they go into its certificate.
    """

    name: str = "default"
    id: str | None = field(default=None, validator=validators.optional(validators.matches_re("[0-9a-f]{32}")))
    data: str | None = None
    plugins: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    open_timeout_s: float = field(default=OPEN_TIMEOUT_S, validator=(validators.gt(0.0), validators.le(600.0)))
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")


@frozen(kw_only=True)
class CaSection:
    """``[ca]``.

    Attributes:
        passphrase: reference (``env:NAME``, ``file:PATH``) to the passphrase of the CA's keys; without it they are in
            0600 files, not encrypted.
        device_days: the validity of a device's certificate, 1 to 400 days.
        grace_expired_days: how long after its expiry a device may still renew it, up to 30 days; it allows nothing
            else.
    """

    passphrase: str | None = None
    device_days: int = field(default=90, validator=(validators.ge(1), validators.le(400)))
    grace_expired_days: int = field(default=0, validator=(validators.ge(0), validators.le(30)))


@frozen(kw_only=True)
class FirmwareSection:
    """``[firmware]``.

    Attributes:
        allow_unsigned: whether campaigns may have no signed manifest once a trust root is set.
        assignment_hours: how long a device may take to start an offered update, 1 hour to a year.
        approve_above: campaigns for more devices, and continuous ones, need the approval of a second person; without
            it none do.
        downloads_at_once: how many devices download images at once; the others are told when to ask again.
        download_bytes_per_s: how many bytes of images a second all devices get together.
        upload_quota_bytes: how many bytes all unfinished uploads may announce together.
    """

    allow_unsigned: bool = False
    assignment_hours: int = field(default=72, validator=(validators.ge(1), validators.le(8760)))
    approve_above: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    downloads_at_once: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    download_bytes_per_s: int | None = field(default=None, validator=validators.optional(validators.ge(1024)))
    upload_quota_bytes: int = field(default=4 << 30, validator=validators.ge(1 << 20))


class Days(float):
    """A number of days; ``forever`` for no end."""

    def __repr__(self) -> str:
        return "forever" if math.isinf(self) else super().__repr__()


@frozen(kw_only=True)
class RetentionSection:
    """``[retention]``: older readings are deleted, in the background. Without it all are retained.

    A reading stays longer than its period: by up to a tenth of it, or by up to an hour (but no more than the period)
    if that is longer. The newest reading of each metric of a device stays: it is the last known value.

    Attributes:
        default_days: how many days readings are retained, by their time: a number, fractions too, down to a minute, or
            ``"forever"``.
        metric_days: the same for single metrics: by name, as in ``vibration = 7``, or by a pattern in which ``*``
            stands for any characters, as in ``"debug/*" = 0.5``. The pattern with the most other characters counts.
    """

    default_days: Days = field(default=Days(math.inf), validator=validators.ge(Days(_MINUTE_DAYS)))
    metric_days: Mapping[str, Days] = field(factory=dict)

    @metric_days.validator
    def _check(self, _: object, value: Mapping[str, Days]) -> None:
        for pattern, days in value.items():
            if not is_pattern(pattern):
                raise ValueError(f"metric_days: {pattern!r} must be the name of a metric, or a pattern")
            if not days >= _MINUTE_DAYS:
                raise ValueError(f"metric_days: {pattern!r} must be at least a minute, {_MINUTE_DAYS}: {days}")

    @property
    def periods(self) -> Periods:
        """The periods in ms."""
        return Periods(
            default_ms=period_ms(self.default_days),
            metrics={pattern: period_ms(days) for pattern, days in self.metric_days.items()},
        )


def period_ms(days: float) -> int | None:
    """A period in ms; None means forever."""
    return None if math.isinf(days) else round(days * DAY_MS)


@frozen(kw_only=True)
class Instance:
    """One named section of a kind: ``[detectors.cold-rooms]`` with its kind and the plugin's keys.

    Attributes:
        named: whether the section has a ``kind``; else its name is the kind.
    """

    name: str
    kind: str
    table: Mapping[str, object]
    named: bool = False


@frozen(kw_only=True)
class Config:
    """The whole configuration, structured; ``file`` is its path, or empty."""

    fleet: FleetSection = FleetSection()
    limits: Limits = Limits()
    listeners: ListenerLimits = ListenerLimits()
    ca: CaSection = CaSection()
    retention: RetentionSection = RetentionSection()
    firmware: FirmwareSection = FirmwareSection()
    storage: Instance = field(factory=lambda: Instance(name="sqlite", kind="sqlite", table={}))
    protocols: tuple[Instance, ...] = ()
    detectors: tuple[Instance, ...] = ()
    notifiers: tuple[Instance, ...] = ()
    clouds: tuple[Instance, ...] = ()
    services: tuple[Instance, ...] = ()
    admission: tuple[Instance, ...] = ()
    file: str = ""
    source: str = field(default="", repr=False)

    @property
    def data(self) -> Path | None:
        """The data folder, absolute, or None if in memory."""
        if self.fleet.data is None:
            return None
        base = Path(self.file).parent if self.file else Path()
        return (base / self.fleet.data).resolve()

    def line_of(self, *path: str) -> int:
        """The line of a key in the file; 0 if it is not there (the environment, a default)."""
        return line_of(self.source, path)

    def structure(self, cls: type[T], table: Mapping[str, object], *path: str, taken: Sequence[str] = ()) -> T:
        """A plugin's section as its config class; raises ConfigError with the place and the nearest known key.

        ``taken`` are further valid keys of the section that were removed from the table.
        """
        return structure(cls, table, path, self.file, self.source, taken)


def load(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Reads a fleet.toml and the environment.

    Raises :class:`ConfigError` with file and line: unreadable, not UTF-8, not TOML, an unknown key, a wrong type.
    """
    source = ""
    table: Table = {}
    if file is not None:
        source = _read(file)
        try:
            table = tomllib.loads(source)
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"at line (\d+)", str(error))
            raise ConfigError(
                f"This is not TOML: {error}", file=str(file), line=int(found[1]) if found else 0
            ) from error
    variables = {
        name: value
        for name, value in sorted((os.environ if environment is None else environment).items())
        if name.startswith(_PREFIX) and name not in _NOT_KEYS and "__" in name
    }
    where = str(file) if file else ""
    if not variables:
        return build(table, where, source)
    build(table, where, source)  # a mistake in the file is reported for the file
    for name, value in variables.items():
        _override(table, name, value)
        try:
            config = build(table, where, source)
        except ConfigError as error:
            raise ConfigError(f"The environment variable {name}: {error.message}", remedy=error.remedy) from error
    return config


def _read(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"It cannot be read: {error.strerror}", file=str(file), remedy="`fleetcore init` writes one"
        ) from error
    if content.startswith(codecs.BOM_UTF8):
        raise ConfigError(
            "It begins with a byte order mark", file=str(file), line=1, remedy="Save it as UTF-8 without one"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            "It is not UTF-8", file=str(file), remedy="Save it as UTF-8 without a byte order mark"
        ) from error


def _override(table: Table, name: str, text: str) -> None:
    path = [part.lower() for part in name[len(_PREFIX) :].split("__")]
    if len(path) > 2 and path[0] in INSTANCES:  # [detectors.cold-rooms]: variable names cannot contain the dash
        below = table.get(path[0])
        known = below if isinstance(below, dict) else {}
        spoken = {instance.lower().replace("-", "_"): instance for instance in known}
        path[1] = spoken.get(path[1], path[1].replace("_", "-"))
    here = table
    for part in path[:-1]:
        below = here.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"The environment variable {name} sets a key below {part!r}, which is not a table")
        here = cast("Table", below)
    try:
        here[path[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        here[path[-1]] = text


def build(table: Mapping[str, object], file: str = "", source: str = "") -> Config:
    """A configuration from plain tables; :func:`load` calls it after reading."""
    _check_keys(table, _SECTIONS, (), file, source)
    for name, value in table.items():
        if not isinstance(value, dict):
            raise ConfigError(f"[{name}] must be a table", file=file, line=line_of(source, (name,)))
    tables = cast("Mapping[str, Table]", table)
    fleet = structure(FleetSection, tables.get("fleet", {}), ("fleet",), file, source)
    try:
        check_fleet(fleet.name)
    except Refused as error:
        raise ConfigError(
            error.message, file=file, line=line_of(source, ("fleet", "name")), remedy=error.remedy
        ) from error
    storage = dict(tables.get("storage", {}))
    kind = _kind(storage, "sqlite", ("storage",), file, source)
    return Config(
        fleet=fleet,
        limits=structure(Limits, tables.get("limits", {}), ("limits",), file, source),
        listeners=structure(ListenerLimits, tables.get("listeners", {}), ("listeners",), file, source),
        retention=structure(RetentionSection, tables.get("retention", {}), ("retention",), file, source),
        ca=structure(CaSection, tables.get("ca", {}), ("ca",), file, source),
        firmware=structure(FirmwareSection, tables.get("firmware", {}), ("firmware",), file, source),
        storage=Instance(name=kind, kind=kind, table=storage),
        file=file,
        source=source,
        **{section: _instances(section, tables.get(section, {}), file, source) for section in INSTANCES},
    )


def _kind(table: Table, default: str, path: tuple[str, ...], file: str, source: str) -> str:
    kind = table.pop("kind", default)
    if not isinstance(kind, str):
        raise ConfigError("kind is text", file=file, line=line_of(source, (*path, "kind")))
    return kind


def _instances(section: str, table: Table, file: str, source: str) -> tuple[Instance, ...]:
    found: list[Instance] = []
    for name, value in table.items():
        if not isinstance(value, dict):
            raise ConfigError(
                f"[{section}] must hold named tables",
                file=file,
                line=line_of(source, (section, name)),
                remedy=f"Write [{section}.{name}]",
            )
        rest = dict(value)
        named = "kind" in rest
        kind = _kind(rest, name, (section, name), file, source)
        found.append(Instance(name=name, kind=kind, table=rest, named=named))
    return tuple(found)


def _check_keys(
    table: Mapping[str, object], known: tuple[str, ...], path: tuple[str, ...], file: str, source: str
) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            where = ".".join(path)
            raise ConfigError(
                f"Key {key!r} does not exist" + (f" in [{where}]" if where else ""),
                file=file,
                line=line_of(source, (*path, key)),
                remedy=f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(sorted(known)) or 'none'}",
            )


_converter = cattrs.Converter(detailed_validation=False)


def _strict(name: str, kinds: tuple[type, ...]) -> None:
    def hook(value: object, _cls: type) -> object:
        if isinstance(value, bool) != (bool in kinds) or not isinstance(value, kinds):
            raise TypeError(f"it must be {name}, not {_toml_type(value)}")
        return float(value) if kinds == (int, float) else value  # type: ignore[arg-type]  # checked above

    _converter.register_structure_hook(kinds[-1], hook)


def _toml_type(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "text", dict: "a table", list: "a list"}
    return names.get(type(value), type(value).__name__)


_strict("text", (str,))
_strict("an integer", (int,))
_strict("a number", (int, float))
_strict("a boolean", (bool,))


def _days(value: object, _cls: type) -> Days:
    if value == "forever":
        return Days(math.inf)
    if isinstance(value, str):
        raise TypeError(f'it must be a number of days, or "forever", not {value!r}')
    return Days(_converter.structure(value, float))


_converter.register_structure_hook(Days, _days)


def structure(
    cls: type[T], table: Mapping[str, object], path: tuple[str, ...], file: str, source: str, taken: Sequence[str] = ()
) -> T:
    """Structures a table into an attrs class, key by key, so that an error names its key."""
    fields = attrs.fields_dict(cast("type[attrs.AttrsInstance]", cls))
    _check_keys(table, (*fields, *taken), path, file, source)
    values: dict[str, object] = {}
    for key, value in table.items():
        item = fields[key]
        try:
            if get_origin(item.type) in (tuple, list, frozenset) and not isinstance(value, list):
                raise TypeError(f"it must be a list, not {_toml_type(value)}")
            made = values[key] = _converter.structure(value, cast("type[object]", item.type))
            if isinstance(made, float) and not math.isfinite(made):
                raise TypeError(f"it must be a finite number, not {made}")
        except Exception as error:
            why = (
                str(error)
                if isinstance(error, TypeError) and str(error).startswith("it ")
                else (f"it does not accept {_toml_type(value)} {value!r}")
            )
            raise ConfigError(
                f"[{'.'.join(path)}] {key} is wrong: {why}", file=file, line=line_of(source, (*path, key))
            ) from error
        try:
            if item.validator is not None:
                item.validator(None, item, values[key])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"[{'.'.join(path)}] {error}", file=file, line=line_of(source, (*path, key))) from error
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(error.message, file=file, line=line_of(source, path), remedy=error.remedy) from error
    except (TypeError, ValueError, Refused) as error:
        raise ConfigError(f"[{'.'.join(path)}] is wrong: {error}", file=file, line=line_of(source, path)) from error


_HEADER = re.compile(r"^\s*\[+\s*([^\]]+?)\s*\]+")
_KEY = re.compile(r"^\s*([A-Za-z0-9_.\"'-]+)\s*=")


def line_of(source: str, path: tuple[str, ...]) -> int:
    """The line of a key or table header in a TOML text (tomllib reports no positions); 0 if not there."""
    here: tuple[str, ...] = ()
    header = 0
    for number, text in enumerate(source.splitlines(), 1):
        if found := _HEADER.match(text):
            here = _split(found[1])
            if here[: len(path)] == path:
                return number
            if path[: len(here)] == here and not header:
                header = number
        elif (found := _KEY.match(text)) and (*here, *_split(found[1])) == path:
            return number
    return header


def _split(words: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in words.split("."))


def secret(reference: str) -> str:
    """Resolves ``env:NAME`` or ``file:PATH``; raises ConfigError for anything else, and for one readable by others."""
    kind, _, name = reference.partition(":")
    if kind == "env" and name:
        value = os.environ.get(name)
        if not value:
            raise ConfigError(f"The environment variable {name} is not set", remedy="Set it, or use file:PATH")
        return value
    if kind == "file" and name:
        path = Path(name)
        try:
            if path.stat().st_mode & 0o077:
                raise ConfigError(
                    f"Other users can read the secret file {name}", remedy=f"chmod 600 {shlex.quote(name)}"
                )
            return path.read_text().strip()
        except OSError as error:
            raise ConfigError(f"The secret file {name} cannot be read: {error.strerror}") from error
    raise ConfigError(
        "A secret must be a reference, not a value", remedy="Write env:NAME or file:PATH, and keep the secret there"
    )
