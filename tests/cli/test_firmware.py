"""``fleetcore firmware``: keys that stay where they are, files that several people sign, exit codes, odd names."""

import json

import pytest

from fleetcore.cli.trust import now_ms
from fleetcore.testing.signers import DAY_MS


@pytest.fixture
def shop(run, tmp_path, monkeypatch):
    """A signer's folder: ``shop("sign", …)`` there; an image, and a maker's and a root key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.bin").write_bytes(b"firmware" * 1000)

    def go(*words):
        return run("firmware", *words)

    for name in ("root", "maker"):
        assert go("keygen", name).code == 0
    return go


SIGN = ("sign", "app.bin", "--key", "maker.key", "--name", "app", "--version", "2.0.0", "--seq", "2", "--model", "M")


@pytest.fixture
def trusted(shop):
    assert shop("trust", "init", "--root", "root.pub", "--firmware", "maker.pub").code == 0
    assert shop("trust", "sign", "trust.json", "--key", "root.key").code == 0
    return shop


def test_a_key_is_for_its_owner_alone_and_is_never_overwritten(shop, tmp_path):
    before = (tmp_path / "maker.key").read_bytes()

    again = shop("keygen", "maker")

    assert (again.code, (tmp_path / "maker.key").read_bytes()) == (4, before)
    assert (tmp_path / "maker.key").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in again.out + again.err


def test_a_key_that_others_can_read_signs_nothing(shop, tmp_path):
    (tmp_path / "maker.key").chmod(0o640)

    done = shop(*SIGN)

    assert (done.code, "chmod 600 maker.key" in done.err) == (5, True)
    assert not (tmp_path / "app.bin.manifest.json").exists()


def test_a_passphrase_is_a_reference_and_locks_the_key(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("PHRASE", "correct horse")
    assert shop("keygen", "locked", "--passphrase", "env:PHRASE").code == 0
    sign = [*SIGN[:3], "locked.key", *SIGN[4:]]

    assert b"ENCRYPTED" in (tmp_path / "locked.key").read_bytes()
    assert shop(*sign).code == 5
    assert shop(*sign, "--passphrase", "correct horse").code == 2
    monkeypatch.setenv("PHRASE", "wrong")
    assert shop(*sign, "--passphrase", "env:PHRASE").code == 5
    monkeypatch.setenv("PHRASE", "correct horse")
    assert shop(*sign, "--passphrase", "env:PHRASE").code == 0


@pytest.mark.parametrize("file", ["app.bin", "maker.pub", "foreign.key"])
def test_what_is_no_ed25519_key_signs_nothing(shop, tmp_path, file):
    from fleetcore.wire.identity import make_key

    (tmp_path / "foreign.key").write_bytes(make_key()[0])
    (tmp_path / file).chmod(0o600)

    assert shop("sign", "app.bin", "--key", file, *SIGN[4:]).code == 5


def test_several_people_sign_one_file(shop):
    shop("keygen", "second")
    made = shop(
        "trust",
        "init",
        "--root",
        "root.pub",
        "--root",
        "second.pub",
        "--threshold",
        "2",
        "--firmware",
        "maker.pub",
        "-o",
        "json",
    )
    one = shop("trust", "sign", "trust.json", "--key", "root.key", "-o", "json")
    again = shop("trust", "sign", "trust.json", "--key", "root.key", "-o", "json")
    both = shop("trust", "sign", "trust.json", "--key", "second.key", "-o", "json")

    assert [json.loads(done.out)["missing"] for done in (made, one, again, both)] == [2, 1, 1, 0]


def test_the_next_trust_root_keeps_what_is_not_given_and_says_whether_it_follows(trusted):
    trusted("keygen", "root-2")
    made = trusted("trust", "init", "next.json", "--after", "trust.json", "--root", "root-2.pub", "-o", "json")
    trusted("trust", "sign", "next.json", "--key", "root-2.key")
    half = trusted("trust", "show", "next.json", "--after", "trust.json", "-o", "json")
    trusted("trust", "sign", "next.json", "--key", "root.key")
    whole = trusted("trust", "show", "next.json", "--after", "trust.json", "-o", "json")

    assert json.loads(made.out)["version"] == 2
    assert json.loads(made.out)["firmware"] == json.loads(whole.out)["firmware"] != []
    assert [json.loads(one.out)["follows"] for one in (half, whole)] == [False, True]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--image", "app.bin"], 0, "verified_for"),
        (["--image", "other.bin"], 5, "size_mismatch"),
        (["--image", "same-length.bin"], 5, "hash_mismatch"),
        (["--model", "N"], 5, "model_mismatch"),
    ],
)
def test_verify_judges_as_a_device_does(trusted, tmp_path, words, code, says):
    (tmp_path / "other.bin").write_bytes(b"x")
    (tmp_path / "same-length.bin").write_bytes(b"firmwarf" * 1000)
    assert trusted(*SIGN).code == 0

    done = trusted("verify", "app.bin.manifest.json", "--trust", "trust.json", *words)

    assert done.code == code, done.err
    assert says in done.out + done.err


def test_a_foreign_signature_and_an_expired_manifest_are_refused(trusted, monkeypatch):
    trusted("keygen", "stranger")
    trusted(*SIGN[:3], "stranger.key", *SIGN[4:], "--out", "foreign.json")
    trusted(*SIGN, "--days", "1", "--out", "old.json")
    later = now_ms() + 2 * DAY_MS

    foreign = trusted("verify", "foreign.json", "--trust", "trust.json")
    monkeypatch.setattr("fleetcore.cli.firmware.now_ms", lambda: later)
    old = trusted("verify", "old.json", "--trust", "trust.json")

    assert (foreign.code, "[signature_invalid]" in foreign.err) == (5, True)
    assert (old.code, "[manifest_expired]" in old.err) == (5, True)


def test_a_second_signature_is_added_to_a_manifest(trusted):
    trusted("keygen", "second")
    trusted(*SIGN)

    done = trusted("sign", "app.bin.manifest.json", "--add", "--key", "second.key", "-o", "json")

    assert json.loads(done.out)["signatures"] == 2
    assert trusted("verify", "app.bin.manifest.json", "--trust", "trust.json", "--image", "app.bin").code == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["sign", "app.bin", "--key", "maker.key"], 2),
        (["sign", "nowhere.bin", *SIGN[2:]], 2),
        ([*SIGN[:5], "../../etc", *SIGN[6:]], 5),
        ([*SIGN, "--min-seq", "3"], 5),
        ([*SIGN, "--chunk", "10"], 2),
        (["trust", "init", "new.json"], 2),
        (["trust", "init", "new.json", "--root", "root.pub", "--firmware", "maker.pub", "--threshold", "2"], 5),
        (["trust", "init", "new.json", "--root", "app.bin", "--firmware", "maker.pub"], 5),
        (["trust", "init", "new.json", "--root", "root.pub", "--model", "M"], 2),
        (["trust", "sign", "app.bin", "--key", "root.key"], 5),
        (["verify", "trust.json", "--trust", "trust.json"], 5),
        (["trust", "init", "--root", "root.pub", "--firmware", "maker.pub"], 4),
    ],
)
def test_mistakes_have_their_exit_codes_and_leave_nothing(trusted, tmp_path, words, code):
    before = sorted(one.name for one in tmp_path.iterdir())

    assert trusted(*words).code == code
    assert sorted(one.name for one in tmp_path.iterdir()) == before


@pytest.fixture
def on(trusted, data):
    """On a fleet that has the trust root."""

    def go(*words):
        return trusted(*words, "--data", data)

    assert go("trust", "set", "trust.json").code == 0
    return go


def test_a_release_goes_its_way_from_the_signer_to_the_fleet(on, trusted):
    trusted(*SIGN)
    early = on("release", "add", "app.bin.manifest.json")
    up = on("upload", "app.bin", "-o", "json")
    made = on("release", "add", "app.bin.manifest.json", "-o", "json")

    assert (early.code, "[artifact_unknown]" in early.err) == (3, True)
    assert json.loads(up.out)["size_bytes"] == 8000
    assert json.loads(made.out)["id"] == "app:2"
    assert json.loads(on("release", "list", "-o", "json").out)[0]["seq"] == 2
    assert json.loads(on("release", "show", "app:2", "-o", "json").out)["manifest"]["payloadType"].endswith(
        "firmware+json"
    )
    assert on("release", "show", "app:3").code == 3


def test_a_lower_seq_is_refused_until_one_says_so(on, trusted):
    on("upload", "app.bin")
    trusted(*SIGN)
    on("release", "add", "app.bin.manifest.json")
    trusted(*SIGN[:8], "--version", "1.0.0", "--seq", "1", "--model", "M", "--out", "old.json")

    refused, taken = on("release", "add", "old.json"), on("release", "add", "old.json", "--allow-downgrade")

    assert (refused.code, "[rollback_refused]" in refused.err, taken.code) == (5, True, 0)


@pytest.mark.parametrize(
    "name", ["..x..", "C:\\x", "a b;c$(id)`id`", "new\nline", "\x1b[31mred", "gpj\u202eexe.bin", "ü" * 120, "-rf"]
)
def test_a_file_with_a_hostile_name_is_an_image_like_any_other(on, tmp_path, data, name):
    (tmp_path / name).write_bytes(b"image")

    done = on("upload", f"./{name}")

    assert done.code == 0, done.err
    assert name not in done.out
    assert [one.name[:8] for one in (data / "artifacts").rglob("*") if one.is_file()] == ["6105d6cc"]


async def test_all_of_it_goes_through_the_server_that_holds_the_folder(trusted, data, tmp_path, process):
    import asyncio

    from fleetcore.cli.serve import running

    trusted(*SIGN)
    text = (data / "fleet.toml").read_text()
    (data / "fleet.toml").write_text(text.partition("[protocols")[0])
    codes = []
    async with running(data):
        for words in (
            ("trust", "set", "trust.json"),
            ("upload", "app.bin"),
            ("release", "add", "app.bin.manifest.json"),
        ):
            done = await asyncio.to_thread(process, "firmware", *words, "--data", data, cwd=tmp_path)
            codes.append((done.returncode, done.stderr))

    assert codes == [(0, "")] * 3


def test_no_private_key_is_ever_asked_for_by_what_speaks_to_a_fleet():
    from fleetcore.cli.firmware import firmware

    def commands(group, words=()):
        for name, one in group.commands.items():
            if hasattr(one, "commands"):
                yield from commands(one, (*words, name))
            else:
                yield (*words, name), {option for each in one.params for option in each.opts}

    both = [" ".join(words) for words, options in commands(firmware) if {"--key", "--server"} <= options]

    assert both == []
