"""Plots in the terminal: no extreme is lost, gaps stay empty, and the size is kept."""

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore import IoTFleetManager
from fleetcore.cli.plotting import DOTS_ACROSS, Bucket, plot

START = 1_780_000_000_000
_BITS = {0x01: (0, 0), 0x02: (0, 1), 0x04: (0, 2), 0x40: (0, 3), 0x08: (1, 0), 0x10: (1, 1), 0x20: (1, 2), 0x80: (1, 3)}


def drawn(lines):
    """The dots of a plot, ``(column, row)`` from its upper left corner, and its size in dots."""
    rows = [
        line[min(line.index(sign) for sign in "┤│" if sign in line) + 1 :]
        for line in lines
        if "┤" in line or "│" in line
    ]
    axis = next(line for line in lines if "└" in line)
    dots = {
        (2 * across + right, 4 * down + below)
        for down, row in enumerate(rows)
        for across, sign in enumerate(row)
        for bit, (right, below) in _BITS.items()
        if sign != " " and (ord(sign) - 0x2800) & bit
    }
    return dots, (len(axis) - axis.index("└") - 1) * DOTS_ACROSS, len(rows) * 4


values = st.floats(-1e6, 1e6, allow_nan=False)
series = st.lists(
    st.tuples(st.integers(0, 9999), values, values), min_size=1, max_size=60, unique_by=lambda row: row[0]
)


