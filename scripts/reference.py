"""Writes the reference pages that follow from the code: error codes, command line, configuration, events.

``python scripts/reference.py`` writes them; a test compares them with what the code would give today.
"""

import inspect
from pathlib import Path

import attrs
import click
import protocol_matrix
import wire_reference

from fleetcore.cli.root import root
from fleetcore.errors import CODES
from fleetcore.interfaces.provider import Limits, Provider
from fleetcore.listening.limits import ListenerLimits
from fleetcore.model.events import CORE, SUBJECT, EventType
from fleetcore.runtime.config import CaSection, FirmwareSection, FleetSection, RetentionSection
from fleetcore.runtime.mirroring import MirrorSection
from fleetcore.runtime.plugins import PluginHost

PAGES = Path(__file__).resolve().parent.parent / "docs" / "reference"


def errors() -> str:
    """The registry of codes."""
    lines = [
        "# Error codes",
        "",
        "Codes are contract: other people's tools are written against them. `type` on the wire is",
        "`urn:fleetcore:error:<code>`. *Retry* means that the same message may succeed later; on MQTT such a message",
        "is not acknowledged.",
        "",
        "| code | HTTP | CoAP | MQTT 5 | retry | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for name, code in CODES.items():
        mqtt = "no PUBACK" if code.mqtt is None else f"0x{code.mqtt:02X}"
        coap = f"{code.coap // 100}.{code.coap % 100:02d}"
        lines.append(
            f"| `{name}` | {code.http} | {coap} | {mqtt} | {'yes' if code.temporary else 'no'} | {code.title} |"
        )
    return "\n".join(lines) + "\n"


def cli() -> str:
    """Every command with its options."""
    lines = [
        "# Command line",
        "",
        "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not found, 4 conflict, 5 refused, 6 unreachable,",
        "7 partly done. Commands work on the data folder (`--data`), through the server's socket where one holds it.",
        "",
    ]
    context = click.Context(root, info_name="fleetcore")
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        lines += _command(f"fleetcore {name}", command)
    return "\n".join(lines)


def _command(path: str, command: click.Command) -> list[str]:
    lines = [f"## {path}", "", inspect.cleandoc(command.help or ""), ""]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names = ", ".join(f"`{opt}`" for opt in parameter.opts)
            default = (
                ""
                if parameter.default in (None, False, (), "") or "Sentinel" in repr(parameter.default)
                else f" Default: `{parameter.default}`."
            )
            lines.append(f"- {names}: {parameter.help or parameter.type.name}{default}")
        else:
            lines.append(f"- `{parameter.metavar or (parameter.name or '').upper()}`")
    if command.params:
        lines.append("")
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            lines += _command(f"{path} {name}", command.commands[name])
    return lines


def configuration() -> str:
    """Every key of fleet.toml, of the core and of the plugins installed."""
    lines = [
        "# Configuration",
        "",
        "`fleet.toml` in the data folder. An unknown key is refused with file, line and the nearest known one. The",
        "environment overrides single keys: `FLEETCORE_FLEET__NAME=lab` sets `[fleet] name`. A secret is a reference,",
        "`env:NAME` or `file:PATH`, never a value. Several instances of a kind: `[detectors.hot-store]` with",
        '`kind = "threshold"`; without `kind` the name is the kind. `[detectors.NAME]` also takes `metrics`, the',
        "metric names it sees (all by default), and `where`, a [query](query.md) that selects the devices whose",
        "readings it sees; `[clouds.NAME]` takes the keys of the section of that name beside those of its plugin.",
        "`[admission.NAME]` requires a check of enrolments: see [let devices in](../how-to/let-devices-in.md).",
        'Where two plugins offer one kind, `kind = "plugin:name"` says which is meant.',
        "",
    ]
    lines += _section("[fleet]", FleetSection) + _section("[ca]", CaSection)
    lines += (
        _section("[retention]", RetentionSection)
        + _section("[firmware]", FirmwareSection)
        + _section("[limits]", Limits)
    )
    lines += _section("[listeners]", ListenerLimits)
    lines += _section("[clouds.NAME]", MirrorSection)
    host = PluginHost()
    for kind in ("storage", "protocols", "detectors", "notifiers", "clouds", "services", "admission"):
        for name, provider in sorted(host.offers(kind).items()):
            header = "[storage]" if kind == "storage" else f"[{kind}.{name}]"
            lines += _section(header, provider.config_class, provider)
    return "\n".join(lines)


def _section(header: str, cls: type, provider: Provider[object] | None = None) -> list[str]:
    lines = [f"## {header}", "", inspect.cleandoc(cls.__doc__ or ""), ""]
    if provider is not None and provider.summary:
        lines[2:2] = [provider.summary[0].upper() + provider.summary[1:] + ".", ""]
    fields = attrs.fields(cls)
    if not fields:
        return [*lines, "No keys.", ""]
    lines += ["| key | default |", "|---|---|"]
    for field in fields:
        default = "required" if field.default is attrs.NOTHING else f"`{_plain(field.default)}`"
        lines.append(f"| `{field.name}` | {default} |")
    return [*lines, ""]


def _plain(default: object) -> object:
    if isinstance(default, tuple):
        return list(default)
    made = getattr(default, "factory", None)
    return default if made is None else made() if made in (list, dict) else ""


def events() -> str:
    """Every event type of the core."""
    lines = [
        "# Event types",
        "",
        "A fleet records what happens as events. `GET /api/v1/events` follows them, and so does `watch()` of the",
        "library and the clients; the audit log has those that are audited. An event has `type`, `subject`, `time`,",
        "`actor`, `reason`, `data` and `position`:",
        "",
        "```json",
        '{"type": "command.sent", "subject": "b9a8720251034faab82a19cd89abc7da", "time": "2026-05-28T20:26:40.000Z",',
        ' "actor": "system", "reason": "", "data": {"device": "th-1", "attempt": 1}, "position": 4711}',
        "```",
        "",
        "*Permission* is what a token needs in order to see the event: on the device that it is about, or else for the",
        "whole fleet. An event about a group is also shown to a token whose scope is that group. A stored event whose",
        "type is not here, an older release's or a removed plugin's, is audited, and shown to administrators only.",
        "",
        "Plugins write types of their own, `x.NAME.WHAT` by the plugin's name, and declare them with the hook",
        "[`fleetcore_events`](hooks.md). `fleetcore.model.events` is this page's source.",
        "",
    ]
    families: dict[str, list[EventType]] = {}
    for event_type in CORE.values():
        families.setdefault(event_type.name.partition(".")[0], []).append(event_type)
    for family, types in families.items():
        lines += [f"## {family}", "", "| type | meaning | subject | about | permission | audited | data |"]
        lines.append("|---|---|---|---|---|---|---|")
        lines += [_event(event_type) for event_type in types]
        lines.append("")
    return "\n".join(lines)


def _event(event_type: EventType) -> str:
    about = {"": "the fleet", SUBJECT: "the device"}.get(event_type.device, f"the device in `{event_type.device}`")
    data = [f"`{name}` {member}" for name, member in event_type.data.items()]
    cells = (
        f"`{event_type.name}`",
        event_type.meaning,
        event_type.subject.value,
        about,
        f"`{event_type.permission.value}`" if event_type.permission else "all",
        "yes" if event_type.audited else "no",
        "; ".join([*data, *(["more by the reason"] if event_type.extra else [])]),
    )
    return f"| {' | '.join(cells)} |"


def wire() -> str:
    """What every device may say and be told: prose with the table of message types in it."""
    return wire_reference.filled_in((PAGES / "wire.md").read_text())


GENERATED = {
    "protocols.md": protocol_matrix.page,
    "errors.md": errors,
    "cli.md": cli,
    "configuration.md": configuration,
    "events.md": events,
    "wire.md": wire,
}

if __name__ == "__main__":
    for name, make in GENERATED.items():
        (PAGES / name).write_text(make())
        print(PAGES / name)
