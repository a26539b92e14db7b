"""The table of message types: every body takes its example, each bound holds at its edge, and columns do not clash."""

import math

import msgspec
import pytest
from msgspec import inspect as types

from fleetcore.model.message import UNKNOWN, Direction, Rejected
from fleetcore.wire import messages
from fleetcore.wire.bodies import Many, read_body
from fleetcore.wire.strict_cbor import dumps as cbor
from fleetcore.wire.strict_json import dumps

JUDGED = [row for row in messages.ALL if row.body is not None and row.direction is not Direction.DOWN]


def read(row, body):
    payload = body if isinstance(body, bytes) else dumps(body)
    found = read_body(row, payload, None, 10)
    return found[0] if isinstance(found, Many) else found


def bare(info):
    """A type without its metadata, and beside null."""
    while isinstance(info, types.Metadata | types.UnionType):
        if isinstance(info, types.Metadata):
            info = info.type
        else:
            (info,) = (
                (kind for kind in info.types if not isinstance(kind, types.NoneType))
                if len(info.types) == 2
                else (types.AnyType(),)
            )
    return info


def members():
    for row in JUDGED:
        if isinstance(row.body, type) and issubclass(row.body, msgspec.Struct):
            for field in types.type_info(row.body).fields:
                yield row, field.encode_name, bare(field.type), field.required


MEMBERS = list(members())
WRONG = {
    types.StrType: [5, True, ["x"], {"x": 1}],
    types.LiteralType: [5, "rubbish", ["online"]],
    types.IntType: ["5", 1.5, True, [1], {"x": 1}],
    types.FloatType: ["5", True, [1], {"x": 1}],
    types.CustomType: [True, "yesterday", 5, [1], {"x": 1}],
    types.DictType: [5, "x", [1]],
}
BAD = [(row, name, value) for row, name, info, _ in MEMBERS for value in WRONG.get(type(info), [])]


@pytest.mark.parametrize("row", JUDGED, ids=str)
def test_the_example_of_a_row_is_a_body_of_it(row):
    assert not isinstance(read(row, row.example), Rejected)


@pytest.mark.parametrize("row", [row for row in messages.ALL if row.direction is Direction.DOWN or row.answer], ids=str)
def test_what_a_device_is_told_is_as_its_row_says(row):
    for kind, example in ((row.body, row.example), (row.answer, row.answer_example)):
        if kind is not None:
            msgspec.convert(example, kind)


@pytest.mark.parametrize("row", JUDGED, ids=str)
@pytest.mark.parametrize("body", ["text", 5, True, None, [["x"]]])
def test_a_body_that_is_not_an_object_is_refused(row, body):
    refused = read(row, body)

    assert isinstance(refused, Rejected)
    assert refused.code == "schema_invalid"
    assert refused.reason


@pytest.mark.parametrize(("row", "name", "value"), BAD, ids=lambda part: getattr(part, "name", str(part)))
def test_a_member_of_another_type_is_refused_with_its_pointer_and_why(row, name, value):
    refused = read(row, {**row.example, name: value})

    assert isinstance(refused, Rejected), refused
    assert refused.code in ("schema_invalid", "time_invalid", "time_unit")
    assert refused.pointer == f"/{name}"
    assert name in refused.reason


@pytest.mark.parametrize(("row", "name", "info", "required"), MEMBERS, ids=lambda part: getattr(part, "name", ""))
def test_a_member_that_is_null_is_absent_and_one_that_is_needed_is_named(row, name, info, required):
    without = {key: value for key, value in row.example.items() if key != name}
    if name in ("csr", "execution"):
        return  # one of two; an empty id is none that is known
    for body in (without, {**without, name: None}):
        found = read(row, body)
        if required:
            assert isinstance(found, Rejected), body
            assert found.pointer == f"/{name}", body
        elif not isinstance(info, types.AnyType):
            assert found == read(row, without), body


NUMBERS = [
    (row, name, info)
    for row, name, info, _ in MEMBERS
    if isinstance(info, types.IntType | types.FloatType)
    and (row.name, name) not in {("event", "value"), ("event", "expected")}
]
TEXTS = [(row, name, info) for row, name, info, _ in MEMBERS if isinstance(info, types.StrType) and info.max_length]


@pytest.mark.parametrize(("row", "name", "info"), NUMBERS, ids=lambda part: getattr(part, "name", ""))
def test_a_number_is_taken_at_its_bounds_and_refused_beyond(row, name, info):
    step = 1 if isinstance(info, types.IntType) else 1e-6
    for bound, beyond in ((info.ge, info.ge - step), (info.le, info.le + max(step, abs(info.le) * 1e-9))):
        assert not isinstance(read(row, {**row.example, name: bound}), Rejected), (name, bound)

        refused = read(row, {**row.example, name: int(beyond) if step == 1 else beyond})

        assert isinstance(refused, Rejected), (name, beyond)
        assert refused.pointer == f"/{name}"
        assert str(bound).removesuffix(".0") in refused.reason
        if refused.code == "limit_exceeded":
            assert (refused.limit, refused.scope) == (int(info.le), "message")
            assert refused.unit


@pytest.mark.parametrize(("row", "name", "info"), TEXTS, ids=lambda part: getattr(part, "name", ""))
def test_text_is_taken_at_its_length_and_refused_beyond(row, name, info):
    assert not isinstance(read(row, {**row.example, name: "x" * info.max_length}), Rejected)

    refused = read(row, {**row.example, name: "x" * (info.max_length + 1)})

    assert (refused.code, refused.pointer, refused.limit, refused.unit) == (
        "limit_exceeded", f"/{name}", info.max_length, "characters",
    )  # fmt: skip


@pytest.mark.parametrize(("row", "name", "info"), NUMBERS, ids=lambda part: getattr(part, "name", ""))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_where_cbor_can_write_it(row, name, info, value):
    refused = read(row, cbor({**row.example, name: value}))

    assert (refused.code, refused.pointer) == ("number_not_finite", f"/{name}")


def test_what_a_device_says_for_people_is_cut_and_never_refused():
    told = read(messages.COMMAND_RESULT, {"status": "failed", "reason": "x" * 5000, "code": "y" * 5000})

    assert (len(told.reason), len(told.code)) == (1024, 1024)


def test_of_several_bodies_each_is_judged_alone_up_to_the_bound():
    good, bad = {"lat": 1, "lon": 2}, {"lat": 91, "lon": 2}

    some = read_body(messages.LOCATION, dumps([good, bad, good]), None, 10)
    none = read_body(messages.LOCATION, dumps([bad, bad]), None, 10)
    many = read_body(messages.LOCATION, dumps([good] * 1001), None, 10)

    assert (len(some), [(point.index, point.code) for point in some.refused]) == (2, [(1, "schema_invalid")])
    assert (none.pointer, len(none.refused)) == ("/0/lat", 2)
    assert (many.code, many.limit, many.unit) == ("limit_exceeded", 1000, "items")


def test_no_two_rows_share_a_name_a_topic_or_an_address():
    names = [row.name for row in (*messages.ALL, UNKNOWN)]
    topics = [name for row in messages.ALL for name in row.mqtt]
    addresses = [(method, row.path) for row in messages.ALL for method in row.methods]
    aliases = [row.coap_alias for row in messages.ALL if row.coap_alias]

    for column in (names, topics, addresses, aliases, [row.waits for row in messages.ALL if row.waits]):
        assert len(set(column)) == len(column), column


def test_what_is_written_and_what_is_read_over_mqtt_are_apart():
    up = {name for row in messages.ALL for name in row.mqtt}

    assert up.isdisjoint(row.mqtt_down for row in messages.ALL)
