"""Whatever is typed: a sentence, an exit code, and never a traceback."""

import pytest


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with things that are not what a command wants."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    (tmp_path / "warm.csv").write_text("timestamp,t\n2026-01-01 00:00:00,warm\n")
    (tmp_path / "bare.csv").write_text("timestamp\n")
    (tmp_path / "none.csv").write_text("timestamp,t\n2026-01-01 00:00:00,\n")
    (tmp_path / "twice.csv").write_text("timestamp,t 1,t_1\n2026-01-01 00:00:00,1,2\n")
    (tmp_path / "wide.csv").write_text("timestamp,t\n2026-01-01 00:00:00,1,2\n")
    (tmp_path / "plugin.txt").write_text("")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("init /proc/new", 1, "/proc/new"),
        ("init new --name Hall_1", 5, "a-z 0-9 -"),
        ('init new --host a"b', 5, "not a host name"),
        ("init new --listen somewhere", 5, "not an address to listen on"),
        ("serve --data empty", 2, "fleetcore init"),
        ("weather show mast-1 --data empty", 2, "empty has no fleet.toml; --data names another folder"),
        ("demo --replay noise", 5, "noise is not CSV"),
        ("demo --replay warm.csv", 5, "warm.csv:2"),
        ("demo --replay bare.csv", 5, "bare.csv:1"),
        ("demo --replay none.csv", 5, "none.csv has no reading"),
        ("demo --replay twice.csv", 5, "twice.csv:1"),
        ("demo --replay wide.csv", 5, "wide.csv:2"),
        ("demo --duration nan", 2, "finite"),
        ("simulate --every inf", 2, "finite"),
        ("restore empty --data new", 5, "is not a backup"),
        ("plugin list --file plugin.txt", 2, "is not a Python file"),
        ("plugin list --file nowhere.py", 2, "nowhere.py"),
        ("plugin new Jumps", 5, "lower-case"),
        ("plugin new jumps --into /proc", 1, "/proc/fleetcore-jumps"),
        ("mqtt broker-config --data empty --out new", 3, "ca.pem"),
    ],
)
def test_without_a_fleet(run, place, words, code, says):
    done = run(*words.split())

    assert done.code == code, done.err
    assert says in done.err
    assert not (place / "new").exists(), "something half made was left behind"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """One folder for all of these: none of them may change it."""
    from fleetcore.cli.root import run

    folder = tmp_path_factory.mktemp("lab") / "data"
    assert run(["init", str(folder)]) == 0
    assert run(["device", "register", "th-1", "--data", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("backup /proc/copy", 1, "/proc/copy"),
        ("simulate", 6, "fleetcore serve"),
        ("telemetry query th-1 t --start yesterday", 5, "RFC 3339"),
        ("telemetry query th-1 t", 3, "fleetcore telemetry series"),
        ("telemetry aggregate th-1 t --every nan", 5, "/bucket_s: it must be a number"),
        ("telemetry series nobody", 3, "nobody"),
        ("telemetry latest nobody", 3, "nobody"),
        ("telemetry anomalies nobody", 3, "nobody"),
        ("device certificates nobody", 3, "nobody"),
        ("device token nobody", 3, "nobody"),
        ("device revoke nobody", 3, "nobody"),
        ("device retire nobody", 3, "nobody"),
        ("device register th-2 --gateway nobody", 3, "nobody"),
        ("device register th-2 --attribute n", 5, "NAME=VALUE"),
        ("device set th-1 colour=red", 5, "parameter 'colour' does not exist"),
        ("device set th-1 tags=1", 5, "list"),
        ("command of nobody", 3, "nobody"),
        ("command send th-1 blink [1]", 5, "/args: this is not a JSON object"),
        ('twin set th-1 {"n":1e999}', 5, "range"),
        ("twin past th-1 yesterday", 5, "RFC 3339"),
        ("device why th-1 tags", 5, "column"),
    ],
)  # fmt: skip
def test_on_a_fleet(run, lab, words, code, says):
    done = run(*words.split(), "--data", lab)

    assert done.code == code, done.err
    assert (done.out, says in done.err) == ("", True), done.err


def test_a_backup_into_the_folder_itself_is_a_conflict(run, lab):
    done = run("backup", lab / "copy", "--data", lab)

    assert done.code == 4
    assert not (lab / "copy").exists()


def test_a_checkpoint_file_of_noise_is_not_believed(run, lab, place):
    done = run("audit", "verify", "--checkpoint", place / "noise", "--data", lab)

    assert done.code == 1
    assert "checkpoint 1" in done.out


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_a_number_that_json_does_not_know_is_text(run, lab, text):
    assert run("device", "set", "th-1", f'attributes={{"n": "{text}"}}', "--data", lab).code == 0
    done = run("device", "set", "th-1", f"name={text}", "--data", lab, "-o", "jsonl")

    assert f'"name": "{text}"' in done.out


def test_who_makes_a_folder_among_other_files_leaves_them_when_it_fails(run, tmp_path):
    (tmp_path / "mine").write_text("keep")

    assert run("init", tmp_path, "--host", "a b").code == 5
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]
    assert run("init", tmp_path).code == 0
