"""Generates docs/reference/configuration.md and its folder: every key of fleet.toml, as tables.

Type, default and range come from the fields and validators of the config classes, units from the ends of the names, the
meaning from the docstrings, and the examples from this file.
"""

import enum
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from regions import filled_in

from fleetcore.interfaces.provider import Kind, Limits, Provider
from fleetcore.listening.limits import ListenerLimits
from fleetcore.runtime.config import CaSection, Days, FirmwareSection, FleetSection, RetentionSection
from fleetcore.runtime.mirroring import MirrorSection
from fleetcore.runtime.plugins import PluginHost

#: The end of a name → its unit; the first match counts.
_UNITS = {
    "_per_s": "1/s", "_per_minute": "1/min", "_per_day": "1/day", "_every_s": "s", "_bytes": "bytes", "_ms": "ms",
    "_days": "days", "_hours": "hours", "_s": "s", "_points": "readings",
}  # fmt: skip
_WORDS: dict[object, str] = {
    str: "text", int: "integer", float: "number", bool: "true or false", Days: 'number or `"forever"`',
}  # fmt: skip
#: One example per section; a test loads each as a fleet.toml.
_EXAMPLES = {
    "[fleet]": 'name = "lab"\nhosts = ["fleet.example", "192.0.2.7"]\nplugins = ["./one_file_detector.py"]',
    "[ca]": 'passphrase = "env:FLEET_CA_PASSPHRASE"\ndevice_days = 30',
    "[retention]": 'default_days = 400\nmetric_days = {vibration = 7, "debug/*" = 0.5}',
    "[firmware]": "assignment_hours = 24",
    "[limits]": "rate_per_s = 20.0\nburst = 200\nmessage_bytes = 65536",
    "[listeners]": "per_address = 2000\nhead_s = 5.0",
    "[storage]": "limit_bytes = 20_000_000_000",
    "[clouds.NAME]": (
        'kind = "aws"\nmirror = ["registry", "twins"]\nmetrics = ["temperature"]\n'
        'direction = {desired = "both"}'
    ),
    "[protocols.coap]": 'listen = "coaps://0.0.0.0:5684"\npsk = true',
    "[protocols.http]": 'listen = "https://0.0.0.0:8443"\ntrusted_proxies = ["10.0.0.5"]',
    "[protocols.local]": "",
    "[protocols.mqtt]": 'listen = "mqtts://0.0.0.0:8883"',
    "[protocols.websocket]": (
        'listen = "wss://0.0.0.0:8445"\norigins = ["https://app.example"]\n'
        'client_certificates = false'
    ),
    "[detectors.silence]": 'metrics = ["temperature"]\nafter_s = 900',
    "[detectors.statistical]": "where = \"type = 'thermometer'\"\nlimit = 6.0",
    "[detectors.threshold]": 'metrics = ["temperature"]\nabove = 8.0\nfor_points = 3',
    "[notifiers.log]": "",
    "[clouds.aws]": 'region = "eu-central-1"\nmetrics = ["temperature"]',
    "[clouds.azure]": 'connection_string = "env:HUB_CONNECTION"\ntier = "S1"\nunits = 2',
    "[clouds.gcp]": 'project = "my-project"\nregion = "europe-west1"\nmetrics = ["*"]',
    "[services.api]": 'listen = "https://0.0.0.0:8444"\nrequests_per_minute = 600',
    "[services.uplink]": 'url = "wss://fleet.example:8445"\ngateway = "gw-1"\nmodel = "G-1"',
}  # fmt: skip

#: The kinds of sections on each page beside the core's.
_KINDS: dict[str, tuple[Kind, ...]] = {
    "protocols": ("protocols", "services"),
    "detectors": ("detectors", "notifiers"),
    "clouds": ("clouds",),
}


def pages(folder: Path) -> dict[str, str]:
    """The pages by their names below ``folder``, with the sections generated from the code."""
    host = PluginHost()

    def offered(kind: Kind) -> list[str]:
        header = "[storage]" if kind == "storage" else f"[{kind}.{{}}]"
        return [_section(header.format(name), one.config_class, one) for name, one in sorted(host.offers(kind).items())]

    core = {
        "[fleet]": FleetSection, "[ca]": CaSection, "[retention]": RetentionSection, "[firmware]": FirmwareSection,
        "[limits]": Limits, "[listeners]": ListenerLimits,
    }  # fmt: skip
    found = {"configuration.md": [*(_section(header, cls) for header, cls in core.items()), *offered("storage")]}
    for name, kinds in _KINDS.items():
        found[f"configuration/{name}.md"] = [section for kind in kinds for section in offered(kind)]
    found["configuration/clouds.md"].insert(0, _section("[clouds.NAME]", MirrorSection))
    return {
        name: filled_in((folder / name).read_text(encoding="utf-8"), "sections", "\n".join(parts))
        for name, parts in found.items()
    }


