"""Three-way merging: what one side alone changed counts, leaf by leaf."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.model.merge import merge
from fleetcore.model.twin import equal, leaves

VALUES = st.one_of(st.integers(0, 2), st.booleans(), st.sampled_from(["", "a"]), st.just([1]))
DOCUMENTS = st.recursive(
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.one_of(VALUES, inner), max_size=3),
    max_leaves=6,
)
SIDES = st.sampled_from(["fleet", "cloud"])


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": 1}, {"a": 3}, {"a": 3}),
        ({"a": 1}, {"a": 1}, {}, {}),
        ({"a": 1}, {}, {"a": 1}, {}),
        ({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 2}),
        ({"a": {"x": 1, "y": 1}}, {"a": {"x": 2, "y": 1}}, {"a": {"x": 1, "y": 3}}, {"a": {"x": 2, "y": 3}}),
        ({"a": {"x": 1}}, {"a": {"x": 1}}, {}, {}),
        ({}, {"a": {}}, {}, {"a": {}}),
        ({}, {}, {"a": {}}, {"a": {}}),
        ({"a": 1}, {"a": 1}, {"a": True}, {"a": True}),
        ({"a": [1]}, {"a": [1]}, {"a": [1, 2]}, {"a": [1, 2]}),
    ],
)
def test_a_leaf_that_one_side_changed_is_as_that_side_has_it(base, ours, theirs, merged):
    for wins in ("fleet", "cloud"):
        found = merge(base, ours, theirs, wins=wins)
        assert equal(found.document, merged)
        assert not found.conflicts


@pytest.mark.parametrize(("wins", "value"), [("fleet", 2), ("cloud", 3)])
def test_a_leaf_that_both_changed_is_as_the_winner_has_it_and_is_named(wins, value):
    found = merge({"a": {"b/c": 1}, "d": 1}, {"a": {"b/c": 2}, "d": 1}, {"a": {"b/c": 3}, "d": 4}, wins=wins)

    assert found.document == {"a": {"b/c": value}, "d": 4}
    assert found.conflicts == ("/a/b~1c",)


def test_a_write_whose_answer_was_lost_is_not_the_clouds_own_change():
    # The fleet wrote 2, heard nothing, and has 3 by now; the cloud changed another leaf meanwhile.
    found = merge({"a": 1, "b": 1}, {"a": 3, "b": 1}, {"a": 2, "b": 7}, sent={"a": 2, "b": 1}, wins="cloud")

    assert found.document == {"a": 3, "b": 7}
    assert not found.conflicts


@given(DOCUMENTS, DOCUMENTS, SIDES)
def test_a_side_that_changed_nothing_gives_way(base, changed, wins):
    assert equal(merge(base, changed, base, wins=wins).document, changed)
    assert equal(merge(base, base, changed, wins=wins).document, changed)


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS, SIDES)
def test_merging_again_changes_nothing(base, ours, theirs, wins):
    merged = merge(base, ours, theirs, wins=wins).document

    assert equal(merge(merged, merged, merged, wins=wins).document, merged)
    assert equal(merge(base, merged, theirs, wins=wins).document, merged)


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS)
def test_each_leaf_comes_from_a_side(base, ours, theirs):
    merged = leaves(merge(base, ours, theirs, wins="cloud").document)
    there = {**leaves(ours), **{f"{at}!": value for at, value in leaves(theirs).items()}}

    for at, value in merged.items():
        sides = [there[name] for name in (at, f"{at}!") if name in there]
        assert value == {} or any(equal(value, side) for side in sides)
