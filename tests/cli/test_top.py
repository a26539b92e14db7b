"""``fleetcore top``: the screen at several widths, keys, and the real command in a terminal."""

import json
import os
import signal
import time

import pytest
from attrs import evolve

from fleetcore.cli import keys
from fleetcore.cli.top_screen import View, device, fleet, footer, helping, moved, pressed, rates

NOW = "2026-11-29T12:00:00.000Z"
NOW_MS = 1_795_953_600_000


def row(number, **given):
    return {
        "id": f"pump-{number}", "type": "pump", "lifecycle": "active", "connectivity": "late", "last_seen": NOW,
        "alerts": 0,
    } | given  # fmt: skip


def traffic(**given):
    return (
        dict.fromkeys(
            ("accepted", "rejected", "stored", "duplicates", "conflicts", "refused", "waiting", "sessions", "behind"), 0
        )
        | given
    )


def overview(**given):
    counts = {"devices": 100_000, "online": 99_000, "asleep": 0, "late": 900, "offline": 99, "never": 1}
    anomaly = {"device": "pump-3", "metric": "temperature", "time": NOW, "explanation": "above 60"}
    work = {"id": "spring", "what": "2.0", "total": 200, "done": 50, "failed": 3}
    mirror = {"name": "aws", "state": "paused", "waiting": 12, "lag_s": 3.2}
    return {
        "fleet": "plant-3", "time": NOW, "as_of": NOW, "counts": counts, "first": [row(at) for at in range(50)],
        "alerts": 200, "anomalies": [anomaly], "campaigns": [work], "operations": [], "mirrors": [mirror],
        "traffic": traffic(accepted=10, stored=30),
    } | given  # fmt: skip


def text(lines):
    return [line.plain.rstrip() for line in lines]


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("height", [10, 24, None])
def test_the_screen_keeps_its_size_and_loses_no_count(width, height):
    before = overview(time="2026-11-29T11:59:58.000Z", traffic=traffic())
    lines = fleet(View(), overview(), rates(before, overview()), width=width, height=height, now_ms=NOW_MS)

    assert max(line.cell_len for line in lines) <= width
    shown = "   ".join(text(lines))
    for wanted in (
        "plant-3", "100,000 devices", "99,000 online", "900 late", "99 offline", "5 messages/s", "15 readings/s",
        "200+ alerts in the last hour", "mirror aws", "paused", "12 waiting, for 3 s", "campaign spring", "50 of 200",
        "3 failed",
    ):  # fmt: skip
        assert wanted in shown
    if height == 24:
        assert len(lines) <= height - 1
    if height is None:
        assert [line for line in text(lines) if line.startswith("pump-49")]


def test_the_chosen_row_is_always_in_sight():
    view, rows = View(), [item["id"] for item in overview()["first"]]
    for key in ("down",) * 30 + ("page down", "up"):
        view = pressed(view, key, rows)
        lines = fleet(view, overview(), None, width=80, height=20, now_ms=NOW_MS)
        chosen = [line for line in lines if any("reverse" in str(span.style) for span in line.spans)]
        assert [line.plain.split()[0] for line in chosen] == [rows[view.at]]
        assert len(lines) <= 19
    assert view.at == 39


def test_keys_choose_an_order_a_query_and_a_device():
    rows = ["a", "b"]

    def after(*names):
        view = View()
        for name in names:
            view = pressed(view, name, rows)
        return view

    assert after("a").order == "alerts"
    assert after("/", *"type = 'x'", "enter") == View(where="type = 'x'")
    assert after("/", "q", "backspace", "enter") == View()
    assert after("/", "q", "escape") == View()
    assert after("down", "enter").device == "b"
    assert after("down", "down", "down").at == 1
    assert after("enter", "escape") == View()
    assert after("enter", "r") == View(device="a")
    assert (after("p").paused, after("p", "p").paused) == (True, False)
    assert after("?").helps
    assert after("?", "q") == View()
    assert after("q").quits
    assert evolve(after("x", "page up"), at=0) == View()


def test_what_a_terminal_sends_becomes_keys():
    assert list(keys.names("a\x1b[A\x1bOB\x1b[1;5C\x1b[5~\r\x7f\x1bé\x00")) == [
        "a", "up", "down", "page up", "enter", "backspace", "escape", "é",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "before",
    [None, overview(traffic=None), overview(), overview(time="2026-11-29T11:59:58.000Z", traffic=traffic(accepted=11))],
)
def test_rates_need_two_answers_of_one_run_of_the_server(before):
    assert rates(before, overview()) is None


def test_a_device_is_shown_with_its_problems_and_readings():
    found = {
        "device": "pump-1", "findings": ["It has not been heard from for 3 h"], "health": {"score": 40.0},
        "lifecycle": "active", "presence": {"connectivity": "offline", "last_seen": NOW}, "updating": [],
        "waiting": [{"name": "reboot", "state": "queued"}],
    }  # fmt: skip
    latest = [{"metric": "temperature", "value": 61.25, "unit": "°C", "time": NOW}]

    shown = text(device(found, latest, width=60, now_ms=NOW_MS + 3 * 3_600_000))

    assert shown[0] == "pump-1   offline   3 h ago   active   health 40 of 100"
    assert "! It has not been heard from for 3 h" in shown
    assert "commands under way: reboot queued" in shown
    assert shown[-1].split() == ["temperature", "61.25", "°C", "3", "h", "ago"]


