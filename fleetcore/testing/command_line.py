"""Writes a call as a command line, for tests that compare all front ends."""

import json
from collections.abc import Callable, Mapping
from typing import Any

#: Parameters that a command takes in a different form.
OTHERWISE: Mapping[str, Callable[[Any], list[str]]] = {
    "ttl_s": lambda seconds: ["--hours", str(seconds / 3600)],
    "serials": lambda file: ["--serials", file],
    "checkpoints": lambda file: ["--checkpoint", file],
    "passphrase": lambda _: ["--passphrase", "env:STORY_PASSPHRASE"],
}


def command_of(call: Any, given: Mapping[str, Any]) -> str:
    """The command of a call for given parameters; empty if no command fits."""
    defaults = {parameter.name: parameter.default for parameter in call.parameters}
    for text, fixed in {call.command: {}, **call.also}.items():
        if text and all(given.get(name, defaults[name]) == value for name, value in fixed.items()):
            return str(text)
    return ""


def words(call: Any, command: str, given: Mapping[str, Any]) -> list[str]:
    """The command line of a call, using one of its commands."""
    given = {name: value for name, value in given.items() if name not in call.also.get(command, {})}
    found: list[str] = []
    for word in command.split():
        value = given.get(word.lower()) if word.isupper() else word
        if word == "NAME=VALUE" or (word.isupper() and word.lower() not in given):
            continue
        found += [_word(item) for item in (value if isinstance(value, list) else [value])]
    arguments = {word.lower() for word in command.split() if word.isupper()}
    for parameter in call.parameters:
        if parameter.name in given and parameter.name not in arguments:
            if parameter.name in OTHERWISE:
                found += OTHERWISE[parameter.name](given[parameter.name])
                continue
            word = f"--{(parameter.word or parameter.name).replace('_', '-')}"
            for text in _texts(parameter, given[parameter.name]):
                found += [word] if parameter.kind == "boolean" else [word, text]
    return found


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _texts(parameter: Any, value: object) -> list[str]:
    if parameter.word and isinstance(value, dict):
        return [f"{name}={json.dumps(member)}" for name, member in value.items()]
    if isinstance(value, dict):
        return [json.dumps(value)]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
