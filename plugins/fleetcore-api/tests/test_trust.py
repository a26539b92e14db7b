"""Enrolments, certificates, operators and the audit log over the operators' API."""

import pytest


async def test_a_token_made_over_the_api_is_shown_once_and_works(admin, served):
    await admin.post("/roles", json={"principal": "ana", "role": "viewer"})

    made = await admin.post("/tokens", json={"principal": "ana"}, headers={"Idempotency-Key": "t1"})
    again = await admin.post("/tokens", json={"principal": "ana"}, headers={"Idempotency-Key": "t1"})
    used = await admin.get("/devices", headers={"Authorization": f"Bearer {made.json()['token']}"})

    assert used.status_code == 200
    assert made.headers["cache-control"] == "no-store"
    assert (again.json()["id"], again.json()["token"]) == (made.json()["id"], None)
    assert "token" not in (await admin.get(f"/tokens/{made.json()['id']}")).json()


async def test_an_admin_of_a_part_makes_no_operators(as_role):
    client = await as_role("admin", scope="group:lab")

    answers = [
        await client.post("/tokens", json={"principal": "x"}),
        await client.post("/roles", json={"principal": "p1", "role": "admin"}),
        await client.get("/audit"),
        await client.post("/devices", json={"id": "x", "type": "x"}),
    ]

    assert {one.status_code for one in answers} == {403}


async def test_a_withdrawn_role_ends_with_the_next_request(admin, as_role):
    client = await as_role("viewer")
    (grant,) = (await admin.get("/roles", params={"principal": "p2"})).json()["items"]

    await admin.delete(f"/roles/{grant['id']}")

    assert (await client.get("/devices")).status_code == 403


async def test_an_enrolment_token_for_a_foreign_device_is_not_to_be_had(manager, as_role):
    await manager.register_device("mine", "x")
    await manager.register_device("theirs", "x")
    client = await as_role("provisioner", scope="id = 'mine'")

    mine = await client.post("/enrollments", json={"device": "mine"})
    theirs = await client.post("/enrollments", json={"device": "theirs"})
    anyone = await client.post("/enrollments", json={})

    assert mine.json()["token"].startswith("fc_enr_")
    assert (theirs.status_code, anyone.status_code) == (404, 403)


async def test_a_certificate_is_listed_and_revoked(fleet, manager, admin):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    await manager.register_device("dev1", "x")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dev1")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    issued = await fleet.security.issue(csr.public_bytes(serialization.Encoding.DER))

    (listed,) = (await admin.get("/devices/dev1/certificates")).json()["items"]
    revoked = [await admin.post(f"/certificates/{issued.id}/revoke", json={"reason": "lost"}) for _ in range(2)]

    assert listed["id"] == issued.id
    assert [one.json()["changed"] for one in revoked] == [1, 0]
    assert (await admin.get(f"/certificates/{issued.id}")).json()["state"] == "revoked"


async def test_a_denial_is_a_row_of_the_audit_log(fleet, as_role, admin):
    viewer = await as_role("viewer")
    await viewer.post("/groups", json={"id": "x"})
    await fleet.denials.flush()
    await fleet.wait_idle()

    rows = (await admin.get("/audit", params={"actor": "operator:p2"})).json()["items"]

    assert [(one["action"], one["object"]) for one in rows] == [("access.denied", "create_group")]


async def test_a_campaign_is_seen_and_stopped_by_who_may(manager, admin, as_role):
    for device in ("a", "b"):
        await manager.register_device(device, "x")
    made = await admin.post(
        "/campaigns",
        json={
            "id": "spring",
            "release": "2.0",
            "devices": ["a", "b"],
            "url": "https://x.example/f",
            "sha256": "0" * 64,
            "size": 3,
        },
    )
    part, viewer = await as_role("deployer", scope="id = 'a'"), await as_role("viewer")

    executions = (await viewer.get("/campaigns/spring/executions")).json()["items"]
    answers = [
        (await part.get("/campaigns/spring")).status_code,
        (await viewer.post("/campaigns/spring/abort", json={})).status_code,
        (await admin.post("/campaigns/spring/abort", json={})).json()["state"],
    ]

    assert made.status_code == 201
    assert [one["device"] for one in executions] == ["a", "b"]
    assert answers == [404, 403, "aborted"]


