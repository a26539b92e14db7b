"""What people write: the tree, the limits, and errors that point and suggest."""

import pytest

from fleetcore.query import ast
from fleetcore.query.evaluate import evaluate, like
from fleetcore.query.explain import deciding, explain
from fleetcore.query.parse import QuerySyntaxError, parse
from fleetcore.query.resolve import is_timed, paths, resolved

CONTRACT = """type = 'temperature-sensor' and tags has 'production' and reported.firmware.version < v'2.0.0' and power.battery < 20
and location within circle(37.77, -122.42, 5 km) and last_seen > now - 1 h and not group in ('lab')"""

DEVICE = {
    "id": "th-1",
    "type": "temperature-sensor",
    "tags": ["production"],
    "groups": ["roof"],
    "reported": {"firmware": {"version": "1.9.9"}, "list": [1, True, "x"], "n": 5, "name": "it's"},
    "power": {"battery": 12},
    "location": {"lat": 37.78, "lon": -122.41},
    "last_seen": 1_780_000_000_000,
}
NOW = 1_780_000_060_000


def truth(text, device=DEVICE):
    return evaluate(resolved(parse(text), NOW), device)


def test_the_query_of_the_contract_selects():
    assert truth(CONTRACT) is True
    assert truth(CONTRACT, {**DEVICE, "groups": ["roof", "lab"]}) is False
    assert truth(CONTRACT, {**DEVICE, "last_seen": NOW - 3_600_001}) is False


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("reported.missing != 1", None),
        ("not reported.missing = 1", None),
        ("not exists reported.missing", True),
        ("exists reported.n or reported.missing = 1", True),
        ("reported.missing = 1 and id = 'other'", False),
        ("reported.n = '5'", None),
        ("reported.n = true", None),
        ("reported.list has true", True),
        ("reported.list has 1", True),
        ("reported.list = 1", None),
        ("reported.n has 5", None),
        ("tags has any ('a', 'production')", True),
        ("tags has all ('a', 'production')", False),
        ("group = 'roof' and group != 'lab'", True),
        ("not id in ('a', 'b') and id not in ('c')", True),
        ("reported.n between 5 and 6 and not reported.n between 6 and 7", True),
        ("reported.name = 'it''s' and reported.name like 'it?s'", True),
        ("reported.firmware.version >= v'1.9.9-rc.1'", True),
        ("reported.name > v'1.0.0'", None),
        ("id = 'x' or id = 'y' and id = 'th-1'", False),
        ("(id = 'x' or id = 'th-1') and not (id = 'y')", True),
        ("last_seen > now - 1 min", False),
        ("last_seen >= now - 1 min", True),
        ("last_seen < t'2030-01-01T00:00:00+01:00'", True),
        ("location within box(37, -123, 38, -122)", True),
        ("location within box(37, 170, 38, -122)", True),
        ("location within polygon((37 -123, 38 -123, 38 -122, 37 -122))", True),
        (
            "location within polygon((37 -123, 38 -123, 38 -122, 37 -122), (37.7 -122.5, 37.9 -122.5, 37.9 -122.3, 37.7 -122.3))",
            False,
        ),
        ("location within geofence('unknown')", None),
        ("reported within circle(0, 0, 1 km)", None),
    ],
)
def test_what_is_missing_or_of_another_kind_is_unknown(text, wanted):
    assert truth(text) is wanted


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("typ = 'x'", 1, 1, "Did you mean 'type'"),
        ("type = null", 1, 6, "Ask `not exists type`"),
        ("type == 'x'", 1, 7, "Write = here"),
        ("type = 'x' AND id = 'y'", 1, 12, "Write and here"),
        ('type = "x"', 1, 8, "single quotes are text"),
        ("type = 'x", 1, 8, "ends with '"),
        ("last_seen > now - 5 m", 1, 21, "Minutes are written min"),
        ("type = 'x'\n  and (id = 'y'", 2, 16, "Possible here: )"),
        ("id.x = 1", 1, 1, "id does not have members"),
        ("created > t'2026-01-01'", 1, 11, "t'2026-01-01T00:00:00Z'"),
        ("reported.v > v'1.2'", 1, 14, "Semantic Versioning"),
        ("reported.on > true", 1, 13, "= or !="),
        ("location within circle(137.7, 12, 1 km)", 1, 24, "Latitude comes first"),
        ("location within circle(1, 2, 5 min)", 1, 32, "a radius is a length"),
        ("reported.n = 1e999", 1, 14, "too large"),
        ("type = 'a'; DROP TABLE devices", 1, 11, "';' does not fit"),
        ("type = \u2018x\u2019", 1, 8, "does not fit"),
        ("", 1, 1, "for example"),
    ],
)
def test_an_error_points_at_the_column_and_suggests(text, line, column, says):
    with pytest.raises(QuerySyntaxError) as error:
        parse(text)

    assert (error.value.code, error.value.ids["line"], error.value.ids["column"]) == ("query_syntax", line, column)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["id = '" + "x" * 5000 + "'", "not " * 40 + "id = 'x'", " or ".join(["id = 'x'"] * 65), "(" * 900 + "id = 'x'"],
    ids=["long", "deep", "many", "open"],
)
def test_what_is_too_much_is_refused(text):
    with pytest.raises(QuerySyntaxError):
        parse(text)