def _section(header: str, cls: type, provider: Provider[Any] | None = None) -> str:
    about, meanings = _taken_apart(inspect.cleandoc(cls.__doc__ or ""))
    lines = [f"## {header}", ""]
    if provider is not None and provider.summary:
        lines += [f"{provider.summary[0].upper()}{provider.summary[1:]}.", ""]
    if about and attrs.fields(cls):
        lines += [about, ""]
    if not attrs.fields(cls):
        lines += ["The section has no keys.", ""]
    else:
        lines += ["| key | type | unit | default | range | meaning |", "|---|---|---|---|---|---|"]
        hints = typing.get_type_hints(cls)
        for field in attrs.fields(cls):
            cells = (
                f"`{field.name}`",
                _word(hints[field.name]),
                next((unit for end, unit in _UNITS.items() if field.name.endswith(end)), ""),
                "required" if field.default is attrs.NOTHING else _plain(field.default),
                "; ".join(dict.fromkeys((*_range(field.validator), *_choices(hints[field.name])))) or "-",
                meanings[field.name],
            )
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    example = _EXAMPLES[header]
    lines += ["```toml", header.replace("NAME", "hub"), *example.splitlines(), "```", ""]
    return "\n".join(lines)


def _taken_apart(text: str) -> tuple[str, dict[str, str]]:
    """The docstring of a class, and of each of its attributes."""
    before, _, after = text.partition("Attributes:\n")
    meanings = {}
    for entry in re.split(r"\n(?=    [a-z])", "\n" + after)[1:]:
        names, _, meaning = " ".join(entry.split()).partition(": ")
        for name in names.split(", "):
            meanings[name] = (meaning[:1].upper() + meaning[1:]).replace("``", "`")
    # The first words only repeat the section's name.
    about = re.sub(r"^``[^`]*``(?: with ``[^`]*``)?[.:] ?", "", before.strip())
    return (about[:1].upper() + about[1:]).replace("``", "`"), meanings


def _word(kind: object) -> str:
    origin, inner = typing.get_origin(kind), [arg for arg in typing.get_args(kind) if arg is not type(None)]
    if origin in (typing.Union, types.UnionType):
        return _word(inner[0])
    if origin in (tuple, list):
        return f"list of {_word(inner[0])}"
    if origin in (dict, Mapping) or (origin is not None and inspect.isclass(origin) and issubclass(origin, Mapping)):
        return f"table of {_word(inner[1])}"
    if origin is typing.Literal or (inspect.isclass(kind) and issubclass(kind, enum.Enum)):
        return "text"
    return _WORDS.get(kind, "table")


def _choices(kind: object) -> Iterator[str]:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        yield " ".join(f"`{value}`" for value in inner)
    elif inspect.isclass(kind) and issubclass(kind, enum.Enum):
        yield " ".join(f"`{member.value}`" for member in kind)
    else:
        for arg in inner:
            yield from _choices(arg)


def _range(validator: Any) -> Iterator[str]:
    """The range that attrs validators allow."""
    if hasattr(validator, "bound"):
        sign = {">=": "≥", "<=": "≤", ">": ">", "<": "<"}[validator.compare_op]
        bound = validator.bound
        yield f"{sign} {bound:.2g}" if 0 < bound < 0.01 else f"{sign} {bound:,}".removesuffix(".0")
    elif hasattr(validator, "options"):
        yield " ".join(f"`{value}`" for value in validator.options)
    elif hasattr(validator, "pattern"):
        yield f"`{validator.pattern.pattern}`"
    for inner in (*_several(validator), *(getattr(validator, name, None) for name in ("validator", "value_validator"))):
        if inner is not None:
            yield from _range(inner)


def _several(validator: Any) -> tuple[Any, ...]:
    return tuple(getattr(validator, "_validators", ()))


def _plain(default: object) -> str:
    factory = getattr(default, "factory", None)
    value = factory() if factory is not None else default
    if value is None or value in ("", (), [], {}) or attrs.has(type(value)):
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | list):
        return " ".join(f"`{each}`" for each in value)
    if isinstance(value, int | float) and not isinstance(value, Days):
        return f"`{value:,}`".replace(".0`", "`").replace(",", "_")
    return f"`{value!r}`" if isinstance(value, Days) else f"`{value}`"
