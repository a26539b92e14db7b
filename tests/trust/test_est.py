"""A device that knows nothing of fleetcore: it enrols with curl and openssl, publishes, and is thrown out."""

import asyncio
import contextlib
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore.testing.patience import PATIENCE_S

pytestmark = [pytest.mark.peer("curl", "openssl")]


async def latest(served, device):
    return {one["metric"]: one["value"] for one in await served.manager.list_device_latest_readings(device)}


@pytest.mark.peer("mosquitto_pub")
async def test_a_foreign_client_enrols_publishes_is_revoked_and_is_out(served, shell, program):
    token = await served.security.enrollment_tokens.create(device_type="meter")
    csr = await shell.key("meter-1")
    assert await shell.enroll("simpleenroll", csr, "-u", f"meter-1:{token}") == 200
    assert (await program(*shell.publish("meter-1", "-m", '{"power": 21.5}')))[0] == 0
    assert await latest(served, "meter-1") == {"power": 21.5}

    process = await asyncio.create_subprocess_exec(
        *map(str, shell.publish("meter-1", "-l")), stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    feeding = asyncio.create_task(feed(process))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while (await latest(served, "meter-1")).get("count", 0) < 20:
                await asyncio.sleep(0.02)
        await served.security.revoke("meter-1", reason="stolen")
        # The peer goes on trying meanwhile: once another in its name was refused, it gets no more in.
        await program(*shell.publish("meter-1", "-m", '{"power": 99}'))
        until_refused = len((await served.manager.query_telemetry("meter-1", "count")).time)
        await asyncio.sleep(1.0)
    finally:
        feeding.cancel()
        process.kill()
        await process.communicate()
    points = await served.manager.query_telemetry("meter-1", "count")
    assert 20 <= until_refused == len(points.time)

    before = await latest(served, "meter-1")
    await program(*shell.publish("meter-1", "-m", '{"power": 99}'))
    new = await shell.key("meter-1", "new.pem")
    assert await latest(served, "meter-1") == before
    assert await shell.enroll("simplereenroll", new, *shell.identity) in (401, 403)
    refused = await served.audited("access.denied")
    assert ("meter-1", "device_revoked: revoked") in {(row.actor, row.reason) for row in refused}


async def feed(process):
    """Lines for mosquitto_pub, each a reading, as fast as a device would."""
    number = 0
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            number += 1
            process.stdin.write(b'{"count": %d}\n' % number)
            await process.stdin.drain()
            await asyncio.sleep(0.01)


async def test_the_cas_come_as_pkcs7_and_are_the_fleets(served, shell):
    status, body = await shell.est("cacerts")

    der = await shell.ok("openssl", "base64", "-d", "-A", stdin=b"".join(body.split()))
    shown = await shell.ok("openssl", "pkcs7", "-inform", "DER", "-print_certs", stdin=der)
    assert status == 200
    given = {one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(shown)}
    assert given == {one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(served.ca.read_bytes())}


async def test_the_attributes_of_a_request_are_readable_by_openssl(shell):
    status, body = await shell.est("csrattrs")

    der = await shell.ok("openssl", "base64", "-d", "-A", stdin=body)
    shown = await shell.ok("openssl", "asn1parse", "-inform", "DER", stdin=der)
    assert status == 200
    for name in (b"ecdsa-with-SHA256", b"id-ecPublicKey", b"prime256v1"):
        assert name in shown


async def test_a_certificate_is_renewed_by_itself_for_its_own_subject_alone(served, shell):
    token = await served.security.enrollment_tokens.create()
    assert await shell.enroll("simpleenroll", await shell.key("meter-1"), "-u", f"x:{token}") == 200
    new, other = await shell.key("meter-1", "new.pem"), await shell.key("meter-2", "other.pem")

    renewed = await shell.enroll("simplereenroll", new, *shell.identity, into="new-cert.pem")
    foreign = await shell.enroll("simplereenroll", other, *shell.identity)
    nobody = await shell.enroll("simplereenroll", new)
    await shell.ok(
        *("openssl", "req", "-new", "-key", shell.folder / "new.pem", "-subj", "/O=Acme/CN=meter-1"),
        *("-outform", "DER", "-out", shell.folder / "more.der"),
    )
    (shell.folder / "more.b64").write_bytes(await shell.ok("openssl", "base64", "-in", shell.folder / "more.der"))
    another_subject = await shell.enroll("simplereenroll", shell.folder / "more.b64", *shell.identity)

    assert (renewed, foreign, nobody, another_subject) == (200, 400, 401, 400)
    assert [one.how for one in sorted(await served.security.inventory("meter-1"), key=lambda one: one.created)] == [
        f"token:{token.split('_')[2]}",
        "renewal",
    ]


@pytest.mark.parametrize("user", ["x:wrong", "x:fc_enr_0123456789abcdef_" + "x" * 43, "x:", None])
async def test_who_shows_no_good_token_is_asked_for_one(served, shell, user):
    options = () if user is None else ("-u", user)
    csr = await shell.key("meter-1")

    status, body = await shell.est(
        "simpleenroll", "-i", "-H", "Content-Type: application/pkcs10", "--data-binary", f"@{csr}", *options
    )

    assert status == 401
    assert b'www-authenticate: basic realm="fleetcore enrolment"' in body.lower()
    assert await served.security.inventory() == []


async def test_a_token_is_spent_once(served, shell):
    token = await served.security.enrollment_tokens.create()

    first = await shell.enroll("simpleenroll", await shell.key("meter-1"), "-u", f"x:{token}")
    second = await shell.enroll("simpleenroll", await shell.key("meter-2", "b.pem"), "-u", f"x:{token}")

    assert (first, second) == (200, 401)


async def test_a_device_that_an_operator_has_to_accept_asks_again(served, shell):
    await served.manager.register_device("meter-1", "meter")
    token = await served.security.enrollment_tokens.create(device="meter-1")
    csr = await shell.key("meter-1")
    assert await shell.enroll("simpleenroll", csr, "-u", f"x:{token}") == 200


@pytest.mark.peer("mosquitto_pub")
async def test_a_claim_certificate_enrols_and_does_nothing_else(served, shell, program):
    made = await served.security.claims.create("batch-7", quota=1, device_type="meter")
    (shell.folder / "cert.pem").write_text(made.certificate)
    (shell.folder / "claim.pem").write_text(made.key)
    claim = ("--cert", shell.folder / "cert.pem", "--key", shell.folder / "claim.pem")
    csr, another = await shell.key("meter-1"), await shell.key("meter-2", "b.pem")

    enrolled = await shell.enroll("simpleenroll", csr, *claim, into="own.pem")
    over = await shell.enroll("simpleenroll", another, *claim)
    renewed = await shell.enroll("simplereenroll", csr, *claim)

    assert (enrolled, over, renewed) == (200, 429, 403)
    (shell.folder / "key.pem").write_text(made.key)
    await program(*shell.publish("meter-1", "-m", '{"power": 1}'))
    code, out, _ = await program(
        *("curl", "-sS", "--cacert", served.ca, *claim, "-d", '{"power": 1}', "-w", "%{http_code}"),
        served.url("http").replace("127.0.0.1", "localhost") + "/device/v1/telemetry",
    )
    assert (code, out[-3:]) == (0, b"403")
    assert (await served.manager.list_device_latest_readings("meter-1")).items == []


async def test_what_a_maker_gave_a_device_opens_enrolment(served, shell):
    folder = shell.folder
    await shell.ok("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / "ca.key")
    await shell.ok(
        *("openssl", "req", "-x509", "-new", "-key", folder / "ca.key", "-subj", "/CN=Maker", "-days", "30"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", folder / "ca.pem"),
    )
    proposed = await served.security.manufacturers.propose("maker", (folder / "ca.pem").read_text(), admits="at_once")
    sign = ("openssl", "x509", "-req", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-days", "30")
    # Without extensions openssl makes a certificate of X.509 version 1, which nobody verifies any more.
    (folder / "v3").write_text("subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")

    async def signed(name, key):
        await shell.ok("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / key)
        csr = await shell.ok("openssl", "req", "-new", "-key", folder / key, "-subj", f"/CN={name}")
        return await shell.ok(*sign, "-CAcreateserial", "-extfile", folder / "v3", stdin=csr)

    proof = await signed(proposed.nonce, "proof.key")
    made = await signed("meter-1", "made.key")
    (folder / "made.pem").write_bytes(made)
    shown = ("--cert", folder / "made.pem", "--key", folder / "made.key")
    csr = await shell.key("meter-1")
    with pytest.raises(AssertionError, match=r"curl: "):  # nobody has proven the CA: no handshake
        await shell.enroll("simpleenroll", csr, *shown)

    await served.security.prove_manufacturer("maker", proof.decode())

    assert await shell.enroll("simpleenroll", csr, *shown) == 200
    assert [one.how for one in await served.security.inventory("meter-1")] == ["manufacturer:maker"]


async def test_a_certificate_that_ran_out_in_the_warehouse_is_renewed_and_good_for_nothing_else(
    serving, past, shell_on, program
):
    async with serving("\n[ca]\ngrace_expired_days = 30\n", clock=past) as served:
        shell = shell_on(served)
        token = await served.security.enrollment_tokens.create()
        base = served.url("http").replace("127.0.0.1", "localhost")
        old = await shell.key("meter-1")
        past.jump(100 * 86_400_000)
        served.fleet.tls.renew_if_due()  # curl looks at the real clock
        past.jump(-100 * 86_400_000)
        assert await shell.enroll("simpleenroll", old, "-u", f"x:{token}") == 200
        past.jump(100 * 86_400_000)

        _, out, _ = await program(
            *("curl", "-sS", "--cacert", served.ca, *shell.identity, "-d", '{"power": 1}'),
            f"{base}/device/v1/telemetry",
        )
        new = await shell.key("meter-1", "new.pem")
        status = await shell.enroll("simplereenroll", new, *shell.identity, into="new-cert.pem")

        assert b"certificate_invalid" in out
        assert status == 200


async def test_a_claim_in_two_steps_by_curl(served, shell, program):
    made = await served.security.claims.create("batch-7", quota=2, models=["m-4"])
    (shell.folder / "claim.pem").write_text(made.certificate)
    (shell.folder / "claim.key").write_text(made.key)
    await shell.key("meter-1")
    pem = (await shell.ok("openssl", "req", "-new", "-key", shell.folder / "key.pem", "-subj", "/CN=meter-1")).decode()
    base = served.url("http").replace("127.0.0.1", "localhost") + "/device/v1"

    async def enroll(**members):
        body = json.dumps(members)
        _, out, _ = await program(
            *("curl", "-sS", "--cacert", served.ca, "-w", "\n%{http_code}", "-H", "Content-Type: application/json"),
            *("--cert", shell.folder / "claim.pem", "--key", shell.folder / "claim.key", "-d", body, f"{base}/enroll"),
        )
        text, _, status = out.rpartition(b"\n")
        return int(status), json.loads(text)

    async def send():
        _, out, _ = await program(
            *("curl", "-sS", "--cacert", served.ca, "-o", "/dev/null", "-w", "%{http_code}", *shell.identity),
            *("-H", "Content-Type: application/json", "-d", '{"power": 1}', f"{base}/telemetry"),
        )
        return int(out)

    status, begun = await enroll(csr=pem)
    (shell.folder / "cert.pem").write_text(begun["certificate"])
    early = await send()
    wrong = await enroll(ownership_token=begun["ownership_token"], parameters={"model": "x"})
    none = await enroll(ownership_token="x" * 43, parameters={"model": "m-4"})
    empty = await enroll(parameters={"model": "m-4"})
    done = await enroll(ownership_token=begun["ownership_token"], parameters={"model": "m-4"})
    again = await enroll(ownership_token=begun["ownership_token"], parameters={"model": "m-4"})

    assert (status, begun["state"], early) == (201, "pending_activation", 403)
    assert (wrong[0], none[0], empty[0]) == (403, 401, 422)
    assert (done[0], again[0]) == (201, 201)
    assert done[1]["certificate"] == again[1]["certificate"] == begun["certificate"]
    assert await send() == 204
    assert (await served.manager.get_device("meter-1"))["model"] == "m-4"
