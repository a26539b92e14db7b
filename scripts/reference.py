"""Generates the reference pages from the code: error codes, command line, configuration, events, wire.

``python scripts/reference.py`` writes them; a test compares them with the code.
"""

from collections.abc import Mapping
from pathlib import Path

import campaigns_reference
import cli_reference
import configuration_reference
import metrics_reference
import protocol_matrix
import wire_reference

from fleetcore.errors import CODES
from fleetcore.model.events import CORE, SUBJECT, EventType
from fleetcore.model.operator import Permission

PAGES = Path(__file__).resolve().parent.parent / "docs" / "reference"


def errors() -> str:
    """The registry of codes."""
    lines = [
        "# Error codes",
        "",
        "You look up here what a refusal means. Its `code` is stable: your tools can match on it. `detail` says what",
        "happened, and `remedy` what to do. A device was changed meanwhile, over the operators' API and on the",
        "command line:",
        "",
        "```console",
        '$ curl -sS --cacert ca.pem -H "Authorization: Bearer $TOKEN" -X PATCH -H \'If-Match: "1"\' \\',
        '    --json \'{"name": "Main pump"}\' $API/devices/pump-1 | python3 -m json.tool',
        "{",
        '    "type": "urn:fleetcore:error:version_conflict",',
        '    "title": "It was changed meanwhile",',
        '    "status": 412,',
        '    "code": "version_conflict",',
        '    "detail": "Device \'pump-1\' is at version 2, not 1",',
        '    "remedy": "Read it again and repeat the change",',
        '    "ids": {',
        '        "version": 2',
        "    }",
        "}",
        '$ fleetcore device set pump-1 --name "Main pump" --if-version 1',
        "fleetcore: Device 'pump-1' is at version 2, not 1. Read it again and repeat the change. [version_conflict]",
        "```",
        "",
        "Over HTTP a refusal is problem+json (RFC 9457). *Retry* means that the same message may succeed later; on",
        "MQTT such a message is not acknowledged. [Answers and refusals](wire/answers.md) has what devices get.",
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


def events() -> str:
    """Every event type of the core."""
    lines = [
        "# Event types",
        "",
        "You follow what happens in a fleet by its events: with `fleetcore event watch`, `GET /api/v1/events`, or",
        "`watch()` of the library and the clients. The audit log has those that are audited. An event has `type`,",
        "`subject`, `time`, `actor`, `reason`, `data` and `position`:",
        "",
        "```console",
        "$ fleetcore event watch --after 0 --type twin.desired --limit 1 -o jsonl",
        (
            '{"type": "twin.desired", "subject": "pump-1", "time": "2026-11-29T15:15:36.381Z", "actor": "library:ana", '
            '"reason": "it starts slowly", "data": {"version": 1, "patch": {"interval": 60}}, "position": 18}'
        ),
        "```",
        "",
        "*Permission* is what a token needs in order to see the event: on the device that it is about, or else for the",
        "whole fleet. An event about a group is also shown to a token whose scope is that group. A stored event whose",
        "type is not here, an older release's or a removed plugin's, is audited, and shown to administrators only.",
        "",
        "Plugins write types of their own, `x.NAME.WHAT` by the plugin's name, and declare them with the hook",
        "[`fleetcore_events`](hooks.md). `fleetcore.model.events` is this page's source.",
        "",
        "The types of [campaigns](campaign-events.md) and [security](security-events.md) have pages of their own.",
        "",
    ]
    return "\n".join([*lines, *_families("events.md")])


def _campaign_events() -> str:
    begin = (
        "# Event types of campaigns",
        "",
        "You follow firmware by these events, from a signed release to the last device of a campaign.",
        "[Event types](events.md) says what an event has:",
        "",
        "```console",
        "$ fleetcore event watch --after 0 --type campaign. --limit 1",
        "2026-11-30T11:01:03.301Z  campaign.running  pumps-2.1  library:ana",
        "```",
        "",
    )
    return "\n".join([*begin, *_families("campaign-events.md")])


def _security_events() -> str:
    begin = (
        "# Event types of security",
        "",
        "You follow credentials, enrolments and operators' rights by these events.",
        "[Event types](events.md) says what an event has:",
        "",
        "```console",
        "$ fleetcore event watch --after 0 --type enrollment_token --limit 1",
        "2026-11-30T10:50:41.180Z  enrollment_token.created  pump-1  cli:ana",
        "```",
        "",
    )
    return "\n".join([*begin, *_families("security-events.md")])


#: Permissions whose events have a page of their own.
_PAGE_OF = {
    Permission.CAMPAIGNS_READ: "campaign-events.md",
    Permission.SECURITY_READ: "security-events.md",
    Permission.AUDIT_READ: "security-events.md",
}


def _families(page: str) -> list[str]:
    """The event types of a page, by the first part of their names."""
    families: dict[str, list[EventType]] = {}
    for event_type in CORE.values():
        at = "events.md" if event_type.permission is None else _PAGE_OF.get(event_type.permission, "events.md")
        if at == page:
            families.setdefault(event_type.name.partition(".")[0], []).append(event_type)
    lines: list[str] = []
    for family, types in families.items():
        lines += [f"## {family}", "", "| type | meaning | subject | about | permission | audited | data |"]
        lines.append("|---|---|---|---|---|---|---|")
        lines += [_event(event_type) for event_type in types]
        lines.append("")
    return lines


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
        "; ".join([*data, *(["more, depending on the reason"] if event_type.extra else [])]),
    )
    return f"| {' | '.join(cells)} |"


def pages() -> dict[str, str]:
    """Every generated page, by its name below docs/reference."""
    return {
        "protocols.md": protocol_matrix.page(),
        "errors.md": errors(),
        "events.md": events(),
        "campaign-events.md": _campaign_events(),
        "security-events.md": _security_events(),
        "metrics.md": metrics_reference.page(),
        "campaigns.md": campaigns_reference.page(),
        **cli_reference.pages(PAGES),
        **configuration_reference.pages(PAGES),
        **wire_reference.pages(PAGES),
    }


def stale(made: Mapping[str, str]) -> list[str]:
    """The pages that differ from the code, including obsolete ones."""
    there = {
        page.relative_to(PAGES).as_posix()
        for name in made
        if "/" in name
        for page in (PAGES / name).parent.glob("*.md")
        if (PAGES / name).parent.name == "cli"
    }
    changed = [
        name
        for name, text in made.items()
        if not (PAGES / name).is_file() or (PAGES / name).read_text(encoding="utf-8").strip() != text.strip()
    ]
    return sorted([*changed, *(there - made.keys())])


if __name__ == "__main__":
    for name in stale(written := pages()):
        if name in written:
            (PAGES / name).parent.mkdir(exist_ok=True)
            (PAGES / name).write_text(written[name].rstrip() + "\n", encoding="utf-8")
        else:
            (PAGES / name).unlink()
        print(PAGES / name)
