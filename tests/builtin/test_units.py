"""The unit table is consistent, and conversion is exact where people expect it.

Guards against spellings of a unit that are compared without their rules, prefixes among them.
"""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.model.units import COUNTED_PREFIXES, PREFIXES, UNITS, convert, plain_name, spelling


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (25, "celsius", "fahrenheit", 77.0),
        (77, "fahrenheit", "celsius", 25.0),
        (0, "celsius", "kelvin", 273.15),
        (-40, "degF", "°C", -40.0),
        (50, "percent", "ratio", 0.5),
        (40, "%RH", "percent", 40.0),
        (36, "km/h", "m/s", 10.0),
        (1, "kWh", "J", 3.6e6),
        (1013.25, "hPa", "Pa", 101325.0),
        (3700, "millivolt", "volt", 3.7),
        (3, "dBW", "dBm", 33.0),
        (180, "degree", "radian", 3.141592653589793),
    ],
)
def test_units_of_one_dimension_convert(value, source, target, expected):
    assert convert(value, source, target) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("source", "target"), [("celsius", "percent"), ("furlong", "meter"), ("meter", "furlong")])
def test_others_do_not(source, target):
    assert convert(1, source, target) is None


def test_an_unknown_unit_equals_itself():
    assert convert(1, "furlong", "furlong") == 1


def test_one_spelling_means_one_unit():
    spellings = [spelling for unit in UNITS for spelling in (unit.name, *unit.aliases)]
    symbols = [unit.senml for unit in UNITS if unit.senml]

    assert len(spellings) == len(set(spellings))
    assert len(symbols) == len(set(symbols))


def test_senml_symbols_have_their_own_meaning():
    # C and F are coulomb and farad in SenML, and degrees in everyday speech.
    assert [plain_name(symbol) for symbol in ("Cel", "C", "F", "furlong")] == ["celsius", "coulomb", "farad", "furlong"]
    assert convert(0, "C", "F") == 32.0


@given(st.sampled_from(UNITS), st.sampled_from(UNITS), st.floats(-1e6, 1e6))
def test_there_and_back_is_where_it_was(one, other, value):
    there = convert(value, one.name, other.name)

    assert (there is None) == (one.dimension != other.dimension)
    if there is not None:
        assert convert(there, other.name, one.name) == pytest.approx(value, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [
        ("\u00b5g/m\u00b3", "\u03bcg/m\u00b3", 1.0),
        ("\u00b5g/m\u00b3", "ug/m3", 1.0),
        ("mg/m3", "\u03bcg/m\u00b3", 1000.0),
        ("\u2103", "\u00b0C", 1.0),
        ("\u2126", "Ohm", 1.0),
        ("m\u00b3/h", "m3/h", 1.0),
        ("\u00b5-own", "u-own", 1.0),
    ],
)
def test_spellings_of_a_unit_are_compared_by_their_rules(one, other, factor):
    assert convert(1.0, one, other) == pytest.approx(factor)


def prefixes_of(unit):
    return COUNTED_PREFIXES if unit.counted else PREFIXES


def spellings_of(unit):
    return {unit.name, *unit.aliases, *([unit.senml] if unit.senml else [])}


#: Spellings of the table: as a whole they are that unit.
WHOLE = {spelling(text) for unit in UNITS for text in spellings_of(unit)}
PREFIXED = [(unit, symbol) for unit in UNITS for symbol in unit.prefixed]


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (1.5, "MW", "kW", 1500.0),
        (2.4, "GHz", "megahertz", 2400.0),
        (47, "nF", "farad", 47e-9),
        (2600, "mAh", "Ah", 2.6),
        (250, "\u00b5s", "ms", 0.25),
        (250, "\u03bcs", "ms", 0.25),
        (250, "us", "\u00b5s", 250.0),
        (1, "kWh", "MJ", 3.6),
        (3, "MB", "B", 3e6),
        (3, "MiB", "KiB", 3072.0),
        (3, "\u33be", "W", 3000.0),
        (3, "megawatt_hour", "kilowatt_hour", 3000.0),
        (3, "micrometre", "m", 3e-6),
        (5, "cm3", "ml", 5.0),
        (5, "mW", "MW", 5e-9),
    ],
)
def test_a_prefix_is_read_before_any_unit_that_takes_one(value, source, target, expected):
    assert convert(value, source, target) == pytest.approx(expected, rel=1e-15)


@given(st.data())
def test_two_prefixes_of_a_unit_convert_by_their_ratio(data):
    unit, symbol = data.draw(st.sampled_from(PREFIXED))
    prefixes = [prefix for prefix in prefixes_of(unit) if spelling(prefix[0] + symbol) not in WHOLE]
    one, other = data.draw(st.sampled_from(prefixes)), data.draw(st.sampled_from(prefixes))
    ratio = (one[2] / other[2]) ** unit.power

    assert convert(3.0, one[0] + symbol, other[0] + symbol) == pytest.approx(float(3 * ratio), rel=1e-12)
    assert convert(3.0, one[0] + symbol, symbol_or_name(unit, symbol)) == pytest.approx(
        float(3 * one[2] ** unit.power), rel=1e-12
    )
    if unit.power == 1:
        assert convert(3.0, one[1] + unit.name, unit.name) == pytest.approx(float(3 * one[2]), rel=1e-12)


def symbol_or_name(unit, symbol):
    """The symbol alone, unless it means another unit in everyday speech (``C``, ``F``)."""
    return unit.name if symbol in "CF" else symbol


def test_what_the_table_spells_with_a_prefix_is_that_prefix_of_its_unit():
    """All but ``pH``."""
    differs = {
        prefix[0] + symbol
        for unit, symbol in PREFIXED
        for prefix in prefixes_of(unit)
        if spelling(prefix[0] + symbol) in WHOLE
        and convert(1.0, prefix[0] + symbol, unit.name) != pytest.approx(float(prefix[2] ** unit.power))
    }

    assert differs == {"pH"}


def test_no_spelling_is_two_prefixes_of_two_units():
    found = {}
    for unit, symbol in PREFIXED:
        for short, _, factor in prefixes_of(unit):
            found.setdefault(spelling(short + symbol), set()).add(
                (unit.dimension, Fraction(unit.factor) * factor**unit.power)
            )

    assert [text for text, meanings in found.items() if len(meanings) > 1 and text not in WHOLE] == []


def test_units_that_take_no_prefix_have_none():
    """Neither degrees nor shares, minutes, inches or what has a prefix already."""
    taken = {
        short + text
        for unit in UNITS
        if not unit.prefixed
        for text in spellings_of(unit)
        for short, name, _ in (*PREFIXES, *COUNTED_PREFIXES)
        for start in (short, name)
        if convert(1.0, start + text, unit.name) is not None
    }

    assert taken == set()


@pytest.mark.parametrize(("spelled", "name"), [("min", "minute"), ("Pa", "pascal"), ("cd", "candela"), ("ft", "foot")])
def test_a_whole_spelling_comes_before_a_prefix(spelled, name):
    assert convert(7.0, spelled, name) == 7.0


def test_a_unit_with_a_prefix_has_no_zero_of_its_own():
    assert [unit.name for unit in UNITS if unit.prefixed and Fraction(unit.offset)] == []
