"""``group``, ``twin``, ``command``, ``audit`` and ``device why``: a fleet's state from the command line."""

import json
import sqlite3

import pytest


@pytest.fixture
def say(fleet):
    """Runs a command that must succeed and gives its JSON."""

    def go(*words):
        done = fleet(*words, "-o", "json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    return go


def test_groups_by_query_and_by_hand(fleet, say):
    say("device", "register", "a", "--tag", "x")
    say("device", "register", "b")
    say("group", "create", "site")
    say("group", "create", "tagged", "--query", "tags has 'x'", "--within", "site")
    say("group", "create", "hall", "--within", "site")
    assert say("group", "add", "hall", "b") == {"changed": 1}

    assert say("group", "show", "site")["devices"] == 2
    assert [one["device"] for one in say("group", "members", "site")] == ["a", "b"]
    assert [one["why"] for one in say("group", "of", "a")] == ["tags has 'x' (['x'])"]
    assert [one["id"] for one in say("device", "list", "--where", "group = 'site' and not tags has 'x'")] == ["b"]
    assert say("group", "take-out", "hall", "b") == {"changed": 1}
    assert fleet("group", "remove", "site").code == 4
    assert fleet("group", "create", "bad", "--query", "tags contains 'x'").code == 5


def test_why_shows_the_clause_that_decided(fleet, say):
    say("device", "register", "a", "--tag", "x")

    out = fleet("device", "why", "a", "tags has 'x' and reported.n > 3").out

    assert "a is not selected" in out
    assert "→ unknown reported.n > 3   reported.n is not there" in out
    assert "column 1: field 'tag' does not exist" in fleet("device", "why", "a", "tag = 1").err


def test_a_twin_is_set_by_version(fleet, say):
    say("device", "register", "a")
    assert say("twin", "set", "a", '{"interval": 60, "led": true}')["desired_version"] == 1
    assert say("twin", "set", "a", '{"led": null}', "--if-version", "1")["desired_version"] == 2

    assert say("twin", "show", "a")["delta"] == {"interval": 60}
    assert fleet("twin", "set", "a", "{}", "--if-version", "1").code == 4
    assert "not JSON" in fleet("twin", "set", "a", "{interval: 1}").err


def test_a_command_is_sent_followed_and_cancelled(fleet, say):
    say("device", "register", "a")
    sent = say("command", "send", "a", "reboot", "delay_s=5", "--idempotency-key", "k")

    again = say("command", "send", "a", "reboot", "delay_s=5", "--idempotency-key", "k")
    cancelled = say("command", "cancel", sent["id"])

    assert again["id"] == sent["id"]
    assert (sent["state"], cancelled["state"]) == ("queued", "cancelled")
    assert [one["id"] for one in say("command", "of", "a")] == [sent["id"]]
    assert fleet("command", "send", "a", "blink", "--wait", "0.1").code == 7
    assert fleet("command", "show", "nothing").code == 3


def test_the_audit_log_is_listed_and_verified(fleet, say, data):
    say("device", "register", "a")
    say("twin", "set", "a", '{"secret": "hunter2"}')

    rows = say("audit", "list")
    assert [(row["action"], row["changed"]) for row in rows] == [
        ("twin.desired", ["/secret"]),
        ("device.registered", []),
    ]
    assert [row["action"] for row in say("device", "history", "a")] == ["device.registered", "twin.desired"]
    assert "hunter2" not in fleet("audit", "list").out
    assert say("audit", "verify")["ok"] is True

    with sqlite3.connect(data / "fleet.db") as db:
        db.execute("UPDATE records SET body=json_set(body, '$.actor', 'nobody') WHERE kind='audit' AND key LIKE '%2'")
    db.close()
    done = fleet("audit", "verify", "-o", "json")
    assert done.code == 1
    assert json.loads(done.out)["bad_seq"] == 2


def test_layers_reach_the_devices_and_each_leaf_names_its_layer(fleet, say):
    say("device", "register", "a")
    say("twin", "layer", "set", "defaults", '{"interval": 300, "led": true}')
    say("twin", "set", "a", '{"interval": 60}')

    shown = say("twin", "show", "a")
    assert shown["desired"] == {"interval": 60, "led": True}
    assert {at: one["layer"] for at, one in shown["origins"].items()} == {"/interval": "device", "/led": "defaults"}
    assert set(shown["unconverged"]) == {"/interval", "/led"}
    assert say("twin", "history", "a")[0]["version"] == shown["desired_version"]
    assert say("twin", "past", "a", "2020-01-01T00:00:00Z") == {}
    assert [one["id"] for one in say("twin", "layer", "list")] == ["defaults"]
    say("twin", "layer", "remove", "defaults")
    assert fleet("twin", "layer", "set", "x", "{}", "--kind", "group").code == 5


def test_roles_are_given_listed_and_taken_back(fleet, say):
    given = say("token", "grant", "ana", "operator", "--scope", "group:lab", "--reason", "her room")

    assert [(one["id"], one["role"], one["scope"]) for one in say("token", "roles", "ana")] == [
        (given["id"], "operator", "group:lab")
    ]
    assert say("token", "roles", "bob") == []
    say("token", "withdraw", given["id"])
    assert say("token", "roles") == []
    assert fleet("token", "withdraw", given["id"]).code == 3


def test_an_erased_device_is_gone_and_the_log_says_who_did_it(fleet, say):
    say("device", "register", "a")

    say("device", "erase", "a", "--reason", "asked for by its owner")

    assert fleet("device", "show", "a").code == 3
    assert fleet("device", "erase", "a").code == 3
    rows = say("audit", "list", "--object", "a")
    assert [one["reason"] for one in rows if one["action"] == "device.erased"] == ["asked for by its owner"]
