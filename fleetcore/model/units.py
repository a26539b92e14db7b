"""Units of readings: one table that is published in the docs, and conversion along it.

A unit is known under a plain name (``celsius``), under its SenML symbol (RFC 8428 §12.1, RFC 8798) and perhaps under
other spellings. Conversion is linear within one dimension: ``base = value * factor + offset``. Names that are not in
the table are units too: they equal themselves and convert to nothing.
"""

import unicodedata
from collections.abc import Mapping
from fractions import Fraction
from functools import cache, lru_cache
from types import MappingProxyType

from attrs import frozen


@frozen
class Unit:
    """One unit.

    Attributes:
        name: the plain name that is stored.
        dimension: units convert within one.
        factor, offset: to the dimension's base unit, as exact fractions.
        senml: the symbol registered with IANA, or None.
        aliases: other spellings that are understood, compared as :func:`spelling` writes them.
    """

    name: str
    dimension: str
    factor: str = "1"
    offset: str = "0"
    senml: str | None = None
    aliases: tuple[str, ...] = ()


#: Factors are exact by definition (SI brochure, 9th edition; NIST SP 811 appendix B for the others).
UNITS: tuple[Unit, ...] = (
    Unit("kelvin", "temperature", senml="K"),
    Unit("celsius", "temperature", offset="273.15", senml="Cel", aliases=("degC", "°C", "C")),
    Unit("fahrenheit", "temperature", factor="5/9", offset="45967/180", aliases=("degF", "°F", "F")),
    Unit("ratio", "ratio", senml="/"),
    Unit("percent", "ratio", factor="0.01", senml="%", aliases=("pct",)),
    Unit("permille", "ratio", factor="0.001", senml="/1000"),
    Unit("ppm", "ratio", factor="1e-6", senml="ppm"),
    # Shares of different wholes, yet one dimension: a device that says "percent" of its humidity on one protocol and
    # "%RH" on another means one series.
    Unit("percent_rh", "ratio", factor="0.01", senml="%RH"),
    Unit("percent_el", "ratio", factor="0.01", senml="%EL"),
    Unit("meter", "length", senml="m", aliases=("metre",)),
    Unit("kilometer", "length", factor="1000", senml="km", aliases=("kilometre",)),
    Unit("centimeter", "length", factor="0.01", senml="cm", aliases=("centimetre",)),
    Unit("millimeter", "length", factor="0.001", senml="mm", aliases=("millimetre",)),
    Unit("foot", "length", factor="0.3048", aliases=("ft",)),
    Unit("inch", "length", factor="0.0254", aliases=("in",)),
    Unit("mile", "length", factor="1609.344", aliases=("mi",)),
    Unit("kilogram", "mass", senml="kg"),
    Unit("gram", "mass", factor="0.001", senml="g"),
    Unit("tonne", "mass", factor="1000", aliases=("t",)),
    Unit("pound", "mass", factor="0.45359237", aliases=("lb",)),
    Unit("second", "time", senml="s"),
    Unit("millisecond", "time", factor="0.001", senml="ms"),
    Unit("minute", "time", factor="60", senml="min"),
    Unit("hour", "time", factor="3600", senml="h"),
    Unit("day", "time", factor="86400", aliases=("d",)),
    Unit("hertz", "frequency", senml="Hz"),
    Unit("kilohertz", "frequency", factor="1e3", aliases=("kHz",)),
    Unit("megahertz", "frequency", factor="1e6", senml="MHz"),
    Unit("rpm", "frequency", factor="1/60", senml="1/min"),
    Unit("meter_per_second", "speed", senml="m/s", aliases=("mps",)),
    Unit("kilometer_per_hour", "speed", factor="5/18", senml="km/h", aliases=("kmh", "kph")),
    Unit("mile_per_hour", "speed", factor="0.44704", aliases=("mph",)),
    Unit("knot", "speed", factor="1852/3600", aliases=("kn",)),
    Unit("meter_per_second_squared", "acceleration", senml="m/s2"),
    Unit("standard_gravity", "acceleration", factor="9.80665", aliases=("g0",)),
    Unit("square_meter", "area", senml="m2"),
    Unit("cubic_meter", "volume", senml="m3"),
    Unit("liter", "volume", factor="0.001", senml="l", aliases=("litre", "L")),
    Unit("milliliter", "volume", factor="1e-6", aliases=("millilitre", "ml", "mL")),
    Unit("cubic_meter_per_second", "volume flow", senml="m3/s"),
    Unit("liter_per_second", "volume flow", factor="0.001", senml="l/s"),
    Unit("cubic_meter_per_hour", "volume flow", factor="1/3600", aliases=("m3/h",)),
    Unit("liter_per_minute", "volume flow", factor="1/60000", aliases=("l/min",)),
    Unit("kilogram_per_cubic_meter", "mass concentration", senml="kg/m3"),
    Unit("gram_per_cubic_meter", "mass concentration", factor="1e-3", aliases=("g/m3", "mg/l", "mg/L")),
    Unit("milligram_per_cubic_meter", "mass concentration", factor="1e-6", aliases=("mg/m3", "ug/l", "ug/L")),
    Unit("microgram_per_cubic_meter", "mass concentration", factor="1e-9", aliases=("ug/m3", "ug/m^3", "mcg/m3")),
    Unit("gram_per_liter", "mass concentration", aliases=("g/l", "g/L")),
    Unit("newton", "force", senml="N"),
    Unit("pascal", "pressure", senml="Pa"),
    Unit("hectopascal", "pressure", factor="100", senml="hPa", aliases=("mbar", "millibar")),
    Unit("kilopascal", "pressure", factor="1000", aliases=("kPa",)),
    Unit("bar", "pressure", factor="1e5"),
    Unit("psi", "pressure", factor="6894.757293168361"),
    Unit("joule", "energy", senml="J"),
    Unit("watt_second", "energy", senml="Ws"),
    Unit("watt_hour", "energy", factor="3600", senml="Wh"),
    Unit("kilowatt_hour", "energy", factor="3.6e6", senml="kWh"),
    Unit("watt", "power", senml="W"),
    Unit("milliwatt", "power", factor="0.001", senml="mW"),
    Unit("kilowatt", "power", factor="1000", senml="kW"),
    Unit("volt_ampere", "apparent power", senml="VA"),
    Unit("kilovolt_ampere", "apparent power", factor="1000", senml="kVA"),
    Unit("var", "reactive power", senml="var"),
    Unit("kilovar", "reactive power", factor="1000", senml="kvar"),
    Unit("volt", "voltage", senml="V"),
    Unit("millivolt", "voltage", factor="0.001", senml="mV"),
    Unit("ampere", "current", senml="A"),
    Unit("milliampere", "current", factor="0.001", senml="mA"),
    Unit("coulomb", "charge", senml="C"),
    Unit("ampere_hour", "charge", factor="3600", senml="Ah"),
    Unit("ohm", "resistance", senml="Ohm", aliases=("Ω",)),
    Unit("siemens_per_meter", "conductivity", senml="S/m"),
    Unit("farad", "capacitance", senml="F"),
    Unit("henry", "inductance", senml="H"),
    Unit("tesla", "flux density", senml="T"),
    Unit("lux", "illuminance", senml="lx"),
    Unit("lumen", "luminous flux", senml="lm"),
    Unit("candela", "luminous intensity", senml="cd"),
    Unit("watt_per_square_meter", "irradiance", senml="W/m2"),
    Unit("decibel", "level", senml="dB"),
    Unit("decibel_milliwatt", "power level", senml="dBm"),
    Unit("decibel_watt", "power level", offset="30", senml="dBW"),
    Unit("radian", "angle", senml="rad"),
    Unit("degree", "angle", factor="0.017453292519943295", senml="deg", aliases=("°",)),
    Unit("latitude", "latitude", senml="lat"),
    Unit("longitude", "longitude", senml="lon"),
    Unit("becquerel", "activity", senml="Bq"),
    Unit("ph", "acidity", senml="pH", aliases=("pH",)),
    Unit("count", "count", senml="count"),
    Unit("per_second", "rate", senml="1/s"),
    Unit("bit", "information", senml="bit"),
    Unit("byte", "information", factor="8", senml="B"),
    Unit("kibibyte", "information", factor="8192", senml="KiB"),
    Unit("gigabyte", "information", factor="8e9", senml="GB"),
    Unit("bit_per_second", "data rate", senml="bit/s"),
    Unit("byte_per_second", "data rate", factor="8", senml="B/s"),
    Unit("megabit_per_second", "data rate", factor="1e6", senml="Mbit/s"),
)