@given(series, st.integers(40, 200), st.integers(6, 40))
def test_every_extreme_of_every_column_is_a_dot(rows, width, height):
    buckets = [Bucket(START + at, min(a, b), max(a, b)) for at, a, b in sorted(rows)]

    lines = plot(buckets, START, START + 10_000, width=width, height=height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    dots, across, down = drawn(lines)
    low, high = min(each.low for each in buckets), max(each.high for each in buckets)
    for bucket in buckets:
        column = (bucket.start - START) * across // 10_000
        for value in (bucket.low, bucket.high):
            row = 0.5 * (down - 1) if low == high else (high - value) / (high - low) * (down - 1)
            assert any(abs(row - place) <= 0.5 + 1e-6 for at, place in dots if at == column)


def test_one_of_the_largest_floats_is_drawn():
    assert drawn(plot([Bucket(START, 1.7e308, 1.7e308)], START, START + 1000, width=60, height=12))[0]


@pytest.mark.parametrize("height", [6, 9, 12, 16, 40])
def test_the_largest_floats_are_drawn(height):
    lines = plot([Bucket(START, -1.7e308, 1.7e308)], START, START + 1000, width=60, height=height)

    dots, _, down = drawn(lines)
    assert {row for _, row in dots} == set(range(down))
    assert any("e+3" in line for line in lines)


def test_labels_of_close_values_differ():
    lines = plot([Bucket(START, 1e9, 1e9 + 1e-5)], START, START + 1000, width=60, height=12)

    labels = [line.split("┤")[0].strip() for line in lines if "┤" in line]
    assert len(labels) > 1
    assert len(set(labels)) == len(labels)


def test_two_groups_of_readings_far_apart_are_not_connected():
    far = plot([Bucket(START, 1, 2, 10), Bucket(START + 9000, 1, 2, 10)], START, START + 10_000, width=60, height=12)
    single = plot([Bucket(START, 1, 2), Bucket(START + 9000, 1, 2)], START, START + 10_000, width=60, height=12)

    assert len({column for column, _ in drawn(far)[0]}) == 2
    assert len({column for column, _ in drawn(single)[0]}) > 50


def test_nothing_to_draw_is_no_fault():
    assert len(plot([], START, START + 1000, width=60, height=12)) > 3


def test_a_stretch_without_readings_stays_empty():
    buckets = [Bucket(START + at * 10, 1.0, 2.0) for at in range(1000) if not 400 <= at < 600]

    dots, across, _ = drawn(plot(buckets, START, START + 10_000, width=80, height=10))

    columns = {column for column, _ in dots}
    empty = [column for column in range(across) if column not in columns]
    assert (min(empty) / across, max(empty) / across) == (pytest.approx(0.4, abs=0.02), pytest.approx(0.6, abs=0.02))
    assert len(empty) == max(empty) - min(empty) + 1


def test_a_mark_stands_below_its_time_and_plain_signs_replace_braille():
    buckets = [Bucket(START + at * 1000, at, at) for at in range(60)]

    lines = plot(
        buckets, START, START + 60_000, width=66, height=8, marks={"▲": [START + 30_000, START - 5]}, dots=False
    )

    axis = next(line for line in lines if "└" in line)
    assert lines[-1].strip() == "▲"
    assert (lines[-1].index("▲") - axis.index("└") - 1) / (len(axis) - axis.index("└") - 1) == pytest.approx(
        0.5, abs=0.02
    )
    assert {sign for line in lines[:5] for sign in line.partition("│")[2]} == {"#", " "}


@pytest.mark.parametrize(
    ("seconds", "label"), [(10, "20:26:40"), (3600, "20:30"), (86_400, "05-29 00:00"), (86_400 * 900, "2027-")]
)
def test_the_time_axis_has_round_labels(seconds, label):
    lines = plot([Bucket(START, 1.0, 2.0)], START, START + seconds * 1000, width=80, height=8)

    assert label in lines[-1]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with a day of readings, a value a minute, one of them far off."""
    folder = tmp_path_factory.mktemp("stored")

    async def fill():
        async with IoTFleetManager(folder, create=True) as manager:
            await manager.register_device("pump-1", "pump")
            rows = [
                {
                    "device": "pump-1",
                    "metric": "heat",
                    "time": START + at * 60_000,
                    "value": 99.5 if at == 700 else at % 7,
                }
                for at in range(1440)
            ]
            await manager.collect_many(rows)

    asyncio.run(fill())
    return folder


def test_a_metric_is_drawn_with_its_extreme_and_its_edges(run, stored):
    told = run("telemetry", "plot", "pump-1", "heat", "--data", stored, "--width", 60, "--height", 9)

    assert told.code == 0
    # At 60 columns the times have a line of their own.
    head, span, *lines = told.out.splitlines()
    assert head == "heat of pump-1: 1440 readings"
    assert span == "2026-05-28T20:26:40.000Z to 2026-05-29T20:25:40.001Z"
    dots, across, _ = drawn([line for line in lines if "▲" not in line])
    (column,) = {column for column, row in dots if row == 0}
    # A bucket begins where the clock is a multiple of its length: it may begin in the column before.
    assert 0 <= 700 * 60_000 * across // (1439 * 60_000 + 1) - column <= 1
    assert max(len(line) for line in lines if not line.startswith("▲")) <= 60


@pytest.mark.parametrize(
    ("environment", "colours"), [({}, {"red"}), ({"NO_COLOR": "1"}, set()), ({"TERM": "dumb"}, set())]
)
def test_marks_are_coloured_unless_the_environment_asks_for_plain_text(terminal, stored, environment, colours):
    shown = terminal(80, 30, "telemetry", "plot", "pump-1", "heat", "--data", stored, **environment)

    shown.until("▲ 2026")
    shown.until("is normal")

    assert shown.colours == colours


def test_programs_get_the_buckets(run, stored):
    told = run("telemetry", "plot", "pump-1", "heat", "--data", stored, "-o", "csv", "--start", "2026-05-29T00:00:00Z")

    assert told.out.startswith("start,count,min,max,")
    assert "99.5" in told.out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("pump-1", "cold"), "No reading of cold of pump-1 is stored"),
        (("pump-9", "heat"), "'pump-9' does not exist"),
        (("pump-1", "heat", "--start", "2030-01-01T00:00:00Z"), "--start lies behind"),
        (("pump-1", "heat", "--start", "yesterday"), "time"),
        (("pump-1", "heat", "--width", "3"), "--width"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_reason(run, stored, words, reason):
    told = run("telemetry", "plot", *words, "--data", stored)

    assert told.code != 0
    assert reason in told.err
    assert told.out == ""


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Two devices with two metrics, a change of desired state and an anomaly of the first."""
    folder = tmp_path_factory.mktemp("several")

    async def fill():
        async with IoTFleetManager(folder, create=True) as manager:
            now = time.time_ns() // 1_000_000
            for device in ("pump-1", "pump-2"):
                await manager.register_device(device, "pump")
                for metric, scale in (("heat", 1.0), ("power", 100.0)):
                    rows = [
                        (device, metric, now - 60_000 + at * 1000, (at % 7 + (5 if device == "pump-2" else 0)) * scale)
                        for at in range(120)
                    ]
                    await manager.collect_many(rows)
            await manager.set_desired("pump-1", {"interval": 5})

    asyncio.run(fill())
    return folder


def test_metrics_and_devices_are_drawn_below_each_other_over_one_time(run, several):
    told = run(
        "telemetry", "plot", "pump-1", "heat", "power", "--with", "pump-2", "--data", several, "--height", 8,
        "--width", 80,
    )  # fmt: skip

    titles = [line.partition(":")[0] for line in told.out.splitlines() if "readings" in line]
    axes = [line for line in told.out.splitlines() if "└" in line]
    assert titles == ["heat of pump-1", "heat of pump-2", "power of pump-1", "power of pump-2"]
    assert len(axes) == 4
    assert len({line.index("└") for line in axes}) == 1
    assert "◆ " in told.out
    assert "twin.desired" in told.out
    # Plots of one metric share the axis of values: the first two go up to 10.
    heights = [line.split()[0] for line in told.out.splitlines() if "┤" in line]
    assert heights.count("10") == 2


def test_programs_get_the_buckets_with_their_device_and_metric(run, several):
    told = run("telemetry", "plot", "pump-1", "heat", "--with", "pump-2", "--data", several, "-o", "jsonl")

    assert {(row["device"], row["metric"]) for row in map(json.loads, told.out.splitlines())} == {
        ("pump-1", "heat"), ("pump-2", "heat"),
    }  # fmt: skip


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_written(run, several, tmp_path, ending):
    file = tmp_path / f"plot.{ending}"

    told = run("telemetry", "plot", "pump-1", "heat", "power", "--with", "pump-2", "--data", several, "--save", file)

    assert (told.code, told.err) == (0, "")
    assert file.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[ending])
    if ending == "svg":
        assert "heat of pump-1, pump-2" in file.read_text()


def test_a_picture_of_another_kind_is_refused(run, several, tmp_path):
    told = run("telemetry", "plot", "pump-1", "heat", "--data", several, "--save", tmp_path / "plot.gif")

    assert (told.code, "neither with .png nor with .svg" in told.err) == (5, True)
