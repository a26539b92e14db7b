"""Tables for people: from now, short, named, and as wide as the terminal."""

import pytest
from rich.cells import cell_len

from fleetcore.cli import tables
from fleetcore.cli.output import show
from fleetcore.frontends.catalogue import core
from fleetcore.wire.times import format_time

NOW = 1_800_000_000_000
WIDTHS = (60, 80, 120, 200)
#: A value of each kind, as an answer has it.
VALUES = {
    "id": "3f9a9c1d2e4f5061728394a5b6c7d8e9",
    "text": "the pump ran dry, and the fleet was told so twice before somebody looked",
    "choice": "active",
    "boolean": True,
    "time": "2027-01-15T07:57:00.000Z",
    "integer": 4711,
    "count": 1_234_567,
    "bytes": 1_234_567,
    "number": 21.123456789012345,
    "value": {"answer": 42, "parts": [1, {"deep": None}]},
    "list": ["roof", "hall", {"floor": 3}],
    "object": {"interval": 60, "mode": {"night": "eco", "days": [6, 7]}, "none": {}},
    "word": "th-1",
}


def at(seconds):
    return format_time(NOW + seconds * 1000)


def text(name, rows, width):
    call = core()[name]
    return "\n".join(line.plain for line in tables.table(rows, call.columns, call.members, now_ms=NOW, width=width))


OPERATIONS = [
    {"id": "3f0a9c1d2e4f50617283", "kind": "command", "state": "running", "done": 12_000, "total": 12_345, "failed": 3,
     "created": at(-200), "reason": "they stand still since the update of Tuesday"},
    {"id": "3f0a9c1d2e5f50617283", "kind": "import", "state": "succeeded", "done": 7, "total": 7, "failed": 0,
     "created": at(-3 * 86_400), "reason": ""},
]  # fmt: skip
DEVICES = [
    {"id": "pump-1", "type": "pump", "lifecycle": "active", "connectivity": "online", "last_seen": at(-12),
     "tags": ["roof", "hall", "cellar", "garden", "hotel"]},
    {"id": "thermometer-in-the-cold-store", "type": "thermometer", "lifecycle": "quarantined", "connectivity": "never",
     "last_seen": None, "tags": []},
]  # fmt: skip
ANOMALIES = [
    {"id": "a1b2c3d4e5f60718", "time": at(-90), "device": "th-1", "metric": "temperature", "observed": 99.123456789,
     "expected": 20.000000000000004, "score": 1234.5678, "severity": "critical", "detector": "threshold",
     "explanation": "99.1 °C is above 80 °C"},
]  # fmt: skip
LAYERS = [{"id": "night", "kind": "group", "group": "roof", "priority": 5,
           "section": {"document": {"interval": 60, "mode": "eco"}, "version": 3}}]  # fmt: skip

