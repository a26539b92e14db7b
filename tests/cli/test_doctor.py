"""``fleetcore doctor``: what is wrong, by its file, with what to do."""

import datetime as dt
import json
import tomllib

import pytest
from cryptography import x509

from fleetcore.cli.doctor import _inside, _mirrors, _room
from fleetcore.fleet.security import PkiFolder
from fleetcore.testing.clock import MovableClock

NOW_MS = int(dt.datetime.now(dt.UTC).timestamp() * 1000)
DAY_MS = 86_400_000


def renewed(data, name, ends_in_days):
    """Puts a certificate in place that ends so soon: made by a clock that was behind."""
    path = data / "pki" / name
    old = x509.load_pem_x509_certificate(path.read_bytes())
    lifetime_ms = int((old.not_valid_after_utc - old.not_valid_before_utc).total_seconds() * 1000)
    clock = MovableClock(int(NOW_MS - lifetime_ms + ends_in_days * DAY_MS))
    PkiFolder.create(data / "other", "lab", ["localhost"], clock)
    path.write_bytes((data / "other" / name).read_bytes())


@pytest.mark.parametrize(
    ("name", "days", "state", "says"),
    [
        ("server.pem", 3, "warning", "fleetcore serve"),
        ("service.pem", 3, "warning", "next start"),
        ("service.pem", -1, "problem", "next start"),
        ("service.pem", 60, "ok", ""),
    ],
)
def test_a_certificate_near_its_end_is_named(fleet, data, name, days, state, says):
    renewed(data, name, days)

    done = fleet("doctor", "-o", "json")

    (found,) = [one for one in json.loads(done.out) if one["what"] == f"certificate {name}"]
    assert found["state"] == state
    assert says in found["remedy"]
    assert done.code == int(state == "problem")


@pytest.mark.parametrize(
    ("name", "mode", "says"),
    [
        ("pki/issuing.key", 0o644, "other users can read pki/issuing.key"),
        ("fleet.db-wal", 0o640, "other users can read fleet.db-wal"),
        ("pki/ca.pem", 0o666, "other users can change pki/ca.pem"),
        (".", 0o777, "other users can change ."),
    ],
)
def test_what_others_can_read_or_change_is_named(fleet, data, name, mode, says):
    path = data / name
    path.touch()
    path.chmod(mode)

    done = fleet("doctor", "-o", "json")

    found = [one for one in json.loads(done.out) if one["what"] == "permissions"]
    assert [(one["state"], one["detail"]) for one in found] == [("problem", says)]
    assert done.code == 1


def test_an_unknown_key_is_found_with_its_line(fleet, data):
    (data / "fleet.toml").write_text((data / "fleet.toml").read_text().replace("hosts =", "host ="))

    done = fleet("doctor")

    assert done.code == 1
    assert "Did you mean 'hosts'" in done.out
    assert "fleet.toml:11" in done.out


@pytest.mark.parametrize(("trouble", "state"), [("the broker is out of reach", "problem"), ("", "ok")])
def test_a_protocol_that_can_take_nothing_in_is_named(trouble, state):
    protocols = {"mqtt": {"endpoints": ["mqtts://broker:8883"], "connections": 0, "trouble": trouble, "findings": []}}
    nothing = {"storage": [], "plugins": [], "consumers": {}, "admissions": {}, "counts": {}, "tasks": {}}
    nothing |= {"not_ready": {}, "left_behind": {}, "mirrors": {}, "room": {}, "retention": NO_RETENTION}

    (found,) = [one for one in _inside({**nothing, "protocols": protocols}) if one["what"] == "protocol mqtt"]

    assert found["state"] == state
    assert trouble in found["detail"]


def test_weak_settings_are_named_with_what_to_do(run, data):
    toml = data / "fleet.toml"
    fleet = tomllib.loads(toml.read_text())["fleet"]["id"]
    toml.write_text(
        f'[fleet]\nname = "lab"\nid = "{fleet}"\ndata = "."\n[ca]\ndevice_days = 400\n[firmware]\nallow_unsigned = true\n'
        '[protocols.http]\nlisten = "http://127.0.0.1:8080"\ntrusted_proxies = ["10.0.0.0/8", "10.0.0.1"]\n'
    )

    done = run("doctor", "--data", data, "-o", "json")

    weak = [one["detail"] for one in json.loads(done.out) if one["what"] == "weak setting"]
    for word in ("clear text", "every machine in 10.0.0.0/8", "device_days = 400", "allow_unsigned", "root's key"):
        assert sum(word in one for one in weak) == 1, (word, weak)
    assert len(weak) == 5
    assert done.code == 0


def test_a_root_with_a_passphrase_is_no_weak_setting(run, data):
    (data / "pki" / "root.key").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")

    assert "root's key" not in run("doctor", "--data", data).out


NO_RETENTION = {"on": False, "last": None, "readings": 0, "texts": 0, "size_bytes": 0}


@pytest.mark.parametrize(
    ("total", "free", "limit", "state"),
    [(90, 0, 100, "warning"), (90, 50, 100, "ok"), (50, 0, 100, "ok"), (10**6, 0, None, "ok")],
)
def test_a_store_that_comes_to_its_limit_is_named_before_it_refuses(total, free, limit, state):
    room = {"total_bytes": total, "free_bytes": free, "limit_bytes": limit, "parts": {"database": total}}

    (found,) = _room(room, NO_RETENTION)

    assert (found["what"], found["state"]) == ("room", state)
    assert ("[retention]" in found["remedy"]) is (state == "warning")


def test_what_retention_dropped_is_shown():
    last = "2026-11-28T00:00:00.000Z"
    (found,) = _room({}, {"on": True, "last": last, "readings": 1200, "texts": 34, "size_bytes": 5})

    assert (found["what"], found["state"]) == ("retention", "ok")
    assert "1,234 readings" in found["detail"]
    assert last in found["detail"]


@pytest.mark.parametrize(
    ("given", "state", "said"),
    [
        ({"waiting": 3, "held": 2000, "lost": 1}, "ok", "2,000 entities"),
        ({"held": 2, "invalid": 4}, "warning", "4 are refused"),
        ({"state": "paused", "waiting": 7, "lag_s": 61.2}, "warning", "7 wait since 61 s"),
        (
            {"waiting": 9, "removals_wait": 9},
            "warning",
            "9 were deleted from the fleet and stay at the hub until tomorrow",
        ),
    ],
)
def test_a_mirror_says_what_its_hub_has_and_what_it_refuses(given, state, said):
    stands = dict.fromkeys(("waiting", "held", "invalid", "lost", "paused", "removals_wait"), 0)
    (found,) = _mirrors({"aws": {"state": "running", "lag_s": 0.0, **stands, **given}})

    assert (found["state"], found["what"]) == (state, "mirror aws")
    assert said in found["detail"]
    assert ("fleetcore mirror" in found["remedy"]) is (state == "warning")
