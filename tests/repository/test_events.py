"""Every event that the code can write is declared in the registry of event types: read off the syntax trees.

The other half of this is ``declared_events`` in the root's conftest.py, which looks at what tests really store.
"""

import ast
import re
from enum import StrEnum
from pathlib import Path

import pytest

from fleetcore.model import events
from fleetcore.model.command import CommandState
from fleetcore.model.credential import EnrollmentState
from fleetcore.model.cutover import CutoverState
from fleetcore.model.device import Lifecycle
from fleetcore.model.events import CORE, DOCUMENT, SUBJECT
from fleetcore.model.firmware import CampaignState, ExecutionState
from fleetcore.model.operation import OperationState

ROOT = Path(__file__).parents[2]
#: The store takes events apart and puts them together again; its contract writes events of its own.
APART = ("fleetcore/builtin/sqlite/", "fleetcore/testing/")
SOURCES = [
    path
    for folder in ("fleetcore", "plugins", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "tests" not in path.parts and not str(path.relative_to(ROOT)).startswith(APART)
]

#: What stands in the braces of ``f"command.{state}"`` is a member of these; those that are never written are left out.
IN_BRACES: dict[str, list[str] | list[StrEnum]] = {
    "device.": [state for state in Lifecycle if state is not Lifecycle.REGISTERED],
    "command.": list(CommandState),
    "campaign.": list(CampaignState),
    "execution.": list(ExecutionState),
    "operation.": ["paused", "resumed", *(state for state in OperationState if state is not OperationState.RUNNING)],
    "cutover.": list(CutoverState),
    "enrollment.": list(EnrollmentState),
    "dead_letter.": ["replayed", "discarded"],
}
_TYPE = re.compile(r"([a-z_]+)\.[a-z_]+", re.ASCII)
_FAMILIES = {name.partition(".")[0] for name in CORE}


def emitters():
    """Each ``Event(type=…)`` with its file's tree."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if "Event(" not in text:  # each worker reads all of them before its first test
            continue
        tree = ast.parse(text)
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Event":
                kind = next((keyword.value for keyword in call.keywords if keyword.arg == "type"), None)
                yield pytest.param(tree, kind, id=f"{path.relative_to(ROOT)}:{call.lineno}")


def texts(tree):
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def written(tree, kind):
    """The types that an expression stands for."""
    if isinstance(kind, ast.Constant):
        return {kind.value}
    if isinstance(kind, ast.JoinedStr):
        head, *rest = kind.values
        assert isinstance(head, ast.Constant), "the type begins with what is not written down"
        assert len(rest) == 1, "the type is put together of more than two parts"
        assert head.value in IN_BRACES, f"say in IN_BRACES what stands in f'{head.value}{{…}}'"
        return {f"{head.value}{state}" for state in IN_BRACES[head.value]}
    if isinstance(kind, ast.IfExp):
        return written(tree, kind.body) | written(tree, kind.orelse)
    if isinstance(kind, ast.Name) and kind.id.isupper():
        return {getattr(events, kind.id)}
    # A parameter or a variable: whatever in the module has the form of a type.
    assert isinstance(kind, ast.Name), ast.dump(kind) if kind is not None else "an event without a type"
    found = {text for text in texts(tree) if (match := _TYPE.fullmatch(text)) and match[1] in _FAMILIES}
    constants = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id.isupper()}
    found |= {getattr(events, name) for name in constants if isinstance(getattr(events, name, None), str)} - {SUBJECT}
    assert found, f"{kind.id} stands for no type that is written in the module"
    # Files of the CA's folder look like types of its family.
    return {name for name in found if not name.endswith((".pem", ".key", ".pub"))}


EMITTERS = list(emitters())


@pytest.mark.parametrize(("tree", "kind"), EMITTERS)
def test_every_event_that_the_code_can_write_is_declared(tree, kind):
    assert written(tree, kind) - CORE.keys() == set()


def test_every_declared_event_is_written_somewhere():
    everywhere = set().union(*(written(*parameter.values) for parameter in EMITTERS))

    assert CORE.keys() - everywhere == set()


@pytest.mark.parametrize("kind", CORE.values(), ids=CORE)
def test_a_declaration_is_whole(kind):
    assert kind.permission is not None
    assert kind.meaning.endswith(".")
    assert kind.changes <= DOCUMENT
    assert not kind.changes or kind.device, "what changes a document says whose"
    assert kind.facet not in {"registry", "twin"} or kind.device == SUBJECT, "a copy is found by the device"
    assert kind.device in ("", SUBJECT) or not kind.data[kind.device].optional
    assert not kind.names or kind.names in kind.data


LISTED = [path for path in SOURCES if path != ROOT / "fleetcore" / "model" / "events.py"]


@pytest.mark.parametrize("path", LISTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_event_types_are_listed_nowhere_else(path):
    """No collection of types or of their first words beside the registry, and no asking how a type begins."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Set | ast.List | ast.Tuple):
            there = {item.value for item in node.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)}
            assert len(there & CORE.keys()) < 2, f"line {node.lineno} lists {sorted(there & CORE.keys())}"
            heads = {text for text in there if text.endswith(".") and text[:-1] in _FAMILIES}
            assert not heads, f"line {node.lineno} lists {sorted(heads)}"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("startswith", "partition", "removeprefix")
            and isinstance(node.func.value, ast.Attribute)
            and node.func.value.attr == "type"
        ):
            assert not any(isinstance(argument, ast.Constant) for argument in node.args), f"line {node.lineno}"
        if isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
            assert not keys & CORE.keys(), f"line {node.lineno} maps {sorted(keys & CORE.keys())}"
