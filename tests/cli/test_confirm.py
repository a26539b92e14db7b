"""What cannot be undone is asked on a terminal, and only there."""

import io
import json
import re

import pytest

from fleetcore.cli import confirm
from fleetcore.cli.derived import confirmation
from fleetcore.frontends.catalogue import core

#: Commands that cannot be undone.
FINAL = {
    "abort_campaign", "discard_dead_letter", "erase_device", "remove_group", "remove_layer", "revoke_certificate",
    "revoke_device", "revoke_enrollment_token", "revoke_token", "set_lifecycle",
}  # fmt: skip


@pytest.fixture
def on_a_terminal(terminal):
    """A real ``fleetcore`` on a terminal of 80 columns, answered so: its exit code, and all that it printed."""

    def go(*words, answer=""):
        shell = terminal(80, 24, *words)
        if answer:
            shell.until("Go on?")
            shell.press(answer)
        return shell.ended(), shell.said.decode().replace("\r\n", "\n")

    return go


def devices(fleet):
    return [one["id"] for one in json.loads(fleet("device", "list", "-o", "json").out)]


def test_calls_that_cannot_be_undone_say_what_they_do():
    assert {call.name for call in core().values() if call.confirm} >= FINAL


@pytest.mark.parametrize(
    ("answer", "code", "left", "says"),
    [
        ("y\n", 0, ["th-2"], "done"),
        ("n\n", 1, ["th-1", "th-2"], "Nothing was changed."),
        ("\n", 1, ["th-1", "th-2"], "Nothing was changed."),
        ("\x04", 130, ["th-1", "th-2"], ""),
    ],
)
def test_a_person_is_asked(run, filled, answer, code, left, says, on_a_terminal):
    ended, said = on_a_terminal("device", "erase", "th-1", "--data", filled, answer=answer)

    assert (ended, says in said) == (code, True)
    assert "Retires th-1 and erases it with its readings and its state, for good." in said
    assert devices(lambda *words: run(*words, "--data", filled)) == left


def test_yes_answers_beforehand(filled, on_a_terminal):
    ended, said = on_a_terminal("device", "erase", "th-1", "--yes", "--data", filled)

    assert (ended, "Go on?" in said) == (0, False)


def test_without_a_terminal_nobody_is_asked(run, filled):
    assert run("device", "erase", "th-1", "--data", filled).code == 0
    assert devices(lambda *words: run(*words, "--data", filled)) == ["th-2"]


def test_only_what_is_for_good_is_asked(run, monkeypatch, filled):
    monkeypatch.setattr("fleetcore.cli.derived.asks", lambda: True)
    asked = []
    monkeypatch.setattr("fleetcore.cli.derived.confirm", lambda what, *, yes: asked.append(what))

    for words in (["suspend", "th-1"], ["move", "th-1", "active"], ["move", "th-1", "retired"], ["retire", "th-2"]):
        assert run("device", *words, "--data", filled).code == 0

    text = "Retires {} for good: its credentials are revoked and its sessions end."
    assert asked == [text.format("th-1"), text.format("th-2")]
    assert run("device", "suspend", "th-1", "--yes", "--data", filled).code == 2


def test_a_short_id_is_asked_as_a_whole(fleet, monkeypatch):
    made = json.loads(fleet("token", "create", "alice", "-o", "json").out)["id"]
    monkeypatch.setattr("fleetcore.cli.derived.asks", lambda: True)
    asked = []
    monkeypatch.setattr("fleetcore.cli.derived.confirm", lambda what, *, yes: asked.append(what))

    assert fleet("token", "revoke", made[:8]).code == 0
    assert asked == [f"Ends the token {made} for good."]


@pytest.mark.parametrize(
    "words",
    [["ca", "rotate", "retire"], ["ca", "distrust", "an-id"], ["quarantine", "discard", "--all"],
     ["ca", "revoke", "--device", "th-1"], ["quarantine", "discard", "7"]],
)  # fmt: skip
def test_commands_written_by_hand_ask_the_same(run, filled, monkeypatch, words):
    monkeypatch.setattr(confirm.sys, "stdin", Terminal("n\n"))

    done = run(*words, "--data", filled)

    assert (done.code, "for good" in done.err, "Nothing was changed." in done.err) == (1, True, True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_text_names_what_was_given():
    assert confirmation(core()["remove_group"], {"group": "a{b}"}) == "Removes the group a{b}; its devices stay."


def test_a_terminal_shows_states_in_colour_and_times_from_now(filled, on_a_terminal):
    ended, said = on_a_terminal("device", "list", "--data", filled)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)

    assert ended == 0
    assert "\x1b[2mnever" in said or "\x1b[32monline" in said
    assert max(map(len, plain.splitlines())) <= 80


def test_a_terminal_without_colours_gets_none(filled, monkeypatch, on_a_terminal):
    monkeypatch.setenv("NO_COLOR", "1")

    ended, said = on_a_terminal("device", "list", "--data", filled)

    assert (ended, "\x1b[3" in said) == (0, False)
