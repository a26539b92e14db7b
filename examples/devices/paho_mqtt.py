"""A device over MQTT 5 with paho-mqtt: it enrols, sends readings, follows desired state, runs commands, updates itself.

``pip install paho-mqtt cryptography``, then ``python paho_mqtt.py FOLDER``. The folder is the device's flash. The
factory writes ``factory.json``, ``ca.pem`` (the CAs of the fleet), ``trust.json`` (whose firmware it installs) and
``command.pub`` (whose commands it runs). The device adds ``device.pem``, ``state.json`` and ``image``.
``docs/how-to/write-a-device.md`` explains each step.
"""

import base64
import hashlib
import http.client
import json
import os
import queue
import random
import ssl
import sys
import time
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

Json = dict[str, Any]

QUEUE = 10_000  # readings that wait for the network; a full queue drops its oldest
BATCH = 100  # readings of one message
RESULTS = 50  # remembered results, to answer a repeated command without running it again
RETRY_S = (0.5, 60.0)  # the first and the longest wait before the next connection
TOPICS = ("twin", "twin/desired", "commands", "commands/+/cancel", "firmware", "reply/+", "errors")


class Refusal(Exception):
    """The device does not do what it was told; code and reason go to the server."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Reconnect(Exception):
    """The device has another certificate to connect with."""


class Reboot(Exception):
    """What is in RAM is lost from here on."""


def say(*words: object) -> None:
    """The device's console."""
    print(*words, flush=True)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def ms(text: str) -> int:
    """The time of an RFC 3339 text."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def merged(base: object, patch: object) -> Any:
    """A document after a merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        result.pop(name, None) if value is None else result.update({name: merged(result.get(name), value)})
    return result


# --- signed documents ------------------------------------------------------------------------------------------------


def key_id(raw: bytes) -> str:
    """The id of an Ed25519 key: SHA-256 of its SubjectPublicKeyInfo."""
    return hashlib.sha256(bytes.fromhex("302a300506032b6570032100") + raw).hexdigest()


def is_signed(raw: bytes, signature: bytes, content: bytes) -> bool:
    """Whether one key has signed."""
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(raw).verify(signature, content)
    except InvalidSignature:
        return False
    return True


def opened(envelope: Any, kind: str, keys: Mapping[str, bytes], threshold: int = 1) -> tuple[Json, bytes]:
    """The payload of a DSSE envelope that at least ``threshold`` of the keys have signed, and its bytes."""
    if not envelope or len(envelope["signatures"]) > 16:
        raise Refusal("signature_invalid", f"the server sent no signed {kind}")
    payload = base64.b64decode(envelope["payload"])
    signatures = [base64.b64decode(each["sig"]) for each in envelope["signatures"]]
    said = f"application/vnd.fleetcore.{kind}+json".encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(said), said, len(payload), payload)
    if sum(any(is_signed(raw, each, signed) for each in signatures) for raw in keys.values()) < threshold:
        raise Refusal("signature_invalid", f"the {kind} does not have {threshold} trusted signatures")
    return json.loads(payload), payload


def keys_of(trust: Json, role: Json) -> tuple[Json, int]:
    """The keys of a role of a trust root, each under its true id, and how many of them must sign."""
    keys = {key_id(raw): raw for raw in map(base64.b64decode, trust["keys"].values())}
    return {name: keys[name] for name in role["keys"]}, role["threshold"]


def trust_of(envelope: Json, before: Json | None = None) -> Json:
    """A trust root that its own root keys have signed and, if it is not the factory's, those of the one before.

    The one before where it is not newer: an offer that comes again may have those that the device follows already.
    """
    trust: Json = json.loads(base64.b64decode(envelope["payload"]))
    if before and trust["version"] <= before["version"]:
        return before
    for each in (trust, before or trust):
        opened(envelope, "trust", *keys_of(each, each["root"]))
    if before and trust["version"] != before["version"] + 1:
        raise Refusal("trust_invalid", f"it does not follow version {before['version']}")
    return trust


