"""``fleetcore ca``: seen, checked, revoked, rotated and renewed from the shell."""

import asyncio
import json

import pytest
from cryptography import x509

from fleetcore import IoTFleetManager
from fleetcore.wire.identity import make_csr, make_key


def answer(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.fixture
def enrolled(data):
    """Two devices with a certificate each: their records by device."""

    async def enrol():
        async with IoTFleetManager(data) as manager:
            fleet = await manager.open()
            for name in ("a", "b"):
                await manager.register_device(name, "sensor")
                await fleet.security.issue(make_csr(name, make_key()[1]))
            return {one.device: one for one in await fleet.security.inventory()}

    return asyncio.run(enrol())


def test_a_root_follows_another_and_whoever_is_locked_out_is_named(fleet, enrolled):
    assert answer(fleet("ca", "rotate", "begin", "--reason", "old", "-o", "json"))["phase"] == "announced"
    early = fleet("ca", "rotate", "retire")
    assert answer(fleet("ca", "rotate", "issue", "-o", "json"))["phase"] == "issuing"
    refused = fleet("ca", "rotate", "retire", "--threshold", "0")
    status = answer(fleet("ca", "rotate", "status", "-o", "json"))
    forced = fleet("ca", "rotate", "retire", "--force")

    assert (early.code, refused.code, forced.code) == (4, 4, 0)
    assert "would be locked out" in refused.err
    assert (status["devices"], status["confirmed"], status["locked_out"]) == (2, 0, ["a", "b"])
    assert forced.err.splitlines() == ["locked out: a", "locked out: b"]
    kinds = [(one["kind"], one["state"]) for one in answer(fleet("ca", "show", "-o", "json"))]
    assert kinds == [("root", "trusted"), ("issuing", "signs"), ("issuing", "former")]


def test_back_takes_a_step_back(fleet):
    for step, phase in (("begin", "announced"), ("issue", "issuing"), ("back", "announced"), ("back", "settled")):
        assert answer(fleet("ca", "rotate", step, "-o", "json"))["phase"] == phase
    assert fleet("ca", "rotate", "back").code == 4


def test_the_roots_key_goes_away_and_is_brought_for_what_needs_it(fleet, data, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_PASSPHRASE", "horse")
    file = tmp_path / "root.key"
    taken = answer(fleet("ca", "take-offline", file, "--passphrase", "env:ROOT_PASSPHRASE", "-o", "json"))
    assert (taken["encrypted"], (data / "pki" / "root.key").exists()) == (True, False)

    without = fleet("ca", "rotate", "begin")
    wrong = fleet("ca", "rotate", "begin", "--root-key", file)
    other = fleet("ca", "renew-issuing", "--root-key", data / "pki" / "issuing.key")
    renewed = fleet("ca", "renew-issuing", "--root-key", file, "--root-passphrase", "env:ROOT_PASSPHRASE")
    begun = fleet("ca", "rotate", "begin", "--root-key", file, "--root-passphrase", "env:ROOT_PASSPHRASE")
    again = fleet("ca", "take-offline", file, "--passphrase", "env:ROOT_PASSPHRASE")

    assert [one.code for one in (without, wrong, other, renewed, begun, again)] == [4, 2, 5, 0, 0, 4]
    assert "--root-key FILE" in without.err
    assert "horse" not in without.err + wrong.err + renewed.out + begun.out


def test_a_roots_key_is_not_sent_to_a_remote_server(run, data, tmp_path):
    away = ("--server", "https://localhost:1", "--token", "fc_pat_x", "--ca", data / "pki" / "ca.pem")

    for said, *words in (
        ("must not be sent over a network", "ca", "rotate", "begin", "--root-key", data / "pki" / "root.key"),
        ("must not be sent over a network", "ca", "renew-issuing", "--root-key", data / "pki" / "root.key"),
        ("is possible only on the server's machine", "ca", "take-offline", tmp_path / "k"),
    ):
        refused = run(*words, *away)
        assert (refused.code, said in refused.err) == (5, True)


def test_certificates_are_checked_revoked_and_listed(fleet, enrolled, tmp_path):
    file = tmp_path / "a.pem"
    file.write_text(enrolled["a"].pem)
    good = fleet("ca", "check", file, "-o", "json")

    revoked = answer(fleet("ca", "revoke", enrolled["a"].serial, "--reason", "lost", "-o", "json"))
    all_of_b = answer(fleet("ca", "revoke", "--device", "b", "-o", "json"))
    bad = fleet("ca", "check", file, "-o", "json")
    crl = fleet("ca", "crl", "--into", tmp_path / "crl.pem")

    assert (good.code, json.loads(good.out)["device"]) == (0, "a")
    assert (revoked["changed"], all_of_b["changed"]) == (1, 1)
    assert (bad.code, json.loads(bad.out)["refusal"]) == (5, "revoked")
    assert crl.code == 0
    listed = x509.load_pem_x509_crl((tmp_path / "crl.pem").read_bytes())
    assert {format(one.serial_number, "x") for one in listed} == {one.serial for one in enrolled.values()}
    assert fleet("ca", "revoke").code == 2
    assert fleet("ca", "revoke", "feed").code == 3


def test_the_forecast_is_a_table_for_people_and_json_for_programs(fleet, enrolled):
    table = fleet("ca", "forecast", "--per", "month", "--by", "type")
    found = answer(fleet("ca", "forecast", "--per", "month", "--by", "type", "-o", "json"))

    assert "2 certificates are valid" in table.out
    assert "Late, past their renewal time: 0" in table.out
    assert sum(one["count"] for one in found["buckets"]) == 2
    assert [one["by"] for one in found["buckets"] if one["count"]] == [{"sensor": 2}]
    assert set(found["own"]) == {"server", "service"}


def test_a_stolen_cas_devices_are_named_and_it_is_distrusted(fleet, enrolled):
    lost = enrolled["a"].issuer
    assert fleet("ca", "distrust", lost).code == 4
    fleet("ca", "renew-issuing")

    table = fleet("ca", "incident", lost)
    refused = fleet("ca", "distrust", lost)
    forced = fleet("ca", "distrust", lost, "--force", "--reason", "stolen")

    assert "2 devices, 2 of them without a certificate of another CA" in table.out
    assert (refused.code, forced.code) == (4, 0)
    assert fleet("ca", "incident", "nobody").code == 3


def test_a_renewal_is_planned_and_stops_where_too_many_fail(fleet, enrolled):
    plan = answer(fleet("ca", "renew-devices", "--where", "type = 'sensor'", "--wave", "1", "--dry-run", "-o", "json"))
    changed = fleet("ca", "renew-devices", "--device", "a", "--plan", plan["plan"])
    stopped = fleet(
        *("ca", "renew-devices", "--where", "type = 'sensor'", "--wave", "1", "--plan", plan["plan"]),
        *("--timeout", "0.5", "-o", "json"),
    )
    nobody = fleet("ca", "renew-devices")

    assert (plan["count"], plan["waves"]) == (2, [1, 1])
    assert (changed.code, stopped.code, nobody.code) == (4, 7, 5)
    assert (json.loads(stopped.out)["state"], json.loads(stopped.out)["done"]) == ("stopped", 1)
    assert "Stopped: too many failed" in stopped.err


def test_doctor_says_when_a_ca_is_due_and_that_a_rotation_is_under_way(fleet):
    fleet("ca", "rotate", "begin")

    found = {one["what"]: one for one in json.loads(fleet("doctor", "-o", "json").out)}

    assert found["CA fleetcore issuing lab 1"]["state"] == "ok"
    assert "under way" in found["CA rotation"]["detail"]


def test_doctor_warns_of_a_ca_at_half_its_life_and_of_late_renewers():
    from fleetcore.cli.doctor import _cas

    past, ahead = "2020-01-01T00:00:00.000Z", "2099-01-01T00:00:00.000Z"
    cas = [
        {"kind": "root", "name": "root", "state": "trusted", "due": ahead},
        {"kind": "issuing", "name": "issuing", "state": "signs", "due": past},
    ]

    found = list(_cas({"cas": cas, "late_count": 2, "late": [{"device": "a"}, {"device": "b"}]}))

    assert [(one["what"], one["state"]) for one in found] == [
        ("CA issuing", "warning"),
        ("CA root", "ok"),
        ("renewal", "warning"),
    ]
    assert found[0]["remedy"] == "fleetcore ca renew-issuing"