async def test_a_campaign_touches_nothing_where_one_of_its_devices_is_foreign(manager, fleet, as_role):
    for device in ("a", "b"):
        await manager.register_device(device, "x")
    part = await as_role("deployer", scope="id = 'a'")
    body = {"id": "spring", "release": "2.0", "url": "https://x.example/f", "sha256": "0" * 64, "size": 3}

    foreign = await part.post("/campaigns", json={**body, "devices": ["a", "b"]})
    unknown = await part.post("/campaigns", json={**body, "devices": ["a", "c"]})
    made = await fleet.campaigns.records.get("spring")
    mine = await part.post("/campaigns", json={**body, "devices": ["a"]})
    listed = (await part.get("/campaigns")).json()["items"]
    aborted = await part.post("/campaigns/spring/abort", json={})

    assert (foreign.status_code, unknown.status_code, made) == (404, 404, None)
    assert foreign.text.replace("'b'", "").replace('"b"', "") == unknown.text.replace("'c'", "").replace('"c"', "")
    assert (mine.status_code, mine.headers["location"]) == (201, "/api/v1/campaigns/spring")
    assert ([one["id"] for one in listed], aborted.json()["state"]) == (["spring"], "aborted")


async def test_a_foreign_campaign_is_as_an_unknown_one(manager, admin, as_role):
    for device in ("a", "b"):
        await manager.register_device(device, "x")
    await manager.update_firmware("spring", "2", ["a", "b"], "https://x.example/f", sha256="0" * 64, size=3)
    part = await as_role("deployer", scope="id = 'a'")

    for method, path in (("GET", ""), ("GET", "/executions"), ("POST", "/abort")):
        foreign = await part.request(method, f"/campaigns/spring{path}")
        unknown = await part.request(method, f"/campaigns/none{path}")
        assert (foreign.status_code, unknown.status_code) == (404, 404)
        assert foreign.text.replace("spring", "none") == unknown.text
    assert (await part.get("/campaigns")).json()["items"] == []
    assert (await manager.get_campaign("spring")).state == "running"


@pytest.mark.parametrize("listen", ["http://0.0.0.0:0", "http://192.0.2.1:80", "ftp://127.0.0.1", "https://h:99999"])
async def test_plain_http_away_from_the_loopback_is_refused(listen):
    from fleetcore_api.config import ApiConfig

    from fleetcore.errors import ConfigError

    with pytest.raises(ConfigError):
        ApiConfig(listen=listen).listener()


async def test_who_lets_devices_in_and_out_does_not_rotate_or_distrust_the_ca(fleet, as_role):
    provisioner = await as_role("provisioner")
    (issuing,) = fleet.security.authority.trust.issuing

    answers = [
        await provisioner.post("/ca-rotation/begin", json={}),
        await provisioner.post("/cas", json={}),
        await provisioner.post(f"/cas/{issuing.id}/distrust", json={"force": True}),
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 403]


