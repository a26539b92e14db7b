"""Every command: explains itself, prints the same rows in every form, gives nothing secret away."""

import csv
import io
import json
import re

import click
import pytest

from fleetcore.cli.root import root


def commands(group=root, words=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        yield (*words, name), found
        if isinstance(found, click.Group):
            yield from commands(found, (*words, name))


EVERY = [pytest.param(words, one, id=" ".join(words)) for words, one in commands()]


@pytest.mark.parametrize(("words", "command"), EVERY)
def test_help_says_what_it_does_and_names_its_arguments(run, words, command):
    done = run(*words, "--help")

    assert done.code == 0
    assert len((command.help or "").split()) >= 2
    for one in command.params:
        if isinstance(one, click.Argument) and one.required:
            assert one.make_metavar(click.Context(command)).strip(".…").partition("=")[0] in done.out
    assert re.findall(r"(?<![0-9.])[0-9]+\.0(?!\.?[0-9])", done.out) == [], "a whole number has no fraction"


@pytest.mark.parametrize(("words", "command"), EVERY)
def test_every_argument_and_option_is_explained(words, command):
    unexplained = [one.name for one in command.params if not one.help]

    assert unexplained == []


LISTS = [
    "device list",
    "device certificates",
    "device history th-1",
    "telemetry series",
    "telemetry latest th-1",
    "telemetry query th-1 temperature",
    "telemetry aggregate th-1 temperature --every 10",
    "group list",
    "audit list",
    "plugin list",
]


@pytest.mark.parametrize("words", LISTS)
def test_every_form_holds_the_same_rows(run, filled, words):
    if words == "device certificates":
        words += " th-1"
    place = [] if words == "plugin list" else ["--data", filled]

    def show(form):
        done = run(*words.split(), "-o", form, *place)
        assert done.code == 0, done.err
        return done.out

    rows = json.loads(show("json"))
    assert [json.loads(line) for line in show("jsonl").splitlines()] == rows
    cells = list(csv.DictReader(io.StringIO(show("csv"))))
    assert len(cells) == len(rows)
    for row, cell in zip(rows, cells, strict=True):
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert float(cell[name]) == value
            elif isinstance(value, list | dict):
                assert json.loads(cell[name]) == value
    table = show("table")
    assert ("nothing" in table) == (not rows)


SHOWS = [
    *(
        "device show th-1",
        "device list",
        "device history th-1",
        "device certificates th-1",
    ),
    *("token list", "audit list", "twin show th-1", "health device th-1", "health fleet", "doctor"),
]
SECRETS = re.compile(r"fc_[a-z]+_[\w.-]+_[\w-]{20,}|PRIVATE KEY")


def test_a_secret_is_shown_once_by_the_command_that_makes_it(fleet, data):
    made = [
        fleet("device", "register", "th-1", "--enroll", "-o", "json"),
        fleet("device", "token", "th-1", "-o", "json"),
        fleet("token", "create", "anna", "--role", "viewer", "-o", "json"),
    ]

    assert all(SECRETS.search(one.out) for one in made), "the pattern must know them"
    for words in SHOWS:
        done = fleet(*words.split(), "-o", "json")
        assert done.code == 0, done.err
        assert not SECRETS.search(done.out), words
    assert not any(SECRETS.search(file.read_text()) for file in data.glob("*.toml"))


def test_a_lifecycle_is_moved_by_its_verbs_and_ends_with_retire(fleet):
    fleet("device", "register", "th-1")

    seen = [
        json.loads(fleet("device", verb, "th-1", "-o", "json").out)["lifecycle"]
        for verb in ("suspend", "quarantine", "activate", "retire")
    ]

    assert seen == ["suspended", "quarantined", "active", "retired"]
    after = fleet("device", "activate", "th-1")
    assert after.code == 4
    assert "retired is final" in after.err


def test_a_revoked_token_is_counted(fleet):
    fleet("device", "register", "th-1")
    fleet("device", "token", "th-1")

    first = json.loads(fleet("device", "revoke", "th-1", "--reason", "lost", "-o", "json").out)
    second = json.loads(fleet("device", "revoke", "th-1", "-o", "json").out)

    assert (first["changed"], second["changed"]) == (1, 0)


def test_a_plugin_project_is_written_once(run, tmp_path):
    assert run("plugin", "new", "jumps", "--into", tmp_path).code == 0
    assert (tmp_path / "fleetcore-jumps" / "fleetcore_jumps" / "plugin.py").is_file()

    again = run("plugin", "new", "jumps", "--into", tmp_path)

    assert again.code in (4, 5)
    assert "exists already" in again.err


def test_the_brokers_files_are_written_for_their_owner_alone(run, data, tmp_path):
    done = run("mqtt", "broker-config", "--data", data, "--out", tmp_path / "broker")

    files = sorted((tmp_path / "broker").iterdir())
    assert done.code == 0
    assert [(one.name, one.stat().st_mode & 0o777) for one in files] == [
        ("mosquitto.acl", 0o600),
        ("mosquitto.conf", 0o600),
    ]
