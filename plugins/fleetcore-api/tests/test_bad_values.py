"""Bad values for each parameter of each call, made from its type: one refusal, equal on every front end."""

import asyncio
import itertools
import json
from zlib import crc32

import httpx
import pytest
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api
from msgspec import inspect as types

from fleetcore import IoTFleetManager
from fleetcore.calls.decode import Invalid
from fleetcore.calls.fleet_table import core
from fleetcore.cli.root import run as run_command
from fleetcore.client import AsyncFleetClient
from fleetcore.errors import FleetError, Refused
from fleetcore.frontends import catalogue
from fleetcore.frontends.control import serve_control
from fleetcore.frontends.control_client import ControlClient
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.command_line import OTHERWISE, command_of, words
from fleetcore.testing.patience import PATIENCE_S

#: What some parameter takes; the first that fits is its good value.
GOOD = [
    "a", 1, 1.0, True, {}, [], "2026-01-01T00:00:00Z", ["a"], [{"id": "a"}], ["1"], 60, "0" * 64, "sha256:" + "0" * 64,
    "thermo:1", "1.0.0", {"a": 1}, {"lat": 1.0, "lon": 1.0}, "viewer", "active", "https://updates.example.com/a", "begin",
    "detector/a",
]  # fmt: skip
#: What most parameters do not take; those that one does not take are its bad values.
BAD = [
    "!bad", "x" * 5000, -1, 2**60, -1.5, 1e300, float("nan"), True, {"a": 1}, ["!bad"], [1], "yesterday", 0, 0.0, 10**6,
    ["x" * 5000], ["a"] * 10_001, [], "",
]  # fmt: skip
#: Values that the front ends take in ways of their own: a file, a word of several parts, an interactive command.
IN_FILES = {"pem", "proof", "serials", "checkpoints", "content", "envelope", "manifest", "rows", "patch", "args"}


def is_taken(reader, value):
    """Whether a value is acceptable."""
    try:
        reader.value(value)
    except Invalid:
        return False
    return True


def good(reader):
    """A value that is acceptable."""
    kinds = types.type_info(reader.kind)
    literal = next(iter(getattr(kinds, "values", ())), None)
    return next(value for value in [*GOOD, literal] if is_taken(reader, value))


def bad(parameter):
    """Some values that are not, each of another kind."""
    found = {}
    for value in BAD:
        if value == "" and parameter.place == "path":
            continue
        try:
            parameter.reader.value(value)
        except Invalid as invalid:
            found.setdefault(invalid.fault.reason, value)
    return list(found.values())


CALLS = [call for call in core() if call.path]
PARAMETERS = [
    (call, name, bad(parameter))
    for call in CALLS
    for name, parameter in call.parameters.items()
    if parameter.place in ("path", "query", "body", "whole") and bad(parameter)
]
#: One bad value for each parameter, of another kind for each; a new call changes none of the others.
CASES = [(call, name, values[crc32(f"{call.name} {name}".encode()) % len(values)]) for call, name, values in PARAMETERS]


def given(call, name, value):
    """What is given: good values for what is required, and the bad one."""
    values = {one: good(call.readers[one]) for one in call.required if one != name and one != call.stream}
    return {**values, name: value}


@pytest.fixture
async def front_ends(tmp_path):
    """A fleet behind its library, its socket, its API, and the command line over the socket."""
    async with IoTFleetManager(tmp_path / "data", clock=MovableClock()) as manager:
        fleet = await manager.open()
        await fleet.operators.grant("root", "admin")
        token = (await fleet.operators.create_token("root")).token
        api = open_api(ApiConfig(listen="http://127.0.0.1:0", requests_per_minute=10**6), fleet._context("api"), fleet)
        async with (
            api as server,
            serve_control(manager, tmp_path / "data"),
            AsyncFleetClient(server.url, token) as client,
        ):
            yield manager, ControlClient(tmp_path / "data"), client, tmp_path / "data"


#: Parameters that a command gives a value of its own, or takes in words.
_OWN = {("run_distributed", "wait_s"), ("run_distributed", "wait_for"), ("get_distributed", "wait_s")}
#: A command that asks for a folder for what it makes, before it calls.
_INTO_A_FOLDER = "enrollment claim create"


async def refusal(asking):
    """What a front end says."""
    try:
        answer = await asking
    except FleetError as error:
        return error.code, error.ids.get("pointer"), error.message, error.remedy
    except Exception as error:
        return repr(error)
    return answer


async def test_a_bad_value_is_refused_alike_by_library_socket_and_client(front_ends):
    manager, socket, client, _ = front_ends
    wrong = []
    for call, name, value in CASES:
        asked = given(call, name, value)
        streamed = {call.stream: b"x"} if call.stream else {}
        ours = await refusal(manager.call(call.name, **asked, **streamed))
        others = [client.call(call.name, **asked, **streamed)]
        if value == value:  # JSON has no NaN
            others.append(socket.run(call.name, {**asked, **streamed}))
        for other in others:
            theirs = await refusal(other)
            if theirs != ours or not isinstance(ours, tuple) or not ours[1]:
                wrong.append(f"{call.name} {name}={value!r:.30}: {ours} is not {theirs}")

    assert len(CASES) > 300
    assert not wrong, f"{len(wrong)} of {len(CASES)}:\n" + "\n".join(wrong[:40])


