"""``fleetcore doctor``: checks a data folder, reports problems and their remedies."""

import asyncio
import contextlib
import errno
import re
import shlex
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetcore import files
from fleetcore.cli.connect import connect, data_option
from fleetcore.cli.exits import printable
from fleetcore.cli.output import output_option, show
from fleetcore.cli.verifying import verified_store
from fleetcore.cli.weak_settings import weaknesses
from fleetcore.errors import FleetError, NotFound, PluginError

if TYPE_CHECKING:
    from fleetcore.runtime.config import Config

#: A fraction of a store's limit: beyond it readings are refused, or soon will be.
_NEARLY = 0.7
_WEEK_S = 7 * 86_400
#: The next trust root needs the signatures of several people.
_MONTH_S = 30 * 86_400
#: The remedy for a certificate close to its expiry, by its file.
_RENEWED = {
    "server.pem": "`fleetcore serve` renews it",
    "service.pem": "`fleetcore serve` renews it; the next start uses it for the broker",
}
#: The most devices that a finding lists.
_NAMED = 3
#: A disk with less free than both of these may soon be filled by a seal or a backup.
_LITTLE_FREE, _LITTLE_FREE_BYTES = 0.05, 1 << 30
#: The remedy for a part that is not ready, by its name.
_NOT_READY = {"storage": "If it is full, raise [storage] limit_bytes; else restart the server, whose log has the error"}
#: For a mirror: counts of entities that its hub does not hold as they are.
_NOT_WHOLE = {"invalid": "are refused", "lost": "are sent in part", "paused": "are paused"}
_OF_A_CA = "It belongs to a CA: `fleetcore ca renew-issuing` or `fleetcore ca rotate` creates the next"


#: Keys, the database with its log beside it, and the configuration.
_SECRET = re.compile(r"\.(key|db|sqlite)(-wal|-shm|-journal)?$|\.toml$")


@click.command()
@data_option
@click.option("--deep", is_flag=True, help="Read all stored data, however much it is.")
@output_option
def doctor(data: Path, deep: bool, output: str) -> int:
    """Check configuration, files, certificates, storage, plugins and running parts. Exit 1 if something is wrong."""
    findings = list(asyncio.run(_examine(data, deep=deep)))
    if output != "table":
        show(findings, output)
    else:
        for finding in findings:
            mark = {"ok": "✓", "warning": "!", "problem": "✗"}[finding["state"]]
            click.echo(f"{mark} {finding['what']}: {printable(finding['detail'])}")
            if finding["remedy"]:
                click.echo(f"    → {finding['remedy']}")
    return int(any(finding["state"] == "problem" for finding in findings))


def _finding(state: str, what: str, detail: str, remedy: str = "") -> dict[str, str]:
    return {"state": state, "what": what, "detail": detail, "remedy": remedy}


async def _examine(data: Path, *, deep: bool) -> list[dict[str, str]]:
    found = list(_files(data))
    if any(item["what"] in ("data folder", "configuration") and item["state"] == "problem" for item in found):
        return found
    try:
        async with connect(data) as caller:
            await caller.run("check_storage", {})
            found.append(_stored(*await verified_store(caller, deep=deep)))
            full = any(item["what"] == "disk" and item["state"] == "problem" for item in found)
            status = await caller.run("get_status", {})
            found += _inside(status, disk_refuses=full)
            lost = {"where": _without_a_mirror(status["mirrors"]), "limit": _NAMED}
            found += _homes(
                (await caller.run("count_devices", {"where": lost["where"]}))["count"],
                [item["id"] for item in (await caller.run("list_devices", lost))["items"]],
            )
            found += (await caller.run("check_listeners", {}))["findings"]
            with contextlib.suppress(NotFound):  # it does not exist
                found.append(_firmware_root(await caller.run("get_firmware_root", {})))
            found += _cas(await caller.run("forecast_certificates", {"periods": 1, "next": 3}))
    except FleetError as error:
        found.append(_finding("problem", "opening", error.message, error.remedy))
    return found


def _stored(problems: list[str], unread: int) -> dict[str, str]:
    """The stored data, after it was read."""
    if problems:
        return _finding("problem", "stored data", " ".join(problems), "fleetcore restore from a backup")
    if unread:
        detail = f"no problem was found; {unread / 1e9:.1f} GB were not read"
        return _finding("ok", "stored data", detail, "`fleetcore doctor --deep` reads everything")
    return _finding("ok", "stored data", "all of it is intact")