GOLDEN = {
    ("list_operations", 60): """\
id           kind     state        done   total  failed
3f0a9c1d2e4  command  running    12,000  12,345       3
3f0a9c1d2e5  import   succeeded       7       7       0
(-o json also shows: created, reason)""",
    ("list_operations", 80): """\
id           kind     state        done   total  failed  created    reason
3f0a9c1d2e4  command  running    12,000  12,345       3  3 min ago  they stand…
3f0a9c1d2e5  import   succeeded       7       7       0  3 d ago""",
    ("list_operations", 120): """\
id           kind     state        done   total  failed  created    reason
3f0a9c1d2e4  command  running    12,000  12,345       3  3 min ago  they stand still since the update of Tuesday
3f0a9c1d2e5  import   succeeded       7       7       0  3 d ago""",
    ("list_operations", 200): """\
id           kind     state        done   total  failed  created    reason
3f0a9c1d2e4  command  running    12,000  12,345       3  3 min ago  they stand still since the update of Tuesday
3f0a9c1d2e5  import   succeeded       7       7       0  3 d ago""",
    ("list_devices", 60): """\
id                             type         lifecycle
pump-1                         pump         active
thermometer-in-the-cold-store  thermometer  quarantined
(-o json also shows: connectivity, last_seen, tags)""",
    ("list_devices", 80): """\
id                             type         lifecycle    connectivity  last_seen
pump-1                         pump         active       online        12 s ago
thermometer-in-the-cold-store  thermometer  quarantined  never
(-o json also shows: tags)""",
    ("list_devices", 120): """\
id                             type         lifecycle    connectivity  last_seen  tags
pump-1                         pump         active       online        12 s ago   roof, hall, cellar, garden, hotel
thermometer-in-the-cold-store  thermometer  quarantined  never""",
    ("list_devices", 200): """\
id                             type         lifecycle    connectivity  last_seen  tags
pump-1                         pump         active       online        12 s ago   roof, hall, cellar, garden, hotel
thermometer-in-the-cold-store  thermometer  quarantined  never""",
    ("list_anomalies", 60): """\
id        time       device  metric       observed  expected
a1b2c3d4  1 min ago  th-1    temperature   99.1235        20
(-o json also shows: score, severity, detector, explanation)""",
    ("list_anomalies", 80): """\
id        time       device  metric       observed  expected    score  severity
a1b2c3d4  1 min ago  th-1    temperature   99.1235        20  1234.57  critical
(-o json also shows: detector, explanation)""",
    ("list_anomalies", 120): """\
id        time       device  metric       observed  expected    score  severity  detector   explanation
a1b2c3d4  1 min ago  th-1    temperature   99.1235        20  1234.57  critical  threshold  99.1 °C is above 80 °C""",
    ("list_anomalies", 200): """\
id        time       device  metric       observed  expected    score  severity  detector   explanation
a1b2c3d4  1 min ago  th-1    temperature   99.1235        20  1234.57  critical  threshold  99.1 °C is above 80 °C""",
    ("list_layers", 60): """\
id     kind   group  priority  section
night  group  roof          5  document.interval=60 documen…""",
    ("list_layers", 80): """\
id     kind   group  priority  section
night  group  roof          5  document.interval=60 document.mode=eco version=3""",
    ("list_layers", 120): """\
id     kind   group  priority  section
night  group  roof          5  document.interval=60 document.mode=eco version=3""",
    ("list_layers", 200): """\
id     kind   group  priority  section
night  group  roof          5  document.interval=60 document.mode=eco version=3""",
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("list_operations", OPERATIONS),
        ("list_devices", DEVICES),
        ("list_anomalies", ANOMALIES),
        ("list_layers", LAYERS),
    ],
)
def test_a_table_is_as_wide_as_the_terminal(name, rows, width):
    assert text(name, rows, width) == GOLDEN[name, width]


LISTS = [call for call in core().values() if call.answer == "page"]


@pytest.mark.parametrize("call", LISTS, ids=lambda call: call.name)
def test_no_list_shows_json_in_a_cell_or_cuts_an_id(call):
    columns = call.columns or list(call.members) or ["name", "kind"]
    row = {name: VALUES[call.members.get(name, "word")] for name in columns}

    for width in (*WIDTHS, None):
        lines = [line.plain for line in tables.table([row, row], columns, call.members, now_ms=NOW, width=width)]

        assert not set("{}[]\"'") & set("".join(lines))
        assert lines[0].split()[0] == columns[0]
        assert width is None or max(map(cell_len, lines)) <= width
        if width is None:
            assert not [name for name in columns if name not in lines[0].split()]


def test_a_file_or_a_pipe_gets_whole_values(capsys):
    call = core()["list_operations"]

    show(OPERATIONS, "table", call.columns, call.members)

    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:6] == ["3f0a9c1d2e4f50617283", "command", "running", "12000", "12345", "3"]
    assert OPERATIONS[0]["created"] in lines[1]
    assert OPERATIONS[0]["reason"] in lines[1]


