"""Units of readings: one table that is published in the docs, and conversion along it.

A unit has a plain name (``celsius``), maybe a SenML symbol (RFC 8428 §12.1, RFC 8798), and maybe other spellings.
Conversion is linear within one dimension: ``base = value * factor + offset``. Names outside the table are units too:
they equal only themselves and do not convert.

A row also lists which of its symbols take SI prefixes: ``MW``, ``nF`` and ``mAh`` are a prefix and a symbol,
``megawatt`` is a prefix's name and a unit's. A spelling in the table takes precedence over a prefix and a symbol:
``min`` is a minute, ``pH`` is not a picohenry.
"""

import unicodedata
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
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
        aliases: other accepted spellings, compared in the form that :func:`spelling` gives.
        prefixed: the symbols that take a prefix; without any, the name takes none either.
        power: of the prefix: a ``cm3`` is 0.01³ ``m3``.
        counted: whether it has no fractions and takes only multiples, decimal and binary.
    """

    name: str
    dimension: str
    factor: str = "1"
    offset: str = "0"
    senml: str | None = None
    aliases: tuple[str, ...] = ()
    prefixed: tuple[str, ...] = ()
    power: int = 1
    counted: bool = False


#: Factors are exact by definition (SI brochure, 9th edition; NIST SP 811 appendix B for the others).
UNITS: tuple[Unit, ...] = (
    Unit("kelvin", "temperature", senml="K", prefixed=("K",)),
    Unit("celsius", "temperature", offset="273.15", senml="Cel", aliases=("degC", "°C", "C")),
    Unit("fahrenheit", "temperature", factor="5/9", offset="45967/180", aliases=("degF", "°F", "F")),
    Unit("ratio", "ratio", senml="/"),
    Unit("percent", "ratio", factor="0.01", senml="%", aliases=("pct",)),
    Unit("permille", "ratio", factor="0.001", senml="/1000"),
    Unit("ppm", "ratio", factor="1e-6", senml="ppm"),
    # Shares of different wholes, yet one dimension: a device that sends "percent" of its humidity on one protocol and
    # "%RH" on another means one series.
    Unit("percent_rh", "ratio", factor="0.01", senml="%RH"),
    Unit("percent_el", "ratio", factor="0.01", senml="%EL"),
    Unit("meter", "length", senml="m", aliases=("metre",), prefixed=("m",)),
    Unit("kilometer", "length", factor="1000", senml="km", aliases=("kilometre",)),
    Unit("centimeter", "length", factor="0.01", senml="cm", aliases=("centimetre",)),
    Unit("millimeter", "length", factor="0.001", senml="mm", aliases=("millimetre",)),
    Unit("foot", "length", factor="0.3048", aliases=("ft",)),
    Unit("inch", "length", factor="0.0254", aliases=("in",)),
    Unit("mile", "length", factor="1609.344", aliases=("mi",)),
    Unit("kilogram", "mass", senml="kg"),
    Unit("gram", "mass", factor="0.001", senml="g", prefixed=("g",)),
    Unit("tonne", "mass", factor="1000", aliases=("t",)),
    Unit("pound", "mass", factor="0.45359237", aliases=("lb",)),
    Unit("second", "time", senml="s", prefixed=("s",)),
    Unit("millisecond", "time", factor="0.001", senml="ms"),
    Unit("minute", "time", factor="60", senml="min"),
    Unit("hour", "time", factor="3600", senml="h"),
    Unit("day", "time", factor="86400", aliases=("d",)),
    Unit("hertz", "frequency", senml="Hz", prefixed=("Hz",)),
    Unit("kilohertz", "frequency", factor="1e3", aliases=("kHz",)),
    Unit("megahertz", "frequency", factor="1e6", senml="MHz"),
    Unit("rpm", "frequency", factor="1/60", senml="1/min"),
    Unit("meter_per_second", "speed", senml="m/s", aliases=("mps",), prefixed=("m/s",)),
    Unit("kilometer_per_hour", "speed", factor="5/18", senml="km/h", aliases=("kmh", "kph")),
    Unit("mile_per_hour", "speed", factor="0.44704", aliases=("mph",)),
    Unit("knot", "speed", factor="1852/3600", aliases=("kn",)),
    Unit("meter_per_second_squared", "acceleration", senml="m/s2", prefixed=("m/s2",)),
    Unit("standard_gravity", "acceleration", factor="9.80665", aliases=("g0",)),
    Unit("square_meter", "area", senml="m2", prefixed=("m2",), power=2),
    Unit("cubic_meter", "volume", senml="m3", prefixed=("m3",), power=3),
    Unit("liter", "volume", factor="0.001", senml="l", aliases=("litre", "L"), prefixed=("l", "L")),
    Unit("milliliter", "volume", factor="1e-6", aliases=("millilitre", "ml", "mL")),
    Unit("cubic_meter_per_second", "volume flow", senml="m3/s", prefixed=("m3/s",), power=3),
    Unit("liter_per_second", "volume flow", factor="0.001", senml="l/s", aliases=("L/s",), prefixed=("l/s", "L/s")),
    Unit("cubic_meter_per_hour", "volume flow", factor="1/3600", aliases=("m3/h",), prefixed=("m3/h",), power=3),
    Unit("liter_per_minute", "volume flow", factor="1/60000", aliases=("l/min", "L/min"), prefixed=("l/min", "L/min")),
    Unit("kilogram_per_cubic_meter", "mass concentration", senml="kg/m3"),
    Unit(
        "gram_per_cubic_meter",
        "mass concentration",
        factor="1e-3",
        aliases=("g/m3", "mg/l", "mg/L"),
        prefixed=("g/m3",),
    ),
    Unit("milligram_per_cubic_meter", "mass concentration", factor="1e-6", aliases=("mg/m3", "ug/l", "ug/L")),
    Unit("microgram_per_cubic_meter", "mass concentration", factor="1e-9", aliases=("ug/m3", "ug/m^3", "mcg/m3")),
    Unit("gram_per_liter", "mass concentration", aliases=("g/l", "g/L"), prefixed=("g/l", "g/L")),
    Unit("newton", "force", senml="N", prefixed=("N",)),
    Unit("pascal", "pressure", senml="Pa", prefixed=("Pa",)),
    Unit("hectopascal", "pressure", factor="100", senml="hPa", aliases=("mbar", "millibar")),
    Unit("kilopascal", "pressure", factor="1000", aliases=("kPa",)),
    Unit("bar", "pressure", factor="1e5", prefixed=("bar",)),
    Unit("psi", "pressure", factor="6894.757293168361"),
    Unit("joule", "energy", senml="J", prefixed=("J",)),
    Unit("watt_second", "energy", senml="Ws", prefixed=("Ws",)),
    Unit("watt_hour", "energy", factor="3600", senml="Wh", prefixed=("Wh",)),
    Unit("kilowatt_hour", "energy", factor="3.6e6", senml="kWh"),
    Unit("watt", "power", senml="W", prefixed=("W",)),
    Unit("milliwatt", "power", factor="0.001", senml="mW"),
    Unit("kilowatt", "power", factor="1000", senml="kW"),
    Unit("volt_ampere", "apparent power", senml="VA", prefixed=("VA",)),
    Unit("kilovolt_ampere", "apparent power", factor="1000", senml="kVA"),
    Unit("var", "reactive power", senml="var", prefixed=("var",)),
    Unit("kilovar", "reactive power", factor="1000", senml="kvar"),
    Unit("volt", "voltage", senml="V", prefixed=("V",)),
    Unit("millivolt", "voltage", factor="0.001", senml="mV"),
    Unit("ampere", "current", senml="A", prefixed=("A",)),
    Unit("milliampere", "current", factor="0.001", senml="mA"),
    Unit("coulomb", "charge", senml="C", prefixed=("C",)),
    Unit("ampere_hour", "charge", factor="3600", senml="Ah", prefixed=("Ah",)),
    Unit("ohm", "resistance", senml="Ohm", aliases=("Ω",), prefixed=("Ohm", "ohm", "Ω")),
    Unit("siemens_per_meter", "conductivity", senml="S/m", prefixed=("S/m",)),
    Unit("farad", "capacitance", senml="F", prefixed=("F",)),
    Unit("henry", "inductance", senml="H", prefixed=("H",)),
    Unit("tesla", "flux density", senml="T", prefixed=("T",)),
    Unit("lux", "illuminance", senml="lx", prefixed=("lx",)),
    Unit("lumen", "luminous flux", senml="lm", prefixed=("lm",)),
    Unit("candela", "luminous intensity", senml="cd", prefixed=("cd",)),
    Unit("watt_per_square_meter", "irradiance", senml="W/m2", prefixed=("W/m2",)),
    Unit("decibel", "level", senml="dB"),
    Unit("decibel_milliwatt", "power level", senml="dBm"),
    Unit("decibel_watt", "power level", offset="30", senml="dBW"),
    Unit("radian", "angle", senml="rad", prefixed=("rad",)),
    Unit("degree", "angle", factor="0.017453292519943295", senml="deg", aliases=("°",)),
    Unit("latitude", "latitude", senml="lat"),
    Unit("longitude", "longitude", senml="lon"),
    Unit("becquerel", "activity", senml="Bq", prefixed=("Bq",)),
    Unit("ph", "acidity", senml="pH", aliases=("pH",)),
    Unit("count", "count", senml="count"),
    Unit("per_second", "rate", senml="1/s"),
    Unit("bit", "information", senml="bit", prefixed=("bit",), counted=True),
    Unit("byte", "information", factor="8", senml="B", prefixed=("B",), counted=True),
    Unit("kibibyte", "information", factor="8192", senml="KiB"),
    Unit("gigabyte", "information", factor="8e9", senml="GB"),
    Unit("bit_per_second", "data rate", senml="bit/s", prefixed=("bit/s",), counted=True),
    Unit("byte_per_second", "data rate", factor="8", senml="B/s", prefixed=("B/s",), counted=True),
    Unit("megabit_per_second", "data rate", factor="1e6", senml="Mbit/s"),
)

#: Symbol, name and factor of the prefixes (SI brochure, 9th edition, version 3.01, table 7).
PREFIXES: tuple[tuple[str, str, Fraction], ...] = tuple(
    (symbol, name, Fraction(10) ** power)
    for symbol, name, power in (
        ("Q", "quetta", 30), ("R", "ronna", 27), ("Y", "yotta", 24), ("Z", "zetta", 21), ("E", "exa", 18),
        ("P", "peta", 15), ("T", "tera", 12), ("G", "giga", 9), ("M", "mega", 6), ("k", "kilo", 3), ("h", "hecto", 2),
        ("da", "deca", 1), ("d", "deci", -1), ("c", "centi", -2), ("m", "milli", -3), ("u", "micro", -6),
        ("n", "nano", -9), ("p", "pico", -12), ("f", "femto", -15), ("a", "atto", -18), ("z", "zepto", -21),
        ("y", "yocto", -24), ("r", "ronto", -27), ("q", "quecto", -30),
    )
)  # fmt: skip
#: The prefixes of counted units: the multiples from kilo on, and IEC 80000-13's binary ones.
COUNTED_PREFIXES: tuple[tuple[str, str, Fraction], ...] = (
    *((symbol, name, factor) for symbol, name, factor in PREFIXES if factor >= Fraction(1000)),
    *(
        (symbol, name, Fraction(1024) ** power)
        for symbol, name, power in (
            ("Ki", "kibi", 1), ("Mi", "mebi", 2), ("Gi", "gibi", 3), ("Ti", "tebi", 4), ("Pi", "pebi", 5),
            ("Ei", "exbi", 6),
        )
    ),
)  # fmt: skip


@lru_cache(maxsize=4096)
def spelling(text: str) -> str:
    """A unit's spelling for comparison: by NFKC (``℃``, ``m³``), trimmed, with ``u`` for micro (``µ``, ``μ``)."""
    return unicodedata.normalize("NFKC", text).strip().replace("\u03bc", "u")