def _files(data: Path) -> Iterator[dict[str, str]]:
    from fleetcore.runtime.config import load

    file = data / "fleet.toml"
    if not file.is_file():
        there = any((data / part).exists() for part in ("pki", "fleet.db"))
        place = shlex.quote(str(data))
        remedy = (
            "Restore it from a backup, or `fleetcore adopt` creates another" if there else f"fleetcore init {place}"
        )
        yield _finding("problem", "data folder", f"{data} has no fleet.toml", remedy)
        return
    try:
        config = load(file)
        _check_sections(config)
        yield _finding("ok", "configuration", str(file))
        for weakness in weaknesses(config, data / "pki"):
            yield _finding("warning", "weak setting", weakness.detail, weakness.remedy)
    except FleetError as error:
        yield _finding("problem", "configuration", error.message, error.remedy)
    yield from _permissions(data)
    yield _disk(data)
    yield from _certificates(data / "pki")


def _permissions(data: Path) -> Iterator[dict[str, str]]:
    """Secrets that other users can read, and anything that they can change: also folders, with replaceable files."""
    readable, writable = [], []
    for path in (data, *sorted(data.rglob("*"))):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # a server replaces files and removes expired ones
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            continue
        name = "." if path == data else str(path.relative_to(data))
        if mode & 0o022:
            writable.append(name)
        elif stat.S_ISREG(mode) and mode & 0o077 and _SECRET.search(path.name):
            readable.append(name)
    remedy = f"chmod -R go= {shlex.quote(str(data))}"
    if readable:
        yield _finding("problem", "permissions", f"other users can read {', '.join(readable)}", remedy)
    if writable:
        yield _finding("problem", "permissions", f"other users can change {', '.join(writable)}", remedy)
    if not (readable or writable):
        yield _finding("ok", "permissions", "keys and data belong to the owner alone")


def _disk(data: Path) -> dict[str, str]:
    """Whether the disk of the data folder accepts writes, and how much is free."""
    refused = files.trouble(data)
    if refused is not None:
        why = {errno.ENOSPC: "full", errno.EROFS: "read-only"}.get(refused.errno or 0, "")
        detail = f"it accepts no writes: {refused.strerror or refused}"
        detail = f"it is {why}: reads are answered, writes are refused" if why else detail
        return _finding("problem", "disk", detail, files.remedy_of(refused))
    room = shutil.disk_usage(data)
    detail = f"{room.free / 1e9:.1f} GB of {room.total / 1e9:.1f} GB are free"
    if room.free < _LITTLE_FREE_BYTES and room.free < room.total * _LITTLE_FREE:
        return _finding("warning", "disk", detail, "Free space before it is full, or shorten [retention]")
    return _finding("ok", "disk", detail)


def _check_sections(config: "Config") -> None:
    """The sections of protocols, which only ``serve`` opens; raises ConfigError."""
    from fleetcore.runtime.plugins import PluginHost

    host = PluginHost.of(config)
    for protocol in config.protocols:
        place = ("protocols", protocol.name)
        with contextlib.suppress(PluginError):  # a plugin that failed to load is a separate finding
            provider = host.find("protocols", protocol.kind, file=config.file, line=config.line_of(*place))
            config.structure(provider.config_class, protocol.table, *place)


def _certificates(pki: Path) -> Iterator[dict[str, str]]:
    from cryptography import x509

    for path in sorted(pki.glob("*.pem")):
        if path.name in ("crl.pem", "ca.pem"):
            continue
        try:
            certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
        except ValueError:
            yield _finding(
                "problem", f"certificate {path.name}", "it cannot be read", "fleetcore restore from a backup"
            )
            continue
        left_s = certificate.not_valid_after_utc.timestamp() - time.time()
        remedy = _RENEWED.get(path.name, _OF_A_CA)
        detail = f"valid until {certificate.not_valid_after_utc:%Y-%m-%d}"
        if left_s < 0:
            yield _finding("problem", f"certificate {path.name}", f"expired: {detail}", remedy)
        elif left_s < _WEEK_S:
            yield _finding("warning", f"certificate {path.name}", detail, remedy)
        else:
            yield _finding("ok", f"certificate {path.name}", detail)


