"""``fleetcore enrollment``: the ways in are opened, listed and closed from the shell."""

import json
import stat

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore.fleet.security import Authority
from fleetcore.runtime.clock import SystemClock


def rows(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_claim_certificate_is_written_for_the_factory_and_never_over_another(fleet, tmp_path):
    into = tmp_path / "factory"
    serials = tmp_path / "serials"
    serials.write_text("7\n\n8 \n")
    words = ("enrollment", "claim", "create", "batch-7", "--quota", "5", "--serials", serials, "--into", into)

    made = fleet(*words, "-o", "json")
    again = fleet("enrollment", "claim", "create", "batch-8", "--quota", "5", "--into", into)

    assert rows(made)["batch"] == "batch-7"
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in into.iterdir()} == dict.fromkeys(
        ("claim.pem", "claim.key", "ca.pem"), 0o600
    )
    assert "PRIVATE KEY" not in made.out
    assert again.code == 4
    (listed,) = rows(fleet("enrollment", "claim", "list", "-o", "json"))
    assert (listed["used"], listed["quota"], listed["serials"]) == (0, 5, ["7", "8"])
    assert rows(fleet("enrollment", "claim", "disable", "batch-7", "-o", "json"))["disabled"] is True


def test_enrolment_tokens_are_made_listed_and_ended(fleet):
    fleet("group", "create", "lab")
    words = ("--uses", "3", "--hours", "1", "--group", "lab", "--network", "192.0.2.0/24")
    secret = rows(fleet("enrollment", "token", "create", *words, "-o", "json"))["token"]

    (listed,) = rows(fleet("enrollment", "token", "list", "-o", "json"))
    ended = rows(fleet("enrollment", "token", "revoke", listed["id"], "-o", "json"))

    assert secret.startswith(f"fc_enr_{listed['id']}_")
    assert (listed["left"], ended["revoked"], "sha256" in listed) == (3, True, False)
    assert (listed["groups"], listed["networks"]) == (["lab"], ["192.0.2.0/24"])


def test_a_manufacturers_ca_is_taken_in_and_asked_for_a_proof(fleet, data, tmp_path):
    maker = tmp_path / "maker.pem"
    maker.write_bytes(Authority.create("maker", SystemClock()).roots[0].public_bytes(Encoding.PEM))
    proposed = rows(fleet("enrollment", "manufacturer", "propose", "maker", maker, "--tag", "x", "-o", "json"))

    own = fleet("enrollment", "manufacturer", "propose", "us", data / "pki" / "root.pem")
    wrong = fleet("enrollment", "manufacturer", "prove", "maker", data / "pki" / "server.pem")
    (tmp_path / "der").write_bytes(b"\x30\x82\xff")
    binary = fleet("enrollment", "manufacturer", "prove", "maker", tmp_path / "der")

    assert len(proposed["nonce"]) == 48
    assert (own.code, wrong.code, binary.code) == (5, 5, 5)
    assert "nonce" in wrong.err
    (listed,) = rows(fleet("enrollment", "manufacturer", "list", "-o", "json"))
    assert (listed["admits"], listed["tags"], listed["nonce"]) == ("waiting", ["x"], proposed["nonce"])
    assert rows(fleet("enrollment", "manufacturer", "disable", "maker", "-o", "json"))["disabled"] is True


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_who_did_not_knock_cannot_be_decided_about(fleet, verb):
    assert fleet("enrollment", verb, "th-1", "0" * 64).code == 3
    assert fleet("enrollment", verb, "th-1", "no fingerprint").code == 3
    assert rows(fleet("enrollment", "list", "-o", "json")) == []