def test_an_error_is_shown_whole():
    lines = text(footer(View(), "x" * 30 + " remedy" * 20, 60))

    assert "".join(lines).count("remedy") == 20
    assert all(len(line) <= 60 for line in lines)


def test_without_a_terminal_it_prints_once(fleet, full, run):
    done = run("top", "--data", full)

    assert (done.code, done.err) == (0, "")
    assert "2 devices   1 online   0 asleep   0 late   0 offline   1 never" in done.out
    assert "th-2" in done.out
    answer = json.loads(run("top", "--data", full, "-o", "json", "--where", "id = 'th-1'").out)
    assert (answer["counts"]["devices"], [item["id"] for item in answer["first"]]) == (1, ["th-1"])
    assert run("top", "--data", full, "-o", "csv").out.splitlines()[0].startswith("id,type,")
    assert run("top", "--data", full, "--where", "id =").code == 5


def test_in_a_terminal_keys_work_and_the_server_may_come_and_go(terminal, served, filled):
    with served(filled):
        top = terminal(80, 20, "top", "--every", "0.2", "--data", filled)
        top.until("2 devices")
        top.press("/id =\r")
        top.until("query: id =_")
        top.until("Line 1")
        top.press("\x15id = 'th-2'\r")
        top.until("1 devices")
        top.press("\r")
        top.until("th-2   never")
    top.until("The server has ended")
    top.press("\x1b")
    top.until("where id = 'th-2'")  # what was read last stays
    with served(filled):
        top.press("/\x15\r")
        top.until("2 devices")
    top.until("The server has ended")
    top.press(" ")
    top.until("2 devices", gone="The server has ended")
    top.press("q")
    assert top.ended() == 0


def test_a_wrong_query_at_the_start_ends_it_with_the_reason(terminal, full):
    top = terminal(60, 20, "top", "--where", "id =", "--data", full)

    assert top.ended() == 5
    assert "Line 1" in top.said.decode()


def test_another_size_of_the_terminal_is_drawn_at_once(terminal, full):
    top = terminal(100, 20, "top", "--every", "3600", "--data", full)
    top.until("↑↓ Enter open")
    top.resize(60, 12)

    top.until("p pause  order: silent", gone="Enter open")
    assert max(map(len, top.screen.splitlines())) <= 60


def test_a_terminal_without_a_cursor_gets_what_a_pipe_gets(terminal, full):
    top = terminal(80, 20, "top", "--data", full, TERM="dumb")

    assert top.ended() == 0
    assert "2 devices" in top.screen


def test_a_pipe_is_none_though_colours_are_forced(process, full):
    done = process("top", "--data", full, env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm"})

    assert "2 devices" in done.stdout
    assert "\x1b[?1049h" not in done.stdout


def test_a_folder_that_no_server_has_open_is_read_only_when_a_key_asks(terminal, filled):
    top = terminal(100, 20, "top", "--every", "0.2", "--data", filled)
    top.until("No server has the folder open; space reads it again")
    before = top.screen.splitlines()[0]
    time.sleep(1.2)  # the clock on the screen has seconds
    top.press("x")
    top.until("No server has the folder open")
    assert top.screen.splitlines()[0] == before

    top.press(" ")
    top.until("2 devices", gone=before)


def test_the_chosen_device_stays_chosen_when_the_order_changes():
    assert moved(2, "c", ["c", "a", "b"]) == 0
    assert moved(0, None, ["c", "a", "b"]) == 0
    assert moved(2, "gone", ["a", "b"]) == 1
    assert moved(2, "gone", []) == 0


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_line_fits_and_quitting_is_always_named(width):
    lines = text([*helping(width), *footer(View(order="recent"), "", width)])
    found = {"device": "p", "findings": ["remedy " * 20], "health": {"score": None}, "lifecycle": "active",
             "presence": {"connectivity": "late", "last_seen": NOW}, "updating": [], "waiting": []}  # fmt: skip

    shown = text(device(found, [], width=width, now_ms=NOW_MS))

    assert max(map(len, [*lines, *shown])) <= width
    assert "q quit" in lines[-1]
    assert " ".join(shown).count("remedy") == 20


@pytest.mark.parametrize("width", [60, 80])
def test_a_long_id_leaves_room_for_the_state_of_all_devices(width):
    found = overview(first=[row("x" * 60, type="t" * 60), row(1)])

    lines = text(fleet(View(), found, None, width=width, height=24, now_ms=NOW_MS))

    assert max(map(len, lines)) <= width
    assert next(line for line in lines if line.startswith("device ")).split()[:5] == [
        "device", "type", "state", "last", "seen",
    ]  # fmt: skip
    assert not any("also shows" in line for line in lines)


def test_the_end_of_a_long_query_is_in_sight_while_it_is_typed():
    (line,) = text(footer(View(typed="x" * 100 + "end"), "", 60))

    assert line.endswith("xend_")
    assert len(line) == 60


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_is_as_before_after_a_signal_though_a_query_was_being_typed(terminal, full, number):
    top = terminal(80, 20, "top", "--data", full)
    top.until("2 devices")
    top.press("/id")
    top.until("query: id_")
    top.interrupt(number)

    assert top.ended() == 0
    assert top.said.endswith(b"\x1b[?25h\x1b[?1049l")
