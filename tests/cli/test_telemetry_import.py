"""``telemetry import``: what is counted is what the user wanted. It guards against green ticks over refused readings.

A dry run is held to the run, and an import that was killed to the file.
"""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetcore import IoTFleetManager
from fleetcore.cli import connect
from fleetcore.cli.root import Root
from fleetcore.cli.telemetry import sparkline
from fleetcore.errors import Refused, Unavailable

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
    picture = sparkline([19.0, 23.0] * 500 + [60.0] + [19.0, 23.0] * 500)

    assert picture.endswith("19 to 60")
    assert "█" in picture


@pytest.mark.parametrize(
    ("values", "bars"), [((1.7e308, -1.7e308, 0.0), "█▁▅"), ((0.0, 0.0, 0.0), "▁▁▁"), ((0.0, 5e-324, 0.0), "▁█▁")]
)
def test_a_picture_has_values_of_every_size(values, bars):
    assert sparkline(values).split()[0] == bars


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


def run(*words):
    return CliRunner().invoke(Root(), list(map(str, words)), standalone_mode=False, catch_exceptions=False)


def test_a_mapping_names_metrics_units_and_devices_for_many_files(data, tmp_path):
    first, second = tmp_path / "may.csv", tmp_path / "june.csv"
    first.write_text("Zeit;Sensor;Temp (C);Bemerkung\n01.05.2026 08:00;0x1f;21,5;gut\n", encoding="utf-8")
    second.write_text("Zeit;Sensor;Temp (C);Bemerkung\n15.06.2026 08:00;0x1f;22,5;\n", encoding="utf-8")
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        'date_order = "dmy"\nzone = "Europe/Berlin"\nskip = ["Bemerkung"]\n'
        '[metrics]\n"Temp (C)" = {metric = "temperature", unit = "Cel"}\n[devices]\n0x1f = "a"\n',
        encoding="utf-8",
    )

    done = run("telemetry", "import", first, second, "--mapping", mapping, "--data", data)

    assert done.output.splitlines()[-1] == "2 of 2 readings stored, 0 were duplicates, 0 conflicts, 0 refused"
    with IoTFleetManager.sync(data) as manager:
        view = manager.query_telemetry("a", "temperature")
    assert (view.unit, view.value.tolist()) == ("Cel", [21.5, 22.5])
    assert view.to_plain()["points"][0][0] == "2026-05-01T06:00:00.000Z"


def test_a_saved_mapping_reads_the_file_as_it_was_guessed(data, tmp_path):
    file, mapping = tmp_path / "f.csv", tmp_path / "m.toml"
    file.write_text('time;device;"a ""b"" \\";x\n2026-01-01T00:00:00Z;a;1,5;2\n', encoding="utf-8")

    saved = run("telemetry", "import", file, "--save-mapping", mapping, "--data", data)
    told = run("telemetry", "import", file, "--dry-run", "--data", data)
    mapped = run("telemetry", "import", file, "--dry-run", "--mapping", mapping, "--data", data)

    assert saved.return_value == 0
    assert told.output == mapped.output


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("colour = 'red'", "'colour' is unknown"),
        ("skip = 'x'", "skip is a list"),
        ("zone = 3", "every value is a text"),
        ("[metrics]\nx = {unit = 'Cel'}", "neither a name nor"),
        ("[metrics", "cannot be read"),
        ("time_unit = 'h'", "time_unit 'h' does not exist"),
        ("decimal = 'x'", "decimal 'x' does not exist"),
        ("delimiter = ';;'", "';;' is not a delimiter"),
    ],
)
def test_a_faulty_mapping_is_refused_with_the_reason(data, tmp_path, text, why):
    (tmp_path / "f.csv").write_text("time,device,t\n2026-01-01T00:00:00Z,a,1.5\n")
    (tmp_path / "m.toml").write_text(text)

    with pytest.raises(Refused, match=re.escape(why)):
        run("telemetry", "import", tmp_path / "f.csv", "--mapping", tmp_path / "m.toml", "--data", data)


