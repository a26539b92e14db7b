"""``device import`` and ``export``, ``command bulk``, ``operation``: many devices at once, each line with its result."""

import json

import pytest


@pytest.fixture
def say(fleet):
    """Runs a command that must succeed and gives its JSON."""

    def go(*words):
        done = fleet(*words, "-o", "json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    return go


CSV = """\
id,type,tags,attributes,location,gateway
gw,gateway,,,,
th-1,thermometer,roof; south,"{""floor"": 3}","{""lat"": 52.5, ""lon"": 13.4}",
leaf,probe,,,,gw
"""


def test_a_file_is_imported_exported_and_imported_again(fleet, say, run, tmp_path):
    (tmp_path / "in.csv").write_text(CSV)
    done = fleet("device", "import", tmp_path / "in.csv", "--reason", "first delivery")
    assert (done.code, done.out.splitlines()) == (0, ["3 of 3 done, 0 failed", "  registered 3"])

    shown = say("device", "show", "th-1")
    assert (shown["tags"], shown["attributes"]) == (["roof", "south"], {"floor": 3})
    assert say("device", "show", "leaf")["gateway"] == "gw"
    assert [row["reason"] for row in say("device", "history", "th-1")] == ["first delivery"]

    for name in ("out.csv", "out.jsonl"):
        assert fleet("device", "export", tmp_path / name).code == 0
        other = tmp_path / f"{name}-fleet"
        run("init", other)
        assert run("device", "import", tmp_path / name, "--data", other).code == 0
        assert run("device", "export", tmp_path / f"again-{name}", "--data", other).code == 0
        assert (tmp_path / f"again-{name}").read_text() == (tmp_path / name).read_text()
    again = fleet("device", "import", tmp_path / "in.csv")
    assert again.out.splitlines() == ["3 of 3 done, 0 failed", "  unchanged 3"]
    assert fleet("device", "export", tmp_path / "out.csv").code == 4


def test_each_line_that_fails_is_named_and_the_others_are_registered(fleet, say, tmp_path):
    say("device", "register", "taken", "--type", "other")
    rows = [
        '{"id": "good"}',
        "",
        '{"id": "bad id"}',
        '{"id": "taken", "type": "thermometer"}',
        '{"id": "GOOD"}',
        '{"id": "x", "colour": "red"}',
        '{"id": "leaf", "gateway": "nobody"}',
        "7",
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))

    checked = fleet("device", "import", tmp_path / "in.jsonl", "--dry-run")
    assert checked.code == 7
    assert [one["id"] for one in say("device", "list")] == ["taken"]

    done = fleet("device", "import", tmp_path / "in.jsonl")
    assert done.code == 7
    assert done.out.splitlines() == [
        "1 of 7 done, 6 failed",
        "  registered 1",
        "  already_exists 2, name_invalid 1, not_found 1, schema_invalid 2",
    ]
    assert (checked.out, checked.err) == (done.out, done.err)
    named = {line.split(":")[0]: line for line in done.err.splitlines()}
    assert set(named) == {"line 3", "line 4", "line 5", "line 6", "line 7", "line 8"}
    assert "[already_exists]" in named["line 4"]
    assert "colour" in named["line 6"]
    assert [one["id"] for one in say("device", "list")] == ["good", "taken"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("in.csv", "name\nx\n", "in.csv:1: the header has no column id"),
        ("in.csv", 'id\na\n"b\n', "in.csv:2: unexpected end of data"),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_line(fleet, tmp_path, name, text, says):
    (tmp_path / name).write_text(text)

    done = fleet("device", "import", tmp_path / name)

    assert done.code == 5
    assert says in done.err


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("in.csv", "id,type\na,s\nb,s,x\nc,s\n", {"line 3": "more cells"}),
        (
            "in.jsonl",
            '{"id": "a"}\n{"id": \n{"id": "!"}\n{"id": "d", "attributes": {"n": NaN}}\n{"id": "e", "id": "f"}\n{"id": "c"}\n',
            {"line 2": "not a JSON", "line 3": "not a device id", "line 4": "not a JSON", "line 5": "not a JSON"},
        ),
    ],
)
def test_a_line_that_is_no_row_fails_alone(fleet, say, tmp_path, name, text, wrong):
    (tmp_path / name).write_text(text)

    checked = fleet("device", "import", tmp_path / name, "--dry-run")
    done = fleet("device", "import", tmp_path / name)

    assert (checked.code, done.code) == (7, 7)
    assert done.out.splitlines()[0] == f"2 of {2 + len(wrong)} done, {len(wrong)} failed"
    named = [line.partition(": ") for line in done.err.splitlines()]
    assert [line for line, _, _ in named] == list(wrong)
    assert all(wrong[line] in why for line, _, why in named)
    assert checked.err == done.err
    assert [one["id"] for one in say("device", "list")] == ["a", "c"]