@pytest.mark.parametrize(
    ("call", "given", "pointer"),
    [
        ("collect_telemetry", {"device_id": "pump-1", "metric": "heat", "value": float("nan")}, "/value"),
        ("create_device", {"id": "pump-1", "attributes": {"a": [1.0, float("inf")]}}, "/attributes/a/1"),
    ],
)
async def test_a_number_that_json_has_no_form_for_is_refused_alike(front_ends, call, given, pointer):
    manager, _, client, _ = front_ends

    theirs = await refusal(client.call(call, **given))

    assert theirs == await refusal(manager.call(call, **given))
    assert theirs[:2] == ("number_not_finite", pointer)


async def test_the_command_line_refuses_alike(front_ends, capfd):
    manager, *_, data = front_ends
    wrong, tried = [], 0
    for call, cases in itertools.groupby(CASES, key=lambda case: case[0]):
        info = catalogue.core()[call.name]
        if not info.command or call.is_stream or call.stream or any(one in IN_FILES for one in call.required):
            continue
        for _, name, value in cases:
            if name in IN_FILES or name in OTHERWISE or isinstance(value, dict | list | bool) or value in ("", None):
                continue
            if name in ("limit", "cursor") or (call.name, name) in _OWN:  # the command's own
                continue
            if call.readers[name].text_kind in ("json", "boolean"):  # flags, and JSON, of which the place is told
                continue
            command = command_of(info, given(call, name, value))
            if str(value).startswith("-") and name.upper() in command.split():  # an option, to a shell
                continue
            if any(word.isupper() and word.lower() not in given(call, name, value) for word in command.split()):
                continue
            ours = await refusal(manager.call(call.name, **given(call, name, as_typed(call, name, value))))
            capfd.readouterr()
            asked = given(call, name, value)
            into = ["--into", str(data.parent / f"into-{tried}")] if command.startswith(_INTO_A_FOLDER) else []
            line = [*words(info, command, asked), *into, "--data", str(data)]
            code = await asyncio.to_thread(run_command, line)
            said = capfd.readouterr().err
            tried += 1
            if not isinstance(ours, tuple) or ours[1] is None:
                continue  # typed, it is a value like any other
            if code != 5 or f"[{ours[0]}]" not in said or ours[2] not in said:
                wrong.append(f"{' '.join(line[:-2])[:120]}: {ours} is not {code} {said[:300]}")

    assert tried > 60
    assert not wrong, f"{len(wrong)} of {tried}:\n" + "\n".join(wrong[:40])


def as_typed(call, name, value):
    """What text for a parameter stands for; the value itself where it stands for none."""
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        return call.readers[name].text([text])
    except Invalid:
        return value


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "é"])
async def test_a_key_that_is_none_is_refused_alike_by_every_front_end(served, manager, fleet, key):
    await manager.register_device("a", "sensor")
    await fleet.operators.grant("op", "admin")
    token = (await fleet.operators.create_token("op")).token
    with pytest.raises(Refused) as direct:
        await manager.send_command("a", "blink", idempotency_key=key)

    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key.encode()}
    async with httpx.AsyncClient(base_url=served.url + "/api/v1", timeout=PATIENCE_S) as http:
        answers = [
            await http.post(path, json=body, headers=headers)
            for path, body in (("/devices/a/commands", {"name": "blink"}), ("/groups", {"id": "lab"}))
        ]

    said = direct.value
    for answer in answers:
        problem = answer.json()
        assert answer.status_code == 422
        assert (problem["code"], problem["detail"], problem["remedy"]) == (said.code, said.message, said.remedy)
        assert problem["ids"] == said.ids


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("set_desired", {"device_id": "a", "patch": {}, "if_version": bad}) for bad in (-1, 1.5, True, "1", 2**60)),
        *(("send_command", {"device_id": "a", "name": "x", "idempotency_key": bad}) for bad in ("", "é", 7)),
        *(("watch_events", {"after": bad}) for bad in (-1, True, "x", 1.5, 10**18)),
    ],
)
async def test_what_goes_in_a_header_is_refused_alike_by_library_and_client(served, manager, fleet, name, given):
    await manager.register_device("a", "sensor")
    await fleet.operators.grant("op", "admin")
    token = (await fleet.operators.create_token("op")).token
    said = []
    async with AsyncFleetClient(served.url, token) as client:
        for target in (manager, client):
            asked = getattr(target, name)(**given)
            with pytest.raises(Refused) as raised:
                await (anext(asked) if name == "watch_events" else asked)
            said.append((raised.value.code, str(raised.value), raised.value.ids))

    assert said[0] == said[1]
