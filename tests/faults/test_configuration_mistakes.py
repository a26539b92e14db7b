"""Mistakes in the configuration, through the command line: exit 2, the place as file:line, and what was likely meant."""

import shutil

import pytest

from fleetcore.cli.root import run
from fleetcore.runtime.config import load

#: Line 1 to 3 of every file here.
_HEAD = '[fleet]\nname = "lab"\ndata = "."\n'
_HTTP = '[protocols.http]\nlisten = "https://127.0.0.1:0"\n'

#: What stands after the head → the line, and words of the message.
MISTAKES = {
    "no TOML": ("[protocols.http\n", 4, "This is not TOML"),
    "a section twice": ("[limits]\n[limits]\nburst = 5\n", 5, "Cannot declare"),
    "an unknown section": (_HTTP.replace("protocols", "protcols"), 4, "Did you mean 'protocols'?"),
    "an unknown key": ("[limits]\nburst = 5\nmesage_bytes = 5\n", 6, "Did you mean 'message_bytes'?"),
    "an unknown key of a plugin": (_HTTP + 'lissten = "x"\n', 6, "Did you mean 'listen'?"),
    "an unknown key near nothing": ("[limits]\nxyzzy = 5\n", 5, "Known are: burst"),
    "text for a number": ('[limits]\nmessage_bytes = "big"\n', 5, "it must be an integer, not text"),
    "a boolean for a number": ("[limits]\nburst = true\n", 5, "it must be an integer, not a boolean"),
    "a fraction for an integer": ("[limits]\nburst = 1.5\n", 5, "it must be an integer, not a number"),
    "text for a list": ('plugins = "./a.py"\n', 4, "it must be a list, not text"),
    "a number for a section": ("[protocols]\nhttp = 8443\n", 5, "Write [protocols.http]"),
    "a negative limit": ("[limits]\nmessage_bytes = -5\n", 5, "'message_bytes' must be > 0: -5"),
    "a queue of nothing": ("[limits]\nqueue_messages = 0\n", 5, "'queue_messages' must be > 0: 0"),
    "a rate that is not a number": ("[limits]\nrate_per_s = nan\n", 5, "must be a finite number, not nan"),
    "a rate without an end": ("[limits]\nrate_per_s = inf\n", 5, "must be a finite number, not inf"),
    "a deadline that never comes": (_HTTP + "idle_s = inf\n", 6, "must be a finite number, not inf"),
    "a limit below everything": ("[detectors.threshold]\nbelow = -inf\n", 5, "must be a finite number, not -inf"),
    "every machine as a proxy": (_HTTP + 'trusted_proxies = ["0.0.0.0/0"]\n', 4, "any machine in 0.0.0.0/0 could be"),
    "half of all machines": (_HTTP + 'trusted_proxies = ["128.0.0.0/1"]\n', 4, "in 128.0.0.0/1 could be any device"),
    "all of IPv6 as a proxy": (_HTTP + 'trusted_proxies = ["10.0.0.1", "::/0"]\n', 4, "any machine in ::/0 could be"),
    "certificates for ten years": ("[ca]\ndevice_days = 4000\n", 5, "'device_days' must be <= 400: 4000"),
    "a store smaller than nothing": ("[storage]\nlimit_bytes = -1\n", 5, "'limit_bytes' must be > 0: -1"),
    "an unknown protocol": ("[protocols.mqt]\n", 4, "Did you mean 'mqtt'?"),
    "an unknown kind of detector": ('[detectors.x]\nkind = "treshold"\n', 4, "Did you mean 'threshold'?"),
    "an unknown kind of store": ('[storage]\nkind = "sqlit"\n', 4, "Did you mean 'sqlite'?"),
    "a plugin that is not installed": ("[clouds.oracle]\n", 4, "install fleetcore-oracle"),
    "a plugin's file that is not there": ('plugins = ["./gone.py"]\n', 4, "does not exist"),
    "a detector without a limit": ("[detectors.threshold]\n", 4, "above, below or both"),
    "a detector with a wrong limit": ('[detectors.threshold]\nabove = "hot"\n', 5, "must be a number, not text"),
    "a detector of no metric": ('[detectors.threshold]\nabove = 1\nmetrics = ["a b"]\n', 6, "'a b' is not a metric name"),
    "a detector of one metric, unlisted": ('[detectors.threshold]\nabove = 1\nmetrics = "heat"\n', 6, "must be a list"),
    "a port alone": ('[protocols.http]\nlisten = "8443"\n', 4, "Write https://HOST:PORT"),
    "an address without a scheme": ('[protocols.http]\nlisten = "127.0.0.1:8443"\n', 4, "Write https://HOST:PORT"),
    "a port beyond all": ('[protocols.mqtt]\nlisten = "mqtts://127.0.0.1:99999"\n', 4, "Port out of range"),
    "another protocol's scheme": ('[protocols.mqtt]\nlisten = "https://127.0.0.1:0"\n', 4, "Use mqtts://HOST:PORT"),
    "clear text on a network": ('[protocols.mqtt]\nlisten = "mqtt://0.0.0.0:1883"\n', 4, "Use mqtts://"),
    "both listen and url": ('[protocols.mqtt]\nlisten = "mqtts://x:1"\nurl = "mqtts://x:1"\n', 4, "exactly one of"),
    "neither listen nor url": ("[protocols.mqtt]\n", 4, "exactly one of"),
    "a secret in the file": ('[ca]\npassphrase = "hunter2"\n', 5, "Write env:NAME or file:PATH"),
    "a secret that is not set": ('[ca]\npassphrase = "env:FC_NOT_SET"\n', 5, "FC_NOT_SET is not set"),
    "a secret's file that is not there": ('[ca]\npassphrase = "file:/gone"\n', 5, "/gone cannot be read"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, made, monkeypatch):
    """Makes a data folder of a fleet whose fleet.toml has these bytes; its id is in the environment."""

    def make(content):
        whole, fleet = made("lab")
        data = shutil.copytree(whole, tmp_path / "data")
        monkeypatch.setenv("FLEETCORE_FLEET__ID", fleet)
        (data / "fleet.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
        (data / "fleet.toml").chmod(0o600)
        return data

    return make


@pytest.mark.parametrize(("text", "line", "words"), MISTAKES.values(), ids=MISTAKES)
def test_serve_ends_with_2_and_names_the_place_and_the_intention(capsys, folder, text, line, words):
    data = folder(_HEAD + text)

    # The command line's own entry, without an interpreter for each.
    code = run(["serve", "--data", str(data)])

    out, err = capsys.readouterr()
    assert code == 2, err
    assert "ready" not in out
    assert f"{data / 'fleet.toml'}:{line}: " in err
    assert words in err
    assert "hunter2" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "name", ["no TOML", "an unknown key", "an unknown key of a plugin", "a negative limit", "an unknown protocol"]
)
def test_doctor_says_the_same_once_with_what_to_do(capsys, folder, name):
    text, line, words = MISTAKES[name]
    data = folder(_HEAD + text)

    code = run(["doctor", "--data", str(data)])

    out, err = capsys.readouterr()
    assert (code, err) == (1, "")
    assert f"✗ configuration: {data / 'fleet.toml'}:{line}: " in out
    assert out.count(f"{data / 'fleet.toml'}:{line}: ") == 1
    assert words in out


ENCODINGS = {
    "UTF-16": (_HEAD + _HTTP).encode("utf-16"),
    "Latin-1": (_HEAD + "# Grüße\n").encode("latin-1"),
    "random bytes": bytes(range(128, 256)),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_file_in_another_encoding_is_told_to_be_saved_as_utf_8(capsys, folder, name):
    data = folder(ENCODINGS[name])

    code = run(["serve", "--data", str(data)])

    err = capsys.readouterr().err
    assert code == 2
    assert f"{data / 'fleet.toml'}: It is not UTF-8. Save it as UTF-8" in err


async def test_a_byte_order_mark_is_told_too(command, folder):
    data = folder(b"\xef\xbb\xbf" + _HEAD.encode())

    code, _, err = await command("serve", "--data", str(data))

    assert code == 2
    assert "byte order mark" in err


async def test_a_missing_file_names_the_command_that_writes_one(command, tmp_path):
    code, _, err = await command("serve", "--data", str(tmp_path / "nowhere"))

    assert code == 2
    assert f"fleetcore init {tmp_path / 'nowhere'}" in err


async def test_the_environment_is_held_to_the_same(command, folder):
    data = folder(_HEAD)

    code, _, err = await command("serve", "--data", str(data), env={"FLEETCORE_LIMITS__MESAGE_BYTES": "5"})

    assert code == 2
    assert "FLEETCORE_LIMITS__MESAGE_BYTES: " in err
    assert "Did you mean 'message_bytes'?" in err


def test_the_environment_reaches_every_key(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text('[detectors.cold-rooms]\nkind = "threshold"\n[detectors.hot_rooms]\nkind = "threshold"\n')
    variables = {
        "FLEETCORE_LIMITS__MESSAGE_BYTES": "5000",
        "FLEETCORE_STORAGE__CHUNK_POINTS": "7",
        "FLEETCORE_DETECTORS__COLD_ROOMS__ABOVE": "8.5",
        "FLEETCORE_DETECTORS__HOT_ROOMS__ABOVE": "40",
    }

    config = load(file, variables)

    assert config.limits.message_bytes == 5000
    assert config.storage.table == {"chunk_points": 7}
    assert {one.name: one.table.get("above") for one in config.detectors} == {"cold-rooms": 8.5, "hot_rooms": 40}


async def test_a_secret_that_others_can_read_is_refused_with_the_command_that_helps(command, folder, tmp_path):
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse")
    secret.chmod(0o644)
    data = folder(_HEAD + f'[ca]\npassphrase = "file:{secret}"\n')

    code, _, err = await command("serve", "--data", str(data))

    assert code == 2
    assert f"{data / 'fleet.toml'}:5: " in err
    assert f"chmod 600 {secret}" in err
    assert "horse" not in err


async def test_a_key_that_others_can_read_is_refused_with_the_command_that_helps(command, tmp_path):
    data = tmp_path / "data"
    assert (await command("init", str(data)))[0] == 0
    key = next((data / "pki").rglob("*.key"))
    key.chmod(0o644)

    code, _, err = await command("serve", "--data", str(data))

    assert code == 2
    assert str(key) in err
    assert "chmod" in err
    code, out, _ = await command("doctor", "--data", str(data))
    assert code == 1
    assert f"other users can read {key.relative_to(data)}" in out


async def test_a_sound_file_is_not_complained_about(command, folder):
    data = folder(_HEAD + _HTTP)

    code, out, err = await command("doctor", "--data", str(data))

    assert (code, err) == (0, ""), out
    assert "✓ configuration" in out
