"""What is accepted for a parameter, from text and from plain data, and what a refusal says."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from fleetcore.calls.decode import Invalid, Reader, convert
from fleetcore.calls.types import UNSET, DeviceId, Label, Limit, Ms, UnsetType, from_builtins, to_builtins
from fleetcore.errors import Refused
from fleetcore.model.device import Lifecycle

Place = msgspec.defstruct(
    "Place", [("lat", Annotated[float, Meta(ge=-90, le=90)]), ("lon", float)], forbid_unknown_fields=True
)

#: Type, what is given, where it is wrong, the code, and a word of the reason or the remedy.
REFUSED: list[tuple[Any, object, str, str, str]] = [
    (DeviceId, "a\n", "/p", "name_invalid", "start with a letter"),
    (DeviceId, 5, "/p", "schema_invalid", "must be text, not an integer"),
    (Sequence[Label], ["a", "é"], "/p/1", "name_invalid", "letters, digits, space"),
    (Sequence[Label], "oops", "/p", "schema_invalid", "must be a list, not text"),
    (Annotated[Sequence[Label], Meta(max_length=1)], ["a", "b"], "/p", "schema_invalid", "at most 1 items"),
    (Limit, 0, "/p", "schema_invalid", "at least 1"),
    (Limit, 1001, "/p", "schema_invalid", "at most 1000"),
    (Limit, True, "/p", "schema_invalid", "must be an integer, not true or false"),
    (Limit, 1.5, "/p", "schema_invalid", "must be an integer, not a number"),
    (float, float("nan"), "/p", "number_not_finite", "finite"),
    (Lifecycle, "sleepy", "/p", "schema_invalid", "Use one of: registered"),
    (Literal["a", "b"], "c", "/p", "schema_invalid", "Use one of: a, b"),
    (Place, {"lat": 91, "lon": 0}, "/p/lat", "schema_invalid", "at most 90"),
    (Place, {"lat": 1}, "/p/lon", "schema_invalid", "it is missing"),
    (Place, {"lat": 1, "lon": 1, "alt": 1}, "/p", "schema_invalid", "member 'alt' does not exist"),
    (Ms, 1_700_000_000, "/p", "time_unit", "seconds"),
    (Ms, "yesterday", "/p", "time_invalid", "RFC 3339"),
]


@pytest.mark.parametrize(("kind", "value", "pointer", "code", "said"), REFUSED)
def test_a_refusal_says_where_and_why(kind, value, pointer, code, said):
    with pytest.raises(Refused) as refused:
        convert({"p": Reader("p", kind)}, {"p": value})

    error = refused.value
    assert (error.ids["pointer"], error.code) == (pointer, code)
    assert said in f"{error.message} {error.remedy}"


@pytest.mark.parametrize(
    ("kind", "text"),
    [(int, "1e3"), (int, "5.0"), (int, "+1"), (int, "1_0"), (int, "९"), (float, "nan"), (float, "inf"), (float, ".5"),
     (float, "1e999"), (bool, "True"), (bool, "1"), (bool, ""), (int | None, "null"), (dict[str, Any], "{a: 1}"),
     (dict[str, Any], '{"a": 1, "a": 2}')],
)  # fmt: skip
def test_text_that_only_looks_like_a_value_is_refused(kind, text):
    with pytest.raises(Invalid):
        Reader("p", kind).text([text])


def test_every_fault_is_named():
    readers = {"a": Reader("a", int), "b": Reader("b", str)}
    with pytest.raises(Refused) as refused:
        convert(readers, {"a": "x", "c": 1}, required=("a", "b"))

    assert [fault["pointer"] for fault in refused.value.ids["errors"]] == ["/b", "/a", "/c"]


def test_an_unknown_parameter_names_the_nearest():
    with pytest.raises(Refused) as refused:
        convert({"where": Reader("where", str)}, {"wheer": "x"})

    assert refused.value.remedy == "Did you mean 'where'?"


@given(
    st.one_of(st.integers(-(10**18) + 1, 10**18 - 1), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))
)
def test_a_value_comes_back_from_its_text(value):
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)

    assert Reader("p", type(value)).value(Reader("p", type(value)).text([text])) == value


@given(st.integers(10**11, 4 * 10**12))
def test_a_time_is_itself_in_every_form(value):
    time = Ms(value)
    reader = Reader("p", Ms)

    forms = (time, value, str(time), time.datetime, reader.text([str(time)]), reader.text([str(value)]))
    assert [reader.value(form) for form in forms] == [time] * len(forms)
    assert from_builtins(to_builtins(time), Ms) == time
    assert isinstance(reader.value(value), Ms)
    assert time.datetime == datetime.fromtimestamp(value // 1000, UTC).replace(microsecond=value % 1000 * 1000)


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(Invalid) as invalid:
        Reader("p", Ms).value(datetime(2026, 1, 1))  # noqa: DTZ001  # this is what is refused

    assert (invalid.value.fault.code, "tzinfo" in invalid.value.fault.remedy) == ("time_invalid", True)


def test_none_clears_where_a_type_has_it():
    assert Reader("p", Label | UnsetType | None).value(None) is None
    assert Reader("p", Label | UnsetType | None).takes_none
    assert not Reader("p", Label | UnsetType).takes_none
    assert UNSET is not None
