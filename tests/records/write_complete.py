"""Wrote ``complete-1.tar.gz`` and ``complete-1.json.gz``: a whole data folder of the last release that wrote schema 1.

**It must not be run again**: code that has moved on would write what it writes now, and the record would prove nothing.
It stays here to say how the folder came about, and is not kept working.

The archive holds ``data``, the folder, and ``backup``, which ``fleetcore backup`` made of it one step earlier, while a
new root CA was announced; in ``data`` that root issues already. The JSON holds what each answered when it was written:
the questions, to the façade and to the operators' API, stand beside their answers, so that a later release is asked
the same without this module. Every key, token and secret in archive and JSON is a **test key made for this record**;
none of them opened anything else, ever.
"""

import asyncio
import base64
import gzip
import json
import shutil
import sys
import tarfile
import tempfile
from datetime import timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore import IoTFleetManager
from fleetcore.builtin.sqlite.schema import VERSION
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound, Rejected
from fleetcore.runtime.backup import backup
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.signers import IMAGE, START_MS, Signers, digest
from fleetcore.wire import messages

HERE = Path(__file__).parent
HOUR_S = 3600
TOML = """\
[fleet]
name = "record"
data = "."

[firmware]
allow_unsigned = true

[detectors.statistical]

[detectors.too-hot]
kind = "threshold"
metrics = ["temperature"]
above = 300.0

[notifiers.log]
"""
#: Devices that the story is about; more come in by imports, enrolments and claims.
THERMOMETERS = [f"th-{number}" for number in range(1, 9)]


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def csr(device, key):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def der(text):
    return x509.load_pem_x509_certificate(text.encode()).public_bytes(Encoding.DER)


