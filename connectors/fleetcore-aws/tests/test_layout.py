"""What becomes an attribute, what goes into a shadow, and that both together are what was given."""

from attrs import evolve
from fleetcore_aws.attributes import META, fit, gathered, lay_out
from fleetcore_aws.documents import holdable
from fleetcore_aws.testing.hub import _merged
from fleetcore_aws.testing.rules import _attributes, shadow, without_nulls
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.model.device import Location
from fleetcore.model.mirror import RegistryBody
from fleetcore.model.patch import patch
from fleetcore.wire.strict_json import dumps

NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
LABEL = st.text("ab ._/:-", min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NAME,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3),
    max_leaves=8,
)
DOCUMENT = st.dictionaries(NAME, JSON, max_size=5)
BODY = st.builds(
    RegistryBody,
    type=LABEL,
    lifecycle=st.sampled_from(["active", "retired", "", "quite new"]),
    model=st.none() | NAME,
    name=st.none() | NAME,
    tags=st.lists(LABEL | NAME, max_size=3, unique=True).map(tuple),
    capabilities=st.lists(NAME, max_size=3, unique=True).map(tuple),
    attributes=DOCUMENT | st.dictionaries(st.text("ab", min_size=1, max_size=8), LABEL, max_size=60),
    groups=st.lists(LABEL, max_size=12, unique=True).map(lambda names: tuple(sorted(names))),
    gateway=st.none() | NAME,
    location=st.none() | st.builds(Location, lat=st.just(48.1), lon=st.just(11.5)),
    via=st.lists(NAME, max_size=2).map(tuple),
)


@given(BODY)
def test_what_fits_is_laid_out_within_the_rules_of_aws_and_comes_back_whole(body):
    fitted, lost, _ = fit(body, "default", "p-")
    assert fitted is not None

    laid = lay_out(fitted, "default", "p-")

    assert gathered(laid, "p-") == fitted
    assert fit(fitted, "default", "p-")[:2] == (fitted, [])
    assert bool(lost) == (fitted != body)
    assert len(laid.stands) <= (50 if laid.type else 3)
    _attributes(laid.stands)
    shadow(dumps({"state": {"reported": laid.rest}}))


@given(DOCUMENT, DOCUMENT)
def test_a_patch_makes_the_new_document_of_the_old_one(old, new):
    old, new = holdable(old, "", []), holdable(new, "", [])

    made = without_nulls(_merged(old, patch(old, new)))

    assert made == new


@given(DOCUMENT)
def test_what_a_shadow_holds_is_kept_as_it_is(document):
    lost = []
    kept = holdable(document, "", lost)

    assert without_nulls(kept) == kept
    assert bool(lost) == (kept != document)
    shadow(dumps({"state": {"desired": kept}}))


def test_a_plain_device_has_no_rest():
    body = RegistryBody(
        type="sensor", lifecycle="active", tags=("a", "b"), attributes={"site": "north"}, via=("here",), groups=("lab",)
    )

    laid = lay_out(body, "default", "")

    assert laid.rest == {}
    assert META not in laid.stands
    assert laid.attributes == {
        "fleetcore:fleet": "default",
        "fleetcore:groups": "lab",
        "fleetcore:lifecycle": "active",
        "fleetcore:tags": "a,b",
        "fleetcore:via": "here",
        "site": "north",
    }


def test_places_of_losses_are_those_of_the_body():
    body = RegistryBody(
        type="sensor",
        lifecycle="active",
        attributes={"a/b": None, "c": {"d": {}}, "e": [None]},
        groups=tuple(f"g{number:02}" for number in range(11)),
    )

    fitted, lost, _ = fit(body, "default", "")

    assert [loss.path for loss in lost] == ["/groups/10", "/attributes/a~1b", "/attributes/c/d", "/attributes/e"]
    assert fitted == evolve(body, attributes={}, groups=body.groups[:10])


def test_a_type_whose_name_is_too_long_goes_into_the_rest():
    body = RegistryBody(type="." * 100, lifecycle="active", attributes={"site": "north"})

    laid = lay_out(body, "default", "")

    assert laid.type is None
    assert len(laid.stands) <= 3
    assert gathered(laid, "") == body


def test_what_is_too_large_for_a_shadow_does_not_fit():
    fitted, lost, _ = fit(RegistryBody(type="s", lifecycle="active", attributes={"a": "ä" * 5000}), "default", "")

    assert fitted is None
    assert lost
