"""The unit table is consistent, and conversion is exact where people expect it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.model.units import UNITS, convert, plain_name


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