class Story:
    """What happened to the fleet, told to one open manager."""

    def __init__(self, data, clock, secrets):
        self.data, self.clock, self.secrets = data, clock, secrets
        self.sessions = {}

    async def __aenter__(self):
        self.manager = IoTFleetManager(self.data, clock=self.clock)
        self.fleet = await self.manager.open()
        return self

    async def __aexit__(self, *_):
        await self.manager.close()

    async def say(self, device, message_type, body, *, refused=False, **more):
        """One message of a device, through the plane's door."""
        if device not in self.sessions:
            self.sessions[device] = await self.fleet.plane.authenticate(LocalCredential(device), protocol="local")
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = Inbound(type=message_type, subject=device, payload=payload, **more)
        outcome = await self.fleet.ingest.submit(self.sessions[device], message)
        assert isinstance(outcome, Rejected) is refused, outcome
        return outcome

    # --- devices ---------------------------------------------------------------------------------------------------

    async def devices(self):
        manager = self.manager
        for number, device in enumerate(THERMOMETERS):
            await manager.register_device(
                device,
                "thermometer",
                {"model": "T-1000", "tags": ["roof"] if number % 2 else ["cellar", "blau"], "note": "grün", "floor": number,
                 "location": {"lat": 52.5 + number / 100, "lon": 13.4}},
            )  # fmt: skip
        for device in ("gone-1", "erased-1", "held-1", "doubtful-1"):
            await manager.register_device(device, "thermometer", {"model": "T-500"})
        await manager.register_gateway("gw-1", {"radio": "lora"}, may_register=True)
        await manager.register_device("leaf-1", "probe")
        await manager.attach_leaf("gw-1", "leaf-1")
        await manager.provision_device("th-8", {"interval": 30})
        await manager.update_device(
            "th-1", {"name": "Dach Süd", "capabilities": ["reboot"]}, reason="read off its label"
        )
        await manager.set_lifecycle("gone-1", "retired", reason="broken")
        await manager.set_lifecycle("held-1", "suspended", reason="unpaid")
        await manager.set_lifecycle("doubtful-1", "quarantined", reason="odd readings")
        await manager.erase_device("erased-1", reason="asked for")

    async def groups_and_layers(self):
        manager = self.manager
        await manager.create_group("plant", description="alles")
        await manager.create_group("hall", within=["plant"])
        await manager.create_group("roofs", query="tags has 'roof'")
        await manager.create_group("high", query="attributes.floor > 4", description="above the fourth floor")
        await manager.create_group("brief")
        await manager.remove_group("brief")
        await manager.add_to_group("hall", ["th-1", "th-2", "th-3"])
        await manager.add_to_group("plant", ["th-4"])
        await manager.take_out_of_group("hall", ["th-3"])
        await manager.set_layer("base", {"interval": 60, "unit": "C"})
        await manager.set_layer("hall", {"interval": 20, "light": {"on": True}}, kind="group", group="hall")
        await manager.set_layer("roofs", {"heater": "auto"}, kind="policy", group="roofs", priority=3)
        await manager.set_layer("gone", {"x": 1})
        await manager.remove_layer("gone")
        await manager.set_desired("th-1", {"interval": 5}, reason="looked at closely")
        await manager.set_desired("th-1", {"interval": 10, "label": "Süd"})
        await manager.settle()
        version = (await manager.get_twin("th-1"))["desired_version"]
        await self.say("th-1", messages.TWIN_REPORT, {"interval": 10, "battery": 87, "firmware": {"version": "1.0.0"}})
        await self.say(
            "th-1",
            messages.TWIN_ACK,
            {"version": version, "refused": {"/label": {"code": "not_supported", "reason": "it has no display"}}},
        )
        await self.say("th-2", messages.TWIN_REPORT, {"interval": 20, "battery": 12})
        await self.say("th-3", messages.LOCATION, {"lat": 48.1, "lon": 11.6, "accuracy_m": 4.0})
        await self.say("th-2", messages.STATUS, {"state": "sleeping", "for_s": 864_000})

    # --- readings --------------------------------------------------------------------------------------------------

    async def readings(self, first, count):
        """One message of 100 readings at a time, and what is odd among them."""
        for at in range(first, first + count, 100):
            await self.say(
                "th-1",
                messages.TELEMETRY,
                [
                    {
                        "metric": "temperature",
                        "value": 20 + i % 50 / 10,
                        "unit": "C",
                        "time": START_MS + i * 1000,
                        "seq": 1,
                    }
                    for i in range(at, at + 100)
                ],
            )

    async def odd_readings(self):
        base = START_MS + 5_000_000
        say = self.say
        await say("th-1", messages.TELEMETRY, {"time": base, "values": {"state": "ok", "door": True}}, id="message-1")
        await say("th-1", messages.TELEMETRY, {"time": base, "values": {"state": "ok", "door": True}}, id="message-1")
        await say("th-1", messages.TELEMETRY, {"time": base + 1000, "values": {"state": "öffnet", "door": False}})
        await say(
            "th-1", messages.TELEMETRY, [{"metric": "temperature", "value": 23.5, "time": START_MS + 7000, "seq": 7}]
        )
        await say("th-1", messages.TELEMETRY, {"time": base + 2000, "values": {"temperature": 400.0}})
        await say("th-3", messages.TELEMETRY, {"values": {"temperature": 18.25, "humidity": 40}})
        await say("th-4", messages.TELEMETRY, b"no json", refused=True)
        await say("th-4", messages.TELEMETRY, {"values": {"temperature": {"deep": 1}}}, refused=True)
        await self.manager.settle()

    # --- commands and operations -----------------------------------------------------------------------------------

    async def commands(self):
        manager, commands = self.manager, self.fleet.commands
        made = {}
        for name, device in (("succeeded", "th-1"), ("failed", "th-2"), ("rejected", "th-3"), ("running", "th-4")):
            made[name] = (await manager.send_command(device, "calibrate", {"to": 21.5}, reason=f"will be {name}"))["id"]
            await commands.hand_out(device)
            if name == "running":
                await self.say(
                    device, messages.COMMAND_RESULT, {"status": "running", "progress": 40}, target=made[name]
                )
            else:
                state = {
                    "rejected": {"status": "rejected", "code": "busy"},
                    "failed": {"status": "failed", "code": "e7"},
                }
                body = state.get(name, {"status": "succeeded", "result": {"offset": 0.25}})
                await self.say(device, messages.COMMAND_RESULT, body, target=made[name])
        made["sent"] = (await manager.send_command("th-5", "reboot", lane="power", result_within_s=400_000))["id"]
        await commands.hand_out("th-5")
        made["expired"] = (await manager.send_command("th-6", "reboot", deliver_within_s=5))["id"]
        made["cancelled"] = (await manager.send_command("th-6", "beep", lane="b"))["id"]
        await manager.cancel_command(made["cancelled"], reason="too loud")
        made["superseded"] = (await manager.send_command("th-7", "set", {"n": 1}, supersede="set"))["id"]
        made["queued"] = (
            await manager.send_command("th-7", "set", {"n": 2}, supersede="set", deliver_within_s=864_000)
        )["id"]
        await self.clock.advance(60)
        for name, command in made.items():
            expected = {"superseded": "cancelled"}.get(name, name)
            found = await manager.get_command(command)
            assert found["state"] == expected, (name, found)

    async def operations(self):
        """Long work: ended, ended in part, cancelled; and of each kind one that is under way."""
        manager, fleet = self.manager, self.fleet
        rows = [{"id": f"im-{number}", "type": "probe", "tags": ["imported"]} for number in range(5)]
        await manager.run_operation((await manager.import_devices(rows, reason="delivery 1"))["id"])
        bad = [{"id": "im-6", "type": "probe"}, {"id": "no id", "type": "probe"}]
        await manager.run_operation((await manager.import_devices(bad))["id"])
        ended = await manager.send_commands("ping", devices=["im-0", "im-1"])
        await manager.run_operation(ended["id"])
        stopped = await manager.send_commands("ping", devices=["im-2", "im-3"], rate_per_s=0.001)
        await manager.cancel_operation(stopped["id"], reason="not now")
        more = [{"id": f"later-{number}", "type": "probe", "gateway": "gw-1"} for number in range(20)]
        importing = await fleet.operations.start("import", more, rate_per_s=0.5, actor="cli:ann", reason="delivery 2")
        bulk = await manager.send_commands("blink", {"times": 3}, devices=THERMOMETERS, rate_per_s=0.5)
        renewal = await manager.renew_certificates(devices=["c-1", "c-2"], waves=["1"], timeout_s=5_000_000)
        for _ in range(7):
            await self.clock.advance(1)
            await asyncio.sleep(0.2)  # a turn of the operations takes real time: it waits for the disk
        for operation in (importing.id, bulk["id"], renewal["id"]):
            found = await manager.get_operation(operation)
            assert found["state"] == "running", found
        assert 0 < (await manager.get_operation(bulk["id"]))["done"] < 8
        assert 0 < (await manager.get_operation(importing.id))["done"] < 20

    # --- firmware --------------------------------------------------------------------------------------------------

    async def firmware(self):
        manager, campaigns = self.manager, self.fleet.campaigns
        artifact = await manager.add_artifact(b"firmware " * 100)
        image = {"sha256": artifact["sha256"], "size": artifact["size_bytes"]}
        url = "https://updates.example.com/2"
        await manager.update_firmware("done", "2.0.0", ["th-1", "th-2"], url, **image)
        await self.updated("th-1", "done", "downloading", "installing", "succeeded", version="2.0.0")
        await self.updated("th-2", "done", "failed", code="flash_failed")
        await manager.update_firmware("running", "2.1.0", ["th-1", "th-3", "th-5", "th-6"], url, **image)
        await self.updated("th-1", "running", "rejected", code="battery_low")
        await self.updated("th-3", "running", "downloading", progress=42, bytes=378)
        await self.fleet.updates.offer("th-5")
        await manager.update_firmware("aborted", "2.2.0", ["th-4", "th-7"], url, **image)
        await self.updated("th-4", "aborted", "installing")
        await campaigns.abort("aborted", actor="cli:ann", reason="wrong image")
        # A name that resolves nowhere, ever (RFC 2606): the campaign stays a draft.
        await manager.update_firmware("draft", "3.0.0", ["th-8"], "https://updates.invalid/3")
        await asyncio.gather(*campaigns._tasks)

        signers = Signers()
        await manager.set_trust(signers.trust(1), reason="the first one")
        await manager.set_trust(signers.trust(2, firmware=("maker", "second")))
        await manager.add_artifact(IMAGE)
        await manager.add_release(signers.manifest(seq=2))
        await manager.add_release(signers.manifest(seq=3, chunk=4096))
        await manager.update_firmware("signed", "3.0.0", ["th-7", "th-8"], "", from_release="thermo:3")
        await self.fleet.updates.offer("th-8")
        assert (await campaigns.get("done")).state == "succeeded"
        assert (await campaigns.get("draft")).state == "draft"
        self.secrets["artifacts"] = {artifact["sha256"]: 900, digest(IMAGE): len(IMAGE)}

    async def updated(self, device, campaign, *states, **last):
        await self.fleet.updates.offer(device)
        for state in states:
            more = last if state == states[-1] else {}
            body = {"execution": f"{campaign}:{device}", "state": state, **more}
            await self.say(device, messages.FIRMWARE_STATUS, body)

    # --- trust -----------------------------------------------------------------------------------------------------

    async def certificate(self, device):
        """Enrols a device by a token of its own, or renews it; its key and certificate go into the record."""
        key = new_key()
        token = await self.manager.create_enrollment_token(device, device_type="sensor")
        reply = await self.fleet.security.enroll(EnrollRequest(csr=csr(device, key), token=token, source="192.0.2.7"))
        self.secrets["certificates"][device] = reply.body["certificate"]
        self.secrets["keys"][device] = pem(key)
        await self.fleet.security.identify(der(reply.body["certificate"]))

    async def first_generations(self):
        """Root 1 retires in favour of root 2, whose issuing CA is renewed once."""
        security, rotation = self.fleet.security, self.fleet.security.rotation
        await self.certificate("c-old")
        await rotation.begin(actor="cli:ann", reason="the root is old")
        await rotation.back(actor="cli:ann", reason="a mistake")
        await rotation.begin(actor="cli:ann", reason="the root is old")
        await rotation.issue(actor="cli:ann")
        await self.certificate("c-1")
        await rotation.retire(threshold=0.0, force=True, actor="cli:ann", reason="all have followed but one")
        await self.certificate("c-2")
        await rotation.renew_issuing(actor="cli:ann")
        await self.certificate("c-3")
        await self.certificate("c-revoked")
        await security.revoke(device="c-revoked", actor="cli:ann", reason="stolen")

    async def credentials(self):
        manager, security, secrets = self.manager, self.fleet.security, self.secrets
        secrets["device_token"] = {"th-1": await manager.issue_device_token("th-1")}
        secrets["enrolment_token"] = await manager.create_enrollment_token(
            uses=3, ttl_s=8_640_000, device_type="sensor", groups=["hall"], networks=["192.0.2.0/24"]
        )
        spent = await manager.create_enrollment_token("t-1")
        key = new_key()
        await security.enroll(EnrollRequest(csr=csr("t-1", key), token=spent, source="192.0.2.8"))
        await manager.create_enrollment_token()
        (revoked,) = [
            one for one in await manager.list_enrollment_tokens() if one.get("device") is None and one["uses"] == 1
        ]
        await manager.revoke_enrollment_token(revoked["id"], reason="lost")
        for device in ("k-waits", "k-welcome", "k-rejected"):
            await manager.register_device(device, "sensor")
            await security.enroll(
                EnrollRequest(csr=csr(device, new_key()), source="198.51.100.4", parameters={"serial": device})
            )
        for one in await manager.list_enrollments():
            if one["device"] == "k-welcome":
                await manager.approve_enrollment("k-welcome", one["fingerprint"], reason="we know it")
            elif one["device"] == "k-rejected":
                await manager.reject_enrollment("k-rejected", one["fingerprint"], reason="we do not")
        batch = await manager.create_claim("batch-7", 10, device_type="sensor", tags=["plant-2"], serials=["S1", "S2"])
        await manager.create_claim("batch-8", 1)
        await manager.disable_claim("batch-8", reason="the factory closed")
        claim = der(batch["certificate"])
        secrets["claim"] = {"certificate": batch["certificate"], "key": batch["key"]}
        done = await security.enroll(
            EnrollRequest(csr=csr("b-1", new_key()), certificate=claim, parameters={"serial": "S1"}, source="192.0.2.9")
        )
        assert "ownership_token" not in done.body
        begun = await security.enroll(EnrollRequest(csr=csr("b-2", new_key()), certificate=claim, source="192.0.2.9"))
        secrets["ownership_token"] = begun.body["ownership_token"]
        await self.manufacturer()

    async def manufacturer(self):
        """A maker's CA that has proven itself, and one that has not."""
        now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "maker")])
        for name in ("maker", "unproven"):
            key = new_key()
            made = await self.manager.propose_manufacturer(
                name, self.issued(now, now, key, key, ca=True), model="T-1000"
            )
            if name == "maker":
                nonce = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, made["nonce"])])
                await self.manager.prove_manufacturer(name, self.issued(nonce, now, new_key(), key, ca=False))

    def issued(self, subject, issuer, key, by, *, ca):
        from datetime import UTC, datetime

        start = datetime.fromtimestamp(START_MS / 1000, UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
                key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
            )  # fmt: skip
            builder = builder.add_extension(usage, critical=True)
            builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return builder.sign(by, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    async def operators(self):
        manager, tokens = self.manager, self.secrets["operator_tokens"]
        for name, roles, scope, more in (
            ("root", ["admin"], "", {"days": 366.0}),
            ("ann", ["viewer", "operator"], "group:hall", {}),
            ("bob", ["auditor"], "", {"permissions": ["audit:read", "devices:read"]}),
            ("eve", ["viewer"], "tags has 'roof'", {}),
            ("late", ["admin"], "", {"days": 0.001}),
            ("gone", ["admin"], "", {}),
        ):
            made = await manager.create_token(name, roles, scope=scope, **more)
            tokens[name] = made["token"]
            if name == "gone":
                await manager.revoke_token(made["id"], reason="left")
        (grant,) = [one for one in await manager.list_roles("ann") if one["role"] == "operator"]
        await manager.revoke_role(grant["id"], reason="moved on")

    async def over_the_api(self):
        """An answer that is kept for its Idempotency-Key, and refusals."""
        async with (
            open_api(ApiConfig(listen="http://127.0.0.1:0"), self.fleet._context("api"), self.fleet) as server,
            httpx.AsyncClient(base_url=server.url + "/api/v1/", timeout=PATIENCE_S) as client,
        ):
            sent = {"path": "devices", "key": "delivery-3", "json": {"id": "kept-1", "type": "probe"}}
            root, eve = (
                {"Authorization": f"Bearer {self.secrets['operator_tokens'][name]}"} for name in ("root", "eve")
            )
            reply = await client.post(sent["path"], json=sent["json"], headers={**root, "Idempotency-Key": sent["key"]})
            assert reply.status_code == 201, reply.text
            self.secrets["kept_answer"] = {**sent, "status": 201, "answer": reply.json()}
            for path in ("audit", "devices/th-1"):
                assert (await client.get(path, headers=eve)).status_code in {403, 404}
        await self.fleet.denials.flush()


# --- what is asked, and how it is written down -------------------------------------------------------------------------

EACH = THERMOMETERS[:3]


def questions(secrets):
    """Calls of the façade that change nothing: name, arguments, options."""
    yield from (("list_devices", [], {}), ("list_devices", [], {"where": "tags has 'roof' and attributes.floor > 2"}))
    yield from (("count_devices", [], {}), ("count_devices", ["lifecycle = 'retired'"], {}), ("export_devices", [], {}))
    for device in (*EACH, "th-5", "th-8", "gone-1", "held-1", "doubtful-1", "gw-1", "leaf-1", "b-1"):
        for call in ("get_device", "device_history", "get_twin", "get_location", "list_commands", "list_series", "latest_telemetry",
                     "list_groups", "list_certificates", "list_anomalies", "get_device_health", "why_device"):  # fmt: skip
            yield call, [device], {}
    for device in EACH:
        yield "twin_history", [device], {}
        yield "twin_history", [device, "reported"], {}
    yield "explain_query", ["th-2", "tags has 'roof'"], {}
    yield "twin_as_of", ["th-1", START_MS + 2 * HOUR_S * 1000], {}
    yield from (
        ("list_groups", [], {}),
        ("list_layers", [], {}),
        ("list_operations", [], {}),
        ("list_commands", [], {}),
    )
    for group in ("plant", "hall", "roofs", "high"):
        yield "get_group", [group], {}
        yield "get_group_health", [group], {}
    for campaign in ("done", "running", "aborted", "draft", "signed"):
        yield "get_campaign", [campaign], {}
    for call in ("get_trust", "list_trust", "list_releases", "list_anomalies", "list_dead_letters", "list_series", "list_claims",
                 "list_enrollment_tokens", "list_enrollments", "list_manufacturers", "list_tokens", "list_roles", "list_certificates",
                 "list_cas", "ca_rotation", "forecast_certificates", "get_fleet_health", "verify_audit"):  # fmt: skip
        yield call, [], {}
    yield "get_release", ["thermo:3"], {}
    yield "list_audit", [], {"limit": 2000}
    for metric in ("temperature", "door", "state"):
        yield "query_telemetry", ["th-1", metric], {}
    yield "aggregate_telemetry", ["th-1", "temperature", 600.0], {}
    for device in ("c-old", "c-1", "c-3", "c-revoked"):
        yield "check_certificate", [secrets["certificates"][device]], {}


def paths(secrets):
    """Reads of the operators' API: whose token, and what."""
    for path in (
        "devices", "devices?where=tags%20has%20%27roof%27", "gateways", "gateways/gw-1/leaves", "groups", "groups/hall", "groups/hall/members",
        "groups/hall/health", "layers", "layers/hall", "campaigns", "campaigns/running", "campaigns/running/executions",
        "campaigns/aborted/executions", "campaigns/done/executions", "campaigns/draft", "firmware/releases", "firmware/releases/thermo:3", "firmware/trust", "firmware/trust/1",
        "cas", "ca-rotation", "commands", "operations", "tokens", "roles", "audit?limit=50", "enrollment-tokens", "claims", "manufacturers",
        "certificates", "enrollments", "anomalies", "quarantine", "health", "telemetry/series?device=th-1", "telemetry/latest?device=th-1",
        "telemetry?metric=state&device=th-1", "telemetry/buckets?metric=temperature&bucket_s=600&device=th-1",
    ):  # fmt: skip
        yield "root", path
    for device in EACH:
        for part in (
            "",
            "/history",
            "/groups",
            "/location",
            "/commands",
            "/twin",
            "/twin/history",
            "/telemetry",
            "/certificates",
            "/health",
            "/why",
        ):
            yield "root", f"devices/{device}{part}"
    for sha256 in secrets["artifacts"]:
        yield "root", f"firmware/artifacts/{sha256}"
    for path in ("devices", "devices/th-1", "groups", "commands", "operations", "campaigns"):
        yield "ann", path
    for path in ("devices", "devices/th-4", "audit?limit=20"):
        yield "bob", path
    for path in ("devices", "devices/th-2", "groups", "commands", "campaigns"):
        yield "eve", path


#: Reads that are refused. Each refusal is a row of the audit log, so they are asked of a copy.
REFUSED = [
    *(("ann", path) for path in ("devices/th-4", "audit", "tokens")),
    *(("bob", path) for path in ("groups", "campaigns", "tokens")),
    *(("eve", path) for path in ("devices/th-1", "audit", "tokens")),
    ("late", "devices"),
    ("gone", "devices"),
]


async def recorded(data, clock, secrets, *, last=None):
    """The answers of a folder, opened anew; ``last`` is done before it is closed."""
    found = {"facade": [], "api": [], "refused": []}
    async with IoTFleetManager(data, clock=clock) as manager:
        fleet = await manager.open()
        await manager.settle()
        for call, args, options in questions(secrets):
            answer = await getattr(manager, call)(*args, **options)
            plain = answer.to_plain() if hasattr(answer, "to_plain") else answer
            found["facade"].append({"call": call, "args": args, "options": options, "answer": plain})
        async for name, path, reply in asked(fleet, paths(secrets), secrets):
            assert reply.status_code == 200, (name, path, reply.text)
            kind = reply.headers["content-type"]
            body = {"json": reply.json()} if "json" in kind else {"base64": base64.b64encode(reply.content).decode()}
            found["api"].append({"who": name, "path": path, "status": reply.status_code, **body})
        if last is not None:
            await last(fleet)
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(data, Path(folder) / "copy")
        async with IoTFleetManager(copy, clock=clock) as manager:
            async for name, path, reply in asked(await manager.open(), REFUSED, secrets):
                assert reply.status_code in {401, 403, 404}, (name, path, reply.text)
                answer = {"status": reply.status_code, "code": reply.json()["code"]}
                found["refused"].append({"who": name, "path": path, **answer})
    return json.loads(json.dumps(found))


async def asked(fleet, wanted, secrets):
    async with (
        open_api(ApiConfig(listen="http://127.0.0.1:0"), fleet._context("api"), fleet) as server,
        httpx.AsyncClient(base_url=server.url + "/api/v1/", timeout=PATIENCE_S) as client,
    ):
        for name, path in wanted:
            token = {"Authorization": f"Bearer {secrets['operator_tokens'][name]}"}
            yield name, path, await client.get(path, headers=token)


async def write(folder):
    """Tells the story, and writes down what the folder and its backup answer."""
    data, clock = folder / "data", MovableClock(START_MS + HOUR_S * 1000)
    secrets = {"operator_tokens": {}, "certificates": {}, "keys": {}}
    data.mkdir(0o700)
    (data / "fleet.toml").write_text(TOML)
    async with Story(data, clock, secrets) as story:
        await story.devices()
        await story.groups_and_layers()
        await story.first_generations()
        await clock.advance(HOUR_S)
        await story.readings(0, 2000)
        await story.manager.settle()
        # Packs the readings so far into chunks; what comes afterwards stays in the log.
        await story.fleet.storage.maintain(clock.now_ms() + 86_400_000)
        await story.readings(2000, 200)
        await story.odd_readings()
        await story.firmware()
        await story.commands()
        await story.operators()
        await clock.advance(2 * HOUR_S)
        await story.credentials()
        await story.over_the_api()
        await story.operations()
        await story.fleet.security.rotation.begin(actor="cli:ann", reason="every year")
        await story.manager.settle()
    backed_up = folder / "backup"
    await recorded(data, clock, secrets)  # that the tokens were used is written down the first time
    answers = {"backup": await recorded(data, clock, secrets, last=lambda fleet: backup(fleet, backed_up))}
    written = {"backup": clock.now_ms()}
    await clock.advance(30)
    async with Story(data, clock, secrets) as story:
        await story.fleet.security.rotation.issue(actor="cli:ann")
        await story.certificate("c-new")
        await story.say("th-1", messages.TELEMETRY, {"time": START_MS + 6_000_000, "values": {"temperature": 21.0}})
        await story.manager.settle()
    answers["data"] = await recorded(data, clock, secrets)
    written["data"] = clock.now_ms()
    assert await recorded(data, clock, secrets) == answers["data"]
    return {"written_ms": written, "secrets": secrets, "answers": answers}


def main():
    """See the module."""
    target = HERE / f"complete-{VERSION}.tar.gz"
    if target.exists() or VERSION != 1:
        sys.exit(f"{target.name} is a record; it must stay as it was written")
    with tempfile.TemporaryDirectory() as folder:
        known = asyncio.run(write(Path(folder)))
        (Path(folder) / "data" / "lock").unlink()
        with tarfile.open(target, "w:gz") as tar:
            for name in ("data", "backup"):
                tar.add(Path(folder) / name, name)
    text = json.dumps(known, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    (HERE / "complete-1.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