def test_a_pattern_that_defeats_backtracking_is_quick():
    assert not like("a" * 5000, "*a*a*a*a*a*a*a*b")


def test_the_explanation_names_the_clause_that_decided_and_what_it_saw():
    found = explain(
        resolved(parse("type = 'temperature-sensor' and power.battery > 20 or reported.x = 1"), NOW), DEVICE
    )

    assert found.truth is None
    one = deciding(explain(resolved(parse("type = 'temperature-sensor' and power.battery > 20"), NOW), DEVICE))
    assert (one.clause, one.truth, one.seen) == ("power.battery > 20", False, 12)
    assert any("reported.x is not there" in line for line in found.lines())


def test_a_query_knows_which_fields_it_looks_at_and_whether_time_alone_changes_its_answer():
    clause = parse("reported.a = 1 and not (last_seen > now - 1 d)")

    assert paths(clause) == {("reported", "a"), ("last_seen",)}
    assert is_timed(clause)
    assert not is_timed(parse("reported.a = 1"))
    assert resolved(clause, 10**12) == ast.And(
        (
            ast.Compare(("reported", "a"), "=", 1),
            ast.Not(ast.Compare(("last_seen",), ">", ast.Instant(10**12 - 86_400_000))),
        )
    )


@pytest.mark.parametrize(
    "text",
    [
        "last_seen > now - 1e300 d",
        "last_seen > now + 1e308 d",
        "last_seen < t'0001-01-01T00:00:00+14:00'",
        "last_seen < t'9999-12-31T23:59:59.999-14:00'",
        "reported.n < 1e308 km",
        "location within circle(0, 0, 1e308 km)",
    ],
)
def test_what_is_no_date_and_no_length_any_more_is_refused_where_it_stands(text):
    with pytest.raises(QuerySyntaxError) as caught:
        parse(text)

    assert caught.value.ids["column"] > 1


def test_a_number_beyond_every_integer_of_a_database_is_a_float():
    assert parse("reported.n = 123456789012345678901234567890") == ast.Compare(
        ("reported", "n"), "=", 1.2345678901234568e29
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("TYPE = 'a'", "Did you mean 'type'?"),
        ("type in 'a'", "Possible here: ("),
        ("type ~ 'a'", "like"),
        ("reported.n > 5 minutes", "Write min here"),
        ("type = 'a", "A text ends with '"),
    ],
)
def test_an_error_suggests_what_fits(text, says):
    with pytest.raises(QuerySyntaxError, match="column") as caught:
        parse(text)

    assert says in caught.value.remedy


AROUND_THE_POLE = "polygon((80 0, 80 90, 80 180, 80 -90))"
OVER_THE_DATE_LINE = "polygon((-5 175, -5 -175, 5 -175, 5 175))"


@pytest.mark.parametrize(
    ("shape", "lat", "lon", "wanted"),
    [
        (OVER_THE_DATE_LINE, 0, 180, True),
        (OVER_THE_DATE_LINE, 0, -180, True),
        (OVER_THE_DATE_LINE, 0, 0, False),
        (OVER_THE_DATE_LINE, 0, -170, False),
        (AROUND_THE_POLE, 90, 17, True),
        (AROUND_THE_POLE, 85, -179, True),
        (AROUND_THE_POLE, 79, 45, False),
        (AROUND_THE_POLE, -85, 45, False),
        ("polygon((-60 -180, 60 -180, 60 180, -60 180))", 10, 77, True),
        ("polygon((0 0, 0 10, 10 10, 10 0))", 10, 5, True),
        ("polygon((0 0, 0 10, 10 10, 10 0))", 5, 10, True),
        ("polygon((0 0, 0 10, 10 10, 10 0))", 10, 10, True),
        ("polygon((0 0, 0 10, 10 10, 10 0), (2 2, 2 4, 4 4, 4 2))", 3, 3, False),
        ("polygon((0 0, 0 10, 10 10, 10 0), (2 2, 2 4, 4 4, 4 2))", 4, 3, True),
        ("circle(0, -170, 5 km)", 0, 190, None),
        ("box(-90, -180, 90, 180)", 91, 0, None),
    ],
)
def test_shapes_hold_their_edges_and_cross_the_antimeridian_and_the_poles(shape, lat, lon, wanted):
    assert truth(f"location within {shape}", {"location": {"lat": lat, "lon": lon}}) is wanted