MANIFEST = {"format", "name", "version", "seq", "min_seq", "models", "size", "sha256", "created", "expires"}


def check_manifest(manifest: Json, model: str, running: Json) -> None:
    """Whether this device may install the image now."""
    required = manifest.get("requires", {})
    for code, refused in {
        # Not known members: they may forbid what the device is about to do.
        "schema_invalid": not manifest.keys() <= MANIFEST | {"component", "requires", "chunks", "sbom"}
        or manifest["format"] != "fleetcore.firmware/1",
        "model_mismatch": model not in manifest["models"] or manifest.get("component", "main") != "main",
        "manifest_expired": ms(manifest["expires"]) <= now_ms(),
        "rollback_refused": manifest["seq"] < running["highest_seq"]
        or (manifest["seq"] == running["seq"] and manifest["sha256"] != running["sha256"]),
        "requires_unmet": required.get("seq", 0) > running["seq"] or "components" in required,
    }.items():
        if refused:
            raise Refusal(code, f"seq {manifest['seq']} for {manifest['models']}; seq {running['seq']} runs")


# --- the device ------------------------------------------------------------------------------------------------------


class Device:
    """One start of the device, from its boot to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.factory: Json = json.loads((folder / "factory.json").read_bytes())
        self.name, self.model = str(self.factory["device"]), str(self.factory["model"])
        saved = folder / "state.json"
        self.state: Json = {
            "boots": 0, "queue": [], "desired": {}, "desired_version": 0, "results": {}, "sequences": {},
            "firmware": self.factory["firmware"], "renew_after": None, "renewing": None, "renewed": None,
        }  # fmt: skip
        self.state |= json.loads(saved.read_bytes()) if saved.exists() else {}
        self.queue: deque[Json] = deque(self.state["queue"], QUEUE)
        self.save(boots=self.state["boots"] + 1, queue=[])
        # It rises over restarts without a write for each reading: the number of the start, then that of the reading.
        self.seq = self.state["boots"] << 24
        key = serialization.load_pem_public_key((folder / "command.pub").read_bytes())
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.command_keys = {key_id(raw): raw}
        self.next_sample = self.next_renewal = 0.0  # by the monotonic clock
        self.events: queue.Queue[tuple[str, Any, Any]] = queue.Queue()
        self.client: Client | None = None
        self.in_flight: tuple[int, int] | None = None  # number of the message under way, seq of its last reading
        self.new_key: bytes | None = None  # of a renewal under way

    def write(self, name: str, content: bytes) -> None:
        """Replaces a small file: after a loss of power the old or the new one is there, complete."""
        beside = self.folder / f"{name}.new"
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.folder / name)

    def save(self, **changes: object) -> None:
        """Changes what outlives a loss of power."""
        self.state |= changes
        self.write("state.json", json.dumps(self.state).encode())

    def run(self) -> None:
        """Enrols once; then connects, again and again."""
        failures = 0
        while True:
            try:
                if not (self.folder / "device.pem").exists():
                    self.enroll()
                self.connect(self.credential(failures))
                failures = 0
                self.serve()
            except (OSError, http.client.HTTPException, queue.Empty) as error:
                failures += 1
                wait = min(RETRY_S[1], RETRY_S[0] * 2 ** min(failures, 10)) * random.uniform(0.5, 1)
                say("offline", f"{wait:.1f} s", type(error).__name__, error)
                self.pause(wait)
            except Reconnect:
                say("renewed")
            finally:
                self.disconnect()

    # --- credentials -----------------------------------------------------------------------------------------------

    def request(self) -> tuple[bytes, bytes]:
        """A new key, which never leaves the device, and a certificate request for it."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)])
        csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return private, csr.public_bytes(pem)

    def enroll(self) -> None:
        """Gets the first certificate by the factory's token. The key is saved first, so it may be repeated."""
        if "enrolling" not in self.state:
            self.save(enrolling=[each.decode() for each in self.request()])
        private, csr = self.state["enrolling"]
        body = json.dumps({"csr": csr, "token": self.factory["token"], "parameters": {"model": self.model}})
        with self.https(None, "POST", "/device/v1/enroll", body) as answer:
            content = json.loads(answer.read())
        if answer.status != 201:  # 202: an operator has to decide; else a person has to look
            self.pause(float(answer.headers.get("Retry-After", 30)))
            raise ConnectionError(f"not enrolled: {content['code']}")
        self.keep("device.pem", private, content)
        say("enrolled")

    def keep(self, name: str, private: str, answer: Json, **changes: object) -> None:
        """Saves key and certificates in one file, so that they are never of two different requests."""
        self.write("ca.pem", answer["ca"].encode())
        self.save(renew_after=ms(answer["renew_after"]), **changes)
        self.write(name, (private + answer["certificate"] + answer["chain"]).encode())

    def credential(self, failures: int) -> str:
        """The old certificate is good until the new one has connected: after a failure the device tries the other."""
        return "next.pem" if failures % 2 == 0 and (self.folder / "next.pem").exists() else "device.pem"

    def tls(self, credential: str | None) -> ssl.SSLContext:
        """Trusts only the fleet's CAs, and checks the name in the server's certificate."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if credential is not None:
            context.load_cert_chain(self.folder / credential)
        return context

    def https(
        self, credential: str | None, method: str, path: str, body: str | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        """The answer to one request to the server's HTTP side; the caller reads and closes it."""
        url = urlsplit(self.factory["http"])
        server = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=20, context=self.tls(credential))
        server.request(method, path, body, {"Content-Type": "application/json", "Connection": "close", **headers})
        return server.getresponse()

    def renew(self) -> None:
        """Asks for the next certificate when it is time or wanted, with a new key; ``reply/renew`` has the answer."""
        is_due = now_ms() >= self.state["renew_after"] or self.wanted("renew") not in (None, self.state["renewed"])
        if not is_due or time.monotonic() < self.next_renewal:
            return
        self.next_renewal = time.monotonic() + 3600  # the next try, if this one fails
        self.new_key, csr = self.request()
        self.publish("request/renew", {"op": "certificate.renew", "body": {"csr": csr.decode()}})

    def renewed(self, reply: Json) -> None:
        """Connects with the new certificate; the old one stays until that has worked."""
        private, self.new_key = self.new_key, None
        if private is None or not reply["ok"]:
            say("not renewed", reply.get("error", {}).get("code"))
            return
        self.keep("next.pem", private.decode(), reply["body"], renewing=self.wanted("renew"))
        raise Reconnect

    # --- the connection --------------------------------------------------------------------------------------------

    def connect(self, credential: str) -> None:
        """Opens a connection. Each has a new client: what was not acknowledged is the device's to send again."""
        url = urlsplit(self.factory["mqtt"])
        client = Client(
            CallbackAPIVersion.VERSION2, self.name, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
        )
        client.tls_set_context(self.tls(credential))
        session = f"{random.getrandbits(32):08x}"
        client.will_set(f"fleet/v1/{self.name}/status", json.dumps({"state": "offline", "session": session}), qos=1)
        # paho's thread only files what happens; all else is done by the device's own, in order.
        events: queue.Queue[tuple[str, Any, Any]] = queue.Queue()
        self.events = events
        client.on_connect = lambda _client, _data, _flags, code, _: events.put(("connected", code, None))
        client.on_disconnect = lambda _client, _data, _flags, code, _: events.put(("lost", code, None))
        client.on_publish = lambda _client, _data, number, code, _: events.put(("acknowledged", number, code))
        client.on_message = lambda _client, _data, message: events.put(("told", message.topic, message.payload))
        self.client, self.in_flight = client, None
        client.connect(url.hostname or "", url.port or 8883, keepalive=60)
        client.loop_start()
        what, code, _ = events.get(timeout=20)
        if what != "connected" or code.is_failure:
            raise ConnectionError(f"not connected: {code}")
        if credential == "next.pem":
            (self.folder / "next.pem").replace(self.folder / "device.pem")
            self.save(renewed=self.state["renewing"])
        (self.folder / "next.pem").unlink(missing_ok=True)
        if self.factory.pop("token", None):  # it has done its work, as has the copy of the first key
            self.write("factory.json", json.dumps(self.factory).encode())
            self.state.pop("enrolling", None)
            self.save()
        client.subscribe([(f"fleet/v1/{self.name}/{topic}", 1) for topic in TOPICS])
        self.publish("status", {"state": "online", "session": session})
        self.report()
        say("online", credential)

    def disconnect(self) -> None:
        """Ends the connection, whatever its state."""
        if self.client is not None:
            self.client.disconnect()
            self.client.loop_stop()

    def publish(self, topic: str, body: object) -> int:
        """Sends a message, and returns its number.

        Only readings are kept until they are acknowledged. All else the server asks for again after the next
        connection.
        """
        assert self.client is not None
        return self.client.publish(f"fleet/v1/{self.name}/{topic}", json.dumps(body), qos=1).mid

    def serve(self) -> None:
        """Works until the connection is lost."""
        while True:
            self.sample()
            self.send_readings()
            self.renew()
            try:
                kind, what, more = self.events.get(timeout=max(0.0, self.next_sample - time.monotonic()))
                if kind == "told":
                    self.told(what.split("/", 3)[3].split("/"), json.loads(more))
            except queue.Empty:
                continue
            except (KeyError, TypeError, ValueError) as error:
                say("not understood", what, repr(error))
            if kind == "acknowledged":
                self.acknowledged(what, more)
            if kind == "lost":
                raise ConnectionError(str(what))

    def told(self, topic: list[str], body: Json) -> None:
        """What the server says."""
        match topic:
            case ["twin"]:
                self.follow(body["desired_version"], body["desired"])
            case ["twin", "desired"] if body["since"] in (0, self.state["desired_version"]):
                self.follow(body["version"], merged(self.state["desired"] if body["since"] else {}, body["patch"]))
            case ["twin", "desired"]:  # versions between are missing
                self.publish("twin/get", {})
            case ["commands"]:
                self.command(body)
            case ["commands", name, "cancel"]:  # a command has ended before the next message is read
                self.publish(f"commands/{name}/result", self.state["results"].get(name, {"status": "cancelled"}))
            case ["firmware"]:
                self.offered(body)
            case ["reply", "renew"]:
                self.renewed(body)
            case ["errors"]:
                say("refused", body["code"], body.get("topic"), body.get("detail"))

    # --- readings --------------------------------------------------------------------------------------------------

    def interval_s(self) -> float:
        """How often it measures."""
        return 10.0 if "/interval_s" in self.refused() else float(self.state["desired"].get("interval_s", 10))

    def sample(self) -> None:
        """Measures when it is time, and queues the reading."""
        if time.monotonic() >= self.next_sample:
            self.next_sample = time.monotonic() + self.interval_s()
            self.seq += 1
            reading = {"time": now_ms(), "seq": self.seq, "values": {"temperature": round(random.gauss(20, 2), 3)}}
            self.queue.append(reading)
            say("reading", json.dumps(reading))

    def pause(self, seconds: float) -> None:
        """Waits, and measures meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.sample()
            time.sleep(min(left, max(0.0, self.next_sample - time.monotonic())))

    def send_readings(self) -> None:
        """Sends the oldest readings, one message at a time."""
        if self.queue and self.in_flight is None:
            batch = list(self.queue)[:BATCH]
            self.in_flight = self.publish("telemetry", batch), batch[-1]["seq"]

    def acknowledged(self, number: int, code: Any) -> None:
        """Drops readings that are stored, or that are refused for good; ``errors`` has the reason."""
        if self.in_flight is not None and number == self.in_flight[0]:
            if code.is_failure:
                say("readings refused", code)
            while self.queue and self.queue[0]["seq"] <= self.in_flight[1]:
                self.queue.popleft()
            self.in_flight = None

    # --- desired state ---------------------------------------------------------------------------------------------

    def follow(self, version: int, desired: Json) -> None:
        """Adopts a newer desired document, and says what it did with it."""
        if version <= self.state["desired_version"]:
            return
        before = self.interval_s()
        self.save(desired=desired, desired_version=version)
        trust = self.wanted("trust")
        if trust and hashlib.sha256(trust["ca"].encode()).hexdigest() == trust["sha256"]:
            self.write("ca.pem", trust["ca"].encode())
        if self.interval_s() != before:
            self.next_sample = time.monotonic() + self.interval_s()
        self.next_renewal = 0.0
        self.report()
        self.publish("twin/ack", {"version": version, "refused": self.refused()})

    def wanted(self, name: str) -> Any:
        """What the server itself wants of every device: ``trust``, ``renew``."""
        return self.state["desired"].get("fleetcore", {}).get(name)

    def refused(self) -> Json:
        """The leaves of the desired document that this device does not follow, by pointer."""
        unknown = self.state["desired"].keys() - {"interval_s", "fleetcore"}
        wrong = {"/" + name.replace("~", "~0").replace("/", "~1"): {"code": "unknown"} for name in unknown}
        wanted = self.state["desired"].get("interval_s", 10)
        if not isinstance(wanted, int | float) or not 0.05 <= wanted <= 86_400:
            wrong["/interval_s"] = {"code": "out_of_range", "reason": "0.05 to 86400"}
        return wrong

    def report(self) -> None:
        """Reports what is so. It is a merge patch: saying it again changes nothing."""
        firmware = {**self.state["firmware"], "trust": self.trust()["version"]}
        said: Json = {"interval_s": self.interval_s(), "firmware": firmware, "fleetcore": {}}
        trust = self.wanted("trust")
        if trust and (self.folder / "ca.pem").read_text() == trust["ca"]:
            said["fleetcore"]["trust"] = {"version": trust["version"], "sha256": trust["sha256"]}
        if self.state["renewed"] is not None:
            said["fleetcore"]["renew"] = self.state["renewed"]
        self.publish("twin/reported", said)

    # --- commands --------------------------------------------------------------------------------------------------

    def command(self, body: Json) -> None:
        """Runs a command once, however often it comes."""
        name = body["id"]
        result = self.state["results"].get(name)
        if result is None:
            try:
                order = self.order(body)
                self.publish(f"commands/{name}/result", {"status": "accepted"})
                # Saved before it runs: a loss of power in the middle makes this the answer, not a second run.
                self.state["sequences"][order["lane"]] = order["sequence"]
                self.remember(name, {"status": "failed", "code": "interrupted"})
                result = self.perform(order)
            except Refusal as refusal:
                result = {"status": "rejected", "code": refusal.code, "reason": refusal.reason}
            self.remember(name, result)
        self.publish(f"commands/{name}/result", result)

    def order(self, body: Json) -> Json:
        """What is signed, for only that counts: a command for this device, new, and not too late."""
        order, _ = opened(body.get("signed"), "command", self.command_keys)
        for code, refused in {
            "not_your_device": (order["device"], order["id"]) != (self.name, body["id"]),
            "not_authorised": order["sequence"] <= self.state["sequences"].get(order["lane"], 0),  # a replay
            "command_expired": ms(order["expires_at"]) <= now_ms(),
        }.items():
            if refused:
                raise Refusal(code, f"sequence {order['sequence']} until {order['expires_at']}")
        return order

    def remember(self, name: str, result: Json) -> None:
        """Saves the result of a command; the oldest ones go."""
        self.save(results=dict([*self.state["results"].items(), (name, result)][-RESULTS:]))

    def perform(self, order: Json) -> Json:
        """The commands of this device."""
        say("command", order["name"])
        if order["name"] != "identify":
            raise Refusal("unknown_command", "it knows identify")
        return {"status": "succeeded", "output": {"blinked": order["args"].get("times", 1)}}

    # --- firmware --------------------------------------------------------------------------------------------------

    def trust(self) -> Json:
        """The trust root in the flash."""
        return trust_of(json.loads((self.folder / "trust.json").read_bytes()))

    def offered(self, body: Json) -> None:
        """Handles an offer to its end; one that comes again goes on where the last one stopped."""
        offer = body["offer"]
        if offer is None:
            if "cancel" in body:
                self.publish("firmware/status", {"execution": body["cancel"], "state": "cancelled"})
            return

        def status(state: str, **more: object) -> None:
            ids = {"execution": offer["execution"], "campaign": offer["campaign"]}
            self.publish("firmware/status", {**ids, "state": state, **more})
            say("firmware", state, more)

        try:
            manifest = self.admitted(offer)
            if manifest["sha256"] == self.state["firmware"]["sha256"]:
                status("succeeded", version=manifest["version"])
                return
            status("accepted")
            status("downloading")
            self.download(offer["path"], manifest["size"], manifest["sha256"])
        except Refusal as refusal:
            status("rejected", code=refusal.code, reason=refusal.reason)
            return
        status("downloaded")
        if offer["install"] == "wait":
            return  # it is offered again when it may be installed
        status("installing")
        # A board marks its second slot for a trial here; its boot loader goes back if that does not come up.
        (self.folder / "image.part").replace(self.folder / "image")
        firmware = {name: manifest[name] for name in ("version", "seq", "sha256")}
        self.save(firmware={**firmware, "highest_seq": manifest["seq"]}, queue=list(self.queue))
        status("rebooting")
        raise Reboot

    def admitted(self, offer: Json) -> Json:
        """The manifest of an offer: the maker signed that it is genuine, the fleet that it is for this device now."""
        trust = self.trust()
        for envelope in offer.get("trust", ()):
            before, trust = trust, trust_of(envelope, trust)
            if trust is not before:
                self.write("trust.json", json.dumps(envelope).encode())
        if ms(trust["expires"]) <= now_ms():
            raise Refusal("trust_expired", f"the trust root expired at {trust['expires']}")
        role = trust.get("models", {}).get(self.model) or trust["firmware"]
        manifest, payload = opened(offer.get("manifest"), "firmware", *keys_of(trust, role))
        check_manifest(manifest, self.model, self.state["firmware"])
        assignment, _ = opened(offer.get("assignment"), "assignment", self.command_keys)
        expected = {
            "device": self.name, "execution": offer["execution"], "campaign": offer["campaign"],
            "manifest_sha256": hashlib.sha256(payload).hexdigest(), "seq": manifest["seq"],
        }  # fmt: skip
        if expected.items() - assignment.items():
            raise Refusal("signature_invalid", "the assignment is for another update")
        if ms(assignment["not_after"]) <= now_ms():
            raise Refusal("too_late", f"it had to start before {assignment['not_after']}")
        return manifest

    def download(self, path: str, size: int, sha256: str) -> None:
        """Loads what is missing of the image into ``image.part``, and verifies the whole."""
        part = self.folder / "image.part"
        if self.state.get("loading") != sha256:
            part.unlink(missing_ok=True)
            self.save(loading=sha256)
        with part.open("ab") as file:
            start = file.tell()
            if start < size:
                with self.https("device.pem", "GET", path, Range=f"bytes={start}-") as answer:
                    if answer.status != 206:
                        raise ConnectionError(f"no image: {answer.status}")  # it is offered again
                    while file.tell() < size and (piece := answer.read(min(65_536, size - file.tell()))):
                        file.write(piece)
                        self.sample()
            file.flush()
            os.fsync(file.fileno())
        if hashlib.sha256(part.read_bytes()).hexdigest() != sha256:
            part.unlink()
            if start:
                raise ConnectionError("what was there of the image is damaged")  # the next try begins anew
            raise Refusal("hash_mismatch", "the image does not match its manifest")


def main() -> None:
    """Starts the device, again after each reboot."""
    os.umask(0o077)  # the folder holds a private key
    while True:
        try:
            Device(Path(sys.argv[1])).run()
        except Reboot:
            say("reboot")


if __name__ == "__main__":
    main()