def test_a_dry_run_shows_the_first_readings_as_they_are_understood(data, tmp_path):
    (tmp_path / "f.csv").write_text("ts,device,t,ok\n" + f"{S},a,1.5,true\nyesterday,a,2,\n")

    done = run("telemetry", "import", tmp_path / "f.csv", "--dry-run", "--data", data)

    rows = [line.split() for line in done.output.splitlines()]
    assert ["2", "a", "t", "2026-01-01T00:00:00.000Z", "1.5"] in rows
    assert ["2", "a", "ok", "2026-01-01T00:00:00.000Z", "yes"] in rows
    assert ["3", "a", "t", "time_invalid", "yesterday"] in rows


def test_an_import_goes_on_from_a_line(data, tmp_path):
    file = tmp_path / "f.csv"
    file.write_text("time,device,t\n" + "".join(f"2026-01-01T00:00:{at:02}Z,a,{at}\n" for at in range(60)))

    done = run("telemetry", "import", file, "--from-line", 42, "--data", data)

    assert done.output.splitlines()[-1].startswith("20 of 20 readings stored")
    assert stored(data, "a", "t")[0] == (S + 40, 40.0)


def test_an_interrupted_import_says_from_which_line_it_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr("fleetcore.frontends.readings.PART", 10)
    file = tmp_path / "f.csv"
    file.write_text("time,device,t,u\n" + "".join(f"2026-01-01T00:00:{at:02}Z,a,{at},{at}\n" for at in range(60)))
    taken = []

    async def fails(self, name, given):
        taken.append(name)
        if len(taken) == 4:
            raise Unavailable("gone")
        return await whole(self, name, given)

    whole = connect._Caller.run
    monkeypatch.setattr(connect._Caller, "run", fails)
    runner = CliRunner()
    ended = runner.invoke(Root(), ["telemetry", "import", str(file), "--data", str(data)], standalone_mode=False)
    monkeypatch.setattr(connect._Caller, "run", whole)

    assert isinstance(ended.exception, Unavailable)
    (line,) = re.findall(r"--from-line (\d+)", ended.output)
    assert len(stored(data, "a", "u")) == 15
    run("telemetry", "import", file, "--from-line", line, "--data", data)
    assert [value for _, value in stored(data, "a", "u")] == list(range(60))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_is_exported_is_imported_the_same(data, tmp_path, form):
    file = tmp_path / f"out.{form}"
    with IoTFleetManager.sync(data) as manager:
        rows = [
            ("a", "t", T.timestamp() * 1000 + at, value)
            for at, value in enumerate((1.5, -2, True, 'text, "x"', "=A1", "'"))
        ]
        manager.collect_many([*rows, ("b", "t", S * 1000, 0.1 + 0.2, "Cel"), ("b", "u", S * 1000, 7)])
    done = run("telemetry", "export", "--metric", "t", "--to", file, "--data", data)
    other = tmp_path / "other"
    with IoTFleetManager.sync(other) as manager:
        for device in ("a", "b"):
            manager.register_device(device, "sensor")
    run("telemetry", "import", file, "--data", other)

    assert done.output.splitlines()[-1] == f"7 readings of 2 series in {file}"
    with IoTFleetManager.sync(data) as ours, IoTFleetManager.sync(other) as theirs:
        for device in ("a", "b"):
            assert theirs.query_telemetry(device, "t").to_plain() == ours.query_telemetry(device, "t").to_plain()
    with pytest.raises(Refused, match="exists"):
        run("telemetry", "export", "--to", file, "--data", data)


def test_an_export_is_of_some_devices_times_and_metrics(data):
    with IoTFleetManager.sync(data) as manager:
        manager.collect_many([(device, "t", S * 1000 + at, at) for device in ("a", "b") for at in range(10)])

    some = run(
        "telemetry",
        "export",
        "a",
        "--start",
        "2026-01-01T00:00:00.003Z",
        "--end",
        "2026-01-01T00:00:00.005Z",
        "--data",
        data,
    )
    none = run("telemetry", "export", "--where", "id = 'b'", "--metric", "x*", "--data", data)

    assert some.stdout.splitlines() == [
        "device,metric,time,value,unit", "a,t,2026-01-01T00:00:00.003Z,3.0,", "a,t,2026-01-01T00:00:00.004Z,4.0,",
    ]  # fmt: skip
    assert none.stdout.splitlines() == ["device,metric,time,value,unit"]