#: By plain name and alias. Two symbols mean one thing in SenML and another colloquially (``C``, ``F``): SenML has its
#: own look-up in :func:`plain_name`.
_BY_NAME: Mapping[str, Unit] = MappingProxyType(
    {spelling(unit.senml): unit for unit in UNITS if unit.senml is not None}
    | {spelling(name): unit for unit in UNITS for name in (unit.name, *unit.aliases)}
)
#: The symbols and the names that take a prefix.
_BY_SYMBOL: Mapping[str, Unit] = MappingProxyType(
    {spelling(symbol): unit for unit in UNITS for symbol in unit.prefixed}
)
_BY_WORD: Mapping[str, Unit] = MappingProxyType(
    {
        word: unit
        for unit in UNITS
        if unit.prefixed and unit.power == 1
        for word in (unit.name, *unit.aliases)
        if word == unit.name or (word.isalpha() and word not in unit.prefixed)
    }
)
_PLAIN_NAME: Mapping[str, str] = MappingProxyType({unit.senml: unit.name for unit in UNITS if unit.senml is not None})


def plain_name(senml: str) -> str:
    """The plain name of a SenML symbol (``Cel`` → ``celsius``); a symbol outside the table is returned unchanged."""
    return _PLAIN_NAME.get(senml, senml)


