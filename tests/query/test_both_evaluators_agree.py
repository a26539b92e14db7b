"""Random documents and random queries: the evaluator and the compiled SQL select the same."""

import sqlite3

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings
from msgspec import json

from fleetcore.builtin.sqlite.dialect import SqliteDialect, add_functions
from fleetcore.query import ast
from fleetcore.query.evaluate import evaluate, matches
from fleetcore.query.parse import parse
from fleetcore.query.resolve import paths as fields
from fleetcore.query.resolve import resolved, weakened
from fleetcore.query.sql import compiled
from fleetcore.query.text import to_text

NOW = 1_780_000_000_000

# Few names and few values, so that queries and documents meet.
keys = st.sampled_from(["a", "b", "wifi-ssid", "x y", "_proto__", "é"])
texts = st.sampled_from(
    ["", "a", "ab", "b*", "A", "1.2.3", "1.10.0-rc.1", "1.2", "%", "'; DROP TABLE d; --", "[a]", "ß"]
)
numbers = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, -0.0, 1e300, 2**53, 2**53 + 1, 52.5, 13.4]))
scalars = st.one_of(texts, numbers, st.booleans())
leaves_of_json = st.one_of(scalars, st.none())
values = st.recursive(
    leaves_of_json,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
positions = st.fixed_dictionaries(
    {"lat": st.sampled_from([0, 52.5, -89.9, 90, 91]), "lon": st.sampled_from([0, 13.4, 179.9, -180, 190, -181])}
)
documents = st.fixed_dictionaries(
    {"tags": st.lists(texts, max_size=3), "groups": st.lists(texts, max_size=3)},
    optional={
        "type": texts,
        "last_seen": st.integers(NOW - 10_000_000, NOW),
        "location": st.one_of(positions, values),
        "reported": st.dictionaries(keys, values, max_size=4),
    },
)

paths = st.one_of(
    st.sampled_from([("type",), ("tags",), ("groups",), ("last_seen",), ("location",)]),
    st.tuples(st.just("reported"), keys),
    st.tuples(st.just("reported"), keys, keys),
)
literals = st.one_of(
    scalars,
    st.builds(ast.Now, st.integers(-10_000_000, 0)),
    st.builds(ast.Instant, st.integers(NOW - 10_000_000, NOW)),
    st.builds(ast.Version, st.sampled_from(["1.2.3", "1.10.0", "1.10.0-rc.1", "0.0.1"])),
)
ordered = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
compare = st.builds(ast.Compare, paths, ordered, literals).filter(
    lambda one: not isinstance(one.value, bool) or one.operator in ("=", "!=")
)
degrees = st.sampled_from([-180.0, -90.0, -1.0, 0.0, 10.0, 52.5, 60.0, 90.0])
shapes = st.one_of(
    st.builds(ast.Circle, degrees.filter(lambda d: abs(d) <= 90), degrees, st.sampled_from([0.0, 1000.0, 2e6, 3e7])),
    st.builds(ast.Box, st.just(-90.0), degrees, st.just(60.0), degrees),
    st.just(ast.Polygon((((0.0, 0.0), (0.0, 20.0), (60.0, 20.0), (60.0, 0.0)),))),
    st.just(ast.Geofence("nowhere")),
)
leaf = st.one_of(
    compare,
    st.builds(ast.Has, paths, scalars),
    st.builds(ast.OneOf, paths, st.lists(literals, min_size=1, max_size=3).map(tuple)),
    st.builds(ast.Like, paths, st.sampled_from(["*", "a*", "?", "*b*", "[a]", "", "*.*.*"])),
    st.builds(ast.Within, paths, shapes),
    st.builds(ast.Exists, paths),
)
clauses = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.builds(ast.Not, inner),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: ast.And(tuple(some))),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: ast.Or(tuple(some))),
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def select():
    """``select(fleet, clause)``: which of the documents SQLite selects, and whether it says that this is all."""
    db = sqlite3.connect(":memory:")
    add_functions(db)
    db.execute("CREATE TABLE d(id INTEGER PRIMARY KEY, body TEXT)")

    def run(fleet, clause):
        db.execute("DELETE FROM d")
        db.executemany("INSERT INTO d VALUES (?, ?)", [(i, json.encode(one).decode()) for i, one in enumerate(fleet)])
        answer = compiled(clause, SqliteDialect("d.body"))
        rows = db.execute(f"SELECT id FROM d WHERE {answer.sql.text} ORDER BY id", answer.sql.parameters)
        return [i for (i,) in rows], answer.exact

    yield run
    db.close()


@settings(max_examples=250, deadline=None)
@given(st.lists(documents, max_size=8), clauses)
@example([{"tags": ["a"], "groups": []}], ast.Not(ast.Compare(("reported", "a"), "=", "x")))
@example([{"tags": ["a"], "groups": []}], ast.Has(("tags",), True))
@example([{"tags": [], "groups": [], "reported": {"a": True}}], ast.Compare(("reported", "a"), "=", 1))
@example(
    [{"tags": [], "groups": [], "location": {"lat": 0, "lon": 190}}],
    ast.Within(("location",), ast.Circle(0.0, -170.0, 1000.0)),
)
@example(
    # 90 km to the east, far from the equator: more degrees of longitude than the radius has of latitude.
    [{"tags": [], "groups": [], "location": {"lat": 60.0, "lon": 1.61}}],
    ast.Within(("location",), ast.Circle(60.0, 0.0, 100_000.0)),
)
@example([{"tags": [], "groups": [], "reported": {"a": 2**53 + 1}}], ast.Compare(("reported", "a"), "=", float(2**53)))
def test_both_evaluators_agree(select, fleet, clause):
    clause = resolved(clause, NOW)

    found, exact = select(fleet, clause)

    wanted = [i for i, one in enumerate(fleet) if matches(clause, one)]
    assert set(wanted) <= set(found)
    assert found == wanted or not exact
    assert [i for i in found if matches(clause, fleet[i])] == wanted


@settings(max_examples=120, deadline=None)
@given(clauses)
def test_a_query_written_out_parses_to_the_same_tree(clause):
    assert parse(to_text(clause)) == clause


@settings(max_examples=120, deadline=None)
@given(documents, clauses)
def test_negation_and_de_morgan_hold_in_three_values(document, clause):
    clause = resolved(clause, NOW)
    truth = evaluate(clause, document)

    assert evaluate(ast.Not(ast.Not(clause)), document) is truth
    assert evaluate(ast.Not(ast.And((clause, clause))), document) is evaluate(
        ast.Or((ast.Not(clause), ast.Not(clause))), document
    )


@settings(max_examples=200, deadline=None)
@given(documents, clauses)
def test_a_weakened_query_is_true_wherever_the_query_is(document, clause):
    clause = resolved(clause, NOW)
    own = weakened(clause, lambda path: path[0] in ("type", "tags"))

    assert {path[0] for path in fields(own)} <= {"type", "tags"}
    assert matches(own, {name: document[name] for name in ("type", "tags") if name in document}) or not matches(
        clause, document
    )