def test_a_row_with_more_cells_than_the_header_is_refused_alone(data):
    """A decimal comma between commas must not store another number."""
    code, done = imported(data, f"time,device,t\n{S},a,21,5\n{S + 1},a,22\n{S + 2},a,23,\n")

    assert (code, done["stored"], done["reasons"]) == (7, 2, {"payload_unreadable": 1})
    assert done["failures"][0]["line"] == 2
    assert stored(data, "a", "t") == [(S + 1, 22.0), (S + 2, 23.0)]


def test_a_file_of_which_no_row_fits_its_header_is_refused(data):
    with pytest.raises(Refused, match="has as many cells as the header"):
        imported(data, f"time,device,t\n{S},a,21,5\n")


def test_a_quote_that_is_not_closed_does_not_swallow_the_lines_after_it(data):
    with pytest.raises(Refused, match=r"f\.csv:4: unexpected end of data"):
        imported(data, f'time,device,t\n{S},a,"1\n{S + 1},a,2\n{S + 2},a,3\n')


def test_a_metric_that_begins_late_in_a_file_of_json_lines_is_stored(data):
    rows = [{"time": S + at, "device": "a", "t": at, **({"late": at} if at > 300 else {})} for at in range(310)]

    code, done = imported(data, "".join(json.dumps(row) + "\n" for row in rows), name="f.jsonl")

    assert (code, done["stored"]) == (0, 319)
    assert stored(data, "a", "late")[0] == (S + 301, 301.0)


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_an_epoch_keeps_its_millisecond(data, unit):
    zeros = {"us": "000", "ns": "000000"}[unit]
    rows = "".join(f"{S}{at:03}{zeros},a,{at}\n" for at in range(100))

    imported(data, f"ts,device,t\n{rows}")

    with IoTFleetManager.sync(data) as manager:
        assert (manager.query_telemetry("a", "t").time - S * 1000).tolist() == list(range(100))


@pytest.mark.parametrize("cell", [str(-(2**53) - 1), f"+{2**53 + 1}"])
def test_an_integer_with_a_sign_is_not_altered_either(data, cell):
    code, done = imported(data, f"time,device,t\n{S},a,{cell}\n")

    assert (code, done["reasons"]) == (7, {"number_inexact": 1})


@pytest.mark.parametrize(
    ("delimiter", "cell", "value"),
    [
        (";", "1.013,2", 1013.2), (";", "1.000.000", 1e6), (";", "-12.345,5", -12345.5), (";", "0,5", 0.5),
        ("\t", "1,013.2", 1013.2), ("\t", "1,000,000", 1e6), ("\t", "1e3", 1000.0), ("\t", "-7", -7.0),
    ],
)  # fmt: skip
def test_a_number_with_marks_between_thousands_is_a_number(data, delimiter, cell, value):
    decimal = {";": "1,5", "\t": "1.5"}[delimiter]
    rows = [("time", "device", "t", "u"), (str(S), "a", cell, decimal), (str(S + 1), "a", "", decimal)]

    imported(data, "".join(delimiter.join(row) + "\n" for row in rows))

    assert stored(data, "a", "t") == [(S, value)]


def test_the_decimal_mark_is_found_though_every_number_has_thousands(data):
    imported(data, f"time;device;t\n{S};a;1.013,2\n")

    assert stored(data, "a", "t") == [(S, 1013.2)]


def test_a_text_with_an_underscore_is_no_number(data):
    imported(data, f"time,device,t\n{S},a,2024_01\n")

    with IoTFleetManager.sync(data) as manager:
        assert manager.list_latest_readings(device="a").items[0].value == "2024_01"


def test_a_number_may_stand_for_no_value(data):
    code, done = imported(data, f"time,device,t\n{S},a,9999\n{S + 1},a,2\n", "--na", "9999")

    assert (code, done["count"], stored(data, "a", "t")) == (0, 1, [(S + 1, 2.0)])