def convert(value: float, source: str, target: str) -> float | None:
    """``value`` in ``target``, or None where ``source`` does not convert to it. Equal names convert unchanged."""
    if source == target:
        return value
    source, target = spelling(source), spelling(target)
    if source == target:
        return value
    here, there = _find(source), _find(target)
    if here is None or there is None or here.dimension != there.dimension:
        return None
    multiply, divide, add = _line(here, there)
    return value * multiply / divide + add


@lru_cache(maxsize=4096)
def _find(text: str) -> Unit | None:
    """The unit of a spelling: the whole spelling in the table, or else a prefix with a unit that takes it."""
    whole = _BY_NAME.get(text)
    if whole is not None:
        return whole
    for at in range(1, len(text)):
        for places, column in ((_BY_SYMBOL, 0), (_BY_WORD, 1)):
            unit = places.get(text[at:])
            if unit is None:
                continue
            for prefix in COUNTED_PREFIXES if unit.counted else PREFIXES:
                if prefix[column] == text[:at]:
                    factor = Fraction(unit.factor) * prefix[2] ** unit.power
                    return Unit(text, unit.dimension, factor=str(factor))
    return None


@lru_cache(maxsize=4096)
def _line(here: Unit, there: Unit) -> tuple[int, int, float]:
    """Integer multiplier and divisor, then the sum: 25 celsius are 77 fahrenheit and not 76.99999999999999."""
    scale = Fraction(here.factor) / Fraction(there.factor)
    add = (Fraction(here.offset) - Fraction(there.offset)) / Fraction(there.factor)
    return scale.numerator, scale.denominator, float(add)