@lru_cache(maxsize=4096)
def spelling(text: str) -> str:
    """A unit as spellings of it are compared: by NFKC (``℃``, ``m³``), trimmed, with ``u`` for micro (``µ``, ``μ``)."""
    return unicodedata.normalize("NFKC", text).strip().replace("\u03bc", "u")


#: By plain name and alias. Two symbols mean one thing in SenML and another colloquially (``C``, ``F``): SenML has its
#: own look-up in :func:`plain_name`.
_BY_NAME: Mapping[str, Unit] = MappingProxyType(
    {spelling(unit.senml): unit for unit in UNITS if unit.senml is not None}
    | {spelling(name): unit for unit in UNITS for name in (unit.name, *unit.aliases)}
)
_PLAIN_NAME: Mapping[str, str] = MappingProxyType({unit.senml: unit.name for unit in UNITS if unit.senml is not None})


def plain_name(senml: str) -> str:
    """The plain name of a SenML symbol (``Cel`` → ``celsius``); one that the table lacks stays as it is."""
    return _PLAIN_NAME.get(senml, senml)


def convert(value: float, source: str, target: str) -> float | None:
    """``value`` in ``target``, or None where ``source`` does not convert to it. Equal names convert unchanged."""
    if source == target:
        return value
    source, target = spelling(source), spelling(target)
    if source == target:
        return value
    here, there = _BY_NAME.get(source), _BY_NAME.get(target)
    if here is None or there is None or here.dimension != there.dimension:
        return None
    multiply, divide, add = _line(here, there)
    return value * multiply / divide + add


@cache
def _line(here: Unit, there: Unit) -> tuple[int, int, float]:
    """Integer multiplier and divisor, then what is added: 25 celsius are 77 fahrenheit and not 76.99999999999999."""
    scale = Fraction(here.factor) / Fraction(there.factor)
    add = (Fraction(here.offset) - Fraction(there.offset)) / Fraction(there.factor)
    return scale.numerator, scale.denominator, float(add)