def _firmware_root(held: dict[str, Any]) -> dict[str, str]:
    """The firmware trust root: without the next version in time, updates stop."""
    from fleetcore.wire.times import parse_time

    left_s = parse_time(held["expires"]) / 1000 - time.time()
    state = "problem" if left_s < 0 else "warning" if left_s < _MONTH_S else "ok"
    detail = f"version {held['number']}, {'expired' if left_s < 0 else 'valid until'} {held['expires'][:10]}"
    remedy = "" if state == "ok" else "Sign the next one: fleetcore firmware trust init --after, sign, set"
    return _finding(state, "firmware trust root", detail, remedy)


def _cas(forecast: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The CAs that should be replaced, and devices that are late to renew."""
    from fleetcore.wire.times import format_time

    now = format_time(time.time_ns() // 1_000_000)
    roots = [item for item in forecast["cas"] if item["kind"] == "root"]
    (signing,) = (item for item in forecast["cas"] if item["state"] == "signs")
    for item, remedy in ((signing, "fleetcore ca renew-issuing"), (roots[-1], "fleetcore ca rotate begin")):
        if item["due"] <= now:
            yield _finding("warning", f"CA {item['name']}", f"it should have been replaced since {item['due']}", remedy)
        else:
            yield _finding("ok", f"CA {item['name']}", f"it must be replaced by {item['due']}")
    if len(roots) > 1:
        names = " and ".join(root["name"] for root in roots)
        yield _finding("ok", "CA rotation", f"under way: {names} are trusted; see `fleetcore ca rotate status`")
    if forecast["late_count"]:
        names = ", ".join(item["device"] for item in forecast["late"])
        detail = f"{forecast['late_count']} devices are past their renewal time: {names}"
        yield _finding(
            "warning", "renewal", detail, "`fleetcore ca forecast` lists them; check whether they are offline"
        )


def _plugins(status: dict[str, Any]) -> Iterator[dict[str, str]]:
    for item in status["plugins"]:
        what = f"plugin {item['name']}"
        if item["error"]:
            yield _finding("problem", what, item["error"], item["remedy"])
        elif item["state"] == "disabled":
            yield _finding("ok", what, "[fleet] disable leaves it out")
        elif not item["warnings"]:
            yield _finding("ok", what, ", ".join(item["offers"]) or "offers nothing")
        for warning in item["warnings"]:
            yield _finding("warning", what, warning, "Correct [fleet] disable" if item["state"] == "unknown" else "")
        for offer in item["offers"]:
            kind, _, name = offer.partition(".")
            used = {admission["kind"].rpartition(":")[2] for admission in status["admissions"].values()}
            if kind == "admission" and name not in used:
                remedy = f"[admission.{name}] in fleet.toml enables it; without it devices enrol unchecked"
                yield _finding("warning", what, f"its admission {name!r} is installed and not in use", remedy)
    for name, item in status["admissions"].items():
        if item["state"] == "failing":
            detail = f"it is not open, so no device can enrol: {item['error']}"
            yield _finding("problem", f"admission {name}", detail, "Correct its plugin or its section of fleet.toml")
        else:
            yield _finding("ok", f"admission {name}", f"{item['state']}; it is called for every enrolment")
    for component, names in status["counts"].items():
        detail = ", ".join(f"{name} {count}" for name, count in names.items())
        if "_other" in names:
            yield _finding(
                "warning", f"counts of {component}", detail, "_other counts names beyond the limit, and invalid ones"
            )
        else:
            yield _finding("ok", f"counts of {component}", detail)


def _without_a_mirror(mirrors: Iterable[str]) -> str:
    """The query for devices that are connected to the hub of a mirror that is not configured."""
    names = ", ".join(f"'{name}'" for name in sorted(mirrors))
    return f"exists home and not home in ({names})" if names else "exists home"


def _homes(count: int, named: list[str]) -> Iterator[dict[str, str]]:
    """Devices connected to a hub whose mirror is gone: their commands would wait forever."""
    if count:
        more = " …" if count > len(named) else ""
        detail = f"The mirror of their hub is not configured: {', '.join(named)}{more} ({count:,} in all)"
        remedy = (
            "Restore its section of fleet.toml; for a device that is connected here: fleetcore device set ID --no-home"
        )
        yield _finding("warning", "home", detail, remedy)


def _mirrors(mirrors: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The fleet's entities at hubs; whether a mirror fails is reported by its consumer."""
    for name, item in mirrors.items():
        detail = f"{item['state']}: {item['held']:,} entities are at the hub, {item['waiting']:,} wait"
        if item["waiting"]:
            detail += f" since {item['lag_s']:,.0f} s"
        wrong = [f"{item[what]:,} {said}" for what, said in _NOT_WHOLE.items() if item[what]]
        if item["invalid"]:
            remedy = f"`fleetcore mirror dead-letters {name}` lists them with reasons"
            yield _finding("warning", f"mirror {name}", f"{detail}; {', '.join(wrong)}", remedy)
        elif item["removals_wait"]:
            detail += f"; {item['removals_wait']:,} were deleted from the fleet and stay at the hub until tomorrow"
            remedy = f"`fleetcore mirror plan {name}` lists them, `fleetcore mirror allow-removals {name}` allows more"
            yield _finding("warning", f"mirror {name}", detail, remedy)
        elif item["state"] == "paused":
            yield _finding("warning", f"mirror {name}", detail, f"`fleetcore mirror resume {name}` continues it")
        else:
            yield _finding("ok", f"mirror {name}", "; ".join([detail, *wrong]))


def _room(room: dict[str, Any], retention: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The store's size, and what retention deleted."""
    if room:
        total, limit = room["total_bytes"], room["limit_bytes"]
        taken = f"{total / 1e6:,.1f} MB" + (f" of {limit / 1e6:,.1f} MB" if limit else "")
        # Free pages are used before the file grows.
        if limit and total - room["free_bytes"] > _NEARLY * limit:
            remedy = "Let [retention] drop more, or raise limit_bytes of [storage]: at the limit readings are refused"
            yield _finding("warning", "room", f"the store uses {taken}", remedy)
        else:
            yield _finding("ok", "room", f"the store uses {taken}, {room['free_bytes'] / 1e6:,.1f} MB of it free")
    if retention["on"] or retention["readings"] or retention["texts"]:
        gone = f"{retention['readings'] + retention['texts']:,} readings were too old and were deleted"
        last = f"; the last pass was at {retention['last']}" if retention["last"] else ""
        yield _finding("ok", "retention", f"{gone}{last}" if retention["on"] else f"off; {gone}")


def _inside(status: dict[str, Any], *, disk_refuses: bool = False) -> Iterator[dict[str, str]]:
    wrong = status["storage"]
    if wrong:
        yield _finding("problem", "storage", "; ".join(wrong), "fleetcore restore from a backup")
    else:
        yield _finding("ok", "storage", "sound")
    for sentence in status.get("recounted", ()):
        yield _finding("warning", "counters", f"{sentence}: it is corrected", "Please report it, with the server's log")
    yield from _plugins(status)
    for name, item in status["consumers"].items():
        if item["state"] in ("failing", "stopped"):
            remedy = item["remedy"]
            if "storage" in status["not_ready"]:
                remedy = "It continues once the store works"
            yield _finding("problem", name, f"{item['state']} ({item['failures']} times): {item['error']}", remedy)
        elif item["lost"]:
            yield _finding(
                "warning", name, f"{item['lost']} commits were trimmed before it read them", "It is too slow"
            )
        else:
            yield _finding("ok", name, item["state"])
    yield from _mirrors(status["mirrors"])
    yield from _room(status["room"], status["retention"])
    for name, goes in status["left_behind"].items():
        detail = f"the cursor of {name}, which is not configured, holds the log back until {goes[:10]}"
        remedy = f"Restore its section, and it continues; or `fleetcore storage drop {name}`; or do nothing"
        yield _finding("warning", "cursor", detail, remedy)
    told = {*status["consumers"], *(f"protocol {name}" for name in status["protocols"])}
    for name, why in status["not_ready"].items():
        if name not in told:
            remedy = _NOT_READY.get(name, "It is retried; see the log")
            if name == "storage" and disk_refuses:
                remedy = "It continues once the disk accepts writes again: see disk"
            yield _finding("problem", name, f"not ready: {why}", remedy)
    for name, item in status["tasks"].items():
        if name in status["not_ready"]:
            continue
        yield _finding("warning", f"task {name}", f"failed {item['failures']} times: {item['error']}", "See the log")
    for name, item in status["protocols"].items():
        if item["trouble"]:
            yield _finding("problem", f"protocol {name}", item["trouble"], "It is retried; see the log")
            continue
        yield _finding("ok", f"protocol {name}", f"{', '.join(item['endpoints'])}, {item['connections']} connections")
        yield from item["findings"]