def test_a_sheet_is_whole_and_says_when_from_now():
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    record = {**OPERATIONS[0], "pem": pem, "result": {"sent": 1, "by": {"lane": [1, 2]}}, "share": 0.1 + 0.2}

    lines = tables.sheet(record, core()["get_operation"].members, now_ms=NOW)

    assert lines == [
        "id       3f0a9c1d2e4f50617283",
        "kind     command",
        "state    running",
        "done     12000",
        "total    12345",
        "failed   3",
        "created  2027-01-15T07:56:40.000Z (3 min ago)",
        "reason   they stand still since the update of Tuesday",
        "pem",
        *pem.splitlines(),
        "result   sent=1 by.lane=1,2",
        "share    0.3",
    ]


def test_a_long_object_and_a_list_of_objects_have_a_line_each():
    record = {
        "desired": {f"setting_{number}": "a long value" for number in range(3)},
        "failures": [{"item": 1}, {"item": 2}],
    }

    assert tables.sheet(record, {}) == [
        "desired   setting_0=a long value",
        "          setting_1=a long value",
        "          setting_2=a long value",
        "failures  item=1",
        "          item=2",
    ]


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0, "now"), (-59, "59 s ago"), (-60, "1 min ago"), (-7_199, "119 min ago"), (-7_200, "2 h ago"),
        (-172_800, "2 d ago"), (172_800, "in 2 d"), (86_400 * 90, "in 3 mo"), (86_400 * 1000, "in 2 y"), (30, "in 30 s"),
    ],
)  # fmt: skip
def test_a_time_is_told_from_now(seconds, says):
    assert tables.relative(at(seconds), NOW) == says


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        (0.1 + 0.2, "number", "0.3"), (1013.25, "number", "1013.25"), (123_456.789, "value", "123457"),
        (0.000012345678, "number", "1.23457e-05"), (float("inf"), "number", "inf"), (12_345, "count", "12,345"),
        (12_345, "integer", "12345"), (999, "bytes", "999 B"), (1_234_567, "bytes", "1.23 MB"), (True, "value", "yes"),
        ("\x1b[31mred", "word", "\ufffd[31mred"),
    ],
)  # fmt: skip
def test_a_number_has_six_significant_digits(value, kind, says):
    assert tables.cell(value, kind, NOW) == says


def test_a_list_that_is_cut_says_how_many_more_there_are():
    row = {"id": "p", "tags": ["roof", "hall", "cellar", "garden"]}

    lines = tables.table([row], ("id", "tags"), {"tags": "list"}, now_ms=NOW, width=20)

    assert lines[1].plain == "p   roof, hall +2"


def test_short_ids_tell_each_from_the_others():
    assert tables.short_ids(["0123456789", "abcdefghij", "abcdefghzz"]) == {
        "0123456789": "01234567", "abcdefghij": "abcdefghi", "abcdefghzz": "abcdefghz",
    }  # fmt: skip
    assert tables.short_ids(["ca:0123456789", "other:9876543210"]) == {
        "ca:0123456789": "01234567", "other:9876543210": "98765432",
    }  # fmt: skip
    # One that is the beginning of another is shown whole, with what tells it apart.
    assert tables.short_ids(["ca:01234567", "ca:0123456789"]) == {
        "ca:01234567": "ca:01234567", "ca:0123456789": "012345678",
    }  # fmt: skip
    assert tables.short_ids(["a:1", "b:1"]) == {"a:1": "a:1", "b:1": "b:1"}


def test_states_have_colours_by_what_they_mean():
    (_, line, *_) = tables.table(DEVICES, *described("list_devices"), now_ms=NOW, width=200)
    spans = {line.plain[span.start : span.end].strip(): span.style for span in line.spans}

    assert spans["active"] == spans["online"] == "green"


def described(name):
    return core()[name].columns, core()[name].members


def test_answers_that_no_catalogue_describes_are_shown_in_the_same_way():
    row = {"name": "issuing", "not_after": at(86_400 * 3), "why": "it ends soon"}

    lines = tables.table([row], (), {}, now_ms=NOW, width=80)

    assert lines[1].plain == "issuing  in 3 d     it ends soon"
    # Of a described answer only the times are: a device may be called like one.
    assert at(0) in tables.table([{"id": at(0)}], ("id",), {"created": "time"}, now_ms=NOW, width=80)[1].plain