def test_a_file_of_several_parts_is_one_import_in_which_leaves_may_come_before_their_gateways(
    fleet, say, tmp_path, monkeypatch
):
    monkeypatch.setattr("fleetcore.cli.sending._ROWS", 3)
    rows = [{"id": f"leaf-{number}", "gateway": f"gw-{number}"} for number in range(4)]
    rows += [{"id": f"gw-{number}", "type": "gateway"} for number in range(3)]
    rows += [{"id": "GW-0"}, {"id": "leaf-1", "gateway": "gw-1"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    checked = fleet("device", "import", tmp_path / "in.jsonl", "--dry-run")
    done = fleet("device", "import", tmp_path / "in.jsonl")
    again = fleet("device", "import", tmp_path / "in.jsonl")

    assert (checked.code, checked.out, checked.err) == (done.code, done.out, done.err)
    assert done.out.splitlines() == [
        "7 of 9 done, 2 failed",
        "  registered 6, unchanged 1",
        "  already_exists 1, not_found 1",
    ]
    assert [line.partition(":")[0] for line in done.err.splitlines()] == ["line 4", "line 8"]
    assert again.err == done.err
    assert again.out.splitlines()[1] == "  unchanged 7"
    assert len(say("operation", "list")) == 2


def test_a_file_in_another_encoding_is_refused_with_the_remedy(fleet, tmp_path):
    (tmp_path / "in.csv").write_bytes("id\nä\n".encode("utf-16"))

    done = fleet("device", "import", tmp_path / "in.csv")

    assert done.code == 5
    assert "Save it as UTF-8" in done.err


def test_a_formula_survives_the_way_through_a_spreadsheet(fleet, say, tmp_path):
    say("device", "register", "a", "--model", "-1")
    (tmp_path / "in.jsonl").write_text('{"id": "b", "name": "=HYPERLINK(1)"}\n')
    fleet("device", "import", tmp_path / "in.jsonl")

    fleet("device", "export", tmp_path / "out.csv")

    text = (tmp_path / "out.csv").read_text()
    assert "'=HYPERLINK(1)" in text
    assert "'-1" in text


def test_names_of_every_kind_come_back_from_csv_as_they_were(fleet, run, tmp_path):
    names = [
        "=1+1",
        "'=1+1",
        "''=x",
        "'quoted'",
        "\tx",
        "\rx",
        "@x",
        '"',
        "a\r\nb",
        "\x1b[31m",
        "{{7*7}}",
        "<script>",
        "'",
    ]
    rows = [json.dumps({"id": f"d-{place:02}", "name": name}) for place, name in enumerate(names)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    assert fleet("device", "import", tmp_path / "in.jsonl").code == 0

    fleet("device", "export", tmp_path / "out.csv")
    run("init", tmp_path / "other")
    run("device", "import", tmp_path / "out.csv", "--data", tmp_path / "other")
    back = json.loads(run("device", "list", "-o", "json", "--data", tmp_path / "other").out)

    assert [one["name"] for one in back] == names
    assert not [line for line in (tmp_path / "out.csv").read_text().splitlines() if ",\t" in line or ",=" in line]


def test_a_command_goes_to_many_as_it_was_planned(fleet, say):
    for number in range(4):
        say("device", "register", f"d-{number}", "--tag", "even" if number % 2 == 0 else "odd")
    plan = say("command", "bulk", "blink", "--where", "tags has 'odd'", "--dry-run")
    assert (plan["count"], plan["sample"]) == (2, ["d-1", "d-3"])

    ended = say("command", "bulk", "blink", "--where", "tags has 'odd'", "--plan", plan["plan"])

    assert (ended["state"], ended["done"]) == ("succeeded", 2)
    assert say("command", "counts", ended["id"])["counts"] == {"queued": 2}
    assert [one["id"] for one in say("operation", "list")] == [ended["id"]]
    assert fleet("operation", "cancel", ended["id"]).code == 4
    assert fleet("command", "bulk", "blink", "--where", "tags has 'even'", "--plan", plan["plan"]).code == 4
    assert fleet("command", "bulk", "blink").code == 5


def test_a_bulk_command_may_reach_more_than_the_cap_once_that_is_said(fleet, say):
    for number in range(3):
        say("device", "register", f"d-{number}")
    bulk = ("command", "bulk", "blink", "--where", "type = 'device'", "--lane", "light", "--deliver-within", "60")
    plan = say(*bulk, "--dry-run", "--cap", "2")

    assert (plan["count"], plan["cap"]) == (3, 2)
    assert fleet(*bulk, "--cap", "2").code == 5
    assert say(*bulk, "--cap", "3", "--plan", plan["plan"])["state"] == "succeeded"
    assert {one["lane"] for one in say("command", "list")} == {"light"}