@pytest.mark.parametrize("name", ["f.csv.gz", "f.jsonl.gz"])
def test_a_compressed_file_is_read_as_the_file_in_it(data, tmp_path, name):
    text = f"time,device,t\n{S},a,1.5\n" if "csv" in name else json.dumps({"time": S, "device": "a", "t": 1.5}) + "\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))

    done = run("telemetry", "import", tmp_path / name, "--data", data)

    assert (done.return_value, stored(data, "a", "t")) == (0, [(S, 1.5)])


@pytest.mark.parametrize(
    "content", [gzip.compress(b"time,device,t\n" * 99)[:-9], b"time,device,t\n", b"\x1f\x8b\x08\0"]
)
def test_a_compressed_file_that_is_broken_is_refused_with_the_reason(data, tmp_path, content):
    (tmp_path / "f.csv.gz").write_bytes(content)

    with pytest.raises(Refused, match=r"f\.csv\.gz cannot be uncompressed"):
        run("telemetry", "import", tmp_path / "f.csv.gz", "--data", data)


def test_a_line_in_another_encoding_is_named(data, tmp_path):
    rows = "".join(f"{S + at},a,{at}\n" for at in range(3000))
    (tmp_path / "f.csv").write_bytes(f"time,device,t\n{rows}{S},Kühler,1\n".encode("latin-1"))

    with pytest.raises(Refused, match=r"f\.csv:3002: the line is not UTF-8"):
        run("telemetry", "import", tmp_path / "f.csv", "--data", data)


def test_columns_that_a_mapping_names_and_the_file_lacks_are_told(data, tmp_path):
    (tmp_path / "f.csv").write_text(f"time,device,t\n{S},a,1.5\n")
    (tmp_path / "m.toml").write_text('skip = ["note"]\n[metrics]\ntemp = "temperature"\n')

    done = run("telemetry", "import", tmp_path / "f.csv", "--mapping", tmp_path / "m.toml", "--data", data)

    assert "no column of the first rows is called 'temp', 'note'" in done.output


def test_a_mapping_has_the_names_of_the_options(data, tmp_path):
    (tmp_path / "f.txt").write_text(json.dumps({"time": S, "device": "a", "t": 1.5}) + "\n")
    (tmp_path / "m.toml").write_text('format = "jsonl"\n')

    run("telemetry", "import", tmp_path / "f.txt", "--mapping", tmp_path / "m.toml", "--data", data)

    assert stored(data, "a", "t") == [(S, 1.5)]


def test_a_text_from_a_device_is_no_formula_in_an_export(data):
    with IoTFleetManager.sync(data) as manager:
        manager.collect_many([("a", "t", S * 1000, "=HYPERLINK(1)")])

    done = run("telemetry", "export", "--data", data)

    assert ",'=HYPERLINK(1)," in done.output


def test_what_an_interrupted_import_has_done_is_said_below_its_bar(data, tmp_path, terminal):
    file = tmp_path / "f.csv"
    file.write_text("time,device,t\n" + "".join(f"{S + at},{'abx'[at % 3]},{at % 9}\n" for at in range(400_000)))
    screen = terminal(100, 24, "telemetry", "import", file, "--data", data)
    screen.until("/400001", gone=" 0/400001")
    screen.interrupt()

    assert screen.ended() == 130
    lines = screen.screen.splitlines()
    assert any(line.startswith("So far ") for line in lines)
    assert any(line.startswith("Interrupted after line ") for line in lines)


def test_a_file_that_is_named_twice_is_imported_once(data, tmp_path):
    (tmp_path / "f.csv").write_text(f"time,device,t\n{S},a,1.5\n{S},x,1.5\n")

    done = run("telemetry", "import", tmp_path / "f.csv", tmp_path / "f.csv", "--data", data)

    assert "1 of 2 readings stored" in done.output
    assert "line 3: x t: The device is not registered" in done.output


def test_a_pipe_is_refused_rather_than_waited_for(data, tmp_path):
    os.mkfifo(tmp_path / "p.csv")

    with pytest.raises(Refused, match="is a pipe"):
        run("telemetry", "import", tmp_path / "p.csv", "--data", data)
