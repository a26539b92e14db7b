"""The contract of a function in a firmware manifest, the member ``function``: decoded strictly, with bounds."""

import re
from collections.abc import Mapping
from typing import cast

from fleetcore.errors import FleetError, Refused
from fleetcore.model.edge import Function, Resources, function_of
from fleetcore.model.names import METRIC_ALPHABET
from fleetcore.query.parse import parse
from fleetcore.wire.members import Members
from fleetcore.wire.strict_json import dumps

#: The interface versions that a manifest may name.
MAX_ABI = 1000
#: The configuration of a function as JSON; with the manifest's envelope it is a part of desired state.
CONFIG_BYTES = 4096
OUTPUTS = ("readings", "alerts", "commands")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_PATTERN = re.compile(rf"[{METRIC_ALPHABET}*?]{{1,64}}", re.ASCII)
_SECRET = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_MAX_PATTERNS, _MAX_SECRETS, _MAX_WHERE = 50, 16, 1024
_DAY_MS = 86_400_000
#: Resource → its least and its largest amount. A module has 4 GiB of memory at most: 32-bit addresses.
BOUNDS: Mapping[str, tuple[int, int]] = {
    "memory_mib": (1, 4096),
    "time_ms": (1, 60_000),
    "fuel": (1000, 10**13),
    "stack_kib": (16, 65_536),
    "cpu_percent": (1, 6400),
}


def check_function_name(text: str) -> str:
    """Returns ``text``; raises Refused (``name_invalid``) where it is not the name of a function."""
    if _NAME.fullmatch(text) is None:
        raise Refused(
            f"{text!r} is not a function's name",
            code="name_invalid",
            remedy="Use 1-32 characters of a-z 0-9 - that start with a letter",
        )
    return text


def read_function(members: Members, component: str) -> Function:
    """The contract of the function that a component is; raises Refused with the ``pointer`` of an invalid member."""
    try:
        check_function_name(function_of(component))
        return _read(members)
    except Refused as error:
        remedy = error.remedy or "Correct the contract, and sign the function again: fleetcore firmware sign --function"
        raise Refused(error.message, code=error.code, remedy=remedy, **error.ids) from error


def _read(members: Members) -> Function:
    abi = members.integer("abi", 1, MAX_ABI)
    inputs = members.inner("inputs")
    metrics = inputs.texts("metrics", _MAX_PATTERNS)
    if not all(_PATTERN.fullmatch(pattern) for pattern in metrics) or len(set(metrics)) != len(metrics):
        raise inputs.wrong("metrics", "a list of different metric names, in which * and ? stand for any characters")
    where = _where(inputs) if inputs.has("where") else ""
    inputs.end()
    every_ms, every_readings = _every(members.inner("every")) if members.has("every") else (1000, 1000)
    may = members.texts("may", len(OUTPUTS)) if members.has("may") else ("readings",)
    if not set(may) <= set(OUTPUTS) or len(set(may)) != len(may):
        raise members.wrong("may", f"a list of {', '.join(OUTPUTS)}")
    resources = _resources(members.inner("resources")) if members.has("resources") else Resources()
    config = _config(members) if members.has("config") else {}
    secrets = members.texts("secrets", _MAX_SECRETS, least=0) if members.has("secrets") else ()
    if not all(_SECRET.fullmatch(name) for name in secrets) or len(set(secrets)) != len(secrets):
        raise members.wrong("secrets", "a list of different names, 1-32 characters of a-z 0-9 _")
    replaces_raw = members.take("replaces_raw") if members.has("replaces_raw") else False
    if not isinstance(replaces_raw, bool):
        raise members.wrong("replaces_raw", "true or false")
    members.end()
    return Function(
        abi=abi, metrics=metrics, where=where, every_ms=every_ms, every_readings=every_readings, may=may,
        resources=resources, config=config, secrets=secrets, replaces_raw=replaces_raw,
    )  # fmt: skip


def _where(inputs: Members) -> str:
    text = inputs.take("where")
    if not isinstance(text, str) or len(text) > _MAX_WHERE:
        raise inputs.wrong("where", f"a query of up to {_MAX_WHERE} characters, or empty")
    if text:
        try:
            parse(text)
        except FleetError as error:
            raise inputs.wrong("where", f"a query ({error.message})") from error
    return text


def _every(members: Members) -> tuple[int, int]:
    found = members.integer("ms", 10, _DAY_MS), members.integer("readings", 1, 100_000)
    members.end()
    return found


def _resources(members: Members) -> Resources:
    found = {name: members.integer(name, *bounds) for name, bounds in BOUNDS.items() if members.has(name)}
    members.end()
    return Resources(**found)


def _config(members: Members) -> Mapping[str, object]:
    found = members.take("config")
    if not isinstance(found, Mapping) or len(dumps(found)) > CONFIG_BYTES:
        raise members.wrong("config", f"an object of up to {CONFIG_BYTES} bytes as JSON")
    return cast("Mapping[str, object]", found)


def write_function(function: Function) -> dict[str, object]:
    """The member of the manifest."""
    resources = function.resources
    return {
        "abi": function.abi,
        "inputs": {"metrics": list(function.metrics), "where": function.where},
        "every": {"ms": function.every_ms, "readings": function.every_readings},
        "may": list(function.may),
        "resources": {name: getattr(resources, name) for name in BOUNDS},
        "config": dict(function.config),
        "secrets": list(function.secrets),
        "replaces_raw": function.replaces_raw,
    }