async def test_the_cas_are_rotated_over_the_api(fleet, manager, admin):
    from fleetcore.wire.identity import make_csr, make_key

    await manager.register_device("dev1", "x")
    await fleet.security.issue(make_csr("dev1", make_key()[1]))
    begun = await admin.post("/ca-rotation/begin", json={"reason": "old"})
    again = await admin.post("/ca-rotation/begin", json={})
    issued = await admin.post("/ca-rotation/issue", json={})
    hanging = await admin.post("/ca-rotation/retire", json={"threshold": 0.0})
    standing = (await admin.get("/ca-rotation")).json()
    unknown = await admin.post("/ca-rotation/burn", json={})
    retired = await admin.post("/ca-rotation/retire", json={"force": True})
    cas = (await admin.get("/cas")).json()["items"]

    assert [one.status_code for one in (begun, again, issued, hanging, unknown, retired)] == [
        200,
        409,
        200,
        409,
        422,
        200,
    ]
    assert (again.json()["code"], hanging.json()["code"]) == ("illegal_transition", "devices_would_be_locked_out")
    assert (standing["phase"], standing["dependents"], standing["locked_out"]) == ("issuing", 1, ["dev1"])
    assert retired.json()["locked_out"] == ["dev1"]
    assert [(one["kind"], one["state"]) for one in cas] == [
        ("root", "trusted"),
        ("issuing", "signs"),
        ("issuing", "former"),
    ]
    row = (await admin.get("/audit", params={"object": "ca", "after": 0})).json()["items"][0]
    assert (row["action"], row["actor"], row["reason"]) == ("ca.announced", "operator:p1", "old")


async def test_an_incident_is_told_and_its_ca_distrusted(fleet, manager, admin):
    from fleetcore.wire.identity import make_csr, make_key

    await manager.register_device("dev1", "x")
    await fleet.security.issue(make_csr("dev1", make_key()[1]))
    lost = fleet.security.authority.issuer
    made = await admin.post("/cas", json={"reason": "stolen"})
    incident = await admin.get(f"/cas/{lost}/incident")
    gone = await admin.post(f"/cas/{lost}/distrust", json={"force": True})
    crl = (await admin.get("/revocation-lists")).json()["crl"]

    assert (made.status_code, gone.status_code) == (201, 200)
    assert incident.json()["dependents"] == [{"device": "dev1", "certificates": 1, "sole_certificate": True}]
    assert (await admin.get("/cas/none/incident")).status_code == 404
    assert crl.count("BEGIN X509 CRL") == 2


async def test_a_renewal_in_waves_is_planned_before_it_is_done(fleet, manager, admin):
    from fleetcore.wire.identity import make_csr, make_key

    await manager.register_device("dev1", "x")
    await fleet.security.issue(make_csr("dev1", make_key()[1]))
    body = {"where": "type = 'x'", "waves": ["100%"]}

    bare = await admin.post("/renewals", json=body)
    plan = (await admin.post("/renewals", json=body, params={"dry_run": True})).json()
    started = await admin.post("/renewals", json={**body, "plan": plan["plan"]})
    one = await admin.post("/devices/dev1/renew", json={})
    cancelled = await admin.post(f"/operations/{started.json()['id']}/cancel", json={})

    assert (bare.status_code, plan["count"], plan["waves"]) == (428, 1, [1])
    assert (started.status_code, one.status_code, one.json()["kind"]) == (202, 202, "renewal")
    assert cancelled.json()["state"] == "cancelled"


async def test_the_forecast_counts_by_type_for_those_a_query_selects(fleet, manager, admin):
    from fleetcore.wire.identity import make_csr, make_key

    for name, kind in (("a", "x"), ("b", "y")):
        await manager.register_device(name, kind)
        await fleet.security.issue(make_csr(name, make_key()[1]))

    found = (
        await admin.get("/certificate-forecast", params={"per": "month", "periods": 12, "by": "type", "next": 1})
    ).json()
    narrow = (await admin.get("/certificate-forecast", params={"where": "type = 'y'"})).json()

    assert sum(one["count"] for one in found["buckets"]) == found["certificates"] == 2
    assert [one["by"] for one in found["buckets"] if one["count"]] == [{"x": 1, "y": 1}]
    assert (len(found["next"]), narrow["certificates"], narrow["next"][0]["device"]) == (1, 1, "b")
    assert {one["kind"] for one in found["cas"]} == {"root", "issuing"}
    assert (await admin.get("/certificate-forecast", params={"by": "colour"})).status_code == 422
