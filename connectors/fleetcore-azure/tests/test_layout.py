"""Names, tags and documents: what fits is within the hub's rules and comes back whole."""

import re

import pytest
from attrs import evolve
from fleetcore_azure.attributes import MAX_BYTES, fit, gathered, lay_out
from fleetcore_azure.documents import holdable, size
from fleetcore_azure.names import DEVICE, KEY
from fleetcore_azure.testing import rules
from fleetcore_azure.testing.hub import merged
from hypothesis import example, given
from hypothesis import strategies as st

from fleetcore.model.device import Location
from fleetcore.model.mirror import RegistryBody
from fleetcore.model.patch import patch

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
LABEL = st.text("ab ._/:-$", min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | NAME,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3),
    max_leaves=8,
)
DOCUMENT = st.dictionaries(NAME, JSON, max_size=5)
BODY = st.builds(
    RegistryBody,
    type=LABEL,
    lifecycle=st.sampled_from(["active", "retired", "quarantined"]),
    model=st.none() | NAME,
    name=st.none() | NAME,
    tags=st.lists(LABEL | NAME, max_size=3, unique=True).map(tuple),
    capabilities=st.lists(NAME, max_size=3, unique=True).map(tuple),
    attributes=DOCUMENT | st.dictionaries(st.text("ab.", min_size=1, max_size=8), LABEL, max_size=60),
    groups=st.lists(LABEL, max_size=12, unique=True).map(lambda names: tuple(sorted(names))),
    gateway=st.none() | NAME,
    location=st.none() | st.builds(Location, lat=st.just(48.1), lon=st.just(11.5)),
    via=st.lists(NAME, max_size=2).map(tuple),
)


@given(TEXT)
@example("a.b")
@example("a:2Eb")
@example(":")
def test_an_encoded_name_is_read_back_and_is_one_that_the_hub_takes(text):
    name, key = DEVICE.encode(text), KEY.encode(text)
    if name is not None:
        assert rules.check_name(name) == name
        assert re.fullmatch(r"[a-zA-Z0-9._:-]{1,128}", name), "and it needs no escape in a URL or a topic"
        assert DEVICE.decode(name) == text
    assert key is not None
    rules.check_section({key: 1}, 8192)
    assert KEY.decode(key) == text


@given(st.text("aA0:_2EFf.-", max_size=20))
@example(":2e")
@example(":61")
def test_no_name_is_read_that_is_not_the_encoding_of_what_is_read(name):
    for escape in (DEVICE, KEY):
        text = escape.decode(name)

        assert text is None or escape.encode(text) == name


@given(BODY)
def test_what_fits_is_laid_out_within_the_rules_of_the_hub_and_comes_back_whole(body):
    fitted, lost = fit(body, "default")
    assert fitted is not None

    tags = lay_out(fitted, "default")

    assert gathered(tags) == fitted
    assert fit(fitted, "default") == (fitted, [])
    assert bool(lost) == (fitted != body)
    rules.check_section(tags, MAX_BYTES)


@given(DOCUMENT)
def test_what_a_twin_holds_is_kept_as_it_is_and_counted_as_azure_counts(document):
    lost = []
    kept = holdable(document, "", lost)

    rules.check_section(kept, 32 * 1024)
    assert bool(lost) == (kept != document)
    assert holdable(kept, "", []) == kept
    assert size(kept) == rules.size(kept)


@given(DOCUMENT, DOCUMENT)
def test_a_patch_makes_the_new_document_of_the_old_one(old, new):
    old, new = holdable(old, "", []), holdable(new, "", [])

    assert merged(old, patch(old, new)) == new


def nested(levels):
    value = 1
    for _ in range(levels):
        value = {"n": value}
    return value


def test_ten_levels_are_held_and_eleven_are_not():
    for document, fits in ((nested(11), True), (nested(12), False), ({"a": [[1]] * 2}, True)):
        lost = []
        kept = holdable(document, "", lost)

        assert (lost == []) is fits
        assert (kept == document) is fits
        if fits:
            rules.check_section(document, 32 * 1024)
        else:
            with pytest.raises(rules.RefusedByAzure):
                rules.check_section(document, 32 * 1024)


def test_places_of_losses_are_those_of_the_body():
    body = RegistryBody(
        type="sensor",
        lifecycle="active",
        attributes={"a/b": None, "c": {"d": None, "e.f": 1, "g": 2}, "h": [None], "fleetcore": 1, "i": 2**52},
    )

    fitted, lost = fit(body, "default")

    assert [loss.path for loss in lost] == [
        "/attributes/a~1b", "/attributes/c/d", "/attributes/c/e.f", "/attributes/h", "/attributes/fleetcore",
        "/attributes/i",
    ]  # fmt: skip
    assert fitted == evolve(body, attributes={"c": {"g": 2}})


def test_a_registration_that_is_too_large_for_its_tags_does_not_fit():
    body = RegistryBody(type="s", lifecycle="active", attributes={f"a{at}": "x" * 1000 for at in range(5)})

    fitted, (loss,) = fit(body, "default")

    assert fitted is None
    assert "4096" in loss.reason
