"""``fleetcore device``, ``telemetry`` and what they print."""

import csv
import io
import json


def test_a_device_is_registered_shown_listed_changed_and_retired(fleet):
    assert fleet("device", "register", "th-1", "--type", "thermometer", "--tag", "roof", "--attribute", "n=3").code == 0

    shown = json.loads(fleet("device", "show", "th-1", "-o", "json").out)
    listed = json.loads(fleet("device", "list", "--tag", "roof", "-o", "json").out)

    assert (shown["type"], shown["attributes"], shown["lifecycle"]) == ("thermometer", {"n": 3}, "registered")
    assert [one["id"] for one in listed] == ["th-1"]


def test_an_enrolment_token_is_printed_once_and_only_where_it_was_asked_for(fleet):
    token = json.loads(fleet("device", "register", "th-1", "--enroll", "-o", "json").out)["enrollment_token"]

    assert token.startswith("fc_enr_")
    assert token not in fleet("device", "show", "th-1", "-o", "json").out


def test_every_output_holds_the_same_rows(run, filled):
    def show(output):
        return run("telemetry", "query", "th-1", "temperature", "-o", output, "--data", filled).out

    rows = json.loads(show("json"))
    assert len(rows) == 60
    assert [json.loads(line) for line in show("jsonl").splitlines()] == rows
    found = list(csv.DictReader(io.StringIO(show("csv"))))
    assert [(one["time"], float(one["temperature"])) for one in found] == [(r["time"], r["temperature"]) for r in rows]
    table = show("table")
    assert "the last 50 of 60" in table
    assert "25.9" in table


def test_names_cannot_drive_a_terminal_or_a_spreadsheet(fleet):
    evil = '=HYPERLINK("http://x")\x1b[31m'
    assert fleet("device", "register", "th-1", "--attribute", f"note={json.dumps(evil)}").code == 0
    assert fleet("device", "register", "th-2", "--model", "-1").code == 0

    for output in ("table", "csv"):
        for words in (("show", "th-1"), ("list",)):
            text = fleet("device", *words, "-o", output).out
            assert "\x1b" not in text
            assert not any(cell.startswith("=") for line in csv.reader(io.StringIO(text)) for cell in line)
    assert json.loads(fleet("device", "show", "th-1", "-o", "json").out)["attributes"]["note"] == evil


def test_latest_series_aggregates_and_anomalies_are_shown(run, filled):
    latest = json.loads(run("telemetry", "latest", "th-1", "-o", "json", "--data", filled).out)
    series = json.loads(run("telemetry", "series", "-o", "json", "--data", filled).out)
    buckets = json.loads(
        run("telemetry", "aggregate", "th-1", "temperature", "--every", 60, "-o", "json", "--data", filled).out
    )

    assert [(one["metric"], one["value"]) for one in latest] == [("temperature", 25.9)]
    assert [(one["device"], one["metric"]) for one in series] == [("th-1", "temperature")]
    assert sum(one["count"] for one in buckets) == 60
    assert run("telemetry", "anomalies", "-o", "json", "--data", filled).out.strip() == "[]"
