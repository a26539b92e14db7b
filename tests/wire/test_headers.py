"""Guards against two readers of one header: a request must not mean one thing to a proxy and another to us."""

import pytest

from fleetcore.errors import Refused
from fleetcore.wire.headers import ONCE, Headers, media_type


def headers(*fields):
    return Headers.of([(name.encode(), value.encode("latin-1")) for name, value in fields])


@pytest.mark.parametrize("name", sorted(ONCE))
def test_a_field_that_an_operation_goes_by_stands_once_however_it_is_spelt(name):
    with pytest.raises(Refused, match=f"{name} occurs twice in the request") as caught:
        headers((name, "1"), ("x-other", "1"), (name.title(), "1"))

    assert caught.value.code == "payload_unreadable"


def test_other_fields_may_stand_several_times():
    assert headers(("accept", "a/b"), ("accept", "c/d"), ("via", "x"), ("via", "y")).get("accept") == "a/b"


@pytest.mark.parametrize(
    "fields",
    [
        (("content-length", "5"), ("transfer-encoding", "chunked")),
        (("transfer-encoding", "gzip, chunked"),),
        (("transfer-encoding", "identity"),),
        (("content-length", "5, 5"),),
        (("content-length", "+5"),),
        (("content-length", "0x5"),),
        (("content-length", "\xb2"),),
        (("content-length", ""),),
    ],
)
def test_a_body_that_could_be_framed_in_two_ways_is_refused(fields):
    with pytest.raises(Refused) as caught:
        headers(*fields)

    assert (caught.value.code, bool(caught.value.remedy)) == ("payload_unreadable", True)


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ("application/json", "application/json"),
        ("Application/JSON", "application/json"),
        (" application/json ; Charset=UTF-8", "application/json"),
        ('application/json;charset="utf-8";', "application/json"),
        ("application/json; profile=x", "application/json"),
        ("application/json; charset=latin-1", "application/json; charset=latin-1"),
        ("application/json; charset=utf-8; charset=utf-16", "application/json; charset=utf-8; charset=utf-16"),
        ("application/json; charset", "application/json; charset"),
        ("application/json, text/plain", "application/json, text/plain"),
    ],
)
def test_a_media_type_is_decided_once_with_its_case_and_parameters(declared, found):
    assert media_type(declared) == found
    assert media_type(found) == found


def test_a_media_type_that_is_not_read_is_refused_with_what_is():
    with pytest.raises(Refused, match=r"send application/json or application/cbor") as caught:
        headers(("content-type", "text/plain")).check_media_type(("application/json", "application/cbor"))

    assert caught.value.code == "media_type_unsupported"


def test_a_body_of_an_undeclared_type_is_looked_at():
    headers().check_media_type(("application/json",))
    headers(("content-type", "")).check_media_type(("application/json",))


@pytest.mark.parametrize(
    ("value", "scheme", "shown"),
    [
        ("Bearer abc", "bearer", "abc"),
        ("BEARER   abc ", "bearer", "abc"),
        ("Bearer", "bearer", None),
        ("Bearerabc", "bearer", None),
        ("Basic abc", "bearer", None),
        ("basic abc", "basic", "abc"),
    ],
)
def test_a_credential_is_shown_by_its_scheme(value, scheme, shown):
    assert headers(("authorization", value)).credential(scheme) == shown


@pytest.mark.parametrize(("value", "key"), [("k-1", "k-1"), ('"k-1"', "k-1"), ("", ""), ('"k-1', '"k-1'), ('""', '""')])
def test_a_key_of_a_repetition_is_the_text_in_its_quotes(value, key):
    assert headers(("idempotency-key", value)).idempotency_key == key
