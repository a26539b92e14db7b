"""``telemetry import``: what is counted is what the user wanted. It guards against green ticks over refused readings.

A dry run is held to the run, and an import that was killed to the file.
"""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetcore import IoTFleetManager
from fleetcore.cli.root import Root

T = datetime(2026, 1, 1, tzinfo=UTC)
S = int(T.timestamp())


@pytest.fixture
def data(tmp_path):
    with IoTFleetManager.sync(tmp_path / "fleet") as manager:
        for device in ("a", "b"):
            manager.register_device(device, "sensor")
    return tmp_path / "fleet"


def imported(data, text, *options, name="f.csv"):
    """The exit code and the answer of an import, told as JSON; the run has to be what its dry run said."""
    file = data.parent / name
    file.write_text(text, encoding="utf-8")
    words = ["telemetry", "import", str(file), "--data", str(data), "-o", "json", *options]
    checked = CliRunner().invoke(Root(), [*words, "--dry-run"], standalone_mode=False, catch_exceptions=False)
    run = CliRunner().invoke(Root(), words, standalone_mode=False, catch_exceptions=False)
    said, done = json.loads(checked.stdout), json.loads(run.stdout)
    assert said == done
    assert checked.return_value == run.return_value
    return run.return_value, done


def stored(data, device, metric):
    with IoTFleetManager.sync(data) as manager:
        view = manager.query_telemetry(device, metric)
    return list(zip((view.time // 1000).tolist(), view.value.tolist(), strict=True))


FILES = {
    "wide, RFC 3339": ("time,device,t\n2026-01-01T00:00:00Z,a,1.5\n", ()),
    "long": ("device,metric,value,time\na,t,1.5,2026-01-01T00:00:00Z\n", ()),
    "epoch seconds": (f"ts;device;t\n{S};a;1.5\n", ()),
    "epoch milliseconds": (f"ts,device,t\n{S}000,a,1.5\n", ()),
    "epoch nanoseconds": (f"ts,device,t\n{S}000000000,a,1.5\n", ()),
    "decimal comma and a German date": ("Zeit;sensor;t\n01.01.2026 00:00;a;1,5\n", ()),
    "tabs and an American date": ("date\tdevice\tt\n1/1/2026 12:00:00 AM\ta\t1.5\n", ("--date-order", "mdy")),
    "a zone": ("time,device,t\n2026-01-01 01:00:00,a,1.5\n", ("--zone", "Europe/Berlin")),
    "one device": ("time,t\n2026-01-01T00:00:00Z,1.5\n", ("--device", "a")),
    "named columns": ("wann,wer,t\n2026-01-01T00:00:00Z,a,1.5\n", ("--time-column", "wann", "--device-column", "wer")),
    "cells without a value": ("time,device,t,u\n2026-01-01T00:00:00Z,a,1.5,NA\n2026-01-01T00:00:01Z,a,,-\n", ()),
}


@pytest.mark.parametrize(("text", "options"), FILES.values(), ids=list(FILES))
def test_a_file_is_read_as_it_is_laid_out(data, text, options):
    code, done = imported(data, text, *options)

    assert (code, done["count"], done["stored"]) == (0, 1, 1)
    assert stored(data, "a", "t") == [(S, 1.5)]


def test_jsonl_keeps_the_kinds_of_values(data):
    text = "".join(
        json.dumps({"time": S + at, "device": "a", "m": value}) + "\n" for at, value in enumerate([True, "on", 2.5])
    )
    code, _ = imported(data, text, name="f.jsonl")

    assert code == 0
    assert [value for _, value in stored(data, "a", "m")] == [True, "on", 2.5]


def test_parquet_is_read_through_pyarrow(data):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = data.parent / "f.parquet"
    parquet.write_table(pa.table({"time": [T], "device": ["a"], "t": [1.5]}), file)
    run = CliRunner().invoke(Root(), ["telemetry", "import", str(file), "--data", str(data)])

    assert run.exit_code == 0, run.output
    assert stored(data, "a", "t") == [(S, 1.5)]


def test_refused_readings_are_counted_by_reason_and_the_exit_code_says_so(data):
    text = "time,device,t,bad name\n" + f"{S},a,1,\n{S},nobody,1,\n{S + 10**10},a,1,\nx,a,1,\n{S},a,,2\n"
    code, done = imported(data, text, "--time-unit", "s")

    assert code == 7
    assert (done["count"], done["stored"], done["refused"]) == (5, 1, 4)
    assert done["reasons"] == {"device_unknown": 1, "time_unit": 1, "time_invalid": 1, "metric_name_invalid": 1}
    assert {failure["line"] for failure in done["failures"]} == {3, 4, 5, 6}


def test_a_date_of_which_nothing_tells_the_order_is_refused_with_the_option(data):
    file = data.parent / "f.csv"
    file.write_text("time,device,t\n1/2/2026 10:00,a,1\n", encoding="utf-8")
    run = CliRunner().invoke(Root(), ["telemetry", "import", str(file), "--data", str(data)])

    assert run.exit_code != 0
    assert "--date-order" in str(run.exception) + run.output


def test_an_import_that_was_killed_is_started_again(data):
    rows = 400_000
    file = data.parent / "big.csv"
    file.write_text(
        "ts,device,t\n" + "".join(f"{S - rows + at // 2},{'ab'[at % 2]},{at % 97}\n" for at in range(rows)),
        encoding="utf-8",
    )
    words = [sys.executable, "-m", "fleetcore", "telemetry", "import", str(file), "--data", str(data), "-o", "json"]
    store = data / "fleet.db-wal"
    begun = store.stat().st_size if store.exists() else 0
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and (store.stat().st_size if store.exists() else 0) <= begun + 2_000_000:
            continue
        process.send_signal(signal.SIGKILL)
    before = len(stored(data, "a", "t"))
    again = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)

    assert 0 < before < rows // 2
    assert again["stored"] + again["duplicates"] == rows
    assert again["duplicates"] >= before
    assert len(stored(data, "a", "t")) == len(stored(data, "b", "t")) == rows // 2


def test_a_picture_says_the_true_extremes():
    from fleetcore.cli.telemetry import sparkline

    picture = sparkline([19.0, 23.0] * 500 + [60.0] + [19.0, 23.0] * 500)

    assert picture.endswith("19 to 60")
    assert "█" in picture


def test_a_bad_line_of_jsonl_is_counted_with_its_number_and_stops_nothing(data):
    good = [json.dumps({"device": "a", "metric": "t", "time": S * 1000 + at, "value": at}) for at in range(3)]
    bad = [
        "not json",
        '{"device": "a", "metric": "t", "time": ',
        "[1, 2]",
        "5",
        '{"device": "a", "x": "\\ud800"}',
        "{" * 5000,
    ]

    code, done = imported(data, "\n".join([good[0], *bad, "", good[1], good[2]]) + "\n", name="f.jsonl")

    assert (code, done["stored"], done["refused"]) == (7, 3, len(bad))
    assert done["reasons"] == {"payload_unreadable": len(bad)}
    assert [failure["line"] for failure in done["failures"]] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e999", str(2**53 + 1), "9" * 400])
def test_a_number_that_cannot_be_held_is_refused_alone(data, cell):
    code, done = imported(data, f"time,device,t\n{S}000,a,{cell}\n{S}001,a,2\n")

    assert (code, done["stored"], done["refused"]) == (7, 1, 1)


def test_a_dry_run_counts_what_is_there_already_and_what_conflicts(data):
    imported(data, f"time,device,t\n{S}000,a,1\n{S}001,a,2\n{S}002,a,word\n")

    code, done = imported(
        data, f"time,device,t\n{S}000,a,1\n{S}001,a,9\n{S}002,a,word\n{S}002,a,7\n{S}003,a,4\n{S}003,a,4\n"
    )

    assert code == 0
    assert (done["stored"], done["duplicates"], done["conflicts"]) == (2, 3, 1)


@given(rows=st.lists(st.tuples(st.sampled_from("aaabx"), st.integers(0, 2), st.sampled_from(["1", "2", "w", "inf", ""]),
                               st.sampled_from(["Cel", "K", "lx", ""])), min_size=8, max_size=24),
       part=st.integers(1, 4))  # fmt: skip
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_dry_run_says_what_the_run_says_however_the_file_is_cut_into_parts(rows, part, tmp_path_factory):
    """Times repeat within a part, across parts and over what is stored; units differ, devices are unknown."""
    folder = tmp_path_factory.mktemp("f")
    with IoTFleetManager.sync(folder / "fleet") as manager:
        for device in "ab":
            manager.register_device(device, "sensor")
        lines = [f"{S}00{time},{device},t,{value},{unit}" for device, time, value, unit in rows]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fleetcore.frontends.readings.PART", part)
            for some in (lines[::2], lines):
                found = [
                    dict(zip(("time", "device", "metric", "value", "unit"), line.split(","), strict=True))
                    for line in some
                ]
                readings = [
                    (row["device"], row["metric"], int(row["time"]), float(row["value"]) if row["value"] != "w" else "w",
                     row["unit"] or None)
                    for row in found if row["value"]
                ]  # fmt: skip
                if not readings:
                    continue
                said = manager.collect_many(readings, dry_run=True)
                done = manager.collect_many(readings)
                assert said == done


def test_a_time_of_another_form_is_refused_alone(data):
    rows = [S * 1000, "never", None, S * 1000 + 1, True, [1], S * 1000 + 2]
    lines = [json.dumps({"device": "a", "metric": "t", "time": time, "value": at}) for at, time in enumerate(rows)]

    code, done = imported(data, "\n".join(lines), name="f.jsonl")

    assert (code, done["stored"], done["reasons"]) == (7, 3, {"time_invalid": 4})
